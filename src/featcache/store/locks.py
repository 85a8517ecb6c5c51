"""One writer at a time for each feature file; readers never wait.

The lock is the operating system's on an open file, so it ends with the process that holds it,
however that ends; the empty file that stays means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from featcache.core.errors import StoreError
from featcache.store.layout import prepare

LOCK_FOLDER = ".locks"


@contextmanager
def locked(path: Path, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a feature file.

    Parameters
    ----------
    path : the feature file, CACHE/SOURCE/NAME.h5.
    wait : wait for another process instead of raising.
    say : told, once, that there is a wait.

    Raises
    ------
    StoreError
        When another process holds it and `wait` is False.
    """
    folder = path.parent.parent / LOCK_FOLDER
    prepare(folder.parent)
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"{path.parent.name}-{path.name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise StoreError(
                f"Another process is extracting into '{path}'. Run again when it is done, or "
                f"without --no-wait."
            ) from None
        say(f"Another process is extracting into '{path}'; waiting for it (Ctrl-C to stop).")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
