"""What training minimises, and what judges it on images that it does not learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.core.tasks import PROBABILITIES, SCORES, TASKS, TargetKind
from featcache.core.tensorflow import import_keras
from featcache.scoring import metrics


@dataclass(frozen=True)
class Objective:
    """The loss that the head itself minimises, by task and kind of output.

    Cross-entropy for probabilities, squared hinge for scores, as a linear SVM has it; for values
    the squared error in units of each target's standard deviation.
    """

    task: str
    output: str  # PROBABILITIES, SCORES or VALUES
    n_outputs: int
    weights: np.ndarray  # (2, n_outputs): of a 0 and of a 1 in a column
    scale: np.ndarray  # (n_outputs,) standard deviations of targets
    label_smoothing: float

    @classmethod
    def of(
        cls,
        task: str,
        output: str,
        y: np.ndarray,
        n_outputs: int,
        class_weight: str | None,
        label_smoothing: float,
    ) -> Objective:
        """Return the objective for what is learnt from `y` (n,) or (n, n_outputs)."""
        weights, scale = np.ones((2, n_outputs), np.float32), np.ones(n_outputs, np.float32)
        kind = TASKS[task].kind
        if kind is TargetKind.NUMBERS:
            spread = y.std(axis=0).astype(np.float32)
            scale = np.where(spread > 0, spread, 1.0).astype(np.float32)
        elif class_weight == "balanced" and kind is TargetKind.CLASS:
            counts = np.bincount(y, minlength=n_outputs)
            weights[:] = len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        elif class_weight == "balanced":
            share = np.stack([1 - y.mean(axis=0), y.mean(axis=0)])
            both = (share > 0).all(axis=0)
            weights = np.where(both, 0.5 / np.where(share > 0, share, 1.0), 1.0).astype(np.float32)
        return cls(task, output, n_outputs, weights, scale, label_smoothing)

    @property
    def kind(self) -> TargetKind:
        """How what is learnt is kept in an array."""
        return TASKS[self.task].kind

    @property
    def metric(self) -> str:
        """Name of the metric that chooses the epoch."""
        return TASKS[self.task].epoch_metric

    def to_train_on(self, y: np.ndarray) -> np.ndarray:
        """Return (n, 2, n_outputs) float32: what the outputs should be, and its weight."""
        hot = self._hot(y)
        wanted = hot
        if self.output == PROBABILITIES and self.label_smoothing:
            share = 1 / self.n_outputs if self.kind is TargetKind.CLASS else 0.5
            wanted = hot * (1 - self.label_smoothing) + self.label_smoothing * share
        if self.kind is TargetKind.CLASS:
            weights = np.repeat((hot * self.weights[1]).sum(axis=1)[:, None], hot.shape[1], axis=1)
        elif self.kind is TargetKind.LABELS:
            weights = np.where(hot == 1, self.weights[1], self.weights[0])
        else:
            weights = np.ones_like(hot)
        return np.stack([self._signed(wanted), weights], axis=1).astype(np.float32)

    def loss(self, wanted: Any, outputs: Any) -> Any:
        """Return the loss (n,) of outputs (n, n_outputs); `wanted` as `to_train_on` gives it."""
        ops = import_keras().ops
        wanted, weights = wanted[:, 0], wanted[:, 1]
        if self.kind is TargetKind.CLASS and self.output == PROBABILITIES:
            return ops.categorical_crossentropy(wanted, outputs) * weights[:, 0]
        if self.output == PROBABILITIES:
            each = ops.binary_crossentropy(wanted, outputs)
        elif self.output == SCORES:
            each = ops.square(ops.relu(1.0 - wanted * outputs))
        else:
            each = ops.square((wanted - outputs) / self.scale)
        return ops.mean(each * weights, axis=-1)

    def judge(self, y: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
        """Return loss, unweighted and without smoothing, and the metric."""
        hot = self._signed(self._hot(y))
        wanted = np.stack([hot, np.ones_like(hot)], axis=1).astype(np.float32)
        losses = np.asarray(self.loss(wanted, outputs.astype(np.float32)))
        metric = metrics.score_one(self.metric, self.task, y, outputs, self.output)
        return float(losses.mean(dtype=np.float64)), metric

    def is_better(self, new: tuple[float, float], old: tuple[float, float]) -> bool:
        """Return whether (loss, metric) beat others: by the metric, by the loss if that is equal.

        Of few images many epochs get as many right; how sure the model is of it tells them apart.
        The loss alone would prefer a model that is less sure to one that is right more often.
        """
        gain = metrics.better(self.metric) * (new[1] - old[1])
        return gain > 0 or (gain == 0 and new[0] < old[0])

    def _hot(self, y: np.ndarray) -> np.ndarray:
        if self.kind is TargetKind.CLASS:
            return np.asarray(np.eye(self.n_outputs, dtype=np.float32)[y])
        return np.asarray(y, np.float32)

    def _signed(self, hot: np.ndarray) -> np.ndarray:
        return 2 * hot - 1 if self.output == SCORES else hot
