from __future__ import annotations

import math

import numpy as np
import pytest

from featcache.core.tasks import PROBABILITIES
from featcache.scoring import differences, jackknife

TASK = "classification"


def said(y, wrong):
    """Outputs that are right but for the rows `wrong`."""
    outputs = np.eye(2)[y]
    outputs[wrong] = outputs[wrong, ::-1]
    return [(outputs, PROBABILITIES)]


def apart(wrong_a, wrong_b, n=100):
    y = np.arange(n) % 2
    folds = np.arange(n) // (n // 5)
    right = [said(y, wrong)[0][0].argmax(axis=1) == y for wrong in (wrong_a, wrong_b)]
    of_folds = np.array(
        [right[0][folds == k].mean() - right[1][folds == k].mean() for k in range(5)]
    )
    return of_heads(y, said(y, wrong_a), said(y, wrong_b), np.arange(n), of_folds)


def of_heads(y, ours, theirs, units, of_folds):
    left_out = [
        jackknife.without_groups(jackknife.mean_score("accuracy", TASK, y, one), units)
        for one in (ours, theirs)
    ]
    return differences.difference(of_folds, *left_out, len(np.unique(units)), 5)


def test_heads_that_say_the_same_are_equal_but_not_for_sure():
    found = apart([3, 14], [3, 14])
    assert (found.value, found.p_value) == (0, 1)
    assert found.low < 0 < found.high


def test_the_same_gap_in_every_fold_is_seen():
    """A t-test over folds has no spread to go by here."""
    wrong = [row for start in range(0, 100, 20) for row in range(start, start + 6)]
    found = apart([], wrong)
    assert found.value == pytest.approx(0.3)
    assert found.p_value < 1e-4
    assert found.low > 0.1


def test_few_rows_tell_little():
    assert apart([], [7]).p_value > 0.2
    assert apart([], [7, 27, 47]).p_value > 0.05


def test_the_other_way_around_it_is_the_same():
    one, other = apart([1, 2, 3], [50]), apart([50], [1, 2, 3])
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_copies_do_not_make_it_more_sure():
    once = apart([0, 10], [20, 30, 40, 50, 60], n=100)
    rows = np.repeat(np.arange(100), 10)
    y = (np.arange(100) % 2)[rows]
    ours, theirs = (
        [(said(np.arange(100) % 2, wrong)[0][0][rows], PROBABILITIES)]
        for wrong in ([0, 10], [20, 30, 40, 50, 60])
    )
    folds = np.array([0.05, 0, 0.05, 0.05, 0.0])
    found = of_heads(y, ours, theirs, rows, folds)
    assert found.p_value == pytest.approx(once.p_value, abs=0.1)


def test_a_score_that_is_undefined_is_no_difference():
    y = np.arange(20) % 2
    found = of_heads(y, said(y, []), said(y, [1]), np.arange(20), np.array([math.nan, 0.1]))
    assert math.isnan(found.p_value)


def test_holm_by_hand():
    # in order .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, and .04 x 1 is raised to .06
    found = differences.holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_nan_and_does_not_count_it():
    found = differences.holm([math.nan, 0.02, math.nan, 0.7])
    assert found == pytest.approx([math.nan, 0.04, math.nan, 0.7], nan_ok=True)
    assert differences.holm([]) == []
    assert differences.holm([0.6, 0.7, 0.9]) == [1, 1, 1]
