"""Distance to the nearest good images.

Source: Sun, Ming, Zhu and Li 2022, "Out-of-distribution detection with deep nearest neighbors".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.checks import whole_number
from featcache.core.tasks import ONE_CLASS
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.base import SCORE, AnomalyHead
from featcache.heads.neighbour_search import COSINE, NeighbourSearch
from featcache.heads.preprocessing import NONE, dense_layer


class NeighbourDistance(AnomalyHead):
    """Cosine distance, 1 - cosine, to the k-th nearest good image; of maps by their means.

    Parameters
    ----------
    k : which neighbour; the last where there are fewer.
    """

    def __init__(
        self,
        k: int = 5,
        false_alarms: float = 0.05,
        task: str = ONE_CLASS[0],
        class_weight: str | None = None,
        seed: int = 0,
    ):
        self.k = k
        self.false_alarms = false_alarms
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    def check(self) -> None:
        super().check()
        whole_number("k", self.k, 1)

    def _learn(self, good: np.ndarray) -> None:
        self._search = NeighbourSearch.over(self._vectors(good), NONE, COSINE, self.k)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        nearest, _ = self._search.nearest(self._vectors(rows))
        return np.asarray(np.maximum(1 - nearest[:, -1], 0))

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        z = layers.UnitNormalization(name="unit_length")(self._vectors_in_keras(features))
        rows = self._search.rows
        similarity = dense_layer("good_images", rows.T.astype(np.float64))(z)
        nearest, _ = ops.top_k(similarity, min(self.k, len(rows)))
        score = layers.Identity(name=SCORE)(ops.relu(1.0 - nearest[:, -1:]))
        return self._outputs_in_keras(score)

    def _state(self) -> dict[str, np.ndarray]:
        return {"rows": self._search.rows}

    def _take(self, state: dict[str, np.ndarray]) -> None:
        self._search = NeighbourSearch("passthrough", state["rows"], COSINE, self.k)
