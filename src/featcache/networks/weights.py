"""Digests of weights, and the memo by which a second run knows them without TensorFlow.

The memo is one small JSON file in the cache folder. Losing it costs only the time to hash again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import memo
from featcache.core.versions import version

if TYPE_CHECKING:
    import keras

MEMO_NAME = ".weights.json"


def digest_of(backbone: keras.Model) -> str:
    """Return BLAKE2b-128 of a network's weights, hex: their values, shapes and dtypes in order."""
    total = hashlib.blake2b(digest_size=16)
    for array in backbone.get_weights():
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def set_weights(layer: Any, arrays: list[np.ndarray]) -> None:
    """Set the weights of a layer or model, and have them used.

    Keras has `Normalization` compute with copies of its weights, which setting them leaves behind.
    """
    layer.set_weights(arrays)
    for one in adapted(layer):
        one.finalize_state()


def adapted(layer: Any) -> list[Any]:
    """Return the layers in a layer or model that compute with copies of their weights."""
    every = layer._flatten_layers()
    return [one for one in every if hasattr(one, "finalize_state") and one.weights]


def recall(at: Path | None, name: str, weights: str | Path) -> str | None:
    """Return the digest remembered for these weights, or None."""
    value = memo.recall(at, _key(name, weights))
    return value if isinstance(value, str) else None


def remember(at: Path | None, name: str, weights: str | Path, digest: str) -> None:
    """Write the digest down."""
    memo.remember(at, _key(name, weights), digest)


def _key(name: str, weights: str | Path) -> str:
    """A file counts by path and what tells it from another one cheaply; all weights of a network
    have one size. A word counts by what this Keras version makes of it."""
    if isinstance(weights, Path):
        now = weights.stat()
        return f"{weights}|{now.st_size}|{now.st_mtime_ns}|{now.st_ctime_ns}|{now.st_ino}"
    return f"{name}|{weights}|keras {version('keras')}"
