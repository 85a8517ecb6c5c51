"""Layers that are slow as Keras has them, exchanged for others that give the same numbers.

A convolution with one group a channel is many times slower than `DepthwiseConv2D`; exact GELU
becomes one that every export can write. Names of layers, and the values that weights have in order,
stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks.activations import activated
from featcache.networks.weights import set_weights

if TYPE_CHECKING:
    import keras


def rewritten(model: keras.Model) -> keras.Model:
    """Return a network with quicker layers, or itself where it has none that are slow."""
    if not any(map(_is_slow, model._flatten_layers())):
        return model
    keras = import_keras()
    first = model.layers[0]
    inputs = keras.Input(batch_shape=model.inputs[0].shape, name=first.name)
    twin = keras.models.clone_model(model, inputs, _quicker, _called)
    given = zip(twin.weights, model.get_weights(), strict=True)
    set_weights(twin, [np.reshape(array, weight.shape) for weight, array in given])
    return twin


def _is_slow(layer: Any) -> bool:
    return _is_by_channel(layer) or _is_exact_gelu(layer)


def _is_by_channel(layer: Any) -> bool:
    """Return whether a layer has a group a channel, and nothing that the other layer lacks."""
    if type(layer) is not import_keras().layers.Conv2D or layer.groups == 1:
        return False
    height, width = layer.strides
    return bool(layer.kernel.shape[2] == 1 and height == width)


def _is_exact_gelu(layer: Any) -> bool:
    keras = import_keras()
    is_of_it = type(layer) is keras.layers.Activation
    return is_of_it and layer.activation is keras.activations.gelu


def _quicker(layer: Any) -> Any:
    """Return a layer without weights, as `clone_model` asks for it."""
    config = layer.get_config()
    if not _is_by_channel(layer):
        return type(layer).from_config(config)
    filters, groups = config.pop("filters"), config.pop("groups")
    for what in ("initializer", "regularizer", "constraint"):
        config[f"depthwise_{what}"] = config.pop(f"kernel_{what}")
    config["depth_multiplier"] = filters // groups
    return import_keras().layers.DepthwiseConv2D.from_config(config)


def _called(layer: Any, *inputs: Any, **options: Any) -> Any:
    """Return what a layer gives; what GELU gives can be tapped by the layer's name."""
    if not _is_exact_gelu(layer):
        return layer(*inputs, **options)
    x = activated("gelu", inputs[0])
    return import_keras().layers.Activation("linear", name=layer.name)(x)
