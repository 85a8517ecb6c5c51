"""Publishing: a feature file assembled from kept rows and put in place whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.repeats import Repeats
from featcache.core.spec import FORMAT_VERSION, ExtractionSpec
from featcache.store import hdf5
from featcache.store.columns import Metadata, write_metadata
from featcache.store.features import KIND, Features
from featcache.store.index import Rows
from featcache.store.layout import claim, mark_clean
from featcache.store.strings import write_attribute

BLOCK_BYTES = 16 << 20  # rows gathered at once; bounds the memory of publishing


def publish(
    path: Path,
    spec: ExtractionSpec,
    metadata: Metadata,
    rows: Rows,
    provenance: dict[str, Any],
) -> Features:
    """Assemble the feature file from kept rows and put it in place in one rename.

    Returns
    -------
    Features, opened from `path`.
    """
    numbers = rows.find_views(metadata.digests, spec)
    assert (numbers >= 0).all(), "every view of every image of the metadata has a computed row"
    claim(path.parent, provenance["source"])
    first = rows.read(numbers[:1, 0])
    n_stored = len(numbers) * (1 if spec.views == 1 else 1 + spec.views)
    size_bytes = n_stored * first.nbytes + 32 * len(numbers) + sum(map(len, metadata.ids))
    with hdf5.replacing(path, size_bytes) as file:
        shape = (len(numbers), *first.shape[1:])
        chunks = hdf5.chunk_shape(shape, spec.dtype)
        step = chunks[0] * max(1, BLOCK_BYTES // (chunks[0] * first.nbytes))

        def blocks(view: int) -> Iterator[tuple[slice, np.ndarray]]:
            for start in range(0, len(numbers), step):
                some = slice(start, start + step)
                yield some, rows.read(numbers[some, view])

        features = file.create_dataset(
            "features", shape, spec.dtype, chunks=chunks, fletcher32=True
        )
        repeats = Repeats()
        for some, block in blocks(0):
            features[some] = block
            if block.ndim == 2:  # nothing learns from maps
                repeats.add(block)
        if n_same := repeats.count(metadata.digests):
            provenance = provenance | {"same_features": n_same}
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
        write_metadata(file, metadata, attributes)
        mark_clean(file, spec)
        write_attribute(file, "kind", KIND)
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["complete"] = True
    return Features(path)
