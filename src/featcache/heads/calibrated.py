"""A fitted head whose outputs go through a calibration map to probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tasks import PROBABILITIES, TASKS
from featcache.heads.base import Head

if TYPE_CHECKING:
    from typing_extensions import Self

LAYER = "calibrated"


class Calibrated(Head):
    """A head of a classification with probabilities that were calibrated out of fold.

    It is made from a fitted head and a fitted map, and cannot be fitted again.

    Parameters
    ----------
    head : fitted, of any kind.
    calibrator : fitted map of `calibration`.
    """

    tasks = tuple(name for name, task in TASKS.items() if task.is_calibrated)
    output = PROBABILITIES

    def __init__(self, head: Head, calibrator: Any):
        self.head = head
        self.calibrator = calibrator

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return ()

    @property
    def task(self) -> str:  # type: ignore[override]
        """That of the head."""
        return self.head.task

    @property
    def classes_(self) -> np.ndarray:  # type: ignore[override]
        """Those of the head."""
        return self.head.classes_

    @property
    def n_features_in_(self) -> int:  # type: ignore[override]
        """Those of the head."""
        return self.head.n_features_in_

    @property
    def parity_layer(self) -> str:
        # the map may be steep, so the values before it are what must be near
        return self.head.parity_layer

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        return self.head.parity_values(X)

    def hangs_on_a_tie(self, X: np.ndarray, tolerance: float) -> np.ndarray:
        before, after = self.head.hangs_on_a_tie(X, tolerance), super().hangs_on_a_tie(X, tolerance)
        return np.asarray(before | after)

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        raise HeadError("A calibrated head is made from out-of-fold outputs: fit_heads(calibrate=)")

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        return self.fit(X, y, groups)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.calibrator.transform(self.head.outputs(X)))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n, n_classes)."""
        return self.outputs(X)

    def to_keras_layers(self, features: Any) -> Any:
        return self.calibrator.to_keras_layers(self.head.to_keras_layers(features), LAYER)

    def save(self, file: Path) -> None:
        self.head.save(file)

    def restore(self, file: Path) -> Self:
        raise HeadError("A calibrated head is put together from its parts by heads.load.")
