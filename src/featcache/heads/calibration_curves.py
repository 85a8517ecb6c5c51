"""Maps to calibrated probabilities that take each class against the others, by a curve of its own.

What the curves of the classes give is normalised to sum 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tasks import PROBABILITIES
from featcache.core.tensorflow import import_keras
from featcache.heads.calibrators import FLOOR, Calibrator, checked

if TYPE_CHECKING:
    from typing_extensions import Self


class Platt(Calibrator):
    """A sigmoid of a s + b for each class against the others, then rows normalised to sum 1.

    Platt 1999, "Probabilistic outputs for support vector machines", with its targets
    (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0; solved by a safeguarded Newton method as
    Lin, Lin and Weng 2007, "A note on Platt's probabilistic outputs", advise. A class that does not
    occur gets probability 1e-12 before the rows are normalised.
    """

    kind = "platt"
    slopes_: np.ndarray  # (n_classes,) float64
    intercepts_: np.ndarray

    def fit(self, outputs: np.ndarray, y: np.ndarray) -> Self:
        outputs, y = checked(outputs, y)
        columns = range(outputs.shape[1])
        found = np.array([_sigmoid_fit(outputs[:, column], y == column) for column in columns])
        self.slopes_, self.intercepts_ = found.T
        return self

    def transform(self, outputs: np.ndarray) -> np.ndarray:
        outputs = _of_width(outputs, len(self.slopes_))
        return _normalised(_sigmoid(outputs * self.slopes_ + self.intercepts_))

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "slopes": self.slopes_.tolist(),
            "intercepts": self.intercepts_.tolist(),
        }

    def to_keras_layers(self, outputs: Any, name: str = PROBABILITIES) -> Any:
        ops = import_keras().ops
        slopes, intercepts = self.slopes_.astype(np.float32), self.intercepts_.astype(np.float32)
        return _normalised_layers(ops.sigmoid(outputs * slopes + intercepts), name)


class Isotonic(Calibrator):
    """An isotonic regression for each class against the others, then rows normalised to sum 1.

    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability
    estimates". It is linear between its knots and constant outside. A row without any probability
    is given the same for every class.
    """

    kind = "isotonic"
    knots_: list[tuple[np.ndarray, np.ndarray]]  # for each class x, increasing float32, and y

    def fit(self, outputs: np.ndarray, y: np.ndarray) -> Self:
        from sklearn.isotonic import IsotonicRegression

        outputs, y = checked(outputs, y)
        self.knots_ = []
        for column, x in enumerate(float32(outputs).T):
            # never 0 or 1: of n rows the next may be otherwise (the bounds of Platt 1999)
            least = 1 / (len(y) + 2)
            curve = IsotonicRegression(y_min=least, y_max=1 - least).fit(x, y == column)
            self.knots_.append((curve.X_thresholds_, curve.y_thresholds_))
        return self

    def transform(self, outputs: np.ndarray) -> np.ndarray:
        # A step may be steep: the layers, in float32, find the same place on it only if x is theirs
        outputs = float32(_of_width(outputs, len(self.knots_)))
        pairs = zip(outputs.T, self.knots_, strict=True)
        return _normalised(np.stack([np.interp(x, *knots) for x, knots in pairs], axis=1))

    def to_dict(self) -> dict[str, Any]:
        knots = [{"x": x.tolist(), "y": y.tolist()} for x, y in self.knots_]
        return {"kind": self.kind, "knots": knots}

    def to_keras_layers(self, outputs: Any, name: str = PROBABILITIES) -> Any:
        ops = import_keras().ops
        first, left, width, rise = self._rises()
        # Only terms of one sign are added up, unlike in a sum of ReLUs, whose slopes cancel
        parts = ops.clip((ops.expand_dims(outputs, -1) - left) / width, 0.0, 1.0)
        return _normalised_layers(ops.add(ops.sum(parts * rise, axis=-1), first), name)

    def _rises(self) -> tuple[np.ndarray, ...]:
        """Return (n_classes,) first values; (n_classes, m) where each rise starts, width, height.

        Plateaus are left out; classes of fewer rises are filled up with rises of height 0.
        """
        steps = []
        for x, y in self.knots_:
            rising = np.diff(y) > 0
            steps.append((x[:-1][rising], np.diff(x)[rising], np.diff(y)[rising]))
        shape = len(steps), max(1, *(len(left) for left, _, _ in steps))
        left, width, rise = np.zeros(shape), np.ones(shape), np.zeros(shape)
        for row, (x, dx, dy) in enumerate(steps):
            left[row, : len(x)], width[row, : len(x)], rise[row, : len(x)] = x, dx, dy
        first = np.array([y[0] for _, y in self.knots_])
        return tuple(part.astype(np.float32) for part in (first, left, width, rise))


def float32(values: np.ndarray) -> np.ndarray:
    """Return float64 values rounded to those that float32 has."""
    return np.asarray(values, np.float32).astype(np.float64)


def _of_width(outputs: np.ndarray, n_classes: int) -> np.ndarray:
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim != 2 or outputs.shape[1] != n_classes:
        raise HeadError(
            f"The calibration map is of {n_classes} classes; got outputs of shape {outputs.shape}."
        )
    return outputs


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # the logarithm of 1 + exp(-x) overflows nowhere
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def _sigmoid_fit(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of Platt's sigmoid of one class."""
    from scipy.optimize import minimize

    n, n_positive = len(positive), int(positive.sum())
    if not n_positive:
        return 0.0, math.log(FLOOR)
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n - n_positive + 2))
    centre, spread = scores.mean(), float(scores.std()) or 1.0
    design = np.stack([(scores - centre) / spread, np.ones(n)], axis=1)

    def loss(weights: np.ndarray) -> float:
        logits = design @ weights
        return float(np.mean(np.logaddexp(0, logits) - targets * logits))

    def gradient(weights: np.ndarray) -> np.ndarray:
        return np.asarray(design.T @ (_sigmoid(design @ weights) - targets) / n)

    def hessian(weights: np.ndarray) -> np.ndarray:
        p = _sigmoid(design @ weights)
        return np.asarray((design.T * (p * (1 - p))) @ design / n)

    start = [0.0, math.log((n_positive + 1) / (n - n_positive + 1))]
    found = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", tol=1e-10)
    slope = float(found.x[0]) / spread
    return slope, float(found.x[1]) - slope * float(centre)


def _normalised(p: np.ndarray) -> np.ndarray:
    # a floor rather than a case of its own for rows of zeros: nothing jumps, nothing underflows
    p = np.maximum(p, FLOOR)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def _normalised_layers(p: Any, name: str) -> Any:
    """Continue a Keras tensor as `_normalised` does: the softmax of logarithms."""
    keras = import_keras()
    return keras.layers.Softmax(name=name)(keras.ops.log(keras.ops.maximum(p, FLOOR)))
