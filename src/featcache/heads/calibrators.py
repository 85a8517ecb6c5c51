"""What a map to calibrated probabilities is, and the map of one number: the temperature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tasks import PROBABILITIES
from featcache.core.tensorflow import import_keras

if TYPE_CHECKING:
    from typing_extensions import Self

FLOOR = 1e-12  # no probability is taken for less, so logarithms and quotients exist in float32
_TEMPERATURES = (0.02, 100.0)  # of probabilities; below, near ties are lost in float32


class Calibrator(ABC):
    """A map from outputs (n, n_classes) to probabilities.

    The constructor stores, `fit` returns self, learned state ends in `_`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def fit(self, outputs: np.ndarray, y: np.ndarray) -> Self:
        """Fit to out-of-fold outputs and the classes of their rows.

        Parameters
        ----------
        outputs : (n, n_classes) float.
        y : (n,) int, columns of `outputs`. Not every class need occur.

        Raises
        ------
        HeadError
            When there is no row, shapes or classes do not fit, or an output is not finite.
        """

    @abstractmethod
    def transform(self, outputs: np.ndarray) -> np.ndarray:
        """Return probabilities (n, n_classes) float64 of outputs (n, n_classes) float."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, in types of JSON."""

    @abstractmethod
    def to_keras_layers(self, outputs: Any, name: str = PROBABILITIES) -> Any:
        """Continue a Keras tensor (n, n_classes) of the head's outputs with stock layers.

        Parameters
        ----------
        name : of the last layer, which gives what `transform` gives.
        """


class Temperature(Calibrator):
    """softmax(log p / T), or softmax(s / T) of scores, with the T of least log-loss.

    Guo et al. 2017, "On calibration of modern neural networks". It keeps the order of the classes.
    Probabilities below 1 / (10 n) of n rows are taken for that: the rows say nothing of what is so
    rare, and the zeros of a head that counts votes would ask for a T that levels all the others.

    Parameters
    ----------
    logits : the outputs are scores, taken as logits, rather than probabilities.
    """

    kind = "temperature"
    temperature_: float
    floor_: float

    def __init__(self, logits: bool = False):
        self.logits = logits

    def fit(self, outputs: np.ndarray, y: np.ndarray) -> Self:
        from scipy.optimize import minimize_scalar

        outputs, y = checked(outputs, y)
        self.floor_ = max(FLOOR, 0.1 / len(y))
        logits = self._logits(outputs)
        # scores have a scale of their own, from which the search starts
        unit = float(outputs.std()) or 1.0 if self.logits else 1.0
        rows = np.arange(len(y))

        def loss(log_temperature: float) -> float:
            return -float(np.mean(_log_softmax(logits / math.exp(log_temperature))[rows, y]))

        bounds = [math.log(unit * bound) for bound in _TEMPERATURES]
        found = minimize_scalar(loss, bounds=bounds, method="bounded")
        self.temperature_ = math.exp(found.x)
        return self

    def transform(self, outputs: np.ndarray) -> np.ndarray:
        logits = self._logits(np.asarray(outputs, np.float64))
        return np.asarray(np.exp(_log_softmax(logits / self.temperature_)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "temperature": self.temperature_,
            "floor": self.floor_,
            "logits": self.logits,
        }

    def to_keras_layers(self, outputs: Any, name: str = PROBABILITIES) -> Any:
        keras = import_keras()
        logits = outputs
        if not self.logits:
            logits = keras.ops.log(keras.ops.maximum(outputs, self.floor_))
        return keras.layers.Softmax(name=name)(keras.ops.divide(logits, self.temperature_))

    def _logits(self, outputs: np.ndarray) -> np.ndarray:
        return outputs if self.logits else np.log(np.maximum(outputs, self.floor_))


def checked(outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    outputs, y = np.asarray(outputs, np.float64), np.asarray(y)
    if outputs.ndim != 2 or outputs.shape[1] < 2 or y.shape != (len(outputs),) or not len(y):
        raise HeadError(
            f"Calibration needs outputs (n, n_classes) and their n classes; got shapes "
            f"{outputs.shape} and {y.shape}."
        )
    if y.min() < 0 or y.max() >= outputs.shape[1]:
        raise HeadError(
            f"Calibration needs classes from 0 to {outputs.shape[1] - 1}; got {y.min()} to "
            f"{y.max()}."
        )
    if not np.isfinite(outputs).all():
        raise HeadError("Calibration needs finite outputs; the head gave NaN or infinity.")
    return outputs, y


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
