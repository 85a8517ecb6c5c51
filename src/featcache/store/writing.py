"""Publishing: a feature file made of kept rows, assembled or in parts, and put in place whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.core.keys import view_keys
from featcache.core.repeats import Repeats
from featcache.core.spec import FORMAT_VERSION, ExtractionSpec
from featcache.store import hdf5, parted
from featcache.store.columns import Metadata, write_metadata
from featcache.store.features import KIND, Features
from featcache.store.index import Parts, Rows
from featcache.store.layout import claim, mark_clean
from featcache.store.part_writer import PART_BYTES
from featcache.store.strings import write_attribute

BLOCK_BYTES = 16 << 20  # rows gathered at once; bounds the memory of publishing


def publish(
    path: Path,
    spec: ExtractionSpec,
    metadata: Metadata,
    rows: Rows,
    provenance: dict[str, Any],
    parts: Parts | None = None,
) -> Features:
    """Put the feature file in place in one rename, made of kept rows.

    Parameters
    ----------
    parts : of this file, if its rows are to stay in them; only rows that lie elsewhere are copied,
        into further parts. None assembles all rows in the file.

    Returns
    -------
    Features, opened from `path`.
    """
    numbers = rows.find_views(metadata.digests, spec)
    assert (numbers >= 0).all(), "every view of every image of the metadata has a computed row"
    claim(path.parent, provenance["source"])
    if parts is not None:
        rows, numbers = _all_in_parts(rows, numbers, metadata, spec, parts)
    first = rows.read(numbers[:1, 0])
    n_stored = 0 if parts else len(numbers) * (1 if spec.views == 1 else 1 + spec.views)
    size_bytes = n_stored * first.nbytes + 32 * len(numbers) + sum(map(len, metadata.ids))
    with hdf5.replacing(path, size_bytes) as file:
        if parts is not None:
            parted.write(file, path, _table(rows, numbers), first.shape[1:], spec.dtype)
        elif n_same := _assemble(file, spec, rows, numbers, metadata.digests, first):
            provenance = provenance | {"same_features": n_same}
        attributes = {
            "spec": json.dumps(spec.to_dict(), sort_keys=True),
            "fingerprint": spec.fingerprint,
            "provenance": json.dumps(provenance, sort_keys=True),
        }
        write_metadata(file, metadata, attributes)
        mark_clean(file, spec)
        write_attribute(file, "kind", KIND)
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["complete"] = True
    made = Features(path)
    made.metadata = metadata  # as it was written: of millions of images it is not read back
    return made


def _assemble(
    file: h5py.File,
    spec: ExtractionSpec,
    rows: Rows,
    numbers: np.ndarray,
    digests: np.ndarray,
    first: np.ndarray,
) -> int:
    """Write all rows into the file; return how many have the features of a different image."""
    shape = (len(numbers), *first.shape[1:])
    chunks = hdf5.chunk_shape(shape, spec.dtype)
    step = chunks[0] * max(1, BLOCK_BYTES // (chunks[0] * first.nbytes))

    def blocks(view: int) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(numbers), step):
            some = slice(start, start + step)
            yield some, rows.read(numbers[some, view])

    features = file.create_dataset("features", shape, spec.dtype, chunks=chunks, fletcher32=True)
    repeats = Repeats()
    for some, block in blocks(0):
        features[some] = block
        if block.ndim == 2:  # nothing learns from maps
            repeats.add(block)
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
    return repeats.count(digests)


def _all_in_parts(
    rows: Rows, numbers: np.ndarray, metadata: Metadata, spec: ExtractionSpec, parts: Parts
) -> tuple[Rows, np.ndarray]:
    """Copy rows that lie in other files into further parts; return the rows in parts alone."""
    own = [place for place, path in enumerate(rows.paths) if path.parent == parts.folder]
    file, _ = rows.where(numbers)
    elsewhere = ~np.isin(file, own)  # (n, views)
    if not elsewhere.any():
        return rows, numbers
    made = [rows.paths[place] for place in own]  # no others in the folder: they may be damaged
    for view in range(spec.views):
        missing = np.flatnonzero(elsewhere[:, view])
        row_bytes = rows.read(numbers[:1, view]).nbytes
        step = max(1, PART_BYTES // row_bytes)
        for start in range(0, len(missing), step):
            some = missing[start : start + step]
            keys = view_keys(metadata.digests[some], view, spec.augment)
            made.append(parts.write(keys, rows.read(numbers[some, view])))
    rows = Rows(dict.fromkeys(made))
    return rows, rows.find_views(metadata.digests, spec)


def _table(rows: Rows, numbers: np.ndarray) -> parted.Table:
    """Return where rows lie, naming only the parts that have any of them."""
    file, place = rows.where(numbers)
    used, of_row = np.unique(file, return_inverse=True)
    names = tuple(rows.paths[number].name for number in used.tolist())
    sizes = tuple(rows.sizes()[used].tolist())
    of_row = of_row.reshape(file.shape).astype(np.int32)
    return parted.Table(names, sizes, of_row, place.astype(np.int32))
