"""Weights for a network that was just built: drawn, or from a file that Keras wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import BackboneError
from featcache.networks.providers import keras_file
from featcache.networks.providers.base import short
from featcache.networks.weights import set_weights

if TYPE_CHECKING:
    import keras


def put(backbone: keras.Model, name: str, weights: str) -> None:
    """Put random weights, or those of a .keras or .weights.h5 file, into a network.

    Raises
    ------
    BackboneError
        When the file cannot be read or is of another architecture.
    """
    if weights == "random":
        _randomise(backbone)
    elif Path(weights).suffix == ".keras":
        given = keras_file.load(Path(weights)).get_weights()
        # kernels by channel are (h, w, 1, channels) or, once rewritten, (h, w, channels, 1)
        if list(map(_without_ones, given)) != list(map(_without_ones, backbone.weights)):
            raise BackboneError(f"The model in '{weights}' is not of the architecture of {name}.")
        pairs = zip(given, backbone.weights, strict=True)
        set_weights(backbone, [np.reshape(array, weight.shape) for array, weight in pairs])
    else:
        try:
            backbone.load_weights(weights)
        except (
            Exception
        ) as error:  # Keras and h5py raise several kinds for a file that does not fit
            raise BackboneError(
                f"Weights file '{weights}' is not of {name} without its classifier: {short(error)}"
            ) from error


def _without_ones(array: Any) -> list[int]:
    return [side for side in array.shape if side != 1]


def _randomise(backbone: keras.Model) -> None:
    """Draw He-normal kernels from a fixed seed, the same on every machine and Keras version."""
    generator = np.random.default_rng(0)
    for variable in backbone.weights:
        if variable.path.endswith("kernel"):
            shape = variable.shape
            is_depthwise = len(shape) == 4 and (shape[-1] == 1 or "depthwise" in variable.path)
            fan_in = int(np.prod(shape[:-2] if is_depthwise else shape[:-1]))
            drawn = generator.standard_normal(shape, np.float32)
            variable.assign(drawn * np.float32(np.sqrt(2 / max(fan_in, 1))))
