"""HDF5 files: how they are opened, chunked, checked, and written so that they appear whole."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.core import atomic
from featcache.core.errors import StoreError
from featcache.store import placeholders

CHUNK_ROWS = 1024  # rows of `features` a checksummed chunk at most
CHUNK_BYTES = 8 << 20  # and bytes
# Of unpooled maps, whose rows training reads one by one, and a checksum is of a whole chunk. Rows
# of 14 x 14 x 96 in half precision are read at random 3 times as fast as from chunks of 1 MiB, and
# 30 times as from 8; all in order at 0.8 to 0.9 of their speed.
MAP_CHUNK_BYTES = 256 << 10
PAGE_BYTES = 8 << 20  # of files that are read by ranges
BUFFER_BYTES = 8 * PAGE_BYTES  # of pages that were read

_PART = re.compile(r"part-[0-9a-f]{32}\.h5")


def is_part(name: str) -> bool:
    """Return whether a file is called as our parts are."""
    return _PART.fullmatch(name) is not None


class ForeignDataError(StoreError):
    """A file has data in another one: any file of the reader's machine could be drawn in."""

    def __init__(self, file: h5py.File, name: str, how: str):
        super().__init__(
            f"'{name}' does not lie in '{file.filename}' itself: it is {how}, which featcache "
            f"neither makes nor follows. Put the data into the file, or extract again."
        )


class OwnFile(h5py.File):  # type: ignore[misc]
    """An HDF5 file open for reading, of which nothing is read that lies in another file."""

    def __init__(self, path: Any, **options: Any):
        # HDF5's own locks fail on network file systems, and rename makes them needless
        try:
            super().__init__(path, "r", locking=False, **options)
        except OSError as error:
            if "file locking flag" not in str(error):
                raise
            # whoever has it open in this program has it with locks, and so must everybody here
            super().__init__(path, "r")

    def __getitem__(self, name: str) -> Any:
        """Return a group or data set; raise ForeignDataError where it lies in another file."""
        self._check_links(name)
        found = super().__getitem__(name)
        if isinstance(found, h5py.Dataset):
            made = found.id.get_create_plist()
            if made.get_external_count():
                where = os.fsdecode(made.get_external(0)[0])
                raise ForeignDataError(self, name, f"external storage in '{where}'")
            if made.get_layout() == h5py.h5d.VIRTUAL:
                raise ForeignDataError(self, name, "a virtual data set")
        return found

    def __contains__(self, name: str) -> bool:
        """Return whether there is a group or data set; raise as for reading it."""
        self._check_links(name)
        return bool(super().__contains__(name))

    def _check_links(self, name: str) -> None:
        """Raise ForeignDataError for a link on the way; HDF5 would follow it."""
        links, parts = self.id.links, name.encode().strip(b"/").split(b"/")
        for end in range(1, len(parts) + 1):
            part = b"/".join(parts[:end])
            if not part or not links.exists(part):
                return
            kind = links.get_info(part).type
            if kind == h5py.h5l.TYPE_EXTERNAL:
                where = os.fsdecode(links.get_val(part)[0])
                raise ForeignDataError(self, name, f"an external link to '{where}'")
            if kind != h5py.h5l.TYPE_HARD:  # a soft one may lead on to an external one
                raise ForeignDataError(self, name, "a link")


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from one that takes its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def reading(path: Path, peeks: bool = False) -> OwnFile:
    """Open an HDF5 file for reading; whatever h5py raises is the caller's.

    Of a cache folder in a bucket, what is not here is read from there: a small part whole, of a
    large one what is asked for; of any where `peeks` says that it is attributes and digests alone.

    Raises
    ------
    StorageError
        When it cannot be had from the bucket.
    """
    try:
        return OwnFile(path)
    except OSError:
        if not placeholders.is_one(path):
            raise
    found = placeholders.opened(path, peeks)
    return OwnFile(found) if found is path or peeks else OwnFile(found, page_buf_size=BUFFER_BYTES)


@contextmanager
def opened(path: Path, what: str) -> Iterator[h5py.File]:
    """Open a published file for reading; `what` it is begins a message.

    Raises
    ------
    StoreError
        When it is missing, truncated or no HDF5 file.
    """
    if path.is_dir():
        raise StoreError(f"'{path}' is a folder; a feature file (.h5) is expected.")
    if not path.is_file():
        raise StoreError(f"{what} '{path}' does not exist. Run `featcache extract` first.")
    try:
        file = reading(path)
    except OSError as error:
        if "already open for" in str(error):
            raise StoreError(
                f"{what} '{path}' is open for writing in this program, or in another that changes "
                f"it. Close it there; if that program died, run `featcache extract` again."
            ) from error
        raise StoreError(
            f"{what} '{path}' is truncated or no HDF5 file. Run `featcache extract` again."
        ) from error
    with file:
        yield file


def damaged_spans(
    features: h5py.Dataset, first: int = 0, stop: int | None = None
) -> list[tuple[int, int]]:
    """Return first and last row of every chunk with rows of first:stop that is not as written."""
    spans = []
    size = features.chunks[0] if features.chunks else len(features)
    for start in range(first - first % size, len(features) if stop is None else stop, size):
        try:
            features[start : start + size]
        except OSError:
            spans.append((start, min(start + size, len(features)) - 1))
    return spans


def shown_spans(spans: Iterable[tuple[int, int]]) -> str:
    """Return spans of rows as text."""
    return ", ".join(f"{first}\u2013{last}" for first, last in spans)


def chunk_shape(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Return the shape of the chunks of a dataset of features (n, …)."""
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    chunk_bytes = CHUNK_BYTES if len(shape) == 2 else MAP_CHUNK_BYTES
    return (max(1, min(CHUNK_ROWS, chunk_bytes // row_bytes, shape[0])), *shape[1:])


@contextmanager
def replacing(path: Path, size_bytes: int, paged: bool = False) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears under `path` whole, or not at all.

    Parameters
    ----------
    size_bytes : what it will take at least; that much is reserved on the disk.
    paged : gather what belongs together in pages, each of which is one request where the file is
        read by ranges. It costs up to two of them.

    Raises
    ------
    DiskError, OSError
        When it cannot be written.
    """
    # what died is swept where the lock is held, see `Parts.sweep`; here it would be looked for with
    # every part
    with (
        atomic.replacing(path, flush=True, sweeps=False, size_bytes=size_bytes) as made,
        _Out(made, "w+") as out,
    ):
        try:
            # from HDF5 1.10 on, what finds the data has checksums as well
            pages = {"fs_strategy": "page", "fs_page_size": PAGE_BYTES} if paged else {}
            with h5py.File(out, "w", libver=("v110", "v110"), **pages) as file:
                _reserve(out, size_bytes)  # HDF5 cuts off what it does not need
                yield file
        finally:
            if out.error is not None:  # the cause of whatever HDF5 made of it
                raise out.error


class _Out(FileIO):
    """A file for HDF5 to write to, which never fails.

    HDF5 may crash the process when a write fails, at the latest when the file is closed. So the
    first error is kept for the caller, who asks afterwards, and the rest goes nowhere.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        n_bytes = len(left)
        try:
            while self.error is None and len(left):
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return n_bytes

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _reserve(file: FileIO, size_bytes: int) -> None:
    """Raise OSError now if the disk has no room, not after hours of gathering."""
    if hasattr(os, "posix_fallocate") and size_bytes:
        try:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # of those that cannot reserve
                raise
