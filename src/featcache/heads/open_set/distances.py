"""Scores by features alone: strangers are far from all known images, or classes.

Sources: Sun, Ming, Zhu and Li 2022, "Out-of-distribution detection with deep nearest neighbors";
Lee, Lee, Lee and Shin 2018, "A simple unified framework for detecting out-of-distribution samples
and adversarial attacks"; Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional
covariance matrices".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.gaussian import whitening_of
from featcache.heads.neighbour_search import COSINE, NeighbourSearch
from featcache.heads.open_set.base import StrangerScore
from featcache.heads.preprocessing import NONE, dense_layer

if TYPE_CHECKING:
    from typing_extensions import Self

K = 5  # which neighbour; the last where there are fewer


class Neighbours(StrangerScore):
    """Cosine distance, 1 - cosine, to the fifth nearest known image."""

    def fit(self, X: np.ndarray, y: np.ndarray, logits: np.ndarray) -> Self:
        self._search = NeighbourSearch.over(X, NONE, COSINE, K)
        return self

    def scores(self, X: np.ndarray, logits: np.ndarray) -> np.ndarray:
        nearest, _ = self._search.nearest(X)
        return np.asarray(np.maximum(1 - nearest[:, -1], 0))

    def to_keras(self, features: Any, logits: Any) -> Any:
        keras = import_keras()
        ops, rows = keras.ops, self._search.rows
        z = keras.layers.UnitNormalization(name="direction_of_features")(features)
        similarity = dense_layer("known_images", rows.T.astype(np.float64))(z)
        nearest, _ = ops.top_k(similarity, min(K, len(rows)))
        return ops.relu(ops.subtract(1.0, nearest[:, -1:]))

    def state(self) -> dict[str, np.ndarray]:
        return {"rows": self._search.rows}

    def take(self, state: dict[str, np.ndarray]) -> Self:
        self._search = NeighbourSearch("passthrough", state["rows"], COSINE, K)
        return self


class Mahalanobis(StrangerScore):
    """Squared Mahalanobis distance to the nearest class mean, divided by the dimensions.

    The classes share one covariance, by Ledoit and Wolf.
    """

    def fit(self, X: np.ndarray, y: np.ndarray, logits: np.ndarray) -> Self:
        from sklearn.covariance import ledoit_wolf

        _, place = np.unique(y, return_inverse=True)
        means = np.stack([X[place == one].mean(axis=0) for one in range(place.max() + 1)])
        covariance, _ = ledoit_wolf(X - means[place], assume_centered=True)
        whitening = whitening_of(covariance) / np.sqrt(X.shape[1])
        # about the mean of all: differences of squares stay exact
        centre = means.mean(axis=0)
        self.whitening_, self.centre_ = whitening.astype(np.float32), centre.astype(np.float32)
        self.means_ = ((means - centre) @ whitening).astype(np.float32)
        return self

    def scores(self, X: np.ndarray, logits: np.ndarray) -> np.ndarray:
        z = (X - self.centre_) @ self.whitening_
        nearest = (z @ self.means_.T - 0.5 * (self.means_**2).sum(axis=1)).max(axis=1)
        return np.asarray((z**2).sum(axis=1) - 2 * nearest)

    def to_keras(self, features: Any, logits: Any) -> Any:
        ops = import_keras().ops
        kernel, means = self.whitening_.astype(np.float64), self.means_.astype(np.float64)
        z = dense_layer("whitened", kernel, -self.centre_ @ kernel)(features)
        nearness = dense_layer("class_means", means.T, -0.5 * (means**2).sum(axis=1))(z)
        nearest = ops.max(nearness, axis=-1, keepdims=True)
        squared = ops.sum(ops.square(z), axis=-1, keepdims=True)
        return ops.subtract(squared, ops.multiply(2.0, nearest))

    def state(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre_, "whitening": self.whitening_, "means": self.means_}

    def take(self, state: dict[str, np.ndarray]) -> Self:
        self.centre_, self.whitening_ = state["centre"], state["whitening"]
        self.means_ = state["means"]
        return self
