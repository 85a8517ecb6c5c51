"""Coordinates in which a linear model's loss is about equally curved in all directions.

L-BFGS takes many steps where features go together, as those of a network do, and each step is a
pass over a large file. Along the principal axes of the features, each scaled by how far they reach
there, it takes few. What is learnt is the same; the axes may be rough, so a sample gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.heads.fitted_steps import applied
from featcache.heads.preprocessing import steps_of
from featcache.heads.training_rows import TrainingRows

MOST = 4096  # features, beyond which the axes would take more memory than blocks of rows do
SAMPLE, ROWS_PER_FEATURE = 16_384, 8  # rows that are looked at, at least
RUN = 16  # neighbouring rows of them, since a file is read a few pages at a time


@dataclass(frozen=True)
class Axes:
    """Directions of p features and a constant 1."""

    directions: np.ndarray | None  # (p + 1, p + 1) orthonormal columns; None: those of the features
    squares: np.ndarray  # (p + 1,) mean square of the features along each; or ones

    @classmethod
    def of(cls, rows: TrainingRows, step: Any, n_inputs: int, precision: Any) -> Axes:
        """Return the axes of rows behind a fitted preprocessing."""
        if n_inputs > MOST:
            return cls(None, np.ones(n_inputs + 1))
        n = max(SAMPLE, ROWS_PER_FEATURE * n_inputs) // rows.views.shape[1]
        runs = np.random.default_rng(0).permutation(-(-len(rows) // RUN))[: -(-n // RUN)]
        places = (np.sort(runs)[:, None] * RUN + np.arange(RUN)).ravel()
        moments, n_seen = np.zeros((n_inputs + 1, n_inputs + 1)), 0
        for X, _ in rows.take(places[places < len(rows)]).blocks():
            seen = applied(steps_of(step), np.asarray(X, precision))
            seen = np.concatenate([seen, np.ones((len(seen), 1), seen.dtype)], axis=1)
            moments += seen.T @ seen
            n_seen += len(seen)
        squares, directions = np.linalg.eigh(moments / n_seen)
        return cls(directions, np.maximum(squares, 0))

    def out_of(self, scaled: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return weights (p + 1, c) that are given along the axes, each by its scale (p + 1,)."""
        along = scaled * scale[:, None]
        return np.asarray(along if self.directions is None else self.directions @ along)

    def into(self, slopes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return slopes (p + 1, c) along the axes."""
        along = slopes if self.directions is None else self.directions.T @ slopes
        return np.asarray(along * scale[:, None])
