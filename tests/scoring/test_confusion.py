from __future__ import annotations

import numpy as np
import pytest

from featcache.core.tasks import PROBABILITIES, TASKS, VALUES
from featcache.scoring import confusion


def test_scores_of_each_class():
    y, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    counts = confusion.confusion(y, predicted, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    first, _, third, absent = confusion.per_class(counts)
    assert (first["precision"], first["recall"], first["support"]) == (0.5, 2 / 3, 3)
    assert np.isnan(third["precision"])
    assert (third["recall"], third["f1"]) == (0, 0)
    assert np.isnan([absent["recall"], absent["f1"]]).all()


def test_scores_of_each_label_and_target():
    y, p = np.array([[1, 0], [0, 0], [1, 0]]), np.array([[0.9, 0.2], [0.6, 0.1], [0.3, 0.4]])
    first, second = confusion.per_label(y, p, 0.5)
    assert (first["precision"], first["recall"], first["support"]) == (0.5, 0.5, 2)
    assert first["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan([second["average_precision"], second["recall"]]).all()
    scores = confusion.per_target(np.array([[0.0], [2.0]]), np.array([[1.0], [2.0]]))
    assert scores == [{"mae": 0.5, "rmse": np.sqrt(0.5), "r2": 0.5, "bias": 0.5}]


def test_the_commonest_mistakes_come_first():
    counts = np.array([[5, 1, 0], [3, 2, 1], [0, 0, 4]])
    assert confusion.most_confused(counts) == [(1, 0, 3), (0, 1, 1), (1, 2, 1)]


@pytest.mark.parametrize(
    ("task", "y", "outputs", "output"),
    [
        ("classification", np.array([0, 1, 1]), np.eye(2)[[0, 1, 0]], PROBABILITIES),
        (
            "multi-label",
            np.array([[1, 0], [0, 1]]),
            np.array([[0.9, 0.6], [0.2, 0.7]]),
            PROBABILITIES,
        ),
        ("regression", np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]]), VALUES),
    ],
)
def test_every_task_has_the_scores_that_it_says(task, y, outputs, output):
    found, counts = confusion.of_each(task, y, outputs, output)
    assert all(set(one) == set(TASKS[task].scores_of_each) for one in found)
    assert (counts is not None) == TASKS[task].has_confusion
    if counts is not None:
        assert counts.tolist() == [[1, 0], [1, 1]]
