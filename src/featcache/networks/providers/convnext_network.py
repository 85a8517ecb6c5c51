"""A ConvNeXt of stock Keras layers, which any Keras loads again without featcache.

Architecture: Liu et al., "A ConvNet for the 2020s" (2022); Woo et al., "ConvNeXt V2" (2023).
LayerScale is part of the layer before it. Global response normalisation, x (1 + w n(x)) + b, is a
convolution of one channel each over the (n, 1, 1, channels) of n(x), which has the weights w; b is
part of the bias of the layer after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks.activations import activated
from featcache.networks.checkpoint import Tensors
from featcache.networks.providers.convnext_families import Architecture

if TYPE_CHECKING:
    import keras

_NORM = "norm"  # of the mean, the last layer
_NORM_OF_MAP = "norm_of_map"


def network(of: Architecture, image_size: tuple[int, int]) -> keras.Model:
    """Return the untrained network, from RGB as it expects it.

    Its outputs are the map, (n, height, width, channels), and what its authors take of it, (n,
    channels): the mean of the map, normalised.
    """
    keras = import_keras()
    layers = keras.layers
    inputs = keras.Input((*image_size, 3))
    x = layers.Conv2D(of.widths[0], of.patch, of.patch, name="stem")(inputs)
    x = _norm(of, "stem_norm")(x)
    for stage, (width, depth) in enumerate(zip(of.widths, of.depths, strict=True)):
        if stage:
            x = _norm(of, f"stage_{stage}_norm")(x)
            x = layers.Conv2D(width, 2, 2, name=f"stage_{stage}_down")(x)
        for number in range(depth):
            x = _block(of, f"stage_{stage}_block_{number}", x)
    mean = layers.GlobalAveragePooling2D(name="mean_of_map")(x)
    pooled = layers.LayerNormalization(epsilon=of.epsilon, name=_NORM)(mean)
    if of.family.norm_of_map:
        x = layers.LayerNormalization(epsilon=of.epsilon, name=_NORM_OF_MAP)(x)
    return keras.Model(inputs, [x, pooled])


def _norm(of: Architecture, name: str) -> Any:
    return import_keras().layers.LayerNormalization(epsilon=of.inner_epsilon, name=name)


def _block(of: Architecture, name: str, x: Any) -> Any:
    layers = import_keras().layers
    width = x.shape[-1]
    y = layers.DepthwiseConv2D(7, padding="same", name=f"{name}_dw")(x)
    y = layers.Dense(4 * width, name=f"{name}_fc1")(_norm(of, f"{name}_norm")(y))
    y = activated(of.activation, y)
    if of.family.has_grn:
        y = _response_normalised(f"{name}_grn", y)
    y = layers.Dense(width, name=f"{name}_fc2")(y)
    return layers.Add(name=name)([x, y])


def _response_normalised(name: str, x: Any) -> Any:
    """Return x (1 + w n(x)), where n(x) are the channels' lengths over the mean of them."""
    keras = import_keras()
    ops = keras.ops
    # squares of a large map exceed float16
    squared = ops.sum(ops.square(ops.cast(x, "float32")), axis=(1, 2), keepdims=True)
    length = ops.sqrt(ops.maximum(squared, 1e-30))  # the root has no slope at 0
    share = ops.divide(length, ops.add(ops.mean(length, axis=-1, keepdims=True), 1e-6))
    weighted = keras.layers.DepthwiseConv2D(1, use_bias=False, name=name)(share)
    return ops.multiply(x, ops.add(weighted, 1.0))


def load(model: keras.Model, of: Architecture, tensors: Tensors) -> None:
    """Give a network the weights of a checkpoint.

    Raises
    ------
    BackboneError
        When a tensor is missing, left over or of another shape.
    """

    def put(layer: str, kernel: np.ndarray, *others: np.ndarray) -> None:
        model.get_layer(layer).set_weights([kernel, *others])

    def norm(layer: str, name: str, width: int) -> None:
        put(layer, *(tensors.take(f"{name}.{one}", (width,)) for one in ("weight", "bias")))

    def convolution(layer: str, name: str, shape: tuple[int, ...]) -> None:
        kernel = tensors.take(f"{name}.weight", shape)
        put(layer, kernel.transpose(2, 3, 1, 0), tensors.take(f"{name}.bias", shape[:1]))

    convolution("stem", "stem", (of.widths[0], 3, of.patch, of.patch))
    norm("stem_norm", "stem_norm", of.widths[0])
    for stage, (width, depth) in enumerate(zip(of.widths, of.depths, strict=True)):
        if stage:
            before = of.widths[stage - 1]
            norm(f"stage_{stage}_norm", f"stages.{stage}.norm", before)
            convolution(f"stage_{stage}_down", f"stages.{stage}.down", (width, before, 2, 2))
        for number in range(depth):
            layer, name = f"stage_{stage}_block_{number}", f"stages.{stage}.blocks.{number}"
            kernel = tensors.take(f"{name}.dw.weight", (width, 1, 7, 7)).transpose(2, 3, 0, 1)
            put(f"{layer}_dw", kernel, tensors.take(f"{name}.dw.bias", (width,)))
            norm(f"{layer}_norm", f"{name}.norm", width)
            put(f"{layer}_fc1", *_linear(of, tensors, f"{name}.fc1", width, 4 * width))
            kernel, bias = _linear(of, tensors, f"{name}.fc2", 4 * width, width)
            if of.family.has_grn:
                scale, offset = _response(of, tensors, f"{name}.grn", 4 * width)
                put(f"{layer}_grn", scale.reshape(1, 1, -1, 1))
                bias = bias + offset @ kernel
            if of.has_scale:
                scale = tensors.take(f"{name}.scale", (width,))
                kernel, bias = kernel * scale, bias * scale
            put(f"{layer}_fc2", kernel, bias)
    last = [tensors.take(f"norm.{one}", of.widths[-1:]) for one in ("weight", "bias")]
    for layer in (_NORM, _NORM_OF_MAP) if of.family.norm_of_map else (_NORM,):
        put(layer, *last)
    tensors.check_all_taken()


def _linear(
    of: Architecture, tensors: Tensors, name: str, n_in: int, n_out: int
) -> tuple[np.ndarray, np.ndarray]:
    shape = (n_out, n_in, 1, 1) if of.is_convolved else (n_out, n_in)
    kernel = tensors.take(f"{name}.weight", shape).reshape(n_out, n_in).T
    return kernel, tensors.take(f"{name}.bias", (n_out,))


def _response(
    of: Architecture, tensors: Tensors, name: str, width: int
) -> tuple[np.ndarray, np.ndarray]:
    shape = (width,) if of.family.grn_is_flat else (1, 1, 1, width)
    scale, offset = (tensors.take(f"{name}.{one}", shape) for one in ("weight", "bias"))
    return scale.ravel(), offset.ravel()
