"""What `make quick` leaves out says so itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
import quick
from conftest import REPOSITORY

from featcache.core.tensorflow import import_keras


@pytest.fixture
def keras():
    keras = import_keras()
    quick.watch()  # where no test before this one has imported Keras
    return keras


def large(keras):
    inputs = keras.Input((1000,))
    return keras.Model(inputs, keras.layers.Dense(1000)(inputs))


def test_a_quick_test_builds_no_full_size_network(keras):
    with pytest.raises(pytest.fail.Exception, match=r"1,001,000 parameters .*pytest\.mark\.slow"):
        large(keras)


def test_a_quick_test_trains_no_network(keras):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(loss="mse")
    with pytest.raises(pytest.fail.Exception, match="Keras trained a network"):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)


@pytest.mark.slow
def test_a_slow_one_may(keras):
    assert large(keras).count_params() == 1_001_000


def test_what_uses_the_clip_art_is_slow(request):
    marked = {item.name for item in request.session.items if item.get_closest_marker("slow")}
    needing = {
        item.name
        for item in request.session.items
        if {"clipart", "clipart_board"} & set(item.fixturenames)
    }
    assert needing <= marked


def test_the_list_of_slow_tests_names_tests():
    there = {
        f"{file.stem}.{name}"
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert quick.named() <= there


def test_the_list_is_of_what_took_long(tmp_path, monkeypatch):
    results = tmp_path / "tests.xml"
    took = {"a": 0.1, "b[0]": 0.1, "b[1]": 3, "c@readme": 2}
    cases = [
        f'<testcase classname="tests.room.test_x" name="{name}" time="{seconds}"/>'
        for name, seconds in took.items()
    ]
    inside = '<testcase classname="tests.test_y.TestZ" name="d" time="9"/>'
    results.write_text(f"<testsuites><testsuite>{''.join(cases)}{inside}</testsuite></testsuites>")
    monkeypatch.setattr(quick, "LIST", tmp_path / "slow.txt")
    quick.write_list(results)
    assert quick.LIST.read_text().split() == ["test_x.b", "test_x.c", "test_y.d"]
