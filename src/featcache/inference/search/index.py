"""Neighbours of a vector in a feature file: all rows are looked at, or an index of them is asked.

The index is usearch's (hierarchical navigable small worlds, Malkov and Yashunin 2016), kept beside
the file. Its keys are digests of images, so that one of before serves a file with further images:
what is missing is added, and what is gone gives no answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from featcache import store
from featcache.core import atomic, progress
from featcache.core.errors import SpecError
from featcache.heads.neighbour_search import largest
from featcache.inference.search.query import unit
from featcache.store.layout import INDEX

EXACT_ROWS = 200_000  # up to which all are looked at
_SAMPLE, _AT = 50, 10  # queries that recall is measured on, and neighbours of each
_BLOCK = 20_000  # rows added at a time


def exact(features: store.Features, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and rows (q, k) of the nearest rows, the nearest first; all are looked at.

    Parameters
    ----------
    queries : (q, d) float32 of length 1.
    """
    best = np.full((len(queries), 0), 0, np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    start = 0
    for block in features.blocks():
        cosines = queries @ unit(block).T
        near, places = largest(cosines, min(k, len(block)))
        best = np.concatenate([best, near], axis=1)
        rows = np.concatenate([rows, places + start], axis=1)
        best, kept = largest(best, min(k, best.shape[1]))
        rows = np.take_along_axis(rows, kept, axis=1)
        start += len(block)
    return best, rows


class Index:
    """An index of the rows of a feature file, made or completed when it is opened.

    Parameters
    ----------
    features : of vectors.
    say : told what is done, and how many of the true neighbours the index finds.

    Raises
    ------
    SpecError
        When usearch is not installed.
    """

    def __init__(self, features: store.Features, say: Callable[[str], None] = progress.note):
        try:
            from usearch.index import Index as Graph
        except ImportError as error:
            raise SpecError(
                f"To search {len(features):,} rows install usearch: `pip install "
                f"'featcache[search]'`; or look at all of them (--exact)."
            ) from error
        self._features = features
        self.path = features.path.with_suffix(INDEX)
        keys = _keys(features.digests)
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], order
        self._graph: Any = Graph(ndim=features.shape[1], metric="ip", dtype="f16")
        if self.path.is_file():
            self._load()
        self._complete(keys, say)

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and rows (q, k), the nearest first, -1 where there are fewer."""
        found = self._graph.search(queries.astype(np.float16), min(2 * k + 8, len(self._graph)))
        keys = np.atleast_2d(np.asarray(found.keys))
        cosines = 1 - np.atleast_2d(np.asarray(found.distances))
        rows = self._rows_of(keys)
        cosines = np.where(rows >= 0, cosines, -np.inf).astype(np.float32)
        near, places = largest(cosines, min(k, cosines.shape[1]))
        return near, np.take_along_axis(rows, places, axis=1)

    def _rows_of(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows of keys, -1 of those that are no longer in the file."""
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._rows[place], -1)

    def _load(self) -> None:
        try:
            self._graph.load(str(self.path))
        except Exception:  # usearch raises whatever it finds in a file that is none of its own
            progress.note(f"'{self.path}' cannot be read; made anew.")
            self._graph.reset()

    def _complete(self, keys: np.ndarray, say: Callable[[str], None]) -> None:
        """Add rows that are not in the index yet, keep it, and measure what it finds."""
        there = self._graph.contains(keys) if len(self._graph) else np.zeros(len(keys), bool)
        _, first = np.unique(keys, return_index=True)  # copies of an image are one entry
        is_first = np.zeros(len(keys), bool)
        is_first[first] = True
        missing = np.flatnonzero(~np.asarray(there) & is_first)
        if not len(missing):
            return
        with progress.bar("Indexing", len(missing), "rows", True) as advance:
            for start in range(0, len(missing), _BLOCK):
                some = missing[start : start + _BLOCK]
                vectors = unit(self._features.read_rows(some)).astype(np.float16)
                self._graph.add(keys[some], vectors)
                advance(len(some))
        # of two processes that make it at the same time the later one's stays, and both are whole
        with atomic.replacing(self.path) as made:
            self._graph.save(str(made))
        say(f"Kept an index in '{self.path}': {self._recall()}.")

    def _recall(self) -> str:
        n = len(self._features)
        sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int))
        queries = unit(self._features.read_rows(sample))
        _, true = exact(self._features, queries, _AT)
        _, found = self.nearest(queries, _AT)
        same = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(true, found, strict=True)])
        return f"it finds {same:.1%} of the {_AT} nearest rows of {len(sample)} rows"


def _keys(digests: np.ndarray) -> np.ndarray:
    """Return (n,) uint64: the first half of each digest."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()
