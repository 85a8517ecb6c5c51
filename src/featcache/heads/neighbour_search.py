"""Exact search for the most similar training rows, a block of questions at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from featcache.heads import preprocessing

COSINE, EUCLIDEAN = "cosine", "euclidean"
_BLOCK_BYTES = 64 << 20  # of similarities at a time


@dataclass
class NeighbourSearch:
    """Training rows to search, shared between heads; it knows the answer to the last question."""

    step: Any  # fitted preprocessing
    rows: np.ndarray  # (n, p) float32; of length 1 for the cosine
    metric: str
    most: int  # neighbours to look for, one more than are asked, which shows ties
    known: tuple[bytes, tuple[np.ndarray, np.ndarray]] | None = field(default=None, repr=False)

    @classmethod
    def over(cls, X: np.ndarray, kind: str, metric: str, most: int) -> NeighbourSearch:
        X = np.asarray(X, np.float32)
        step = preprocessing.make(kind, *X.shape)
        rows = X if step == "passthrough" else step.fit_transform(X)
        return cls(step, _directions(rows) if metric == COSINE else rows, metric, most)

    def nearest(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and places (m, most) of the most similar rows; of equals the first.

        The similarity is the cosine, or the negative squared distance.
        """
        X = np.ascontiguousarray(X, np.float32)
        # by content: a caller makes the same rows anew for each head, or other rows in place
        key = hashlib.blake2b(X.data, digest_size=16, salt=str(X.shape).encode()[:16]).digest()
        known = self.known  # which another thread may replace
        if known is None or known[0] != key:
            known = self.known = key, self._search(X)
        return known[1]

    def _search(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(self.rows)
        k, size = min(self.most, n), max(1, _BLOCK_BYTES // (4 * n))
        norms = np.einsum("ij,ij->i", self.rows, self.rows)
        nearest, places = np.empty((len(X), k), np.float32), np.empty((len(X), k), np.int64)
        for start in range(0, len(X), size):
            some = slice(start, start + size)
            z = X[some] if self.step == "passthrough" else self.step.transform(X[some])
            if self.metric == COSINE:
                similarity = _directions(z) @ self.rows.T
            else:
                similarity = 2 * (z @ self.rows.T) - norms
                similarity -= np.einsum("ij,ij->i", z, z)[:, None]
            nearest[some], places[some] = largest(similarity, k)
        return nearest, places

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"known": None}


def _directions(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays."""
    return np.asarray(normalize(rows), np.float32)


def largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest of each row in falling order and their places; of equals the first."""
    n = values.shape[1]
    if k < n:
        places = np.argpartition(values, n - k, axis=1)[:, n - k :]
        last = np.take_along_axis(values, places, axis=1).min(axis=1, keepdims=True)
        # more of them are as large as the last: which were taken is up to the partition
        for row in np.flatnonzero((values >= last).sum(axis=1) > k):
            places[row] = np.argsort(-values[row], kind="stable")[:k]
        places.sort(axis=1)
    else:
        places = np.tile(np.arange(n), (len(values), 1))
    found = np.take_along_axis(values, places, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(places, order, axis=1)
