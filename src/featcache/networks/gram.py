"""Gram matrices of maps: which channels go together, wherever in the image. Features of style.

Source: Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural networks".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.tensorflow import import_keras

CHANNELS = 64  # at most, into which a map's are projected first: 2,080 different products


def projection(n_channels: int) -> np.ndarray:
    """Return (n_channels, k) float32 with orthonormal columns, the same whenever it is asked for.

    Up to `CHANNELS` channels stay as they are.
    """
    if n_channels <= CHANNELS:
        return np.eye(n_channels, dtype=np.float32)
    random = np.random.default_rng(n_channels).standard_normal((n_channels, CHANNELS))
    q, r = np.linalg.qr(random)
    return np.asarray(q * np.sign(np.diag(r)), np.float32)  # of any LAPACK the same


def gram(x: Any, name: str) -> Any:
    """Continue a Keras tensor of maps (n, height, width, c) with their Gram matrices (n, d).

    Of the projected channels p the d = k (k + 1) / 2 different means of p_i p_j over the places of
    the map; those that the matrix has twice times the root of 2, so that the scalar product of two
    vectors is that of the matrices.
    """
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    n_places, n_channels = x.shape[1] * x.shape[2], x.shape[3]
    kernel = projection(n_channels)
    k = kernel.shape[1]
    if k < n_channels:
        channels = layers.Dense(k, use_bias=False, name=f"{name}_channels")
        x = channels(x)
        channels.set_weights([kernel])
    flat = layers.Reshape((n_places, k), name=f"{name}_places")(x)
    products = layers.Dot(axes=1, name=f"{name}_products")([flat, flat])
    rows, columns = np.triu_indices(k)
    different = ops.take(layers.Flatten(name=f"{name}_flat")(products), rows * k + columns, axis=1)
    weights = np.where(rows == columns, 1.0, np.sqrt(2.0)) / n_places
    scaled = layers.Normalization(mean=np.zeros(len(weights)), variance=weights**-2.0, name=name)
    return scaled(different)
