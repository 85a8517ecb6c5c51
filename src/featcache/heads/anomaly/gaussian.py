"""Good images as a normal distribution, of vectors or of each place of a map.

Sources: Mahalanobis 1936; Lee et al. 2018, "A simple unified framework for detecting
out-of-distribution samples"; Defard et al. 2021, "PaDiM: a patch distribution modeling framework";
Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.checks import check_number, whole_number
from featcache.core.tasks import ONE_CLASS
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.base import SCORE, AnomalyHead
from featcache.heads.preprocessing import dense_layer

_SHRINKAGE = 0.01  # of a place's covariance towards a sphere: images are fewer than dimensions


class Gaussian(AnomalyHead):
    """Squared Mahalanobis distance, divided by the number of dimensions.

    Of vectors there is one distribution, its covariance by Ledoit and Wolf. Of maps each place has
    its own, of a few channels drawn at random, and an image's score is the mean of its worst
    places.

    Parameters
    ----------
    channels : of maps, how many are taken at most.
    worst : share of the places of a map, one at least, whose mean is its score.
    """

    def __init__(
        self,
        channels: int = 100,
        worst: float = 0.01,
        false_alarms: float = 0.05,
        task: str = ONE_CLASS[0],
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.channels = channels
        self.worst = worst
        self.false_alarms = false_alarms
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def check(self) -> None:
        super().check()
        whole_number("channels", self.channels, 1)
        check_number("worst", self.worst, "be above 0 and at most 1", lambda x: 0 < x <= 1)

    def _learn(self, good: np.ndarray) -> None:
        if self.map_shape_ is None:
            self._learn_vectors(good)
        else:
            self._learn_maps(good)

    def _learn_vectors(self, good: np.ndarray) -> None:
        from sklearn.covariance import ledoit_wolf

        self.picked_ = np.arange(good.shape[1])
        self.mean_ = good.mean(axis=0, dtype=np.float64).astype(np.float32)
        covariance, _ = ledoit_wolf(good - self.mean_, assume_centered=True)
        self.whitening_ = whitening_of(covariance).astype(np.float32)

    def _learn_maps(self, good: np.ndarray) -> None:
        assert self.map_shape_ is not None
        n_channels = self.map_shape_[2]
        rng = np.random.default_rng(self.seed)
        n_taken = min(self.channels, n_channels)
        self.picked_ = np.sort(rng.permutation(n_channels)[:n_taken])
        maps = self._maps(good)[..., self.picked_]
        self.mean_ = maps.mean(axis=0, dtype=np.float64).astype(np.float32)
        d = len(self.picked_)
        self.whitening_ = np.empty((*self.map_shape_[:2], d, d), np.float32)
        for row in range(self.map_shape_[0]):  # a row of places at a time: all would be large
            centred = (maps[:, row] - self.mean_[row]).astype(np.float64)  # (n, width, d)
            covariance = np.einsum("nwi,nwj->wij", centred, centred) / max(1, len(good) - 1)
            spread = np.trace(covariance, axis1=1, axis2=2)[:, None, None] / d
            sphere = np.maximum(spread, 1e-12) * np.eye(d)
            self.whitening_[row] = whitening_of((1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        if self.map_shape_ is None:
            z = (rows - self.mean_) @ self.whitening_
            return np.asarray((z**2).mean(axis=1))
        return self._mean_of_worst(self.heat_maps(rows), self.worst)

    def heat_maps(self, X: np.ndarray) -> np.ndarray:
        if self.map_shape_ is None:
            return super().heat_maps(X)
        centred = self._maps(self._rows(X))[..., self.picked_] - self.mean_
        # places first, so that each is a product of matrices
        z = np.matmul(centred.transpose(1, 2, 0, 3), self.whitening_)
        return np.asarray((z**2).mean(axis=-1).transpose(2, 0, 1))

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        d = len(self.picked_)
        if self.map_shape_ is None:
            kernel = self.whitening_.astype(np.float64)
            z = dense_layer("whitened", kernel, -self.mean_.astype(np.float64) @ kernel)(features)
            score = layers.Identity(name=SCORE)(ops.mean(z * z, axis=-1, keepdims=True))
            return self._outputs_in_keras(score)
        picking = np.zeros((self.map_shape_[2], d))
        picking[self.picked_, np.arange(d)] = 1
        z = dense_layer("channels", picking)(features)
        whitened = layers.EinsumDense(
            "bhwi,hwij->bhwj", (*self.map_shape_[:2], d), bias_axes="hwj", name="whitened"
        )
        whitened.build((None, *self.map_shape_[:2], d))
        kernel = self.whitening_.astype(np.float64)
        shift = -np.matmul(self.mean_[..., None, :].astype(np.float64), kernel)[..., 0, :]
        whitened.set_weights([kernel, shift])
        z = whitened(z)
        return self._heat_map_in_keras(ops.mean(z * z, axis=-1), self.worst)

    def _state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean_, "whitening": self.whitening_, "picked": self.picked_}

    def _take(self, state: dict[str, np.ndarray]) -> None:
        self.mean_, self.whitening_ = state["mean"], state["whitening"]
        self.picked_ = state["picked"]


def whitening_of(covariance: np.ndarray) -> np.ndarray:
    """Return W (…, d, d) with W W' the inverse of a covariance: (x W)² sums up to the distance."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-9 * values.max(axis=-1, keepdims=True) + 1e-30)
    return np.asarray(vectors / np.sqrt(values)[..., None, :])
