"""Write HDF5 files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featcache.errors import StoreError
from featcache.spec import FORMAT_VERSION, ExtractionSpec
from featcache.store.features import KIND, Features
from featcache.store.folders import claim
from featcache.store.table import Table, write_table

if TYPE_CHECKING:
    from featcache.store.rows import Rows

CHUNK_ROWS = 1024  # rows of `features` a checksummed chunk at most
CHUNK_BYTES = 8 << 20  # and bytes: unpooled maps have long rows
BLOCK_BYTES = 24 << 20  # rows gathered at once; bounds the memory of publishing


def chunk_shape(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Return the shape of the chunks of a dataset of features (n, …)."""
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    return (max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes, shape[0])), *shape[1:])


def publish(
    path: Path,
    spec: ExtractionSpec,
    table: Table,
    rows: Rows,
    provenance: dict[str, Any],
) -> Features:
    """Assemble the feature file from kept rows and put it in place in one rename.

    Returns
    -------
    Features, opened from `path`.
    """
    numbers = rows.find(table.digests)
    assert (numbers >= 0).all(), "every image of the table has a computed row"
    claim(path.parent, provenance["source"])
    first = rows.read(numbers[:1])
    size_bytes = len(numbers) * (first.nbytes + 32) + sum(map(len, table.ids))
    with published(path, size_bytes) as file:
        shape = (len(numbers), *first.shape[1:])
        chunks = chunk_shape(shape, spec.dtype)
        out = file.create_dataset("features", shape, spec.dtype, chunks=chunks, fletcher32=True)
        step = chunks[0] * max(1, BLOCK_BYTES // (chunks[0] * first.nbytes))
        for start in range(0, len(numbers), step):
            out[start : start + step] = rows.read(numbers[start : start + step])
        attributes = {
            "spec": json.dumps(spec.to_dict(), sort_keys=True),
            "fingerprint": spec.fingerprint,
            "provenance": json.dumps(provenance, sort_keys=True),
        }
        write_table(file, table, attributes)
        file.attrs["kind"] = KIND
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["complete"] = True
    return Features(path)


@contextmanager
def published(path: Path, size_bytes: int) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears under `path` whole, or not at all.

    `size_bytes` is what it will take at least; that much must be free.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        _reserve(temporary, size_bytes)
        # from HDF5 1.10 on, what finds the data has checksums as well
        with h5py.File(temporary, "w", locking=False, libver=("v110", "v110")) as file:
            yield file
        with temporary.open("rb+") as raw:
            os.fsync(raw.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except RuntimeError as error:  # what h5py makes of a file that can no longer be flushed
        raise StoreError(
            f"'{path}' cannot be written: {' '.join(str(error).split())[:200]}. Is the disk full?"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reserve(path: Path, size_bytes: int) -> None:
    """Raise OSError now if the disk has no room: HDF5 may crash when it finds out half-way."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate") and size_bytes:
            try:
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                    return  # this file system cannot reserve
                raise OSError(error.errno, error.strerror, str(path.parent)) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
