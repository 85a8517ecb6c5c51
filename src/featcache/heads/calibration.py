"""Maps from a classification head's outputs to calibrated probabilities.

A map is fitted on out-of-fold outputs, never on those of rows that the head learnt from. It is
kept as plain JSON and becomes stock Keras layers, like the head it belongs to.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featcache.core.checks import check_choice
from featcache.core.errors import HeadError
from featcache.core.tensorflow import import_keras
from featcache.heads.base import PROBABILITIES, SCORES

if TYPE_CHECKING:
    from typing_extensions import Self

AUTO = "auto"
ISOTONIC_ROWS = 10_000  # below, isotonic regression overfits: it wants 1,000 rows of each class
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

        outputs, y = _checked(outputs, y)
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
        outputs, y = _checked(outputs, y)
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

        outputs, y = _checked(outputs, y)
        self.knots_ = []
        for column, x in enumerate(_float32(outputs).T):
            # never 0 or 1: of n rows the next may be otherwise (the bounds of Platt 1999)
            least = 1 / (len(y) + 2)
            curve = IsotonicRegression(y_min=least, y_max=1 - least).fit(x, y == column)
            self.knots_.append((curve.X_thresholds_, curve.y_thresholds_))
        return self

    def transform(self, outputs: np.ndarray) -> np.ndarray:
        # A step may be steep: the layers, in float32, find the same place on it only if x is theirs
        outputs = _float32(_of_width(outputs, len(self.knots_)))
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


KINDS: dict[str, type[Calibrator]] = {kind.kind: kind for kind in (Temperature, Platt, Isotonic)}


def fit(kind: str, outputs: np.ndarray, y: np.ndarray, output_kind: str) -> Calibrator:
    """Return a fitted map.

    Parameters
    ----------
    kind : temperature, platt or isotonic; auto: temperature for probabilities, and for scores
        platt below 10,000 rows and isotonic from there on.
    outputs : (n, n_classes) float, out of fold.
    y : (n,) int, columns of `outputs`.
    output_kind : "probabilities" or "scores"; temperature takes scores as logits.

    Raises
    ------
    SpecError
        When there is no such kind.
    HeadError
        When the outputs are neither probabilities nor scores, or as in `Calibrator.fit`.
    """
    kind = chosen(kind, len(y), output_kind)
    if output_kind not in (PROBABILITIES, SCORES):
        raise HeadError(f"Calibration needs probabilities or scores; got {output_kind}.")
    if kind == Temperature.kind:
        return Temperature(logits=output_kind == SCORES).fit(outputs, y)
    return KINDS[kind]().fit(outputs, y)


def from_dict(values: object) -> Calibrator:
    """Return the map that `to_dict` described.

    Raises
    ------
    HeadError
        When anything is missing, unknown or of the wrong type or range.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind == Temperature.kind:
        temperature, floor, logits = _entries(values, "temperature", "floor", "logits")
        _require(_is_number(temperature) and temperature > 0, "temperature must be above 0")
        _require(_is_number(floor) and 0 < floor <= 1, "floor must lie between 0 and 1")
        _require(isinstance(logits, bool), "logits must be true or false")
        scaling = Temperature(logits)
        scaling.temperature_, scaling.floor_ = float(temperature), float(floor)
        return scaling
    if kind == Platt.kind:
        platt = Platt()
        platt.slopes_, platt.intercepts_ = map(_numbers, _entries(values, "slopes", "intercepts"))
        fits = 2 <= len(platt.slopes_) == len(platt.intercepts_)
        _require(fits, "slopes and intercepts must be one for each of two classes or more")
        return platt
    _require(kind == Isotonic.kind, f"kind must be one of {', '.join(KINDS)}; got '{kind}'")
    (knots,) = _entries(values, "knots")
    fits = isinstance(knots, list) and len(knots) >= 2
    _require(fits, "knots must be one entry for each of two classes or more")
    isotonic = Isotonic()
    isotonic.knots_ = []
    for entry in knots:
        _require(isinstance(entry, dict) and set(entry) == {"x", "y"}, "knots must have x and y")
        x, y = _float32(_numbers(entry["x"])), _numbers(entry["y"])
        _require(len(x) == len(y) and bool((np.diff(x) > 0).all()), "x must increase, one for a y")
        rising = (np.diff(y) >= 0).all() and y[0] >= 0 and y[-1] <= 1
        _require(bool(rising), "y must rise within 0 and 1")
        isotonic.knots_.append((x, y))
    return isotonic


def chosen(kind: str, n: int, output_kind: str) -> str:
    """Return what a kind means for `n` rows; see `fit`.

    Raises
    ------
    SpecError
        When there is no such kind.
    """
    check_choice("calibration", kind, (AUTO, *KINDS))
    if kind != AUTO:
        return kind
    scores = Platt.kind if n < ISOTONIC_ROWS else Isotonic.kind
    return Temperature.kind if output_kind == PROBABILITIES else scores


def _checked(outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _of_width(outputs: np.ndarray, n_classes: int) -> np.ndarray:
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim != 2 or outputs.shape[1] != n_classes:
        raise HeadError(
            f"The calibration map is of {n_classes} classes; got outputs of shape {outputs.shape}."
        )
    return outputs


def _float32(values: np.ndarray) -> np.ndarray:
    """Return float64 values rounded to those that float32 has."""
    return np.asarray(values, np.float32).astype(np.float64)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


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


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise HeadError(
            f"The calibration map is damaged: {reason}. Run `featcache fit-heads` again."
        )


def _entries(values: Any, *keys: str) -> list[Any]:
    """Return the entries beside the kind, of which there are just these."""
    _require(set(values) == {"kind", *keys}, f"it must have kind, {', '.join(keys)} and no more")
    return [values[key] for key in keys]


def _numbers(values: object) -> np.ndarray:
    """Return a non-empty list of numbers as float64."""
    fits = isinstance(values, list) and values and all(map(_is_number, values))
    _require(bool(fits), "slopes, intercepts, x and y must be lists of finite numbers")
    return np.array(values, np.float64)


def _is_number(value: Any) -> bool:
    """Return whether it is a number that float32 has; NaN compares false."""
    return type(value) in (int, float) and -1e30 < value < 1e30
