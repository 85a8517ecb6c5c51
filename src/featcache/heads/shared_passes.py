"""Passes over a matrix that several sets of its rows share, each block of it read once for all.

Rows that the same sets have are one group, as those of a fold are; what is computed of a group's
rows of a block serves all of these sets. The sums do not depend on how many threads there are:
each block is of one thread, and blocks are taken up in order. Whoever uses them keeps the linear
algebra of a thread to it (`threadpoolctl`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from featcache.core.memory import release
from featcache.heads.training_rows import BLOCK, TrainingRows

Found = TypeVar("Found")


@dataclass(frozen=True)
class Segment:
    """Rows of a block that are of one group."""

    group: int
    X: np.ndarray  # (m, d), views as rows
    y: np.ndarray  # (m,) or (m, k)


class Passes:
    """Passes over the rows of several sets, which are of one matrix.

    Parameters
    ----------
    sets : of rows of the same features.
    threads : that look at blocks at the same time.
    precision : in which blocks are given.
    """

    def __init__(
        self, sets: Sequence[TrainingRows], threads: int, precision: type[np.floating[Any]]
    ):
        self.precision = precision
        # of all passes: what threads free stays with them, for what they ask for next
        self._pool = ThreadPoolExecutor(threads)
        self.sets = sets
        self.threads = threads
        self._views, self._y = sets[0].views, sets[0].y
        n = len(self._views)
        has = np.zeros((len(sets), n), bool)
        group = np.zeros(n, np.int64)
        for number, rows in enumerate(sets):
            has[number, rows.chosen] = True
            group = np.unique(2 * group + has[number], return_inverse=True)[1]
        _, first = np.unique(group, return_index=True)
        self.members = [np.flatnonzero(has[:, row]).tolist() for row in first]  # sets of each group
        self._group = np.where(has.any(axis=0), group, -1)

    def groups_of(self, number: int) -> list[int]:
        """Return the groups that make up a set."""
        return [group for group, sets in enumerate(self.members) if number in sets]

    def shape_of(self, number: int) -> tuple[int, int]:
        """Return rows, views counted, and features of a set."""
        _, v, d = self._views.shape
        return len(self.sets[number]) * v, d

    def over(self, work: Callable[[list[Segment]], Found]) -> Iterator[Found]:
        """Yield what `work` makes of the segments of each block, block by block."""
        step = max(1, BLOCK // self._views.shape[1])
        pending: deque[Future[Found]] = deque()
        for start in range(0, len(self._views), step):
            pending.append(self._pool.submit(self._look, work, start, start + step))
            if len(pending) > self.threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _look(self, work: Callable[[list[Segment]], Found], start: int, stop: int) -> Found:
        groups = self._group[start:stop]
        order = np.argsort(groups, kind="stable")
        order = order[groups[order] >= 0]
        some = self._views[start + order]
        release(self._views)
        _, v, d = some.shape
        X = np.asarray(some, self.precision).reshape(-1, d)
        y = np.repeat(self._y[start + order], v, axis=0)
        group = np.repeat(groups[order], v)
        ends = np.flatnonzero(np.diff(group, append=-1)) + 1
        starts = [0, *ends[:-1].tolist()]
        return work(
            [
                Segment(int(group[first]), X[first:last], y[first:last])
                for first, last in zip(starts, ends.tolist(), strict=True)
                if last > first
            ]
        )
