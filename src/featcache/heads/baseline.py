"""The floor: what is right without looking at the features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import dummy
from sklearn.pipeline import make_pipeline

from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind, names_of
from featcache.core.tensorflow import import_keras
from featcache.heads.base import Head, SklearnHead
from featcache.heads.preprocessing import NONE, dense_layer

if TYPE_CHECKING:
    from typing_extensions import Self

    from featcache.heads.training_rows import TrainingRows

_LARGEST_LOGIT = 30.0  # its sigmoid is 1 in float32


class Dummy(SklearnHead):
    """Frequencies of the classes or labels in training, or the mean target, for every row.

    Parameters
    ----------
    task : classification, multi-label or regression.
    class_weight, seed : have no meaning here: frequencies are what they are.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS, TargetKind.NUMBERS)
    preprocessing = NONE

    def __init__(self, task: str = DEFAULT_TASK, class_weight: str | None = None, seed: int = 0):
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return the one setting there is."""
        return ({},)

    @classmethod
    def path(cls, settings: Sequence[dict[str, Any]], rows: TrainingRows) -> Iterator[Head]:
        """Fit without a copy of the features, which may be larger than the memory."""
        y = np.repeat(rows.y[rows.chosen], rows.views.shape[1], axis=0)
        nothing = np.broadcast_to(np.float32(0), (len(y), rows.views.shape[2]))
        for params in settings:
            yield cls(**params)._fit(nothing, y, None)

    @property
    def output(self) -> str:
        return TASKS[self.task].output

    def make_estimator(self, n_features: int) -> Any:
        if self.target_kind is TargetKind.CLASS:
            return dummy.DummyClassifier(strategy="prior")
        return dummy.DummyRegressor(strategy="mean")  # the mean of a label is its frequency

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        # scikit-learn wants features, and looks at none; these take no memory
        nothing = np.broadcast_to(0.0, (len(y), X.shape[1]))
        estimator = self.make_estimator(X.shape[1]).fit(nothing, y)
        self.pipeline_ = make_pipeline("passthrough", estimator)
        return self.describe()

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return np.tile(self._constant(), (len(self._features(X)), 1))

    def to_keras_layers(self, features: Any) -> Any:
        layers = import_keras().layers
        row = self._constant()
        kernel = np.zeros((self.n_features_in_, len(row)))
        if self.target_kind is TargetKind.NUMBERS:
            return dense_layer(self.output, kernel, row)(features)
        with np.errstate(divide="ignore"):
            odds = 0.0 if self.target_kind is TargetKind.CLASS else np.log1p(-row)
            logits = np.clip(np.log(row) - odds, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        features = dense_layer("logits", kernel, logits)(features)
        if self.target_kind is TargetKind.CLASS:
            return layers.Softmax(name=self.output)(features)
        return layers.Activation("sigmoid", name=self.output)(features)

    def _constant(self) -> np.ndarray:
        """Return the answer to everything, (n_outputs,)."""
        model = self.pipeline_[-1]
        answer = model.class_prior_ if self.target_kind is TargetKind.CLASS else model.constant_
        return np.asarray(answer, np.float64).ravel()
