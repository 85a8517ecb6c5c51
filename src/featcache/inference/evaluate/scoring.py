"""Outputs against what is right: metrics with intervals, confusion, each class by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featcache.core.tasks import TASKS
from featcache.scoring import confusion, intervals, metrics

# Outputs, rows times columns, up to which intervals are computed; areas under curves of more take
# minutes, and intervals of so many images are narrow
MOST_OUTPUTS = 1_000_000
ACCURACY = "accuracy"

Interval = tuple[float, float]


def scores(
    task: str, y: np.ndarray, outputs: np.ndarray, output: str, units: np.ndarray
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return every metric of a task, and their 95 % intervals where they do not take minutes.

    To the metrics of several labels comes `accuracy`: the share of images whose every label is
    right.

    Parameters
    ----------
    y : (n,) int columns of `outputs`, or (n, n_outputs).
    outputs : (n, n_outputs).
    output : probabilities, scores or values.
    units : (n,) int; rows of the same number, copies of an image or of one group, are drawn
        together.
    """
    found = metrics.score(task, y, outputs, output)
    if TASKS[task].has_mistakes and ACCURACY not in found:
        found = {ACCURACY: float(np.mean(is_right(task, y, outputs, output)))} | found
    between = {}
    for name, value in found.items():
        if name == ACCURACY:
            between[name] = intervals.of_share(is_right(task, y, outputs, output), units)
        elif not math.isnan(value) and outputs.size <= MOST_OUTPUTS:
            between[name] = intervals.of_outputs(name, task, y, outputs, output, units)
    return found, between


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
