"""What a user may give by mistake, for tests of what must refuse it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse


class NoArray:
    """An object that raises where NumPy asks it for an array."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array here")


def values(n: int, d: int, folder: Path) -> dict[str, object]:
    """Return bad values by name, as wide and long as features (n, d) where they have a shape."""
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
        "huge": [10**400] * n,
        "object": object(),
        "function": len,
        "class": int,
        "no array": NoArray(),
    }
