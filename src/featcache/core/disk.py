"""What a disk does not take, for want of room or of the right: one line with a path and a cure."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.core.errors import DiskError, FeatcacheError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.ELOOP}  # a file where a folder is to be
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS} | IN_THE_WAY
_NOTHING = 64 << 10  # bytes: a disk that has no more free is full
_AGAIN = "and run the same command again"
_ELSEWHERE = "choose another disk (--cache-dir, --out)"


def cause(error: Exception, path: Path) -> OSError | None:
    """Return the disk's part in an error that came while `path` was written, or None.

    NumPy, OpenVINO and TensorFlow do not say that it is full. So what was written must lie there
    still.
    """
    if isinstance(error, FeatcacheError):
        return None
    if isinstance(error, OSError) and error.errno in FULL:
        return error
    if isinstance(error, OSError) and error.errno in REFUSED:
        # another file that may not be read is no matter of what is written
        named = error.filename
        is_own = named is None or os.path.abspath(path) in os.path.abspath(str(named))
        return error if is_own else None
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if free_bytes(path) < _NOTHING else None


def failure(
    found: OSError, path: Path, size_bytes: int | None = None, cure: str = _ELSEWHERE
) -> DiskError:
    """Return the error to raise for what `cause` found.

    Parameters
    ----------
    path : that was to be written.
    size_bytes : that it takes at least, where this is known.
    cure : what to do about it, but for making room.
    """
    number = found.errno or errno.ENOSPC
    reason = os.strerror(number)
    if number in IN_THE_WAY:
        made = DiskError(
            f"'{path}' cannot be written: something else than a folder lies there, or on the way "
            f"to it. Choose another place (--cache-dir, --out)."
        )
    elif number in REFUSED:
        made = DiskError(
            f"'{path}' cannot be written: {reason}. Choose another place that may be written to "
            f"(--cache-dir, --out)."
        )
    elif number == errno.EFBIG:
        made = DiskError(
            f"'{path}' cannot be written: {reason}. Raise the limit (`ulimit -f`), or {cure}, "
            f"{_AGAIN}."
        )
    else:
        made = _no_room(path, size_bytes, reason, cure)
    made.errno = number
    return made


@contextmanager
def writing(path: Path, cure: str = _ELSEWHERE) -> Iterator[None]:
    """Raise DiskError for what keeps a path, or what lies in it, from being written inside."""
    try:
        yield
    except Exception as error:
        found = cause(error, path)
        if found is None:
            raise
        raise failure(found, path, cure=cure) from error


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder of the system's for temporary files, which is deleted in the end.

    Raises
    ------
    DiskError
        When there is no room for them.
    """
    with (
        tempfile.TemporaryDirectory(prefix="featcache-") as folder,
        writing(Path(folder), "set TMPDIR to a folder on another disk"),
    ):
        yield Path(folder)


def demand(path: Path, size_bytes: int) -> None:
    """Raise DiskError where the disk of a path has less free than it is to take."""
    if size_bytes > free_bytes(path):
        raise _no_room(path, size_bytes, os.strerror(errno.ENOSPC), _ELSEWHERE)


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, or it can be made itself."""
    return os.access(_existing(folder), os.W_OK | os.X_OK)


def free_bytes(path: Path) -> int:
    """Return what is free on the disk that a path is on; it need not exist."""
    return shutil.disk_usage(_existing(path)).free


def shown(size_bytes: int) -> str:
    """Return a size with a unit that suits it."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= one:
            return f"{size_bytes / one:.3g} {unit}"
    return f"{size_bytes / 1e3:.3g} kB"


def _no_room(path: Path, size_bytes: int | None, reason: str, cure: str) -> DiskError:
    free = f"its disk has {shown(free_bytes(path))} free"
    needed = free if size_bytes is None else f"it takes {shown(size_bytes)}, and {free}"
    return DiskError(
        f"There is no room for '{path}': {reason}; {needed}. Make room there, or {cure}, {_AGAIN}."
    )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
