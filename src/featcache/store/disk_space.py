"""How much of the disk feature files take, and whether there is so much."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

import numpy as np

from featcache.core.errors import StoreError
from featcache.core.running import ASSEMBLE_GB
from featcache.core.spec import ExtractionSpec
from featcache.store.parted import PARTS, part_files

GB = 1e9


def size_of(n_rows: int, row_shape: tuple[int, ...], dtype: str, n_views: int) -> int:
    """Return bytes that a new feature file takes on the disk while it is made.

    The rows are kept in parts until the file that has them all is there, or for good where it is
    large. A file with views has the clean one twice.
    """
    row_bytes = int(np.prod(row_shape)) * np.dtype(dtype).itemsize
    assembled = n_rows * row_bytes * (1 if n_views == 1 else 1 + n_views)
    in_parts = n_rows * row_bytes * n_views
    return in_parts + (0 if assembled > ASSEMBLE_GB * GB else assembled)


def check_room(
    cache_dir: Path,
    size_bytes: int,
    max_bytes: int | None,
    what: str,
    spec: ExtractionSpec | None = None,
) -> None:
    """Raise StoreError where a disk has no room for a feature file, or it is not to have so much.

    Parameters
    ----------
    size_bytes : from `size_of`.
    max_bytes : what it may take; None is whatever is free.
    what : is made, to begin the message with.
    spec : of it; what an earlier run left of it in parts takes no more room.
    """
    folder = cache_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    kept = _bytes_in_parts(cache_dir, spec) if spec else 0
    needed = f"{what} take {size_bytes / GB:.3g} GB on the disk while they are made"
    advice = "Unfreeze fewer layers, use --dtype float16 or fewer views, or train --end-to-end."
    if max_bytes is not None and size_bytes > max_bytes:
        raise StoreError(
            f"{needed}, and --max-cache-gb allows {max_bytes / GB:.3g}. Raise it. Or: {advice}"
        )
    if size_bytes - kept > free:
        there = f", {kept / GB:.3g} GB of it there already" if kept else ""
        raise StoreError(f"{needed}{there}, and '{folder}' has {free / GB:.3g} GB free. {advice}")


def _bytes_in_parts(cache_dir: Path, spec: ExtractionSpec) -> int:
    folders = cache_dir.glob(f"*/{glob.escape(spec.short_name)}*.h5{PARTS}/")
    return sum(path.stat().st_size for folder in folders for path in part_files(folder))
