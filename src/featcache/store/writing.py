"""Write HDF5 files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featcache.core import atomic
from featcache.core.spec import FORMAT_VERSION, ExtractionSpec
from featcache.store.columns import Table, write_table
from featcache.store.features import KIND, Features
from featcache.store.layout import claim, mark_clean
from featcache.store.strings import write_attribute

if TYPE_CHECKING:
    from featcache.store.index import Rows

CHUNK_ROWS = 1024  # rows of `features` a checksummed chunk at most
CHUNK_BYTES = 8 << 20  # and bytes
# Of unpooled maps, whose rows training reads one by one, and a checksum is of a whole chunk. Rows
# of 14 x 14 x 96 in half precision are read at random 3 times as fast as from chunks of 1 MiB, and
# 30 times as from 8; all in order at 0.8 to 0.9 of their speed.
MAP_CHUNK_BYTES = 256 << 10
BLOCK_BYTES = 16 << 20  # rows gathered at once; bounds the memory of publishing


def chunk_shape(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Return the shape of the chunks of a dataset of features (n, …)."""
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    chunk_bytes = CHUNK_BYTES if len(shape) == 2 else MAP_CHUNK_BYTES
    return (max(1, min(CHUNK_ROWS, chunk_bytes // row_bytes, shape[0])), *shape[1:])


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
    numbers = rows.find_views(table.digests, spec)
    assert (numbers >= 0).all(), "every view of every image of the table has a computed row"
    claim(path.parent, provenance["source"])
    first = rows.read(numbers[:1, 0])
    n_stored = len(numbers) * (1 if spec.views == 1 else 1 + spec.views)
    size_bytes = n_stored * first.nbytes + 32 * len(numbers) + sum(map(len, table.ids))
    with published(path, size_bytes) as file:
        shape = (len(numbers), *first.shape[1:])
        chunks = chunk_shape(shape, spec.dtype)
        step = chunks[0] * max(1, BLOCK_BYTES // (chunks[0] * first.nbytes))

        def blocks(view: int) -> Iterator[tuple[slice, np.ndarray]]:
            for start in range(0, len(numbers), step):
                some = slice(start, start + step)
                yield some, rows.read(numbers[some, view])

        features = file.create_dataset(
            "features", shape, spec.dtype, chunks=chunks, fletcher32=True
        )
        for some, block in blocks(0):
            features[some] = block
        if spec.views > 1:
            # a chunk is of one view, so that one view is read without the others
            views = file.create_dataset(
                "views",
                (shape[0], spec.views, *shape[1:]),
                spec.dtype,
                chunks=(chunks[0], 1, *chunks[1:]),
                fletcher32=True,
            )
            for view in range(spec.views):
                for some, block in blocks(view):
                    views[some, view] = block
        attributes = {
            "spec": json.dumps(spec.to_dict(), sort_keys=True),
            "fingerprint": spec.fingerprint,
            "provenance": json.dumps(provenance, sort_keys=True),
        }
        write_table(file, table, attributes)
        mark_clean(file, spec)
        write_attribute(file, "kind", KIND)
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["complete"] = True
    return Features(path)


@contextmanager
def published(path: Path, size_bytes: int) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears under `path` whole, or not at all.

    `size_bytes` is what it will take at least; that much is reserved on the disk.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    # what died is swept where the lock is held, see `Parts.sweep`; here it would be looked for with
    # every part
    with (
        atomic.replacing(path, flush=True, sweeps=False) as made,
        _Out(made, "w+") as out,
    ):
        try:
            # from HDF5 1.10 on, what finds the data has checksums as well
            with h5py.File(out, "w", libver=("v110", "v110")) as file:
                _reserve(out, size_bytes, path)  # HDF5 cuts off what it does not need
                yield file
        finally:
            if out.error is not None:  # the cause of whatever HDF5 made of it
                raise OSError(out.error.errno, out.error.strerror, os.fspath(path.parent))


class _Out(FileIO):
    """A file for HDF5 to write to, which never fails.

    HDF5 may crash the process when a write fails, at the latest when the file is closed. So the
    first error is kept for the caller, who asks afterwards, and the rest goes nowhere.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        n_bytes = len(left)
        try:
            while self.error is None and len(left):
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return n_bytes

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _reserve(file: FileIO, size_bytes: int, path: Path) -> None:
    """Raise OSError now if the disk has no room, not after hours of gathering."""
    if hasattr(os, "posix_fallocate") and size_bytes:
        try:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return  # this file system cannot reserve
            raise OSError(error.errno, error.strerror, os.fspath(path.parent)) from error
