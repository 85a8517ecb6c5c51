"""The support of good images, by a one-class SVM.

Source: Schölkopf et al. 2001, "Estimating the support of a high-dimensional distribution".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.checks import check_number
from featcache.core.tasks import ONE_CLASS
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.base import SCORE, AnomalyHead
from featcache.heads.preprocessing import dense_layer


class OneClassSVM(AnomalyHead):
    """How far below the largest possible an RBF one-class SVM's decision is; of maps by means.

    Features are standardised; the kernel's width is scikit-learn's "scale".

    Parameters
    ----------
    nu : about the share of good images that may lie outside, above 0 and at most 1.
    """

    def __init__(
        self,
        nu: float = 0.1,
        false_alarms: float = 0.05,
        task: str = ONE_CLASS[0],
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.nu = nu
        self.false_alarms = false_alarms
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def check(self) -> None:
        super().check()
        check_number("nu", self.nu, "be above 0 and at most 1", lambda x: 0 < x <= 1)

    def _learn(self, good: np.ndarray) -> None:
        from sklearn.svm import OneClassSVM as Estimator

        x = self._vectors(good).astype(np.float64)
        self.mean_, scale = x.mean(axis=0), x.std(axis=0)
        self.scale_ = np.where(scale > 0, scale, 1.0)
        z = (x - self.mean_) / self.scale_
        fitted = Estimator(nu=self.nu, gamma="scale").fit(z)
        self.vectors_, self.gamma_ = fitted.support_vectors_, float(fitted._gamma)
        self.weights_ = fitted.dual_coef_[0]

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        z = (self._vectors(rows) - self.mean_) / self.scale_
        distance = (z**2).sum(axis=1)[:, None] + (self.vectors_**2).sum(axis=1)
        distance -= 2 * z @ self.vectors_.T
        return np.asarray(1 - np.exp(-self.gamma_ * distance) @ self._shares, np.float32)

    @property
    def _shares(self) -> np.ndarray:
        """The weights (n_vectors,), which add up to 1: a decision is their mean of the kernel."""
        return np.asarray(self.weights_ / self.weights_.sum())

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        scaled = layers.Normalization(mean=self.mean_, variance=self.scale_**2, name="standardised")
        z = scaled(self._vectors_in_keras(features))
        # -gamma |z - v|^2 = 2 gamma z.v - gamma |v|^2 - gamma |z|^2
        v, gamma = self.vectors_, self.gamma_
        cross = dense_layer("support_vectors", 2 * gamma * v.T, -gamma * (v**2).sum(axis=1))(z)
        kernel = ops.exp(cross - gamma * ops.sum(z * z, axis=-1, keepdims=True))
        decision = dense_layer("decision", self._shares[:, None])(kernel)
        score = layers.Identity(name=SCORE)(1.0 - decision)
        return self._outputs_in_keras(score)

    def _state(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean_,
            "scale": self.scale_,
            "vectors": self.vectors_,
            "weights": self.weights_,
            "gamma": np.array(self.gamma_),
        }

    def _take(self, state: dict[str, np.ndarray]) -> None:
        self.mean_, self.scale_ = state["mean"], state["scale"]
        self.vectors_, self.weights_ = state["vectors"], state["weights"]
        self.gamma_ = float(state["gamma"])
