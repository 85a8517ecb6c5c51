from __future__ import annotations

import math

import numpy as np
import pytest

from featcache.scoring import jackknife
from featcache.selection import preference
from featcache.selection.preference import BEST, LEVEL, SIMPLE

N = 400


def contest_of(right, ranks=None):
    """A contest of heads by which rows (n, n_heads) they have right."""
    left_out = np.stack(
        [
            jackknife.without_groups(lambda rows, one=one: one[rows].mean(), np.arange(len(right)))
            for one in right.T
        ],
        axis=1,
    )
    ranks = np.arange(right.shape[1]) if ranks is None else np.array(ranks)
    return preference.contest(right.mean(axis=0), left_out, ranks)


def rows_right(shares, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((n, len(shares))) < shares).astype(float)


def test_pseudo_values_have_the_score_for_their_mean():
    right = rows_right([0.6, 0.9])
    assert contest_of(right).pseudo.mean(axis=0) == pytest.approx(right.mean(axis=0))


def test_of_equal_scores_the_lowest_rank_is_the_best():
    right = np.repeat(rows_right([0.8]), 3, axis=1)
    assert contest_of(right, [2, 0, 1]).best == 1


def test_without_groups_in_which_a_score_is_undefined():
    left_out = np.array([[0.5, 0.6], [math.nan, 0.6], [0.7, 0.6]])
    found = preference.contest(np.array([0.6, 0.6]), left_out, np.arange(2))
    assert found.pseudo == pytest.approx(np.array([[0.7, 0.6], [0.5, 0.6]]))


@pytest.mark.parametrize("prefer", [BEST, SIMPLE, LEVEL])
def test_one_head_owes_nothing_to_luck(prefer):
    assert math.isnan(preference.luck(contest_of(rows_right([0.8])), 0, prefer, 0))


def test_the_best_of_many_equal_heads_owes_it_to_luck():
    """Ten heads of accuracy 0.8: what the first has above 0.8 is luck, and about that is found."""
    found, true = [], []
    for seed in range(60):
        heads = contest_of(rows_right([0.8] * 10, seed=seed))
        found.append(preference.luck(heads, heads.best, BEST, seed))
        true.append(heads.scores.max() - 0.8)
    assert np.mean(true) == pytest.approx(0.03, abs=0.006)
    assert np.mean(found) == pytest.approx(np.mean(true), abs=0.006)


def test_a_head_far_ahead_owes_nothing_to_luck():
    heads = contest_of(rows_right([0.95, 0.6, 0.6, 0.6]))
    assert preference.luck(heads, 0, BEST, 0) == pytest.approx(0, abs=0.003)


def test_the_one_taken_for_its_rank_owes_little_to_luck():
    found = []
    for seed in range(20):
        heads = contest_of(rows_right([0.8] * 10, seed=seed))
        found.append(preference.luck(heads, 0, LEVEL, seed))
    assert np.mean(found) < 0.01


def test_a_head_that_is_behind_is_not_level():
    right = rows_right([0.9, 0.9, 0.6])
    assert preference._level(contest_of(right)).tolist() == [True, True, False]


def test_the_same_seed_gives_the_same_luck():
    heads = contest_of(rows_right([0.8, 0.8, 0.8]))
    assert preference.luck(heads, 0, BEST, 3) == preference.luck(heads, 0, BEST, 3)
