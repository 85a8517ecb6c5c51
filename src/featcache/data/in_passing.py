"""Images read on their way to TensorFlow: each file once, hashed and looked at as it goes by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from featcache.data.listing import Reading, ahead, threads_for
from featcache.data.sources.objects import Far


def plain_files(
    reading: Reading, rows: Sequence[int], is_copy: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the files that TensorFlow decodes as Pillow does, a few at a time, in order.

    All rows are read, and what they are is noted in `reading`. Of copies the first is yielded; the
    others, of images of every kind, become true in `is_copy`.

    Yields
    ------
    (k,) int64 rows, (k,) int32 orientations, and (k,) object, the files' bytes.
    """
    seen: set[bytes] = set()

    contents = reading.source.contents

    def look(some: Sequence[int]) -> list[tuple[int, object]]:
        found = [(row, reading.read(row)) for row in some]
        if isinstance(contents, Far):
            for row in some:
                if reading.orientations[row]:  # what TensorFlow decodes is decoded from here
                    contents.forget(row)
        return [(row, raw) for row, raw in found if raw is not None]

    workers, at_once = threads_for(reading.source, 2 * (os.cpu_count() or 1))
    chunks = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
    for found in ahead(look, chunks, workers, workers):
        kept = []
        for row, raw in found:
            key = reading.digests[row].tobytes()
            is_copy[row] = key in seen
            seen.add(key)
            if reading.orientations[row] and not is_copy[row]:
                kept.append((row, raw))
        if kept:
            numbers = np.array([row for row, _ in kept], np.int64)
            files = np.empty(len(kept), object)  # text of NumPy's would lose zeros at the end
            files[:] = [raw for _, raw in kept]
            yield numbers, reading.orientations[numbers].astype(np.int32), files
