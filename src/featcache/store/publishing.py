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
from featcache.store.features import KIND, Features, Table
from featcache.store.folders import claim

if TYPE_CHECKING:
    from featcache.store.rows import Rows

CHUNK_ROWS = 1024  # rows of `features` a checksummed chunk, and the unit of copying


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
    text = h5py.string_dtype()
    claim(path.parent, provenance["source"])
    first = rows.read(numbers[:1])
    size_bytes = len(numbers) * (first.nbytes + 32) + sum(map(len, table.ids))
    with published(path, size_bytes) as file:
        for start in range(0, len(numbers), CHUNK_ROWS):
            block = rows.read(numbers[start : start + CHUNK_ROWS])
            if start == 0:
                shape = (len(numbers), *block.shape[1:])
                chunks = (min(CHUNK_ROWS, len(numbers)), *block.shape[1:])
                out = file.create_dataset(
                    "features", shape, spec.dtype, chunks=chunks, fletcher32=True
                )
            out[start : start + len(block)] = block
        file.create_dataset("ids", data=list(table.ids), dtype=text, chunks=True, fletcher32=False)
        file.create_dataset("digests", data=table.digests, fletcher32=True)
        file.create_dataset("labels", data=table.labels, fletcher32=True)
        file.create_dataset("stamps", data=table.stamps, fletcher32=True)
        if table.splits is not None:
            file.create_dataset("splits", data=list(table.splits), dtype=text)
        failures = file.create_group("failures")
        failures.create_dataset("id", data=[f.id for f in table.failures], dtype=text)
        failures.create_dataset("reason", data=[f.reason for f in table.failures], dtype=text)
        digests = np.frombuffer(b"".join(f.digest for f in table.failures), np.uint8)
        failures.create_dataset("digest", data=digests.reshape(-1, 16))
        file.attrs["kind"] = KIND
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["spec"] = json.dumps(spec.to_dict(), sort_keys=True)
        file.attrs["fingerprint"] = spec.fingerprint
        file.attrs["class_names"] = json.dumps(table.class_names, ensure_ascii=False)
        file.attrs["task"] = "classification"
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
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
        with h5py.File(temporary, "w", locking=False) as file:
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
