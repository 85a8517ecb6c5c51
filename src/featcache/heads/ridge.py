"""Ridge regression: of targets, and of labels as +1 and -1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg
from sklearn import linear_model

from featcache.core.checks import check_number
from featcache.core.tasks import DEFAULT_TASK, SCORES, VALUES, TargetKind, names_of
from featcache.heads.moments import MomentsHead, Problem
from featcache.heads.preprocessing import L2, STANDARDISE

if TYPE_CHECKING:
    from typing_extensions import Self


class Ridge(MomentsHead):
    """Linear least squares with an L2 penalty (Hoerl and Kennard 1970), one column per output.

    Parameters
    ----------
    alpha : strength of the penalty, relative to the total variance of a feature on average, so that
        the same value means the same for any number of rows and any preprocessing.
    preprocessing : none, standardise or l2; with pca or several steps the rows are copied.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS, TargetKind.NUMBERS)
    weighs_rows = True

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"alpha": alpha, "preprocessing": preprocessing}
            for preprocessing in (STANDARDISE, L2)
            for alpha in (10.0, 1.0, 0.1, 0.01)
        )

    def __init__(
        self,
        alpha: float = 1.0,
        preprocessing: str = STANDARDISE,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.alpha = alpha
        self.preprocessing = preprocessing
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def check(self) -> None:
        super().check()
        check_number(
            "alpha", self.alpha, "be a number, 0 or more", lambda alpha: 0 <= alpha < math.inf
        )

    @property
    def output(self) -> str:
        return VALUES if self.target_kind is TargetKind.NUMBERS else SCORES

    def make_estimator(self, n_features: int) -> Any:
        return linear_model.Ridge()

    def solve(self, problem: Problem) -> Self:
        penalty = self.alpha * np.trace(problem.scatter) / problem.n_features
        # features that are all constant have no variance to be relative to
        penalty = max(penalty, np.finfo(float).tiny ** 0.5)
        system = problem.scatter + penalty * np.eye(len(problem.scatter))
        present = np.arange(len(problem.t))
        if self.target_kind is TargetKind.CLASS:  # a class without rows has no column
            present = np.flatnonzero(problem.t > 0)
        cross, mean_target = problem.cross[:, present], problem.t[present] / problem.n
        weights = linalg.solve(system, cross, assume_a="pos", overwrite_a=True)
        if self.target_kind is not TargetKind.NUMBERS:  # labels are +1 and -1
            weights, mean_target = 2 * weights, 2 * mean_target - 1
        estimator = linear_model.Ridge(alpha=penalty)
        estimator.coef_ = problem.lift(weights).T
        estimator.classes_ = present
        estimator.intercept_ = mean_target - estimator.coef_ @ problem.mean
        return self.finish(problem, estimator)

    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        return self.pipeline_[-1].coef_, self.pipeline_[-1].intercept_

    def to_keras_layers(self, features: Any) -> Any:
        return self.linear_layer(features, self.output, *self.linear_map())
