"""One process at a time: the lock of an empty file beside what it guards.

The lock is the operating system's on an open file, so it ends with the process that holds it,
however that ends; the empty file that stays means nothing. Of several machines on one network
folder all see it where that is mounted with locks; where it keeps none, that is an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from featcache.core import disk
from featcache.core.errors import DiskError

try:
    import fcntl
except ImportError:  # on Windows, whose network folders keep locks
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_LOCAL = {"nolock", "local_lock=all", "local_lock=flock", "localflock"}  # of NFS and of Lustre
_MOUNTS = Path("/proc/mounts")


@contextmanager
def locked(file: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Hold a lock.

    Parameters
    ----------
    file : the empty file; its folder must exist.
    busy : called, once, where another process holds it. It may raise instead of waiting.

    Raises
    ------
    DiskError
        When the folder may not be written to, or keeps no locks.
    """
    lock = FileLock(file)
    with disk.writing(file.parent):
        _check(file)
        is_mine = _try(lock)
    if not is_mine:
        busy()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _check(file: Path) -> None:
    """Raise DiskError where the file system keeps no locks, or keeps them on this machine alone."""
    option = _local_option(file)
    reason = f"it is mounted with '{option}'" if option else None
    if fcntl is not None:
        with file.open("a") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    reason = os.strerror(error.errno or 0)
    if reason:
        raise DiskError(
            f"The file system of '{file.parent}' keeps no locks that other machines see "
            f"({reason}), so two runs could spoil each other's files. Use a --cache-dir on another "
            f"disk, or have it mounted with locks (NFS: version 4; Lustre: -o flock)."
        )


def _local_option(file: Path) -> str:
    """Return the mount option by which locks of a network folder are this machine's; "" if none."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    folders = {os.fspath(one) for one in file.resolve().parents}
    mine = [one for one in mounts if len(one) > 3 and one[1] in folders]
    if not mine:
        return ""
    options = max(mine, key=lambda one: len(one[1]))[3].split(",")
    return next((one for one in options if one in _LOCAL), "")
