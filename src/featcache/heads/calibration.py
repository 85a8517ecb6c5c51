"""Maps from a classification head's outputs to calibrated probabilities: which, fitted, read back.

A map is fitted on out-of-fold outputs, never on those of rows that the head learnt from. It is
kept as plain JSON and becomes stock Keras layers, like the head it belongs to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.checks import check_choice
from featcache.core.errors import HeadError
from featcache.core.tasks import PROBABILITIES, SCORES
from featcache.heads.calibration_curves import Isotonic, Platt, float32
from featcache.heads.calibrators import Calibrator, Temperature

AUTO = "auto"
ISOTONIC_ROWS = 10_000  # below, isotonic regression overfits: it wants 1,000 rows of each class

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
        x, y = float32(_numbers(entry["x"])), _numbers(entry["y"])
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
