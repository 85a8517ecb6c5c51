"""What a user may give by mistake, for tests of what must refuse it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from featcache.core.errors import FeatcacheError


class NoArray:
    """An object that raises where NumPy asks it for an array."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array here")


N, D = 36, 4  # rows and columns of those that have a shape


def check(call: Callable[[Any], object], good: Collection[str], folder: Path) -> None:
    """Assert that a call refuses all bad values but those good for it, each in one line."""
    for kind, value in values(folder).items():
        if kind in good:
            continue
        said = None
        try:
            call(value)
        except FeatcacheError as error:
            said = str(error)
        assert said is not None, f"{kind} was taken"
        assert "\n" not in said, f"{kind}: {said}"
        assert len(said) < 500, f"{kind}: {said}"


def values(folder: Path, n: int = N, d: int = D) -> dict[str, object]:
    """Return bad values by name."""
    X = np.linspace(0, 1, n * d).reshape(n, d)
    return {
        "None": None,
        "ragged": [[1.0, 2.0], [3.0]] * (n // 2),
        "ragged objects": [np.zeros(2), np.zeros(3)] * (n // 2),
        "sparse": sparse.csr_matrix(X),
        "generator": (row for row in X),
        "nan": np.full(n, np.nan),
        "nan matrix": np.full((n, d), np.nan),
        "one nan": np.r_[np.nan, np.arange(1.0, n)],
        "objects with nan": np.array([np.nan, *"ab" * n][:n], object),
        "texts with nan": [float("nan"), *"ab" * n][:n],
        "texts with None": np.array([None, *"ab" * n][:n], object),
        "mixed": [1, "a", 2.5, None] * (n // 4),
        "texts": list("ab" * (n // 2)),
        "matrix of texts": np.full((n, d), "a"),
        "directory": folder,
        "text": "nonsense",
        "zero byte": "a\0b",
        "bytes": b"abc",
        "int": 3,
        "float": 2.5,
        "nan number": float("nan"),
        "true": True,
        "dict": {"a": 1},
        "set": {1, 2},
        "tuple": (1, 2, 3),
        "empty": [],
        "no rows": np.zeros((0, d)),
        "no columns": np.zeros((n, 0)),
        "0-d": np.array(3.0),
        "3-d": np.zeros((n, 2, 2)),
        "complex": X.astype(complex),
        "datetime": np.arange(n).astype("datetime64[D]"),
        "infinite": np.full((n, d), np.inf),
        "masked": np.ma.masked_array(X, mask=X > 0.5),
        "structured": np.zeros(n, [("a", float), ("b", int)]),
        "huge": [10**320] * n,
        "object": object(),
        "function": len,
        "class": int,
        "no array": NoArray(),
    }
