"""What every head offers, and what the scikit-learn ones share.

Outputs always have one column a class, also for two classes, so that the largest column is the
predicted class for every head and for the Keras layers made from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from featcache import quiet
from featcache.errors import HeadError
from featcache.spec import check_choice

if TYPE_CHECKING:
    from typing_extensions import Self

PROBABILITIES = "probabilities"
SCORES = "scores"


class Head(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A classifier of features, (n, d) float to class indices 0 to n_classes - 1."""

    output: ClassVar[str]  # PROBABILITIES or SCORES, and the name of its last Keras layer
    parity_layer: ClassVar[str]  # Keras layer whose values depend continuously on the features
    suffix: ClassVar[str]  # of its file
    grid: ClassVar[tuple[dict[str, Any], ...]]  # settings that a comparison tries

    classes_: np.ndarray
    n_features_in_: int

    @abstractmethod
    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Fit to features (n, d) and class indices (n,).

        `groups` (n,) int says which rows are views of one image: a head that holds rows back to
        judge itself never parts them.
        """

    @abstractmethod
    def outputs(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_classes) probabilities or scores, as `output` says."""

    @abstractmethod
    def to_keras_layers(self, features: Any) -> Any:
        """Continue a Keras tensor of features (n, d) with stock layers that give `outputs`."""

    @abstractmethod
    def save(self, file: Path) -> None:
        """Write the fitted state."""

    @abstractmethod
    def restore(self, file: Path) -> Self:
        """Read what `save` wrote into this head."""

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        """Return what the Keras layer named `parity_layer` must give."""
        return self.outputs(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class index of each row, (n,)."""
        return np.asarray(self.classes_[self.outputs(X).argmax(axis=1)])


SCALINGS: dict[str, Callable[[], Any]] = {"standardise": StandardScaler, "l2": Normalizer}


class SklearnHead(Head):
    """A scikit-learn classifier behind scaled features.

    Its constructor stores at least `scaling`: standardise (each feature to mean 0, variance 1) or
    l2 (each row to length 1).
    """

    suffix = ".skops"
    scaling: str
    pipeline_: Pipeline

    @abstractmethod
    def make_classifier(self, n_features: int) -> Any:
        """Return the unfitted scikit-learn classifier."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        # float64 also for features stored as float16: scaling in half precision overflows
        X = np.asarray(X, np.float64)
        check_choice("scaling", self.scaling, tuple(SCALINGS))
        self.pipeline_ = make_pipeline(
            SCALINGS[self.scaling](), self.make_classifier(X.shape[1])
        ).fit(X, y)
        return self._describe()

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_classes) scores; for two classes scikit-learn's score and its negative."""
        scores = self.pipeline_.decision_function(np.asarray(X, np.float64))
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else np.asarray(scores)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self.decision_function(X)

    def save(self, file: Path) -> None:
        from skops import io

        io.dump(self.pipeline_, file)

    def restore(self, file: Path) -> Self:
        from skops import io

        untrusted = io.get_untrusted_types(file=file)
        if untrusted:
            raise HeadError(
                f"Head file '{file}' names types that are not scikit-learn's "
                f"({', '.join(untrusted[:3])}); it is not loaded."
            )
        pipeline = io.load(file)
        kind = type(self.make_classifier(1))
        if not isinstance(pipeline, Pipeline) or not isinstance(pipeline[-1], kind):
            raise HeadError(f"Head file '{file}' does not hold a {kind.__name__}.")
        self.pipeline_ = pipeline
        return self._describe()

    def scaled_linear(self, features: Any, name: str, weights: np.ndarray, bias: np.ndarray) -> Any:
        """Continue a Keras tensor with the scaling and then `weights` (k, d) and `bias` (k,)."""
        scaler = self.pipeline_[0]
        if isinstance(scaler, Normalizer):
            unit = quiet.keras().layers.UnitNormalization(name="unit_length")(features)
            return dense_layer(name, weights.T, bias)(unit)
        # standardising is affine, so it folds into the one layer
        kernel = weights.T / scaler.scale_[:, None]
        return dense_layer(name, kernel, bias - scaler.mean_ @ kernel)(features)

    def _describe(self) -> Self:
        self.classes_ = self.pipeline_.classes_
        self.n_features_in_ = self.pipeline_.n_features_in_
        return self


def dense_layer(name: str, kernel: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """Return a Keras Dense layer with these weights, computed in float64 and stored in float32."""
    layer = quiet.keras().layers.Dense(kernel.shape[1], use_bias=bias is not None, name=name)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return layer
