"""Images that are held out and look like one that is learnt from, though no byte is the same.

A resized, rotated or recompressed copy tells a head what it is then asked. What is found here are
features that lie so near that the images are copies or as good as that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from featcache.heads.neighbour_search import largest

NEAR = 0.98  # cosine from which on a pair is near, whatever lies around it
# A resized copy has a cosine of 0.8 to 0.98, which in other collections different images have as
# well. But it lies far nearer than anything else: its distance, 1 - cosine, is a fraction of that
# to the neighbour of this rank, which is beyond the copies that there may be of one image.
RANK = 10
NEARER = 0.25
BY_CHANCE = 0.1  # most pairs so near that there may be by chance, as densely as the rows lie
N_DIRECTIONS = 128  # of the first comparison; a cosine there is off by 0.1 at most, as a rule
LEAST = 0.65  # cosine there of what is compared in full
MAX_LOOKED_AT = 1000  # held-out images whose cosines are computed in full
MAX_PAIRS = 2_000_000_000  # of a first comparison: of more, so many held-out images are drawn
BLOCK = 1024  # rows to learn from at a time
BLOCK_BYTES = 8 << 20  # of cosines at a time

Read = Callable[[np.ndarray], np.ndarray]  # row numbers (m,) -> features (m, d)


@dataclass(frozen=True)
class Pair:
    """A row to learn from and a held-out row that lie near each other."""

    train: int
    test: int
    cosine: float  # of the features, their common mean taken off


@dataclass(frozen=True)
class NearDuplicates:
    """What was found, the nearest first: at most one pair for each held-out row."""

    pairs: tuple[Pair, ...]
    n_compared: int  # held-out rows


def near_duplicates(read: Read, train: np.ndarray, test: np.ndarray) -> NearDuplicates:
    """Return held-out rows with their nearest row to learn from, where that is near.

    Features have their common mean taken off: without that all images of one network look alike.
    Near is a cosine of `NEAR`, or a distance of less than `NEARER` times that to the neighbour of
    rank `RANK`, unless rows lie in so few dimensions that this may be chance.

    The time is bounded, some seconds for 100,000 rows: all pairs are compared on random directions
    (Johnson and Lindenstrauss 1984), and in full the `MAX_LOOKED_AT` rows that seem most similar.

    Parameters
    ----------
    train, test : (n,) and (m,) row numbers, which `read` takes.
    """
    if not len(train) or not len(test):
        return NearDuplicates((), 0)
    rng = np.random.default_rng(0)
    n_most = max(MAX_PAIRS // len(train), 1)
    if len(test) > n_most:
        test = np.sort(rng.choice(test, n_most, replace=False))
    mean = _mean(read, train, test)
    some = test if len(test) <= MAX_LOOKED_AT else _most_similar(read, train, test, mean, rng)
    if not len(some):
        return NearDuplicates((), len(test))
    ours = _directions(read(some), mean)
    rank = min(RANK, len(train) // 2)
    cosines, places = np.zeros((len(some), 0), np.float32), np.zeros((len(some), 0), np.int64)
    for start, block in _blocks(read, train):
        found = ours @ _directions(block, mean).T
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        cosines, kept = largest(np.concatenate([cosines, found], axis=1), rank + 1)
        places = np.take_along_axis(np.concatenate([places, numbers], axis=1), kept, axis=1)
    nearest = cosines[:, 0]
    is_near = (nearest >= NEAR) | _is_far_nearer(1 - cosines, len(test))
    order = np.flatnonzero(is_near)[np.argsort(-nearest[is_near], kind="stable")]
    pairs = (
        Pair(int(train[places[row, 0]]), int(some[row]), float(min(nearest[row], 1.0)))
        for row in order
    )
    return NearDuplicates(tuple(pairs), len(test))


def _is_far_nearer(distances: np.ndarray, n_compared: int) -> np.ndarray:
    """Return which rows (m,) have a neighbour far nearer than others; distances (m, k) ascend."""
    last = distances.shape[1] - 1
    if last < 2:
        return np.zeros(len(distances), bool)
    distances = np.maximum(distances, 1e-6)
    # within a distance r lie about r**e rows, by the number within two distances; half of the
    # neighbours may be copies, and half of the rows may have some
    growth = np.log(distances[:, last] / distances[:, last // 2])
    e = np.log((last + 1) / (last // 2 + 1)) / np.maximum(np.median(growth), 1e-6)
    share = distances[:, 0] / distances[:, last]
    return np.asarray((share < NEARER) & (n_compared * last * share**e < BY_CHANCE))


def _most_similar(
    read: Read, train: np.ndarray, test: np.ndarray, mean: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the held-out rows that seem to have a row to learn from near them, ascending."""
    axes = rng.standard_normal((len(mean), N_DIRECTIONS)).astype(np.float32)

    def seen(block: np.ndarray) -> np.ndarray:
        return _unit((block - mean).astype(np.float32) @ axes)

    ours = np.empty((len(test), N_DIRECTIONS), np.float32)
    for start, block in _blocks(read, test):
        ours[start : start + len(block)] = seen(block)
    nearest = np.full(len(test), -1.0, np.float32)
    size = BLOCK_BYTES // (4 * BLOCK)
    for _, block in _blocks(read, train):
        theirs = seen(block).T
        for start in range(0, len(test), size):
            some = slice(start, start + size)
            np.maximum(nearest[some], (ours[some] @ theirs).max(axis=1), out=nearest[some])
    order = np.argsort(-nearest, kind="stable")[:MAX_LOOKED_AT]
    return test[np.sort(order[nearest[order] >= LEAST])]


def _mean(read: Read, *parts: np.ndarray) -> np.ndarray:
    total = sum(
        block.sum(axis=0, dtype=np.float64) for rows in parts for _, block in _blocks(read, rows)
    )
    return np.asarray(total / sum(map(len, parts)))


def _blocks(read: Read, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), BLOCK):
        yield start, read(rows[start : start + BLOCK])


def _directions(X: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return _unit(np.asarray(X - mean, np.float32))


def _unit(X: np.ndarray) -> np.ndarray:
    return np.asarray(X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12))
