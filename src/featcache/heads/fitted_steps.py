"""Preprocessing fitted in passes over rows that do not fit into memory.

What standardising and PCA learn follows from the mean and the covariance of what they are given,
and these are sums over rows. Several affine steps in a row share one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from featcache.heads.moments import step_of
from featcache.heads.preprocessing import PRINCIPAL, STANDARDISE, make, steps_of
from featcache.heads.shared_passes import Passes, Segment


@dataclass(frozen=True)
class Spread:
    """Mean (p,) and covariance (p, p), or variance (p,) where no more is asked for, of n rows."""

    n: float
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return self.covariance if self.covariance.ndim == 1 else np.diag(self.covariance)


def applied(steps: Iterable[Any], X: np.ndarray) -> np.ndarray:
    """Return what fitted transformers make of rows."""
    for step in steps:
        X = step.transform(X)
    return X


def fit_steps(passes: Passes, wanted: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Any]:
    """Return the fitted step, as of `preprocessing.make`, for pairs of a set and a kind.

    Parameters
    ----------
    passes : over the rows of the sets.
    wanted : numbers of sets, and kinds of preprocessing.
    """
    wanted = list(wanted)
    is_full = any(PRINCIPAL in kind for _, kind in wanted)
    known: dict[Any, dict[int, Spread]] = {}  # of each group's rows

    def spread(number: int, before: list[Any]) -> Spread:
        # unit length is learnt from nothing, so what comes after it is the same for every set
        is_shared = all(isinstance(step, Normalizer) for step in before)
        groups = passes.groups_of(number)
        key = bool(before) if is_shared else (number, *map(id, before))
        if key not in known:
            some = range(len(passes.members)) if is_shared else groups
            known[key] = _spreads(passes, before, frozenset(some), is_full)
        return _joined([known[key][group] for group in groups])

    return {
        (number, kind): _fitted(
            kind, *passes.shape_of(number), passes.precision, partial(spread, number)
        )
        for number, kind in wanted
    }


def _fitted(
    kind: str,
    n: int,
    d: int,
    precision: type[np.floating[Any]],
    spread: Callable[[list[Any]], Spread],
) -> Any:
    """Return a kind of preprocessing, fitted; `spread` says that of the rows after some steps."""
    fitted: list[Any] = []
    now: Spread | None = None
    for step in steps_of(make(kind, n, d)):
        if isinstance(step, Normalizer):
            width = len(now.mean) if now is not None else d
            fitted.append(step.fit(np.zeros((1, width), precision)))
            now = None
            continue
        if now is None:
            now = spread(fitted)
        if isinstance(step, PCA):
            step, now = _principal(step, now, precision)
        else:
            step, scale = step_of(STANDARDISE, now.mean, now.variance, now.n)
            squared = scale**2 if now.covariance.ndim == 1 else np.outer(scale, scale)
            now = Spread(now.n, np.zeros_like(now.mean), now.covariance / squared)
        fitted.append(step)
    if not fitted:
        return "passthrough"
    return fitted[0] if len(fitted) == 1 else make_pipeline(*fitted)


def _principal(step: PCA, given: Spread, precision: type[np.floating[Any]]) -> tuple[PCA, Spread]:
    """Fit to few rows that have the mean and the covariance of the many."""
    n_of, d = given.n, len(given.mean)
    variances, axes = np.linalg.eigh(given.covariance)
    # of 2 d rows, mean + r and mean - r; a sample's covariance is of one degree of freedom fewer
    shares = np.sqrt(np.maximum(variances, 0) * (d - 0.5) * n_of / (n_of - 1))
    rows = shares[:, None] * axes.T
    step = PCA(step.n_components, svd_solver=step.svd_solver).fit(
        np.concatenate([given.mean + rows, given.mean - rows])
    )
    step.n_samples_ = round(n_of)
    after = np.diag(step.explained_variance_) * (n_of - 1) / n_of
    for name in ("components_", "mean_"):  # as they are of such rows
        setattr(step, name, getattr(step, name).astype(precision))
    return step, Spread(n_of, np.zeros(len(after)), after)


def _spreads(
    passes: Passes, before: Sequence[Any], groups: frozenset[int], is_full: bool
) -> dict[int, Spread]:
    """Return the spread of each group's rows after some steps, in one pass."""

    def sums(segments: list[Segment]) -> dict[int, tuple[int, np.ndarray, np.ndarray]]:
        found = {}
        for one in segments:
            if one.group in groups:
                X = np.asarray(applied(before, one.X), np.float64)
                mean = X.mean(axis=0)
                X -= mean
                found[one.group] = (len(X), mean, X.T @ X if is_full else (X * X).sum(axis=0))
        return found

    total: dict[int, Spread] = {}
    for found in passes.over(sums):
        for group, (n, mean, scatter) in found.items():
            one = Spread(n, mean, scatter / n)
            total[group] = _joined([total[group], one]) if group in total else one
    return total


def _joined(parts: Sequence[Spread]) -> Spread:
    """Return the spread of all rows of several parts (Chan, Golub and LeVeque 1983)."""
    result = parts[0]
    for part in parts[1:]:
        n = result.n + part.n
        apart = part.mean - result.mean
        between = apart * apart if part.covariance.ndim == 1 else np.outer(apart, apart)
        share = part.n / n
        covariance = (1 - share) * result.covariance + share * part.covariance
        covariance += share * (1 - share) * between
        result = Spread(n, result.mean + share * apart, covariance)
    return result
