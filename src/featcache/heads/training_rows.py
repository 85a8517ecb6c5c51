"""The rows that a fit may look at, and their moments, which several fits share.

Features can be larger than a copy of them would fit into memory, so a head that needs no more than
sums over rows asks for `moments`; others ask for `arrays`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcache.core.memory import release

BLOCK = 4096  # rows that are looked at together


@dataclass(frozen=True)
class Moments:
    """Sums over rows x of features and t of targets, x relative to a fixed `shift`.

    Moments of disjoint sets of rows add up to those of their union, so the moments of a few folds
    serve every combination of them.
    """

    shift: np.ndarray  # (d,) float64, near the mean, so that differences of sums stay exact
    n: float
    x: np.ndarray  # (d,) sum of x
    t: np.ndarray  # (k,) sum of t
    xx: np.ndarray  # (d, d) sum of x x'
    xt: np.ndarray  # (d, k) sum of x t'

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.shift,
            self.n + other.n,
            self.x + other.x,
            self.t + other.t,
            self.xx + other.xx,
            self.xt + other.xt,
        )

    @property
    def mean(self) -> np.ndarray:
        """(d,) mean of x, relative to the shift."""
        return self.x / self.n

    @property
    def scatter(self) -> np.ndarray:
        """(d, d) sum of (x - mean)(x - mean)'."""
        return self.xx - np.outer(self.x, self.mean)


Block = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]


def moments_of(blocks: Iterator[Block], shift: np.ndarray, n_targets: int) -> Moments:
    """Return the moments of blocks of features (m, d), targets (m, k) and weights (m,) or None.

    Weighted, each sum is over weight times term. Computed in float64.
    """
    d = len(shift)
    n, x, t = 0.0, np.zeros(d), np.zeros(n_targets)
    xx, xt = np.zeros((d, d)), np.zeros((d, n_targets))
    for X, T, weights in blocks:
        centred = np.asarray(X, np.float64) - shift
        weighted = centred if weights is None else centred * weights[:, None]
        n += len(X) if weights is None else weights.sum()
        x += weighted.sum(axis=0)
        t += T.sum(axis=0) if weights is None else weights @ T
        xx += weighted.T @ centred
        xt += weighted.T @ T
    return Moments(shift, n, x, t, xx, xt)


@dataclass(frozen=True)
class TrainingRows:
    """Some rows of a matrix of features with all their views, for fitting.

    Parameters
    ----------
    views : (n, v, d) features of everything, as a rule memory-mapped.
    y : (n,) or (n, k), what is to be learnt of everything.
    chosen : (m,) int, the rows that may be looked at.
    known : moments of these very rows by the name of the preprocessing, where they are known.
    map_shape : (height, width, channels) where features are maps, flattened; None of vectors.
    """

    views: np.ndarray
    y: np.ndarray
    chosen: np.ndarray
    known: dict[str, Moments] | None = None
    map_shape: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, X: np.ndarray, y: np.ndarray) -> TrainingRows:
        """Return all rows of plain arrays (n, d) and (n, …)."""
        return cls(X[:, None], y, np.arange(len(X)))

    def __len__(self) -> int:
        return len(self.chosen)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return (X, y, groups): every view is a row; groups say which are of one image."""
        n, (_, v, d) = len(self.chosen), self.views.shape
        X = np.asarray(self.views[self.chosen]).reshape(n * v, d)
        release(self.views)
        groups = np.repeat(np.arange(n), v) if v > 1 else None
        return X, np.repeat(self.y[self.chosen], v, axis=0), groups

    def take(self, places: np.ndarray) -> TrainingRows:
        """Return a part of these rows."""
        return replace(self, chosen=self.chosen[places], known=None)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (X, y) of a few thousand rows at a time, views as rows."""
        v = self.views.shape[1]
        for start in range(0, len(self.chosen), BLOCK):
            some = self.chosen[start : start + BLOCK]
            X = np.asarray(self.views[some]).reshape(len(some) * v, -1)
            release(self.views)
            yield X, np.repeat(self.y[some], v, axis=0)

    def near_mean(self) -> np.ndarray:
        """Return (d,) float64: the mean of the first block, to take moments about."""
        X, _ = next(self.blocks())
        return np.asarray(X.mean(axis=0, dtype=np.float64))


def mean_and_scale(
    values: np.ndarray, precision: type[np.floating[Any]] = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation (k,) of columns, in a precision; a constant's deviation is 1.

    What rounding to this precision leaves of a constant is no deviation.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for start in range(0, len(values), BLOCK):
        squares += ((values[start : start + BLOCK] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / len(values))
    constant = deviation <= np.finfo(precision).eps * np.abs(mean)
    return mean.astype(precision), np.where(constant, 1.0, deviation).astype(precision)


def split_off(
    strata: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (fit rows, validation rows), stratified; every stratum keeps a row to fit on.

    TrainingRows of one group, which are of one stratum, stay together.
    """
    if groups is not None:
        _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
        _, val_groups = split_off(strata[first], fraction, rng)
        is_val = np.isin(group_of, val_groups)
        if is_val.all():
            return np.arange(len(strata)), np.arange(len(strata))
        return np.flatnonzero(~is_val), np.flatnonzero(is_val)
    is_val = np.zeros(len(strata), bool)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        is_val[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    if not is_val.any():  # one sample per class: then only the training loss can say when to stop
        return np.flatnonzero(~is_val), np.flatnonzero(~is_val)
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def total(parts: Sequence[Moments]) -> Moments:
    """Return the sum of moments."""
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result
