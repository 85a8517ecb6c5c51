"""Parts of a working copy that are read from the bucket when somebody needs them.

A placeholder is a file of a part's size without its bytes, so that whoever lists or measures parts
finds it; HDF5 takes it for none of its own, which is when this is asked.
"""

from __future__ import annotations

import functools
import gc
import io
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featcache.core import atomic
from featcache.store import bucket, marker

FREE = 0.1  # of a disk; where there is less, parts stay in the bucket
WHOLE_BYTES = 32 << 20  # a part up to this size is fetched whole; of others what is asked for
PEEKED_AT_ONCE = 64
BLOCK_BYTES = 64 << 10  # of small reads: what HDF5 looks at first, and the digests of most parts
_NOTHING = bytes(8)  # no HDF5 file begins so

_read: Counter[Path] = Counter()  # bytes read by ranges


def make(path: Path, size: int, modified_ns: int) -> None:
    """Put a placeholder in place, whole."""
    with atomic.replacing(path, sweeps=False) as made:
        made.touch()
        os.truncate(made, size)  # takes no room
        os.utime(made, ns=(modified_ns, modified_ns))


def is_one(path: Path) -> bool:
    """Return whether a file of a working copy is a placeholder, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(_NOTHING)) == _NOTHING and url_of(path) is not None
    except OSError:
        return False


def url_of(part: Path) -> str | None:
    """Return the URL of ROOT/SOURCE/NAME.h5.parts/PART; None where ROOT is no working copy."""
    part = part.absolute()
    root = part.parents[min(2, len(part.parents) - 1)]
    url = marker.url_of(root)
    return None if url is None else f"{url}/{part.relative_to(root).as_posix()}"


def opened(path: Path, peeks: bool) -> Path | _Ranges:
    """Return what HDF5 can open of a placeholder: its path, with the part in place, or its ranges.

    Parameters
    ----------
    peeks : only attributes and digests are wanted, which are small.

    Raises
    ------
    FileNotFoundError
        When it is gone from the bucket; the placeholder goes, too.
    StorageError
        When it cannot be had.
    """
    size = path.stat().st_size
    is_wanted = not peeks and (size <= WHOLE_BYTES or 2 * _read[path] > size)
    if is_wanted and has_room(path):
        fetch(path)
        return path
    return _Ranges(path, size)


def has_room(path: Path) -> bool:
    """Return whether the disk of a part has enough free for parts to be kept here."""
    disk = shutil.disk_usage(path.parent)
    return disk.free >= FREE * disk.total


def fetch(path: Path) -> None:
    """Put a part in the place of its placeholder; raises as `opened`."""
    url, found = url_of(path), path.stat()
    assert url is not None, "a placeholder lies in a working copy"
    try:
        with atomic.replacing(path, sweeps=False, size_bytes=found.st_size) as made:
            # its name says what is in it, whichever write of it that was
            bucket.download(url, bucket.Object("", found.st_size, 0), made)
            os.utime(made, ns=(found.st_mtime_ns, found.st_mtime_ns))
    except bucket.BehindError:
        raise _gone(path) from None
    _read.pop(path, None)


def fetch_small(paths: Iterable[Path]) -> None:
    """Have small parts that are all needed in place, a few requests at once.

    What is gone or out of reach is for whoever opens it to say.
    """
    some = [path for path in paths if is_one(path) and path.stat().st_size <= WHOLE_BYTES]
    if len(some) > 1 and has_room(some[0]):
        bucket.each(_fetch_if_there, some)


def ahead(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield paths to peek into, having asked for the beginnings of some at once."""
    rest = iter(paths)
    while some := list(itertools.islice(rest, PEEKED_AT_ONCE)):
        far = [path for path in some if is_one(path)]
        bucket.each(_peek, far if len(far) > 1 else ())
        yield from some


def _peek(path: Path) -> None:
    with suppress(bucket.BehindError, FileNotFoundError):  # who opens it finds that, too
        _beginning(str(url_of(path)), path.stat().st_size)


def _fetch_if_there(path: Path) -> None:
    with suppress(FileNotFoundError):
        fetch(path)


def _gone(path: Path) -> FileNotFoundError:
    path.unlink(missing_ok=True)
    return FileNotFoundError(f"'{path}' is gone from the bucket")


@functools.lru_cache(1024)
def _beginning(url: str, size: int) -> bytes:
    """Return the first block of a part, which is asked for by each question about it."""
    return bucket.get(url, min(BLOCK_BYTES, size))


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Have no garbage collected inside, where h5py waits for a client with its lock held.

    The client has a thread of its own. Were it the one to collect an object of h5py's, which takes
    that lock, both would wait for ever (h5py's issue 2019).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Ranges(io.RawIOBase):
    """A part of which only the ranges that are asked for are read."""

    def __init__(self, path: Path, size: int):
        url = url_of(path)
        assert url is not None, "a placeholder lies in a working copy"
        self.path, self.url, self.size, self.position = path, url, size, 0
        self._blocks: dict[int, bytes] = {}

    def __repr__(self) -> str:
        """Return what HDF5 has as the name of the file."""
        return str(self.path)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that any place can be gone to."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from here on, as far as the part goes."""
        n = max(0, min(len(buffer), self.size - self.position))
        start = self.position
        try:
            with _nothing_collected():
                if n >= BLOCK_BYTES:
                    buffer[:n] = bucket.get(self.url, n, start)
                    _read[self.path] += n
                else:
                    first = start - start % BLOCK_BYTES
                    near = b"".join(map(self._block, range(first, start + n, BLOCK_BYTES)))
                    buffer[:n] = near[start - first : start - first + n]
        except bucket.BehindError:
            raise _gone(self.path) from None
        self.position += n
        return n

    def _block(self, start: int) -> bytes:
        if start == 0:
            return _beginning(self.url, self.size)
        if start not in self._blocks:
            n = min(BLOCK_BYTES, self.size - start)
            self._blocks[start] = bucket.get(self.url, n, start)
            _read[self.path] += n
        return self._blocks[start]
