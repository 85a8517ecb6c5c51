"""What `make quick` leaves out says so itself."""

from __future__ import annotations

import numpy as np
import pytest
import quick

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
