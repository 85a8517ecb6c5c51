"""Text in HDF5 as fields of one length, zero-padded UTF-8.

HDF5 keeps text of any length in a heap that has no checksum, and on a flipped bit there it may even
hang. Columns of one length are chunked, checksummed and compressed, so that padding costs little.
"""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

CHUNK_ROWS = 1024


def write_attribute(file: h5py.File, name: str, text: str) -> None:
    """Keep text as an attribute."""
    data = text.encode()
    file.attrs.create(name, np.array(data, h5py.string_dtype("utf-8", max(1, len(data)))))


def read_attribute(file: h5py.File, name: str) -> str:
    """Return an attribute as text; raise KeyError where there is none."""
    value = file.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def write_column(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Keep texts as a dataset (n,)."""
    length = max(map(len, map(str.encode, texts)), default=0) or 1
    kind = h5py.string_dtype("utf-8", length)
    if not texts:  # a dataset without rows cannot have chunks, nor needs it any
        file.create_dataset(name, (0,), kind)
        return
    column = file.create_dataset(
        name,
        (len(texts),),
        kind,
        chunks=(min(CHUNK_ROWS, len(texts)),),
        compression="gzip",
        compression_opts=1,
        fletcher32=True,
    )
    for start in range(0, len(texts), CHUNK_ROWS):
        # not all at once: of millions they would take more than the texts themselves
        block = [text.encode() for text in texts[start : start + CHUNK_ROWS]]
        column[start : start + CHUNK_ROWS] = np.array(block, kind)


def read_column(file: h5py.File, name: str) -> tuple[str, ...]:
    """Return the texts of a dataset (n,)."""
    column = file[name]
    texts: list[str] = []
    for start in range(0, len(column), CHUNK_ROWS):
        block = column[start : start + CHUNK_ROWS].tolist()
        texts += [value.decode() for value in block]
    return tuple(texts)
