"""A head that is no linear map and has no Keras layers: what a non-linear model could gain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import ensemble

from featcache.core.checks import check_number, whole_number
from featcache.core.errors import HeadError, StitchError
from featcache.core.float32 import is_too_coarse
from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind, names_of
from featcache.heads.base import SklearnHead
from featcache.heads.preprocessing import NONE

if TYPE_CHECKING:
    from typing_extensions import Self

_TREE = "sklearn.tree._tree.Tree"  # skops leaves it to its users to look into it


class RandomForest(SklearnHead):
    """Random forest (Breiman 2001) of scikit-learn, on the features as they are.

    Trees ask only whether a feature lies above a threshold, so no scaling would change them.
    Balanced class weights of several labels are those of scikit-learn: the weights of a row's
    labels multiplied.

    Parameters
    ----------
    n_estimators : number of trees.
    min_samples_leaf : rows that every leaf keeps at least.
    max_features : part of the features tried at a split, or "sqrt" of their number.
    task : classification, multi-label or regression.
    class_weight : None or "balanced".
    seed : of the rows drawn for a tree and of the features tried.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS, TargetKind.NUMBERS)
    halves = True
    stitches = False
    trusted_types = (_TREE,)
    precision = np.float32  # the trees' own
    preprocessing = NONE

    def __init__(
        self,
        n_estimators: int = 100,
        min_samples_leaf: int = 1,
        max_features: float | str = "sqrt",
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.n_estimators = n_estimators
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return leaves of 5 and of 2 rows: small leaves make the more flexible trees."""
        # the root of 1,280 is 36 features a split, which is few where a value has to be met
        max_features = 0.1 if TASKS[task].kind is TargetKind.NUMBERS else "sqrt"
        return tuple({"min_samples_leaf": rows, "max_features": max_features} for rows in (5, 2))

    def check(self) -> None:
        super().check()
        whole_number("n_estimators", self.n_estimators, 1)
        whole_number("min_samples_leaf", self.min_samples_leaf, 1)
        if not isinstance(self.max_features, str) or self.max_features != "sqrt":
            must = "be a part above 0 and up to 1, or sqrt"
            check_number("max_features", self.max_features, must, lambda part: 0 < part <= 1)

    @property
    def output(self) -> str:
        return TASKS[self.task].output

    def make_estimator(self, n_features: int) -> Any:
        options: dict[str, Any] = {
            "n_estimators": self.n_estimators,
            "min_samples_leaf": self.min_samples_leaf,
            "max_features": self.max_features,
            "random_state": self.seed,
            "n_jobs": 1,
        }
        if self.target_kind is TargetKind.NUMBERS:
            return ensemble.RandomForestRegressor(**options)
        return ensemble.RandomForestClassifier(class_weight=self.class_weight, **options)

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        # far from zero a tree's sums of squares lose what it is to part: then about the mean
        mean = np.zeros(1)
        if self.target_kind is TargetKind.NUMBERS and is_too_coarse(y).any():
            mean = y.mean(axis=0)
            y = y - mean
        # scikit-learn warns of a single column
        super()._fit(X, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y, groups)
        for tree in self.pipeline_[-1].estimators_ if mean.any() else ():
            tree.tree_.value[...] += mean[:, None]  # (nodes, targets, 1)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the mean over the trees of the frequencies in the leaf, (n, n_outputs)."""
        forest = self.pipeline_[-1]
        frequencies = forest.predict_proba(self._features(X))
        if self.target_kind is TargetKind.CLASS:
            return np.asarray(frequencies)
        if not isinstance(frequencies, list):  # one label
            frequencies, labels = [frequencies], [forest.classes_]
        else:
            labels = forest.classes_
        # a label that was always there, or never, has one column
        columns = [
            part[:, list(values).index(1)] if 1 in values else np.zeros(len(part))
            for part, values in zip(frequencies, labels, strict=True)
        ]
        return np.stack(columns, axis=1)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        if self.target_kind is not TargetKind.NUMBERS:
            return self.predict_proba(X)
        values = self.pipeline_[-1].predict(self._features(X))
        return np.asarray(values.reshape(len(values), -1))

    def restore(self, file: Path) -> Self:
        """Read what `save` wrote; trees are followed unchecked, so they are checked here."""
        super().restore(file)
        forest = self.pipeline_[-1]
        if not all(_is_whole(one.tree_, forest.n_features_in_) for one in forest.estimators_):
            raise HeadError(f"Head file '{file}' holds trees that are damaged.")
        return self

    def to_keras_layers(self, features: Any) -> Any:
        raise StitchError(
            "A random forest cannot become Keras layers; stitch another head: logreg, linear-svm, "
            "ridge, lda, knn, rbf-svm or dense."
        )


def _is_whole(tree: Any, n_features: int) -> bool:
    """Return whether every path in a tree ends in a leaf, and asks for features there are."""
    place = np.arange(tree.node_count)
    left, right = tree.children_left, tree.children_right
    is_leaf = left == -1
    inner = ~is_leaf
    ahead = [
        (place < child)[inner].all() and (child < tree.node_count)[inner].all()
        for child in (left, right)
    ]
    asked = tree.feature[inner]
    known = (asked >= 0).all() and (asked < n_features).all()
    return bool(tree.node_count and all(ahead) and known and tree.n_features == n_features)
