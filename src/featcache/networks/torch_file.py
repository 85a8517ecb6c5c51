"""Read legacy (pre-zip) torch files without torch, and without running anything in them.

The unpickler admits three kinds of names and no others.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a legacy torch file by name.

    The file is three pickled preamble objects, the pickled state dict in which each tensor refers
    to a storage, the pickled list of storage keys, then for each key an int64 count of elements
    and the raw little-endian data. Tensors need not be contiguous, so their strides are honoured.

    Raises
    ------
    ValueError, pickle.UnpicklingError
        When the file is not of that form or names anything else than tensors.
    """
    with path.open("rb") as file:
        if _Unpickler(file).load() != _MAGIC:
            raise ValueError("not a legacy torch file")
        for _ in ("protocol version", "system information"):
            _Unpickler(file).load()
        records: dict[str, _Tensor] = _Unpickler(file).load()
        dtypes = {record.key: record.dtype for record in records.values()}
        storages = {}
        for key in _Unpickler(file).load():
            n_elements = int(np.fromfile(file, "<i8", 1)[0])
            storages[key] = np.fromfile(file, dtypes[key], n_elements)
    return {name: record.array(storages[record.key]) for name, record in records.items()}


class _Tensor:
    """A view into a storage that is read later."""

    def __init__(self, storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_: Any):
        self.dtype, self.key = storage
        self.offset, self.shape, self.strides = offset, tuple(shape), tuple(strides)

    def array(self, storage: np.ndarray) -> np.ndarray:
        reach = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if reach >= storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.ascontiguousarray(view)


class _Unpickler(pickle.Unpickler):
    """Admits ordered dicts, the tensor rebuild call and storage names; refuses all else."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"it names '{module}.{name}', which is no tensor")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, key = pid[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to a '{kind}', which is no storage")
        return dtype, key
