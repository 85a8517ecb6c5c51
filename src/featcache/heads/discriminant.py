"""Heads of class means: linear discriminant analysis, and the nearest mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, special
from sklearn import discriminant_analysis, neighbors

from featcache.core.checks import check_number
from featcache.core.tasks import DEFAULT_TASK, PROBABILITIES, SCORES, TargetKind, names_of
from featcache.core.tensorflow import import_keras
from featcache.heads.moments import MomentsHead, Problem
from featcache.heads.preprocessing import L2, NONE, STANDARDISE

if TYPE_CHECKING:
    from typing_extensions import Self


_NOISE = 1e-9  # part of the features' variance that differences of sums may leave within classes


class LDA(MomentsHead):
    """Linear discriminant analysis with a shrunk covariance (Friedman 1989). Gives probabilities.

    Parameters
    ----------
    shrinkage : 0 to 1, share of the mean variance times the identity in the covariance, as in
        scikit-learn.
    preprocessing : none, standardise or l2; with pca or several steps the rows are copied.
    class_weight : "balanced" takes all classes to be equally likely.
    """

    tasks = names_of(TargetKind.CLASS)
    output = PROBABILITIES
    logits_layer = "logits"

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"shrinkage": shrinkage, "preprocessing": preprocessing}
            for preprocessing in (STANDARDISE, L2)
            for shrinkage in (0.9, 0.7, 0.4, 0.1)
        )

    def __init__(
        self,
        shrinkage: float = 0.2,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.shrinkage = shrinkage
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def check(self) -> None:
        super().check()
        check_number("shrinkage", self.shrinkage, "lie in 0 to 1", lambda share: 0 <= share <= 1)

    def make_estimator(self, n_features: int) -> Any:
        return discriminant_analysis.LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=self.shrinkage
        )

    def solve(self, problem: Problem) -> Self:
        present, means, counts = _class_means(problem)
        within = (problem.scatter - (means.T * counts) @ means) / problem.n
        spread = np.trace(within) / problem.n_features
        if spread < _NOISE * np.trace(problem.scatter) / (problem.n * problem.n_features):
            spread, within = 0.0, np.zeros_like(within)  # of rounding, as with one row a class
        covariance = (1 - self.shrinkage) * within
        # classes without any spread: what is nearest then decides
        covariance.flat[:: len(covariance) + 1] += self.shrinkage * spread or 1e-6
        directions = _solve(covariance, means.T)
        priors = counts / problem.n
        if self.class_weight == "balanced":
            priors = np.full(len(counts), 1 / len(counts))
        weights = problem.lift(directions).T
        bias = np.log(priors) - 0.5 * (means.T * directions).sum(axis=0) - weights @ problem.mean

        estimator = self.make_estimator(problem.n_features)
        estimator.classes_, estimator.priors_ = present, priors
        estimator.means_ = problem.lift(means.T).T + problem.mean
        estimator.coef_, estimator.intercept_ = weights, bias
        if len(present) == 2:  # scikit-learn keeps the difference
            estimator.coef_, estimator.intercept_ = np.diff(weights, axis=0), np.diff(bias)
        return self.finish(problem, estimator)

    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        lda = self.pipeline_[-1]
        weights, bias = lda.coef_, lda.intercept_
        if len(self.classes_) == 2:
            weights, bias = (np.concatenate([0 * part, part]) for part in (weights, bias))
        return weights, bias

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, n_classes)."""
        return np.asarray(special.softmax(self.decision_function(X), axis=1))

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X)

    def logits(self, X: np.ndarray) -> np.ndarray:
        return self.decision_function(X)

    def to_keras_layers(self, features: Any) -> Any:
        logits = self.linear_layer(features, "logits", *self.linear_map())
        return import_keras().layers.Softmax(name=self.output)(logits)


class Centroid(MomentsHead):
    """The class of the nearest mean; score of a class: -|x - mean|^2 / 2 + |x|^2 / 2, linear in x.

    Parameters
    ----------
    preprocessing : none, standardise or l2; with pca or several steps the rows are copied.
    """

    tasks = names_of(TargetKind.CLASS)
    output = SCORES

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return tuple({"preprocessing": preprocessing} for preprocessing in (NONE, STANDARDISE, L2))

    def __init__(
        self,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def make_estimator(self, n_features: int) -> Any:
        return neighbors.NearestCentroid()

    def solve(self, problem: Problem) -> Self:
        present, means, _ = _class_means(problem)
        estimator = self.make_estimator(problem.n_features)
        estimator.classes_ = present
        estimator.centroids_ = problem.lift(means.T).T + problem.mean
        return self.finish(problem, estimator)

    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        means = self.pipeline_[-1].centroids_
        return means, -0.5 * (means**2).sum(axis=1)

    def to_keras_layers(self, features: Any) -> Any:
        return self.linear_layer(features, self.output, *self.linear_map())


def _class_means(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return classes that have rows (c,), their means (c, p) about the total's, and counts (c,)."""
    present = np.flatnonzero(problem.t > 0)
    counts = problem.t[present]
    return present, problem.cross.T[present] / counts[:, None], counts


def _solve(covariance: np.ndarray, columns: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(linalg.solve(covariance, columns, assume_a="pos"))
    except linalg.LinAlgError:  # shrinkage 0, and fewer rows than features
        return np.asarray(linalg.lstsq(covariance, columns)[0])
