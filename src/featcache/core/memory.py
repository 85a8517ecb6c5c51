"""How much memory there is."""

from __future__ import annotations

import os


def free_memory() -> int:
    """Return bytes of memory that nobody uses; where the system does not say, 4 GB."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30
