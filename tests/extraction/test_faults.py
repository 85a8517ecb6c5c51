"""A short run of benchmarks/faults.py: kills while publishing, damaged parts and files, no room."""

from __future__ import annotations

import sys

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks after TensorFlow's import"),
    pytest.mark.xdist_group("faults"),  # so that the images are extracted undisturbed once
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return faults.make_lab(tmp_path_factory.mktemp("faults") / "lab", is_exact=True, n_images=40)


@pytest.mark.parametrize(
    "event",
    [
        "amid write_text source.json.tmp",
        "before replace .weights.json.tmp",
        "before replace features.h5.tmp",
        "after replace features.h5.tmp",
        "after unlink part.h5",
    ],
)
def test_killed_and_resumed(lab, event):
    assert lab.events[event]
    assert not faults.kills_at_events(lab, 1, [event]).problems


def test_killed_and_resumed_under_one_process_number(lab):
    row = faults.same_process_number(lab, 1, ["before replace part.h5.tmp"])
    assert not row.problems


@pytest.mark.parametrize("fault", [faults.truncated_parts, faults.deleted_parts])
def test_missing_parts(lab, fault):
    assert not fault(lab, 1).problems


def test_a_flipped_byte_in_a_part(lab):
    row = faults.flips_in_parts(lab, 1, 1)
    assert row.times >= 3
    assert not row.problems


def test_a_flipped_byte_in_the_feature_file(lab):
    whole = faults.feature_file(lab.whole)
    some = faults.places(whole, "features", "ids")
    row = faults.flips_in_the_feature_file(lab, some)
    assert row.times == 2 * len(some) == 4
    assert not row.problems
    assert not faults.flips_between_the_chunks(lab, 1).problems


def test_no_room(lab):
    limit = max(part.stat().st_size for part in faults.parts(lab.in_parts)) - 1
    assert not faults.file_size_limit(lab, [limit]).problems
