"""What all scores of strangers share, and what they call logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featcache.core.tasks import PROBABILITIES
from featcache.core.tensorflow import import_keras
from featcache.heads.base import Head

if TYPE_CHECKING:
    from typing_extensions import Self

SCORE = "stranger_score"  # Keras layer
LEAST = 1e-30  # no probability is taken for less, so logarithms exist in float32


class StrangerScore(ABC):
    """How strange images are to a fitted head: the larger, the less they are of a known class.

    `fit(X, y, logits)` takes features (n, d) of known classes, their classes (n,) int and the
    head's logits (n, n_classes), see `logits_of`, and returns self.
    """

    needs_logits: ClassVar[bool] = False  # logarithms of probabilities will not do

    def fit(self, X: np.ndarray, y: np.ndarray, logits: np.ndarray) -> Self:
        """Learn from images of known classes; here nothing."""
        return self

    @abstractmethod
    def scores(self, X: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return (n,) float of features (n, d) and logits (n, n_classes)."""

    @abstractmethod
    def to_keras(self, features: Any, logits: Any) -> Any:
        """Continue Keras tensors (n, d) and (n, n_classes) with stock layers to scores (n, 1)."""

    def state(self) -> dict[str, np.ndarray]:
        """Return all that was learnt, as arrays."""
        return {}

    def take(self, state: dict[str, np.ndarray]) -> Self:
        """Take what `state` gave; raise KeyError where something is missing."""
        return self


def logits_of(head: Head, X: np.ndarray) -> np.ndarray:
    """Return (n, n_classes): logits of a head that has them, its scores, or log-probabilities."""
    logits = head.logits(X)
    if head.output == PROBABILITIES and not head.logits_layer:
        return np.asarray(np.log(np.maximum(logits, LEAST)))
    return logits


def logits_in_keras(head: Head, outputs: Any) -> Any:
    """Return the Keras tensor that gives `logits_of`, where `outputs` are those of the head."""
    if head.output != PROBABILITIES:
        return outputs
    if head.logits_layer:
        return tensor_of(head.logits_layer, outputs)
    return log(outputs)


def log(probabilities: Any) -> Any:
    """Continue a Keras tensor of probabilities with their logarithms."""
    ops = import_keras().ops
    return ops.log(ops.maximum(probabilities, LEAST))


def tensor_of(layer: str, outputs: Any) -> Any:
    """Return what a layer gives on the way to a Keras tensor, by the layer's name."""
    ahead = [outputs]
    while ahead:
        tensor = ahead.pop()
        operation, node, _ = tensor._keras_history
        if operation.name == layer:
            return tensor
        ahead.extend(operation._inbound_nodes[node].input_tensors)
    raise KeyError(layer)
