"""Patches of good images, kept: an anomaly is where nothing alike was ever seen.

Sources: Roth et al. 2022, "Towards total recall in industrial anomaly detection" (PatchCore);
Damm et al. 2025, "AnomalyDINO: boosting patch-based few-shot anomaly detection with DINOv2".
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from featcache.core.checks import bad, check_choice, check_number, whole_number
from featcache.core.tasks import ONE_CLASS
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.base import BLOCK_BYTES, AnomalyHead
from featcache.heads.anomaly.coreset import k_centres
from featcache.heads.preprocessing import L2, NONE, dense_layer

_IN_KERAS = 2048  # patches of the memory compared at once: what is compared lies in memory


class PatchMemory(AnomalyHead):
    """Distance of an image's patches to the nearest ones of good images.

    A patch's score is the squared Euclidean distance to the nearest kept one; of patches of length
    1 that is twice the cosine distance. An image's score is the mean of its worst patches.

    Parameters
    ----------
    coreset : share of the good patches that is kept, those farthest from each other, see
        `k_centres`; 1 keeps all.
    neighbourhood : an odd number of patches: each is the mean of so many by so many around it; 1
        takes it by itself.
    worst : share of an image's patches, one at least, whose mean is its score.
    preprocessing : l2 makes patches of length 1, none takes them as they are.
    """

    needs_maps = True

    def __init__(
        self,
        coreset: float = 0.1,
        neighbourhood: int = 3,
        worst: float = 0.01,
        preprocessing: str = L2,
        false_alarms: float = 0.05,
        task: str = ONE_CLASS[0],
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.coreset = coreset
        self.neighbourhood = neighbourhood
        self.worst = worst
        self.preprocessing = preprocessing
        self.false_alarms = false_alarms
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def check(self) -> None:
        super().check()
        for name in ("coreset", "worst"):
            check_number(name, getattr(self, name), "be above 0 and at most 1", _is_share)
        if whole_number("neighbourhood", self.neighbourhood, 1) % 2 == 0:
            raise bad("neighbourhood", "be an odd number", self.neighbourhood)
        check_choice("preprocessing", self.preprocessing, (NONE, L2))

    def _learn(self, good: np.ndarray) -> None:
        patches = self._patches(good).reshape(-1, good.shape[1] // self._n_places)
        n = max(1, round(self.coreset * len(patches)))
        if n < len(patches):
            patches = patches[np.sort(k_centres(patches, n, self.seed))]
        self.memory_ = np.ascontiguousarray(patches)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        return self._mean_of_worst(self.heat_maps(rows), self.worst)

    def heat_maps(self, X: np.ndarray) -> np.ndarray:
        rows = self._rows(X)
        found = np.empty((len(rows), self._n_places), np.float32)
        halves = (self.memory_**2).sum(axis=1) / 2
        size = max(1, BLOCK_BYTES // (4 * len(self.memory_)))  # patches compared at a time
        for number, row in enumerate(rows):  # one image at a time: their patches are copies
            patches = self._patches(row[None])[0].reshape(self._n_places, -1)
            for start in range(0, len(patches), size):
                some = slice(start, start + size)
                near = patches[some] @ self.memory_.T
                near -= halves
                found[number, some] = (patches[some] ** 2).sum(axis=1) - 2 * near.max(axis=1)
        assert self.map_shape_ is not None
        return np.maximum(found, 0).reshape(-1, *self.map_shape_[:2])

    def _patches(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, height, width, channels) float32, each the mean of its neighbourhood."""
        maps = _means_around(self._maps(rows), self.neighbourhood)
        if self.preprocessing == L2:
            length = np.sqrt((maps**2).sum(axis=-1, keepdims=True))
            maps = maps / np.maximum(length, 1e-6)
        return maps

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        z = features
        if self.neighbourhood > 1:
            pool = layers.AveragePooling2D(
                self.neighbourhood, strides=1, padding="same", name="means_around"
            )
            z = pool(z)
        if self.preprocessing == L2:
            z = layers.UnitNormalization(name="unit_length")(z)
        found = []
        for number, start in enumerate(range(0, len(self.memory_), _IN_KERAS)):
            some = self.memory_[start : start + _IN_KERAS].astype(np.float64)
            compared = dense_layer(f"memory_{number}", some.T, -(some**2).sum(axis=1) / 2)(z)
            found.append(ops.max(compared, axis=-1))
        nearest = functools.reduce(ops.maximum, found)
        distance = ops.relu(ops.sum(z * z, axis=-1) - 2.0 * nearest)
        return self._heat_map_in_keras(distance, self.worst)

    def _state(self) -> dict[str, np.ndarray]:
        return {"memory": self.memory_}

    def _take(self, state: dict[str, np.ndarray]) -> None:
        self.memory_ = state["memory"]


def _means_around(maps: np.ndarray, side: int) -> np.ndarray:
    """Return maps (n, h, w, c) of means over side x side places, at the edges of fewer."""
    if side == 1:
        return maps
    from scipy.ndimage import uniform_filter1d

    counted = np.ones((1, *maps.shape[1:3], 1), np.float32)
    for axis in (1, 2):
        maps = uniform_filter1d(maps, side, axis=axis, mode="constant")
        counted = uniform_filter1d(counted, side, axis=axis, mode="constant")
    return np.asarray(maps / counted)


def _is_share(value: float) -> bool:
    return 0 < value <= 1
