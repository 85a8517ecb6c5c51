"""A source as one look found it: what each image is, and which of them cannot be read.

A listing never changes. Whatever becomes of its images afterwards, one that is gone when its turn
comes say, is told beside it (`Unusable`), so that a listing means the same wherever it is sent.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from featcache.core.errors import SourceError
from featcache.core.spec import MAX_PIXELS
from featcache.data.clients import IN_FLIGHT
from featcache.data.plain import plain_orientation
from featcache.data.sources import DIGEST_BYTES, Source, Stamp, digest, looks_same
from featcache.data.sources.contents import Raw

AT_ONCE = 8  # images that a thread looks at before it tells

Known = Mapping[str, tuple[Stamp, bytes]]  # by id: stamp and digest of a file read before
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Unusable:
    """Why an image of a listing gave nothing."""

    reason: str
    has_changed: bool = False  # the file is gone, or another one: its digest is of other bytes


@dataclass(frozen=True)
class Listing:
    """The images of a source as they were found; arrays are read-only, and it can be pickled."""

    source: Source
    digests: np.ndarray  # (n, 16) uint8, zero where the file could not be read
    orientations: np.ndarray  # (n,) uint8: EXIF's, 1 to 8, of what TensorFlow can decode; else 0
    stamps: np.ndarray  # (n, 4) int64: `Stamp` of each file before it was read, -1 unknown
    unreadable: Mapping[int, str]  # reason by row
    max_pixels: int  # larger images are unreadable
    looked_at_ns: int  # when the look began
    is_read: bool = True  # else the look is still to come, with computing: nothing is known yet

    def __post_init__(self) -> None:
        for name in ("digests", "orientations", "stamps"):
            column = getattr(self, name).view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        object.__setattr__(self, "unreadable", MappingProxyType(dict(self.unreadable)))

    def __reduce__(self) -> tuple[Any, ...]:
        columns = (self.digests, self.orientations, self.stamps, dict(self.unreadable))
        return Listing, (self.source, *columns, self.max_pixels, self.looked_at_ns, self.is_read)

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, rows: np.ndarray) -> Listing:
        """Return the listing of `source.take(rows)`."""
        place = {row: number for number, row in enumerate(rows.tolist())}
        return Listing(
            self.source.take(rows),
            self.digests[rows],
            self.orientations[rows],
            self.stamps[rows],
            {place[row]: reason for row, reason in self.unreadable.items() if row in place},
            self.max_pixels,
            self.looked_at_ns,
            self.is_read,
        )

    def filled(self, looked: Sequence[tuple[np.ndarray, Listing]]) -> Listing:
        """Return it with what looks at all its parts found: rows (k,), and their listing each."""
        digests, orientations, stamps = (
            column.copy() for column in (self.digests, self.orientations, self.stamps)
        )
        unreadable: dict[int, str] = {}
        for rows, found in looked:
            digests[rows], orientations[rows] = found.digests, found.orientations
            stamps[rows] = found.stamps
            unreadable |= {int(rows[place]): why for place, why in found.unreadable.items()}
        since = min(found.looked_at_ns for _, found in looked)
        columns = digests, orientations, stamps, dict(sorted(unreadable.items()))
        return Listing(self.source, *columns, self.max_pixels, since)

    def stamp(self, row: int) -> Stamp | None:
        """Return size, times and inode of a file when it was listed."""
        return _stamp(self.stamps, row)


def _stamp(stamps: np.ndarray, row: int) -> Stamp | None:
    size, modified_ns, changed_ns, inode = stamps[row].tolist()
    return None if size < 0 else (size, modified_ns, changed_ns, inode)


class Reading:
    """A look at the images of a source, row by row and in any number of threads.

    What each is becomes known when it is read, whether for that alone or on its way to a network.
    """

    def __init__(self, source: Source, max_pixels: int = MAX_PIXELS) -> None:
        n = len(source)
        self.source, self.max_pixels, self.looked_at_ns = source, max_pixels, time.time_ns()
        self.digests = np.zeros((n, DIGEST_BYTES), np.uint8)
        self.orientations = np.zeros(n, np.uint8)
        self.stamps = np.full((n, 4), -1)
        self.is_looked_at = np.zeros(n, bool)
        self.unreadable: dict[int, str] = {}

    def read(self, row: int) -> Raw | None:
        """Read an image and note what it is; None where that is not possible, and why is noted."""
        contents = self.source.contents  # a source's own rows, which need no check
        try:
            if (stamp := contents.stamp(row)) is not None:
                self.stamps[row] = stamp
            raw = contents.get(row)
        except SourceError:  # not this image's alone: nothing can be had any more
            raise
        except OSError as error:
            self.unreadable[row] = error.strerror or str(error)
            self.is_looked_at[row] = True
            return None
        self.digests[row] = np.frombuffer(digest(raw), np.uint8)
        if isinstance(raw, bytes):
            self.orientations[row] = plain_orientation(raw, self.max_pixels)
        self.is_looked_at[row] = True
        return raw

    def stamp(self, row: int) -> Stamp | None:
        """Return size, times and inode of a file before it was read."""
        return _stamp(self.stamps, row)

    def take_known(self, row: int, known: Known) -> bool:
        """Take over a row whose stamp is still the one it was read with; return whether it is."""
        seen = known.get(self.source.ids[row])
        if seen is None:
            return False
        try:
            stamp = self.source.contents.stamp(row)
        except OSError:
            return False
        if stamp is None or not looks_same(stamp, seen[0]):
            return False
        self.stamps[row] = stamp
        self.digests[row] = np.frombuffer(seen[1], np.uint8)
        return True

    def listing(self, is_read: bool = True) -> Listing:
        """Return what was found so far; `is_read` says whether that is all."""
        columns = (self.digests, self.orientations, self.stamps)
        unreadable = dict(sorted(self.unreadable.items()))
        return Listing(
            self.source, *columns, unreadable, self.max_pixels, self.looked_at_ns, is_read
        )


def _nothing(n: int) -> None:
    """Show no progress."""


def list_images(
    source: Source,
    max_pixels: int = MAX_PIXELS,
    *,
    known: Known | None = None,
    advance: Callable[[int], None] = _nothing,
) -> Listing:
    """Read every image of a source once, in threads.

    Parameters
    ----------
    max_pixels : larger images count as unreadable when their turn comes.
    known : stamp and digest by id, of files that were read before: one that still `looks_same` is
        not read again, and left to Pillow.
    advance : told how many images were looked at since its last call.
    """
    reading = Reading(source, max_pixels)
    if source.digests is not None:
        reading.digests[:] = source.digests
        return reading.listing()
    unread = list(range(len(source)))
    # hashing and reading release the interpreter lock, so threads use the disk and every core
    workers, at_once = threads_for(source, min(32, 4 * (os.cpu_count() or 1)))
    if known:
        take = functools.partial(reading.take_known, known=known)
        is_taken = list(each(source, take, unread))
        unread = [row for row in unread if not is_taken[row]]
        advance(len(source) - len(unread))

    def look(rows: Sequence[int]) -> int:
        for row in rows:
            reading.read(row)
        return len(rows)

    chunks = [unread[start : start + at_once] for start in range(0, len(unread), at_once)]
    for n_looked_at in ahead(look, chunks, workers, 4 * workers):
        advance(n_looked_at)
    return reading.listing()


def threads_for(source: Source, near: int) -> tuple[int, int]:
    """Return how many threads read images, and how many images each takes at once.

    `near` threads read what is not far away; others wait most of the time, and hold what has come.
    """
    return (max(near, IN_FLIGHT), 1) if source.contents.is_far else (near, AT_ONCE)


def each(source: Source, function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield what a function makes of items: by many threads where images are far, else here."""
    if not source.contents.is_far:
        return map(function, items)
    return ahead(function, items, IN_FLIGHT, IN_FLIGHT)


def ahead(
    function: Callable[[Item], Made], items: Iterable[Item], workers: int, at_most: int
) -> Iterator[Made]:
    """Yield what a function makes of items, in their order, made by threads.

    Parameters
    ----------
    at_most : items in work or done, and not yet asked for.
    """
    queue: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            queue.append(pool.submit(function, item))
            if len(queue) > at_most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
