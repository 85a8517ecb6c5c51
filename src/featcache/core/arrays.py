"""What arrays and lists from Python may be: features, and what is said of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AnySet
from typing import Any

import numpy as np

from featcache.core.checks import bad
from featcache.core.errors import FeatcacheError, HeadError, SpecError
from featcache.core.text import counted

LARGEST = 1e15  # of a feature or target; of larger ones the squares are infinite in float32
NUMBERS = "biuf"  # kinds of dtypes
FEATURES = "be numbers in (n_samples, n_features)"


def array(name: str, values: Any, must: str, kind: type[FeatcacheError] = HeadError) -> np.ndarray:
    """Return values as the array that NumPy makes of them, of one dimension or more.

    Parameters
    ----------
    name, must, kind : of the error, as for `bad`.

    Raises
    ------
    HeadError, or `kind`
        When there is no such array: of None, text, a generator, a sparse matrix, ragged rows.
    """
    if hasattr(values, "toarray"):
        raise bad(name, must, values, "Convert it with .toarray().", kind)
    if isinstance(values, Iterator):
        raise bad(name, must, values, "Put what it gives into a list.", kind)
    if isinstance(values, (str, bytes, Mapping, AnySet, type)):
        raise bad(name, must, values, kind=kind)
    if np.ma.is_masked(values):
        raise bad(name, must, values, "Leave out or fill in what is masked.", kind)
    try:
        found = np.asarray(values)
        if found.dtype.kind in "SU" and isinstance(values, (list, tuple)):
            # NumPy makes texts of all that is beside one, of NaN
            found = np.asarray(values, object)
    except Exception as error:  # ragged rows, or whatever an object raises that is asked for one
        cure = "Its rows differ in length." if isinstance(values, (list, tuple)) else ""
        raise bad(name, must, values, cure, kind) from error
    if not found.ndim:
        raise bad(name, must, values, kind=kind)
    return found


def features(X: Any, n_features: int | None = None) -> np.ndarray:
    """Return features as an array (n, d) of finite numbers, in the type that they have.

    Parameters
    ----------
    n_features : d, where only that many will do.

    Raises
    ------
    HeadError
        When they are none; of numbers that are not finite it names the first row.
    """
    found = array("X", X, FEATURES)
    if found.ndim != 2 or found.dtype.kind not in NUMBERS or not found.size:
        raise bad("X", FEATURES, found, kind=HeadError)
    if n_features is not None and found.shape[1] != n_features:
        must = f"have the {counted(n_features, 'feature')} that were learnt from"
        raise bad("X", must, found, kind=HeadError)
    check_usable("X", found)
    return found


def check_usable(name: str, values: np.ndarray) -> None:
    """Raise HeadError unless all numbers (n, …) are finite and not too large to learn from."""
    if values.dtype.kind == "f" and values.size:
        # NaN comes through; without a copy of what may be large
        if float(values.min()) > -LARGEST and float(values.max()) < LARGEST:
            return
        row = int(np.flatnonzero(~usable(values))[0])
        raise HeadError(
            f"{name} must be finite numbers below {LARGEST:.0e}, which row {row} has not. Leave it "
            f"out, or mend what made it."
        )


def usable(values: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which rows of numbers (n, …) are finite and not too large to learn from."""
    fits = np.abs(values, dtype=np.promote_types(values.dtype, np.float32)) < LARGEST
    return np.asarray(fits.reshape(len(values), -1).all(axis=1))


def entries(name: str, values: Any, n: int, of: str = "images") -> list[Any]:
    """Return what is said of each of `n` rows, as a list.

    Raises
    ------
    SpecError
        When it is no list, and no array or series either, of so many entries.
    """
    must = f"be a list with one entry for each of the {n} {of}"
    is_one = isinstance(values, (str, bytes, Mapping, AnySet, type))
    if is_one or not hasattr(values, "__len__") or len(getattr(values, "shape", (n,))) != 1:
        raise bad(name, must, values)
    found = list(values)
    if len(found) != n:
        raise SpecError(f"{name} has {len(found)} entries for {n} {of}.")
    return found


def is_missing(value: Any) -> bool:
    """Return whether an entry says nothing: None, NaN, and what pandas has for them."""
    try:
        return value is None or bool(value != value)
    except ValueError:  # an array
        return False
    except TypeError:  # pandas.NA says of nothing whether it is true
        return True
