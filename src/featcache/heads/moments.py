"""Heads that need no more of the rows than their moments: what they solve, and what they share.

A fit is a linear problem in as many unknowns as there are features, or rows where they are few,
and every strength of a penalty is solved from the same sums. Nothing the size of the features is
copied, so these heads learn from files that fill the memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from featcache.core.tasks import TASKS, TargetKind
from featcache.heads import preprocessing
from featcache.heads.base import Head, SklearnHead
from featcache.heads.preprocessing import L2, NONE, STANDARDISE
from featcache.heads.training_rows import Block, Moments, TrainingRows, moments_of

if TYPE_CHECKING:
    from typing_extensions import Self

SHARED = (NONE, L2)  # preprocessing with moments of its own; standardising follows from NONE
_FROM_MOMENTS = (*SHARED, STANDARDISE)  # any other takes a copy of the rows


@dataclass(frozen=True)
class Problem:
    """Preprocessed features in p coordinates, as moments about their mean."""

    n: float  # sum of weights
    n_features: int  # d
    t: np.ndarray  # (k,) sum of the targets
    scatter: np.ndarray  # (p, p)
    cross: np.ndarray  # (p, k) sum of (x - mean) t'
    basis: np.ndarray | None  # (d, p) orthonormal, spans the rows; None where p is d
    mean: np.ndarray  # (d,) of the preprocessed features
    step: Any  # fitted preprocessing

    def lift(self, weights: np.ndarray) -> np.ndarray:
        """Return weights (p, k) in the coordinates of the features, (d, k)."""
        return weights if self.basis is None else self.basis @ weights


class MomentsHead(SklearnHead):
    """A linear head that is solved from moments; `pipeline_` holds scikit-learn's estimator."""

    weighs_rows: ClassVar[bool] = False  # class weights multiply the terms of the sums

    @classmethod
    def path(cls, settings: Sequence[dict[str, Any]], rows: TrainingRows) -> Iterator[Head]:
        problems: dict[str, Problem] = {}
        for params in settings:
            head = cls(**params)
            head.check()
            if head.preprocessing not in problems:
                y = rows.y
                n_targets = int(y.max()) + 1 if head.target_kind is TargetKind.CLASS else y.shape[1]
                balanced = (
                    head.weighs_rows
                    and head.class_weight == "balanced"
                    and head.target_kind is TargetKind.CLASS
                )
                problems[head.preprocessing] = _problem(
                    rows, head.preprocessing, head.task, balanced, n_targets
                )
            yield head.solve(problems[head.preprocessing])

    @abstractmethod
    def solve(self, problem: Problem) -> Self:
        """Take the fitted state from moments."""

    @abstractmethod
    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (k, d) and bias (k,) behind the preprocessing."""

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        rows = TrainingRows.of(X, y)
        (fitted,) = type(self).path([self.get_params()], rows)
        assert isinstance(fitted, type(self))
        self.pipeline_ = fitted.pipeline_
        return self.describe()

    def finish(self, problem: Problem, estimator: Any) -> Self:
        """Put scikit-learn's estimator, whose fitted state was solved here, into the pipeline."""
        estimator.n_features_in_ = problem.n_features
        self.pipeline_ = make_pipeline(problem.step, estimator)
        return self.describe()

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (n, k): the linear map of the preprocessed features."""
        X = self._features(X)
        before, affine = preprocessing.parted(self.pipeline_[0])
        for step in before:
            X = step.transform(X)
        kernel, bias = preprocessing.folded(affine, *self.linear_map())
        return np.asarray(X @ kernel + bias)


def are_few(n_rows: int, n_features: int) -> bool:
    """Return whether rows are so few that to solve in their span is less work than with moments.

    An eigendecomposition takes some ten times as long as a solution of as many equations.
    """
    return 2 * n_rows < n_features


def targets_of(y: np.ndarray, task: str, n_targets: int) -> np.ndarray:
    """Return (n, k) float64: what moments are taken with. Classes as 0 and 1, one column each."""
    is_class = TASKS[task].kind is TargetKind.CLASS
    return np.eye(n_targets)[y] if is_class else np.asarray(y, np.float64)


def moments(
    rows: TrainingRows,
    task: str,
    kind: str,
    n_targets: int,
    shift: np.ndarray,
    class_weights: np.ndarray | None = None,
) -> Moments:
    """Return the moments of some rows for preprocessing of one of the `SHARED` kinds."""

    def blocks() -> Iterator[Block]:
        for X, y in rows.blocks():
            weights = None if class_weights is None else class_weights[y]
            yield _unit_length(X) if kind == L2 else X, targets_of(y, task, n_targets), weights

    return moments_of(blocks(), np.zeros_like(shift) if kind == L2 else shift, n_targets)


def _unit_length(X: np.ndarray) -> np.ndarray:
    return np.asarray(Normalizer().transform(np.asarray(X, np.float64)))


def _problem(rows: TrainingRows, kind: str, task: str, balanced: bool, n_targets: int) -> Problem:
    if kind not in _FROM_MOMENTS:
        X, y, _ = rows.arrays()
        step = preprocessing.make(kind, *X.shape)
        Z = step.fit_transform(np.asarray(X, np.float64))
        return replace(_problem(TrainingRows.of(Z, y), NONE, task, balanced, n_targets), step=step)
    shared = L2 if kind == L2 else NONE
    if rows.known is not None and shared in rows.known and not balanced:
        return _from_moments(rows.known[shared], kind)
    class_weights = None
    if balanced:
        counts = np.bincount(rows.y[rows.chosen], minlength=n_targets)
        class_weights = len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    if are_few(len(rows) * rows.views.shape[1], rows.views.shape[2]):
        return _from_few_rows(rows, kind, task, n_targets, class_weights)
    sums = moments(rows, task, shared, n_targets, rows.near_mean(), class_weights)
    return _from_moments(sums, kind)


def _from_moments(sums: Moments, kind: str) -> Problem:
    scatter = sums.scatter
    cross = sums.xt - np.outer(sums.mean, sums.t)
    mean = sums.shift + sums.mean
    step, scale = step_of(kind, mean, np.diag(scatter) / sums.n, sums.n)
    if kind == STANDARDISE:
        scatter = scatter / np.outer(scale, scale)
        cross, mean = cross / scale[:, None], np.zeros_like(mean)
    return Problem(sums.n, len(mean), sums.t, scatter, cross, None, mean, step)


def _from_few_rows(
    rows: TrainingRows, kind: str, task: str, n_targets: int, class_weights: np.ndarray | None
) -> Problem:
    """Return the problem in the coordinates of the rows' own span, for fewer rows than features."""
    X, y, _ = rows.arrays()
    X = _unit_length(X) if kind == L2 else np.asarray(X, np.float64)
    targets = targets_of(y, task, n_targets)
    weights = np.ones(len(y)) if class_weights is None else class_weights[y]
    n = weights.sum()
    mean = weights @ X / n
    centred = X - mean
    step, scale = step_of(kind, mean, weights @ centred**2 / n, n)
    if kind == STANDARDISE:
        centred, mean = centred / scale, np.zeros_like(mean)
    weighted = centred * np.sqrt(weights)[:, None]
    # of X = U S V', from the small matrix X X' = U S^2 U'
    squares, left = np.linalg.eigh(weighted @ weighted.T)
    kept = squares > squares[-1] * len(y) * np.finfo(float).eps
    if not kept.any():  # all rows are alike
        kept[-1], squares[-1] = True, 1.0
    basis = weighted.T @ (left[:, kept] / np.sqrt(squares[kept]))
    inside = centred @ basis
    return Problem(
        n=n,
        n_features=X.shape[1],
        t=weights @ targets,
        scatter=(inside * weights[:, None]).T @ inside,
        cross=inside.T @ (targets * weights[:, None]),
        basis=basis,
        mean=mean,
        step=step,
    )


def step_of(kind: str, mean: np.ndarray, variance: np.ndarray, n: float) -> tuple[Any, np.ndarray]:
    """Return scikit-learn's fitted preprocessing, and the scale of each feature."""
    # what rounding leaves of a constant feature is no variance
    variance = np.where(variance > 1e-12 * np.maximum(1.0, mean**2), variance, 0.0)
    scale = np.where(variance > 0, np.sqrt(variance), 1.0)
    if kind == STANDARDISE:
        step = StandardScaler()
        step.mean_, step.var_, step.scale_ = mean, variance, scale
        step.n_samples_seen_, step.n_features_in_ = round(n), len(mean)
        return step, scale
    if kind == L2:
        return Normalizer().fit(mean[None]), scale
    return "passthrough", scale
