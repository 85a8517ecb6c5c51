"""What a parameter may be: every message names it, what is allowed and what was got."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np

from featcache.core.errors import SpecError


def bad(name: str, must: str, got: object) -> SpecError:
    """Return the error of a parameter; `must` goes on after "NAME must"."""
    return SpecError(f"{name} must {must}; got {got}.")


def check_choice(name: str, value: object, allowed: Iterable[str | None]) -> None:
    """Raise SpecError unless a parameter is one of the values that are allowed."""
    known = tuple(allowed)
    if value not in known:
        raise bad(name, f"be one of {', '.join(map(str, known))}", f"'{value}'")


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number of any kind, NumPy's too, as int.

    Raises
    ------
    SpecError
        When it is none, true or false, or lies outside `least` to `most`.
    """
    number = _as_int(value)
    if number is None or number < least or (most is not None and number > most):
        reach = f"{least} or more" if most is None else f"{least} to {most}"
        raise bad(name, f"be a whole number, {reach}", repr(value) if number is None else number)
    return number


def number_range(name: str, value: object) -> tuple[float, float]:
    """Return two numbers of any kind, the lower one first, as float.

    Raises
    ------
    SpecError
        When they are none, not finite, or not in that order.
    """
    try:
        low, high = (float(one) + 0.0 for one in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise bad(name, "be two numbers, low and high", repr(value)) from None
    if not -math.inf < low < high < math.inf:
        raise bad(name, "be two finite numbers, the lower one first", range_text((low, high)))
    return low, high


def range_text(value: Iterable[float]) -> str:
    """Return a range as people write it."""
    return " to ".join(f"{one:.10g}" for one in value)


def picked_rows(rows: Any, n: int) -> np.ndarray:
    """Return the numbers of the rows that `rows` picks of `n`, of the shape that NumPy gives it.

    Parameters
    ----------
    rows : one number or an array, list or range of them, negative from the end; a slice; a mask.

    Raises
    ------
    SpecError
        When it picks none of `n` rows, or rows that are not there.
    """
    index = rows if isinstance(rows, slice) else np.asarray(rows)
    if not isinstance(index, slice):
        if not index.size:
            index = index.astype(np.int64)  # an empty list is of floats
        if index.dtype.kind in "iu" and (not index.size or 0 <= index.min() <= index.max() < n):
            return index.astype(np.int64, copy=False)  # as when batches are read: no numbers of all
    try:
        return np.asarray(np.arange(n)[index])
    except (IndexError, TypeError) as error:
        raise bad("rows", f"be of 0 to {n - 1}, as numbers, a slice or a mask", rows) from error


def _as_int(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several
        return None
