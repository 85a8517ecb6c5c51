"""What float32, in which Keras models compute, can tell apart far from zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COARSEST = 1e-2  # a step of float32, as a part of the standard deviation of what it is to hold


def step_at(largest: np.ndarray) -> np.ndarray:
    """Return how far apart the numbers of float32 lie at values of this size, as float64."""
    return np.asarray(np.spacing(np.abs(largest).astype(np.float32)), np.float64)


def is_too_coarse(values: np.ndarray) -> np.ndarray:
    """Return (k,) bool: columns of (n, k) whose differences float32 would round away.

    They lie so far from zero that its steps there are more than a hundredth of their standard
    deviation. Those of a single value have no differences.
    """
    spread = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    return np.asarray(step_at(np.abs(values).max(axis=0)) > COARSEST * spread)


def complaint(names: Sequence[str], values: np.ndarray) -> str:
    """Say of which targets (n, k), by name, the differences would be rounded away; or nothing."""
    coarse = np.flatnonzero(is_too_coarse(values))
    if not len(coarse):
        return ""
    column = values[:, coarse[0]]
    step = step_at(np.abs(column).max())
    offset = float(f"{column.mean():.6g}")
    others = f" ({len(coarse)} such targets)" if len(coarse) > 1 else ""
    return (
        f"The target '{names[coarse[0]]}' lies near {offset:,.12g} and varies by {column.std():.2g}"
        f"{others}, and there float32, in which models compute, has steps of {step:.2g}. Subtract "
        f"{offset:,.12g} from the target, and add it to what the model predicts"
    )
