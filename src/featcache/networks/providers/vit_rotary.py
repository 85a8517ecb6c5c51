"""Attention whose queries and keys turn with the place of their patch, of stock Keras layers.

Rotary positions in two dimensions: Heo et al., "Rotary Position Embedding for Vision Transformer"
(2024), as DINOv3 has them: coordinates of the patches' centres from -1 to 1, no turn of class token
and registers. Cosines and sines are weights of each block, so that it stands alone: a network can
be cut between any two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks.providers.vit_families import Architecture

COSINES, SINES = "cosines", "sines"  # end the names of the layers that hold them


def attention(of: Architecture, name: str, x: Any) -> Any:
    """Return what attention makes of tokens (n, tokens, width), in layers whose names begin so."""
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    n_tokens, size = x.shape[1], of.width // of.n_heads
    q, k, v = (
        layers.Reshape((n_tokens, of.n_heads, size))(
            layers.Dense(of.width, name=f"{name}_{one}")(x)
        )
        for one in ("q", "k", "v")
    )
    nothing = layers.Rescaling(0.0, name=f"{name}_nothing")(ops.split(x, [size], axis=-1)[0])
    turns = [
        layers.Reshape((n_tokens, 1, size))(
            layers.Normalization(axis=(1, 2), name=f"{name}_{one}")(nothing)
        )
        for one in (COSINES, SINES)
    ]
    x = ops.dot_product_attention(_turned(q, *turns), _turned(k, *turns), v)
    return layers.Dense(of.width, name=f"{name}_out")(layers.Reshape((n_tokens, of.width))(x))


def _turned(x: Any, cosines: Any, sines: Any) -> Any:
    """Turn pairs of numbers: each of the first half with that of the second."""
    ops = import_keras().ops
    first, second = ops.split(x, 2, axis=-1)
    across = ops.concatenate([ops.negative(second), first], axis=-1)
    return ops.add(ops.multiply(x, cosines), ops.multiply(across, sines))


def turns(of: Architecture, grid: tuple[int, int], n_before: int) -> dict[str, np.ndarray]:
    """Return cosines and sines, (tokens, width of a head), by the name of their layer."""
    size = of.width // of.n_heads
    frequencies = 1 / of.theta ** np.arange(0, 1, 4 / size, dtype=np.float32)
    places = [(np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in grid]
    coordinates = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = (2 * np.pi * coordinates * frequencies).reshape(len(coordinates), -1)
    angles = np.concatenate([np.zeros((n_before, size)), np.tile(angles, 2)])
    return {COSINES: np.cos(angles), SINES: np.sin(angles)}
