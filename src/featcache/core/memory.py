"""How much memory there is, and giving back what a mapped file takes of it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

_LIMITS = (  # of a container, by version 2 and 1 of Linux's control groups
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def free_memory() -> int:
    """Return bytes of memory that nobody uses; where the system does not say, 4 GB."""
    return _pages("SC_AVPHYS_PAGES")


def total_memory() -> int:
    """Return bytes of memory of this machine, or of the container; unknown, 4 GB.

    Unlike what is free just now, it is the same in every run.
    """
    found = [_pages("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return min(found)


def _pages(name: str) -> int:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def release(array: np.ndarray) -> None:
    """Let go of what an array that maps a file for reading has in memory; any other stays.

    The pages would count as this process's until the file is closed. Looked at again, they come
    from the file, as a rule out of the system's cache.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not array.flags.writeable:
        advice = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows
        if advice is not None:
            base.madvise(advice)
