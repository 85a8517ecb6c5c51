"""What an argument may be: every message names it, what is allowed and what was got.

Nothing that a user gives reaches NumPy, scikit-learn or Keras before it was looked at here, so that
what they raise is never a user's first word of a mistake.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np

from featcache.core.errors import FeatcacheError, SpecError, one_line

Function = TypeVar("Function", bound=Callable[..., Any])

_LONGEST = 80  # of what is shown
_REPR = reprlib.Repr()  # looks at the first items alone
_REPR.maxstring = _REPR.maxother = _LONGEST
_REPR.maxlist = _REPR.maxtuple = 3
_PATHS = {"str", "os.PathLike[str]"}


def shown(value: object) -> str:
    """Say what a value is on one short line; of an array its shape and type."""
    shape = getattr(value, "shape", None)
    if isinstance(value, (np.generic, np.ndarray)) and not shape:
        value, shape = value.item(), None
    if isinstance(value, type) or not isinstance(shape, tuple):
        said = one_line(_REPR.repr(value))
        return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
    what = "an array" if type(value) is np.ndarray else f"a {type(value).__name__}"
    dtype = getattr(value, "dtype", None)
    return f"{what} {shape}" + ("" if dtype is None else f" of {dtype}")


def bad(
    name: str, must: str, got: object, cure: str = "", kind: type[FeatcacheError] = SpecError
) -> FeatcacheError:
    """Return the error of an argument; `must` goes on after "NAME must"."""
    return kind(f"{name} must {must}; got {shown(got)}.{cure and ' '}{cure}")


def check_choice(name: str, value: object, allowed: Iterable[str | None]) -> None:
    """Raise SpecError unless an argument is one of the values that are allowed."""
    known = tuple(allowed)
    if not (value is None or isinstance(value, str)) or value not in known:
        raise bad(name, f"be one of {', '.join(map(str, known))}", value)


def check_bool(name: str, value: object) -> bool:
    """Return what is true or false as bool; raise SpecError of anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise bad(name, "be True or False", value)
    return bool(value)


def check_text(name: str, value: object, must: str = "be a text") -> str:
    """Return a text; raise SpecError of anything else."""
    if not isinstance(value, str):
        raise bad(name, must, value)
    return value


def check_texts(name: str, values: object) -> list[str]:
    """Return several texts as list; raise SpecError of anything else, a single one too."""
    is_one = isinstance(values, (str, bytes, Mapping)) or getattr(values, "shape", (1,)) == ()
    if is_one or not isinstance(values, Iterable):
        raise bad(name, "be a list of texts", values)
    found = list(values)
    if not all(isinstance(one, str) for one in found):
        raise bad(name, "be a list of texts", values)
    return found


def check_path(name: str, value: object) -> Path:
    """Return a path; raise SpecError where it is none, or holds a zero byte."""
    if not isinstance(value, (str, os.PathLike)):
        raise bad(name, "be a path, as text or pathlib.Path", value)
    where = os.fsdecode(value)
    if "\0" in where:
        raise bad(name, "be a path, which has no zero bytes", where)
    return Path(where)


def whole(value: object) -> int | None:
    """Return a whole number of any kind, NumPy's too, as int; None of anything else."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several
        return None


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number of any kind, NumPy's too, as int.

    Raises
    ------
    SpecError
        When it is none, true or false, or lies outside `least` to `most`.
    """
    return _in_reach(name, "", value, least, most)


def word_or_number(
    name: str, value: object, words: Iterable[str | None], least: int, most: int | None = None
) -> int | str | None:
    """Return one of some words, or a whole number as int; a number may be written as text.

    Raises
    ------
    SpecError
        When it is neither.
    """
    known = tuple(words)
    if (value is None or isinstance(value, str)) and value in known:
        return value
    if isinstance(value, str):
        with suppress(ValueError):
            value = int(value)
    said = ", ".join(one for one in known if one)
    return _in_reach(name, f"{said} or ", value, least, most)


def _in_reach(name: str, other: str, value: object, least: int, most: int | None) -> int:
    found = whole(value)
    if found is None or found < least or (most is not None and found > most):
        reach = f"{least} or more" if most is None else f"{least} to {most}"
        must = f"be {other}a whole number, {reach}"
        raise bad(name, must, value if found is None else found)
    return found


def check_number(name: str, value: object, must: str, holds: Callable[[float], bool]) -> float:
    """Return a real number of any kind, NumPy's too, as float.

    Raises
    ------
    SpecError
        When it is none, or `holds` is not true of it; `must` says in words what that asks for.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        try:
            found = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            found = float("inf")
        if holds(found):
            return found
    raise bad(name, must, value)


def positive(name: str, value: object) -> float:
    """Return a finite number above 0 as float; raise SpecError of anything else."""
    return check_number(name, value, "be a finite number above 0", lambda x: 0 < x < math.inf)


def number_range(name: str, value: object) -> tuple[float, float]:
    """Return two numbers of any kind, the lower one first, as float.

    Raises
    ------
    SpecError
        When they are none, not finite, or not in that order.
    """
    try:
        if isinstance(value, (str, bytes)):  # whose characters may be numbers
            raise TypeError
        low, high = (float(one) + 0.0 for one in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise bad(name, "be two numbers, low and high", value) from None
    if not -math.inf < low < high < math.inf:
        raise bad(name, "be two finite numbers, the lower one first", (low, high))
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
    must = f"be of 0 to {n - 1}, as numbers, a slice or a mask"
    if isinstance(rows, (bool, np.bool_)):  # to NumPy a mask of everything
        raise bad("rows", must, rows)
    try:
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if not isinstance(index, slice):
            if not index.size:
                index = index.astype(np.int64)  # an empty list is of floats
            there = not index.size or 0 <= index.min() <= index.max() < n
            if index.dtype.kind in "iu" and there:
                # as when batches are read: no numbers of all
                return index.astype(np.int64, copy=False)
        return np.asarray(np.arange(n)[index])
    except Exception as error:  # whatever NumPy, or what is no array, says of it
        raise bad("rows", must, rows) from error


def with_checked_arguments(function: Function) -> Function:
    """Have a function look at its arguments that are paths, or true or false, by their annotations.

    Of these the type says all that there is to say. What is allowed of others the function knows.
    What its caller wants to have raised of floats (`np.seterr`) is not asked of it.

    Raises
    ------
    SpecError
        From the function, when an argument is of another type.
    """
    signature = inspect.signature(function)
    checks: dict[str, Callable[[str, object], object]] = {}
    optional = set()
    for one in signature.parameters.values():
        kinds = {kind.strip() for kind in str(one.annotation).split("|")}
        if "None" in kinds:
            optional.add(one.name)
            kinds.discard("None")
        if kinds == {"bool"}:
            checks[one.name] = check_bool
        elif kinds == _PATHS:
            checks[one.name] = check_path

    @functools.wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        try:
            given = signature.bind(*arguments, **named)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        for name, value in given.arguments.items():
            if name in checks and not (value is None and name in optional):
                as_meant = checks[name](name, value)
                if checks[name] is check_bool:  # a path stays as it was given
                    given.arguments[name] = as_meant
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            return function(*given.args, **given.kwargs)

    return checked  # type: ignore[return-value]
