"""A source: an ordered table of images, and one look at each of them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from featcache.core.errors import SourceError
from featcache.core.labels import Annotations
from featcache.data.sources.contents import Contents, Files, Raw, Stamp

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Source:
    """An ordered collection of images with what is known about each."""

    name: str  # plain name, used for the folder below the cache folder
    origin: str  # absolute path, example:NAME or memory:NAME
    ids: tuple[str, ...]  # sorted, unique
    contents: Contents
    annotations: Annotations
    options: Mapping[str, str] = field(default_factory=dict)  # with `origin`, open it again
    digests: np.ndarray | None = None  # (n, 16) uint8 where opening it gave them
    limited_to: int | None = None  # how many images of all `limit` left
    n_passed_over: int = 0  # files that are no images by name, or lie outside the class folders

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the images, see `Annotations`."""
        return self.annotations.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return self.annotations.class_names

    @property
    def splits(self) -> tuple[str, ...] | None:
        """train, val or test of each image, where the source says."""
        return self.annotations.splits

    @property
    def paths(self) -> tuple[str, ...] | None:
        """Paths of the images where they are files."""
        return self.contents.paths if isinstance(self.contents, Files) else None

    def get(self, row: int) -> Raw:
        """Return an image: its file's bytes, or pixels (height, width, 3 or 4).

        Raises
        ------
        OSError
            When it cannot be had.
        """
        return self.contents.get(row)

    def stamp(self, row: int) -> Stamp | None:
        """Return size and modification time (ns) of a file; None where there is no such thing.

        Raises
        ------
        OSError
            When it is gone or is no regular file.
        """
        return self.contents.stamp(row)

    def take(self, rows: np.ndarray) -> Source:
        """Return the source with only these rows, in their given (ascending) order."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            contents=self.contents.take(rows),
            annotations=self.annotations.take(rows),
            digests=None if self.digests is None else self.digests[rows],
        )

    def limit(self, n: int) -> Source:
        """Return `n` samples spread evenly over the sorted ids: every class keeps its share."""
        if n >= len(self):
            return replace(self, limited_to=n)
        rows = np.linspace(0, len(self) - 1, n).round().astype(np.int64)
        return replace(self.take(rows), limited_to=n)


def identity(raw: Raw) -> bytes:
    """Return the bytes that identify an image: the file's, or the pixels with their shape."""
    if isinstance(raw, bytes):
        return raw
    kind = "" if raw.dtype == np.uint8 else str(raw.dtype)
    return f"{raw.shape}{kind}".encode() + raw.tobytes()


def digest(raw: Raw) -> bytes:
    """Return BLAKE2b-128 of an image's `identity`."""
    return hashlib.blake2b(identity(raw), digest_size=DIGEST_BYTES).digest()


def sorted_ids(ids: Sequence[str], where: Callable[[int], str]) -> np.ndarray:
    """Return the order that sorts ids.

    Raises
    ------
    SourceError
        When an id is there twice; it names both places.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for one, next_one in itertools.pairwise(order):
        if ids[one] == ids[next_one]:
            raise SourceError(
                f"Two images have the id '{ids[one]}': {where(one)} and {where(next_one)}. "
                f"Remove or rename one."
            )
    return np.array(order, np.int64)


def as_id(path: str) -> str:
    """Return a path as valid UTF-8; bytes of a name that are none appear as \\xNN."""
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Scan:
    """What one look at every sample of a source gave."""

    digests: np.ndarray  # (n, 16) uint8, zero where the file could not be read
    orientations: np.ndarray  # (n,) uint8: EXIF's, 1 to 8, of what TensorFlow can decode; else 0
    stamps: np.ndarray  # (n, 2) int64: size and time of each file before it was read, -1 unknown
    unreadable: dict[int, str]  # reason by row

    def take(self, rows: np.ndarray) -> Scan:
        """Return the scan of `source.take(rows)`."""
        place = {row: number for number, row in enumerate(rows.tolist())}
        return Scan(
            self.digests[rows],
            self.orientations[rows],
            self.stamps[rows],
            {place[row]: reason for row, reason in self.unreadable.items() if row in place},
        )

    def stamp(self, row: int) -> Stamp | None:
        """Return size and modification time of a file when it was scanned."""
        size, time_ns = self.stamps[row].tolist()
        return None if size < 0 else (size, time_ns)


def _nothing(n: int) -> None:
    """Show no progress."""


def scan(
    source: Source,
    judge: Callable[[bytes], int],
    advance: Callable[[int], None] = _nothing,
    known: Mapping[str, tuple[Stamp, bytes]] | None = None,
) -> Scan:
    """Read every sample once, in threads; `judge` gives `Scan.orientations` from a file's bytes.

    `known` gives stamp and digest by id, of a file that was read before: where size and
    modification time are still the same it is not read again, and left to Pillow.
    """
    n = len(source)
    result = Scan(
        np.zeros((n, DIGEST_BYTES), np.uint8), np.zeros(n, np.uint8), np.full((n, 2), -1), {}
    )
    if source.digests is not None:
        result.digests[:] = source.digests
        return result
    unread: Iterable[int] = range(n)
    if known:
        unread = [row for row in unread if not _is_known(source, row, known, result)]
        advance(n - len(unread))

    def look(row: int) -> str:
        """Fill in one row; return why that was not possible."""
        try:
            if (stamp := source.stamp(row)) is not None:
                result.stamps[row] = stamp
            raw = source.get(row)
        except OSError as error:
            return error.strerror or str(error)
        result.digests[row] = np.frombuffer(digest(raw), np.uint8)
        result.orientations[row] = judge(raw) if isinstance(raw, bytes) else 0
        return ""

    # hashing and reading release the interpreter lock, so threads use the disk and every core
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for row, reason in _bounded_map(pool, look, unread):
            if reason:
                result.unreadable[row] = reason
            advance(1)
    return result


def _bounded_map(
    pool: ThreadPoolExecutor, look: Callable[[int], str], rows: Iterable[int]
) -> Iterator[tuple[int, str]]:
    """Map in slices, so that a million pending results never exist at once."""
    rows = list(rows)
    for start in range(0, len(rows), 4096):
        some = rows[start : start + 4096]
        yield from zip(some, pool.map(look, some), strict=True)


def _is_known(
    source: Source, row: int, known: Mapping[str, tuple[Stamp, bytes]], result: Scan
) -> bool:
    """Take over a row whose stamp is still the one it was read with."""
    seen = known.get(source.ids[row])
    if seen is None:
        return False
    try:
        if source.stamp(row) != seen[0]:
            return False
    except OSError:
        return False
    result.stamps[row] = seen[0]
    result.digests[row] = np.frombuffer(seen[1], np.uint8)
    return True
