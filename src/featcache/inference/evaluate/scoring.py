"""Outputs against what is right: metrics with intervals, confusion, each class by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from featcache.core.tasks import TASKS
from featcache.scoring import confusion, metrics, statistics

N_RESAMPLES = 1000
# Outputs, rows times columns, up to which a metric is resampled; more take minutes, and intervals
# of so many images are narrow. Areas under curves sort every column anew.
MOST_OUTPUTS = {"roc-auc": 10_000, "map": 10_000, "accuracy": math.inf}
MOST_OUTPUTS_OF_OTHERS = 100_000
ACCURACY = "accuracy"

Interval = tuple[float, float]


def scores(
    task: str, y: np.ndarray, outputs: np.ndarray, output: str, units: np.ndarray, seed: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return every metric of a task, and the 95 % intervals of those that are quick to resample.

    To the metrics of several labels comes `accuracy`: the share of images whose every label is
    right.

    Parameters
    ----------
    y : (n,) int columns of `outputs`, or (n, n_outputs).
    outputs : (n, n_outputs).
    output : probabilities, scores or values.
    units : (n,) int; rows of the same number, copies of an image or of one group, are drawn
        together.
    seed : of the drawing.
    """
    found = metrics.score(task, y, outputs, output)
    if TASKS[task].has_mistakes and ACCURACY not in found:
        found = {ACCURACY: float(np.mean(is_right(task, y, outputs, output)))} | found
    draw = statistics.drawing(units)
    intervals = {}
    for name, value in found.items():
        most = MOST_OUTPUTS.get(name, MOST_OUTPUTS_OF_OTHERS)
        if math.isnan(value) or outputs.size > most:
            continue
        statistic = _statistic(name, task, y, outputs, output, draw)
        intervals[name] = statistics.bootstrap(statistic, int(units.max()) + 1, seed, N_RESAMPLES)
    return found, intervals


def is_right(task: str, y: np.ndarray, outputs: np.ndarray, output: str) -> np.ndarray:
    """Return (n,) bool: the class, or every label, is right."""
    right = TASKS[task].said(outputs, output) == y
    return np.asarray(right if right.ndim == 1 else right.all(axis=1))


def each(
    task: str, y: np.ndarray, outputs: np.ndarray, output: str, names: tuple[str, ...]
) -> tuple[list[dict[str, Any]], np.ndarray | None]:
    """Return the scores of every class, label or target, and the confusion matrix of classes."""
    found, counts = confusion.of_each(task, y, outputs, output)
    return [{"name": name} | one for name, one in zip(names, found, strict=True)], counts


def weakest(task: str, found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the class or label of the lowest recall, or the target of the lowest R2."""
    measure = TASKS[task].weakest_by
    known = [one for one in found if not math.isnan(one[measure])]
    return min(known, key=lambda one: (one[measure], -one.get("support", 0)), default=None)


def _statistic(
    name: str,
    task: str,
    y: np.ndarray,
    outputs: np.ndarray,
    output: str,
    draw: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.ndarray], float]:
    """Return a metric as a function of drawn units."""
    right = is_right(task, y, outputs, output)

    def statistic(drawn: np.ndarray) -> float:
        rows = draw(drawn)
        if name == ACCURACY:
            return float(np.mean(right[rows]))
        return metrics.score_one(name, task, y[rows], outputs[rows], output)

    return statistic
