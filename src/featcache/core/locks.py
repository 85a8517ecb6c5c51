"""One process at a time: the lock of an empty file beside what it guards.

The lock is the operating system's on an open file, so it ends with the process that holds it,
however that ends; the empty file that stays means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from featcache.core import disk


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
        When the folder may not be written to.
    """
    lock = FileLock(file)
    with disk.writing(file.parent):
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
