from __future__ import annotations

import numpy as np
import pytest

from featcache.core import checks
from featcache.core.errors import SpecError


@pytest.mark.parametrize("value", [1, 5, np.int64(5), np.uint8(1), np.array(5)])
def test_whole_numbers_of_any_kind_become_int(value):
    number = checks.whole_number("k", value, 1, 5)
    assert type(number) is int
    assert number == value


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (0, "0"),
        (np.int64(0), "0"),
        (6, "6"),
        (2.0, "2.0"),
        ("2", "'2'"),
        (True, "True"),
        (None, "None"),
        ([2], r"\[2\]"),
    ],
)
def test_others_do_not_pass(value, got):
    with pytest.raises(SpecError, match=f"^k must be a whole number, 1 to 5; got {got}.$"):
        checks.whole_number("k", value, 1, 5)


def test_where_there_is_no_most():
    with pytest.raises(SpecError, match=r"^k must be a whole number, 3 or more; got 2.$"):
        checks.whole_number("k", 2, 3)
    assert checks.whole_number("k", 10**30, 3) == 10**30


def test_an_array_of_several_is_no_whole_number():
    with pytest.raises(SpecError, match=r"^k must be a whole number"):
        checks.whole_number("k", np.array([2, 3]), 1)


def test_choices():
    checks.check_choice("kind", "a", ("a", "b"))
    checks.check_choice("kind", None, (None, "b"))
    with pytest.raises(SpecError, match=r"^kind must be one of None, b; got 'a'.$"):
        checks.check_choice("kind", "a", (None, "b"))


@pytest.mark.parametrize("rows", [21, -22, [0, 21], "0", [0.5], None, np.ones(20, bool), {0}])
def test_rows_that_are_not_there(rows):
    with pytest.raises(SpecError, match="rows must be of 0 to 20, as numbers, a slice or a mask"):
        checks.picked_rows(rows, 21)


@checks.with_checked_arguments
def _smallest(x: float) -> float:
    return float((np.array([x], np.float32) * np.float32(1e-30))[0])


def test_what_a_caller_has_raised_of_floats_is_not_asked_of_us():
    with np.errstate(all="raise"):
        assert _smallest(1e-30) == 0
        assert np.geterr()["under"] == "raise"


def test_an_argument_that_is_not_known_is_told_with_its_function():
    with pytest.raises(TypeError, match=r"_smallest\(\) got an unexpected .* 'y'"):
        _smallest(1.0, y=1)


@pytest.mark.parametrize("value", ["01", b"01", 1, [1], [1, 2, 3]])
def test_two_numbers_are_two_numbers(value):
    with pytest.raises(SpecError, match="r must be two numbers, low and high; got"):
        checks.number_range("r", value)
