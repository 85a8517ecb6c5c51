"""Held-out rows whose features are as good as those of a row that is learnt from."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.scoring import near_duplicates as room
from featcache.scoring.near_duplicates import near_duplicates

N_TRAIN, N_TEST = 90, 30
TRAIN = np.arange(N_TRAIN)
TEST = np.arange(N_TRAIN, N_TRAIN + N_TEST)


@pytest.fixture(name="X")
def make_rows():
    """Rows that are not alike, with a mean far from zero."""
    rows = np.random.default_rng(0).standard_normal((N_TRAIN + N_TEST, 64))
    return rows.astype(np.float32) + 5


def copied(X, row, cosine, seed=1):
    """A row whose centred features have about this cosine with those of another."""
    other = np.random.default_rng(seed).standard_normal(X.shape[1])
    return 5 + cosine * (X[row] - 5) + np.sqrt(1 - cosine**2) * other


def found(X, train=TRAIN, test=TEST):
    done = near_duplicates(lambda rows: X[rows], train, test)
    return [(pair.train, pair.test) for pair in done.pairs], done.n_compared


def test_copies_are_found_the_nearest_first(X):
    assert found(X) == ([], N_TEST)
    X[99], X[92], X[110] = X[7], copied(X, 20, 0.99), copied(X, 3, 0.9)
    assert found(X)[0] == [(7, 99), (20, 92), (3, 110)]
    (first, *_) = near_duplicates(lambda rows: X[rows], TRAIN, TEST).pairs
    assert first.cosine == pytest.approx(1, abs=1e-5)


def test_several_copies_of_an_image_do_not_hide_each_other(X):
    X[100] = copied(X, 50, 0.9)
    for number in range(5):
        X[number] = copied(X, 50, 0.88, seed=number + 2)
    assert [test for _, test in found(X)[0]] == [100]


def test_alike_are_not_near_where_everything_is_alike(X):
    """Cosines of 0.9 between all images of a class, as handwritten digits have them."""
    centre = np.random.default_rng(1).standard_normal((2, X.shape[1])) * 3
    X = centre[np.arange(len(X)) % 2] + (X - 5)
    assert found(X)[0] == []


def test_in_few_dimensions_some_are_near_by_chance(monkeypatch):
    X = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)
    assert found(X, np.arange(80, 400), np.arange(80))[0] == []
    monkeypatch.setattr(room, "BY_CHANCE", np.inf)
    assert found(X, np.arange(80, 400), np.arange(80))[0]


@pytest.mark.parametrize("name", ["BLOCK", "BLOCK_BYTES"])
def test_blocks_change_nothing(X, monkeypatch, name):
    X[99], X[92] = X[7], copied(X, 20, 0.95)
    whole = near_duplicates(lambda rows: X[rows], TRAIN, TEST)
    monkeypatch.setattr(room, name, 11)
    parts = near_duplicates(lambda rows: X[rows], TRAIN, TEST)
    assert [(one.train, one.test) for one in parts.pairs] == [(7, 99), (20, 92)]
    assert [one.cosine for one in parts.pairs] == pytest.approx(
        [one.cosine for one in whole.pairs], abs=1e-6
    )


def test_of_many_only_the_most_similar_are_compared_in_full(X, monkeypatch):
    X[99], X[92] = X[7], copied(X, 20, 0.95)
    monkeypatch.setattr(room, "MAX_LOOKED_AT", 4)
    asked = []

    def read(rows):
        asked.append(rows.tolist())
        return X[rows]

    done = near_duplicates(read, TRAIN, TEST)
    assert [(one.train, one.test) for one in done.pairs] == [(7, 99), (20, 92)]
    assert done.n_compared == N_TEST
    # all of them for their mean and their directions; then a few
    assert sum(rows == TEST.tolist() for rows in asked) == 2
    assert {99, 92} <= set(asked[-2]) < set(TEST.tolist())
    monkeypatch.setattr(room, "LEAST", 2.0)
    assert found(X) == ([], N_TEST)


def test_the_number_of_pairs_is_bounded(X, monkeypatch):
    monkeypatch.setattr(room, "MAX_PAIRS", 10 * N_TRAIN)
    X[TEST] = X[TRAIN[:N_TEST]]
    pairs, n = found(X)
    assert n == len(pairs) == 10
    assert all(test == train + N_TRAIN for train, test in pairs)
    assert found(X) == (pairs, n)


@pytest.mark.parametrize(("n_train", "n_test"), [(0, 3), (3, 0), (1, 1), (2, 2)])
def test_few_rows(X, n_train, n_test):
    assert found(X, TRAIN[:n_train], TEST[:n_test])[0] == []


def test_rows_without_a_direction_are_near_nothing():
    assert found(np.ones((120, 8), np.float32))[0] == []
