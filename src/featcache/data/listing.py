"""A source as one look found it: what each image is, and which of them cannot be read.

A listing never changes. Whatever becomes of its images afterwards, one that is gone when its turn
comes say, is told beside it (`Unusable`), so that a listing means the same wherever it is sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from featcache.core.spec import MAX_PIXELS
from featcache.data.plain import plain_orientation
from featcache.data.sources import DIGEST_BYTES, Source, Stamp, digest, looks_same

Known = Mapping[str, tuple[Stamp, bytes]]  # by id: stamp and digest of a file read before


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

    def __post_init__(self) -> None:
        for name in ("digests", "orientations", "stamps"):
            column = getattr(self, name).view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        object.__setattr__(self, "unreadable", MappingProxyType(dict(self.unreadable)))

    def __reduce__(self) -> tuple[Any, ...]:
        columns = (self.digests, self.orientations, self.stamps, dict(self.unreadable))
        return Listing, (self.source, *columns, self.max_pixels, self.looked_at_ns)

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
        )

    def stamp(self, row: int) -> Stamp | None:
        """Return size, times and inode of a file when it was listed."""
        size, modified_ns, changed_ns, inode = self.stamps[row].tolist()
        return None if size < 0 else (size, modified_ns, changed_ns, inode)


@dataclass(frozen=True)
class _Columns:
    """The columns of a listing while they are filled in."""

    digests: np.ndarray
    orientations: np.ndarray
    stamps: np.ndarray


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
    n, looked_at_ns = len(source), time.time_ns()
    found = _Columns(
        np.zeros((n, DIGEST_BYTES), np.uint8), np.zeros(n, np.uint8), np.full((n, 4), -1)
    )
    unreadable: dict[int, str] = {}
    contents = source.contents  # of a source's own rows, which need no check

    def listing() -> Listing:
        columns = (found.digests, found.orientations, found.stamps)
        return Listing(source, *columns, unreadable, max_pixels, looked_at_ns)

    if source.digests is not None:
        found.digests[:] = source.digests
        return listing()
    unread: Iterable[int] = range(n)
    if known:
        unread = [row for row in unread if not _is_known(source, row, known, found)]
        advance(n - len(unread))

    def look(row: int) -> str:
        """Fill in one row; return why that was not possible."""
        try:
            if (stamp := contents.stamp(row)) is not None:
                found.stamps[row] = stamp
            raw = contents.get(row)
        except OSError as error:
            return error.strerror or str(error)
        found.digests[row] = np.frombuffer(digest(raw), np.uint8)
        if isinstance(raw, bytes):
            found.orientations[row] = plain_orientation(raw, max_pixels)
        return ""

    # hashing and reading release the interpreter lock, so threads use the disk and every core
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for row, reason in _bounded_map(pool, look, unread):
            if reason:
                unreadable[row] = reason
            advance(1)
    return listing()


def _bounded_map(
    pool: ThreadPoolExecutor, look: Callable[[int], str], rows: Iterable[int]
) -> Iterator[tuple[int, str]]:
    """Map in slices, so that a million pending results never exist at once."""
    rows = list(rows)
    for start in range(0, len(rows), 4096):
        some = rows[start : start + 4096]
        yield from zip(some, pool.map(look, some), strict=True)


def _is_known(source: Source, row: int, known: Known, found: _Columns) -> bool:
    """Take over a row whose stamp is still the one it was read with."""
    seen = known.get(source.ids[row])
    if seen is None:
        return False
    try:
        stamp = source.contents.stamp(row)
    except OSError:
        return False
    if stamp is None or not looks_same(stamp, seen[0]):
        return False
    found.stamps[row] = stamp
    found.digests[row] = np.frombuffer(seen[1], np.uint8)
    return True
