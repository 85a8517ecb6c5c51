"""How much of the disk feature files take, and whether there is so much."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from featcache.errors import StoreError

GB = 1e9


def size_of(n_rows: int, row_shape: tuple[int, ...], dtype: str, n_views: int) -> int:
    """Return bytes that a new feature file takes on the disk while it is made.

    The rows are kept in parts until the file that has them all is there. A file with views has the
    clean one twice.
    """
    row_bytes = int(np.prod(row_shape)) * np.dtype(dtype).itemsize
    n_stored = 1 if n_views == 1 else 1 + n_views
    return n_rows * row_bytes * (n_views + n_stored)


def check_room(folder: Path, size_bytes: int, max_bytes: int | None, what: str) -> None:
    """Raise StoreError where a folder's disk has no room for something, or it is not to have it."""
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free
    needed = f"{what} take {size_bytes / GB:.3g} GB on the disk while they are made"
    advice = "Unfreeze fewer layers, use --dtype float16 or fewer views, or train --end-to-end."
    if max_bytes is not None and size_bytes > max_bytes:
        raise StoreError(
            f"{needed}, and --max-cache-gb allows {max_bytes / GB:.3g}. Raise it, or: {advice}"
        )
    if size_bytes > free:
        raise StoreError(f"{needed}, and '{folder}' has {free / GB:.3g} GB free. {advice}")
