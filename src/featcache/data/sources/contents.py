"""Where the bytes of images come from, one class per place: files, members of tar files, memory.

Each gives `get(row)`: the encoded file as bytes, pixels as an array (height, width, 3 or 4), or
values of more than 8 bits, of which it is still to be said what is black and white.
`stamp(row)` is what shows cheaply that nothing changed, None where nothing does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Union

import numpy as np

from featcache.data.levels import Samples

Raw = Union[bytes, np.ndarray, Samples]
# size in bytes, modification and change time in ns, inode; -1 is unknown
Stamp = tuple[int, int, int, int]
MAX_INODE = 2**63 - 1  # some file systems have larger ones; stamps are kept as int64


class Contents(Protocol):
    """What every place of images can do."""

    is_concurrent: bool  # whether several threads may ask at once, in any order
    is_encoded: bool  # whether all are files' bytes, which have to be read
    is_far: bool  # whether a network lies between: many are asked for at once, and kept
    dtype: str  # of the pixels: uint8 or float32, 0 to 255

    def get(self, row: int) -> Raw:
        """Return an image; raise OSError when it cannot be had."""

    def stamp(self, row: int) -> Stamp | None:
        """Return what `looks_same` compares; raise OSError when it cannot be had."""

    def take(self, rows: np.ndarray) -> Contents:
        """Return only these rows, in their order."""


@dataclass(frozen=True)
class Files:
    """Image files."""

    paths: tuple[str, ...]
    is_concurrent = is_encoded = True
    is_far = False
    dtype = "uint8"

    def get(self, row: int) -> bytes:
        """Return a file's bytes."""
        return Path(self.paths[row]).read_bytes()

    def stamp(self, row: int) -> Stamp:
        """Return the stamp of a file."""
        return _stamp(self.paths[row])

    def take(self, rows: np.ndarray) -> Files:
        """Return only these files."""
        return Files(tuple(self.paths[row] for row in rows.tolist()))


@dataclass(frozen=True)
class Members:
    """Files inside uncompressed tar files."""

    archives: tuple[str, ...]
    archive: np.ndarray  # (n,) index into archives
    offsets: np.ndarray  # (n,) where a member's bytes begin
    sizes: np.ndarray  # (n,) bytes
    is_concurrent = is_encoded = True
    is_far = False
    dtype = "uint8"

    def get(self, row: int) -> bytes:
        """Return a member's bytes."""
        with Path(self.archives[self.archive[row]]).open("rb") as file:
            file.seek(self.offsets[row])
            data = file.read(self.sizes[row])
        if len(data) < self.sizes[row]:
            raise OSError(errno.EIO, "the tar file ends before it")
        return data

    def stamp(self, row: int) -> Stamp:
        """Return the member's size, with the tar file's times and inode."""
        return int(self.sizes[row]), *_stamp(self.archives[self.archive[row]])[1:]

    def take(self, rows: np.ndarray) -> Members:
        """Return only these members."""
        return Members(self.archives, self.archive[rows], self.offsets[rows], self.sizes[rows])


@dataclass(frozen=True)
class Pixels:
    """Images in memory: one array (n, height, width, 3), or a sequence of arrays of any size."""

    images: np.ndarray | Sequence[np.ndarray]
    is_concurrent, is_encoded, is_far = True, False, False
    dtype = "uint8"

    def get(self, row: int) -> np.ndarray:
        """Return an image's pixels."""
        return np.asarray(self.images[row])

    def stamp(self, row: int) -> None:
        """Memory has no stamp."""

    def take(self, rows: np.ndarray) -> Pixels:
        """Return only these images."""
        if isinstance(self.images, np.ndarray):
            return Pixels(self.images[rows])
        return Pixels([self.images[row] for row in rows.tolist()])


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file")
    inode = status.st_ino & MAX_INODE
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


def looks_same(now: Stamp, before: Stamp) -> bool:
    """Return whether a file is taken to be unchanged; what either does not know is not compared."""
    pairs = zip(now, before, strict=True)
    return all(one == other or -1 in (one, other) for one, other in pairs)
