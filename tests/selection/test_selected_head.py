"""Which head is selected, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import featcache as fc
from featcache import heads
from featcache.scoring import leaderboard

NAMES = ["ridge", "lda", "logreg"]


def arrays(n=150, distance=1.5, seed=0):
    """Two classes in 12 dimensions, some of which mean nothing."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = rng.standard_normal((n, 12))
    X[:, :2] += distance * y[:, None]
    return X.astype(np.float32), y


def fit(data, folder, **options):
    return fc.fit_heads(
        data, folder=folder / "heads.heads", jobs=1, report=False, show_progress=False, **options
    )


@pytest.fixture(scope="module")
def passed_over(tmp_path_factory):
    """A leaderboard whose selected head has not the best mean, nor is it the simplest."""
    for seed in range(8):
        board = fit(arrays(seed=seed), tmp_path_factory.mktemp("level"), names=["ridge", "lda"])
        if board["ridge"].result.mean > board.best.result.mean:
            return board
    raise AssertionError("ridge is never the best")


def test_of_level_heads_one_with_probabilities_is_selected(passed_over):
    assert passed_over["ridge"].result.is_level
    assert passed_over["ridge"].result.output == heads.SCORES
    assert passed_over.best.result.output == heads.PROBABILITIES


def test_best_is_the_best_mean(tmp_path):
    board = fit(arrays(), tmp_path, names=NAMES, prefer="best")
    assert board.best.result.mean == max(result.mean for result in board.results)


def test_probabilities_behind_the_best_ones_come_after_others(tmp_path):
    """A penalty that large leaves classes as they were said, with hardly any confidence."""
    unsure = heads.CATALOGUE["logreg"](C=0.001)
    board = fit(arrays(distance=2), tmp_path, names=[unsure, ("sure", LogisticRegression())])
    assert board["logreg"].result.is_level
    assert board.best.name == "sure"


@pytest.mark.parametrize("prefer", ["level", "best", "simple"])
def test_the_floor_is_never_selected(tmp_path, prefer):
    """Frequencies are well calibrated, and of no use."""
    board = fit(arrays(), tmp_path, names=["logreg", "lda"], metric="ece", prefer=prefer)
    assert board.best.name != heads.FLOOR
    assert min(board.results, key=lambda result: result.mean).head == heads.FLOOR


def test_heads_no_better_than_the_floor_are_said_to_be(tmp_path):
    X, y = arrays(distance=0)
    board = fit((X, y), tmp_path, names=["lda", "logreg"])
    assert board[heads.FLOOR].result.is_level
    assert "not told from dummy" in str(board)


def test_what_is_owed_to_luck_is_printed_and_kept(tmp_path):
    board = fit(arrays(distance=0.5), tmp_path, names=NAMES, prefer="best")
    assert 0 < board.luck < 0.1
    assert f"about {board.luck:.3f} is owed to being selected of 3 heads" in " ".join(
        str(board).split()
    )
    assert leaderboard.load(board.folder).luck == board.luck


def test_a_head_taken_before_a_better_one_is_explained(passed_over):
    assert f"{passed_over.best.name} is taken before" in passed_over.remarks[0]
    assert passed_over.remarks[0].endswith("level: its outputs are probabilities.")


def test_of_targets_the_simplest_level_head_is_selected(tmp_path):
    X, y = arrays()
    target = X[:, 0] + 0.1 * np.random.default_rng(0).standard_normal(len(y))
    board = fit((X, target), tmp_path, names=["ridge", "knn"])
    assert board.best.name == "ridge"
