"""A vision transformer of stock Keras layers, which any Keras loads again without featcache.

Architecture: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), with what its families
changed. Class token, registers and positions are weights of a `Normalization` layer, which adds
them: it subtracts a mean, theirs with the sign turned, and divides by one. LayerScale is part of
the layer before it. Exact GELU is made of `keras.ops.erf`, which every export can write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks.activations import activated
from featcache.networks.checkpoint import Tensors
from featcache.networks.providers import vit_rotary
from featcache.networks.providers.vit_families import Architecture
from featcache.networks.taps import PATCHES
from featcache.networks.weights import set_weights

if TYPE_CHECKING:
    import keras

POOLED = "pooled"  # the layer that gives what the family's authors take


def network(of: Architecture, image_size: tuple[int, int]) -> keras.Model:
    """Return the untrained network, from RGB as it expects it.

    Its outputs are the tokens, (n, tokens, width), and what its authors take of them, (n, width):
    the class token after the last normalisation, or what attention pools. The first are those of
    the patches alone where the family has no class token.
    """
    keras = import_keras()
    layers = keras.layers
    inputs = keras.Input((*image_size, 3))
    use_bias = of.family.has_patch_bias
    x = layers.Conv2D(of.width, of.patch, of.patch, use_bias=use_bias, name=PATCHES)(inputs)
    _, height, width, _ = x.shape
    x = layers.Reshape((height * width, of.width), name="sequence")(x)
    n_before = n_prefix(of)
    if n_before:
        x = layers.ZeroPadding1D((n_before, 0), name="room_for_tokens")(x)
    x = layers.Normalization(axis=(1, 2), name="positions")(x)
    if not of.family.norm_of_all:
        x = _norm(of, "pre_norm")(x)
    for number in range(of.depth):
        x = _block(of, f"block_{number}", x)
    norm = _norm(of, "norm")
    if of.family.norm_of_all:
        x = norm(x)
    if of.has_head:
        return keras.Model(inputs, [x, _attention_pooled(of, x)])
    if not of.family.has_class:
        return keras.Model(inputs, x)
    first = layers.Cropping1D((0, x.shape[1] - 1), name="class_token")(x)
    if not of.family.norm_of_all:
        first = norm(first)
    return keras.Model(inputs, [x, layers.Flatten(name=POOLED)(first)])


def n_prefix(of: Architecture) -> int:
    """Return how many tokens come before those of the patches."""
    return int(of.family.has_class) + of.n_registers + of.family.n_distilled


def load(model: keras.Model, of: Architecture, tensors: Tensors) -> None:
    """Give a network the weights of a checkpoint.

    Raises
    ------
    BackboneError
        When a tensor is missing, left over or of another shape.
    """
    d = of.width

    def linear(name: str, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
        kernel = tensors.take(f"{name}.weight", (n_out, n_in)).T
        if name.rpartition(".")[2] in of.without_bias:
            return kernel, np.zeros(n_out, np.float32)
        return kernel, tensors.take(f"{name}.bias", (n_out,))

    def norm(layer: str, name: str) -> None:
        scale, offset = (tensors.take(f"{name}.{one}", (d,)) for one in ("weight", "bias"))
        model.get_layer(layer).set_weights([scale, offset])

    if of.family.has_patch_matrix:
        flat = tensors.take("patches.weight", (d, int(np.prod(of.patch)) * 3))
        kernel = flat.reshape(d, *of.patch, 3).transpose(1, 2, 3, 0)
    else:
        kernel = tensors.take("patches.weight", (d, 3, *of.patch)).transpose(2, 3, 1, 0)
    bias = [tensors.take("patches.bias", (d,))] if of.family.has_patch_bias else []
    model.get_layer(PATCHES).set_weights([kernel, *bias])
    _put_positions(model, of, tensors)
    if not of.family.norm_of_all:
        norm("pre_norm", "pre_norm")
    for number in range(of.depth):
        _load_block(model, of, f"block_{number}", f"blocks.{number}", tensors, linear, norm)
    norm("norm", "norm")
    if of.has_head:
        _load_head(model, of, tensors, linear, norm)
    tensors.check_all_taken()


Linear = Callable[[str, int, int], tuple[np.ndarray, np.ndarray]]
Norm = Callable[[str, str], None]


def _norm(of: Architecture, name: str) -> Any:
    return import_keras().layers.LayerNormalization(epsilon=of.epsilon, name=name)


def _block(of: Architecture, name: str, x: Any) -> Any:
    layers = import_keras().layers
    y = _norm(of, f"{name}_norm1")(x)
    x = layers.Add(name=f"{name}_add")([x, _attention(of, f"{name}_attention", y)])
    return layers.Add(name=name)([x, _mlp(of, name, _norm(of, f"{name}_norm2")(x))])


def _attention(of: Architecture, name: str, x: Any) -> Any:
    if of.family.is_rotary:
        return vit_rotary.attention(of, name, x)
    size = of.width // of.n_heads
    return import_keras().layers.MultiHeadAttention(of.n_heads, size, name=name)(x, x)


def _mlp(of: Architecture, name: str, x: Any) -> Any:
    layers = import_keras().layers
    y = layers.Dense(of.mlp_width, name=f"{name}_fc1")(x)
    if of.is_gated:
        gate = activated(of.activation, layers.Dense(of.mlp_width, name=f"{name}_gate")(x))
        y = layers.Multiply(name=f"{name}_gated")([gate, y])
    else:
        y = activated(of.activation, y)
    return layers.Dense(of.width, name=f"{name}_fc2")(y)


def _attention_pooled(of: Architecture, x: Any) -> Any:
    """One query that asks all tokens, and a network after it (Zhai et al. 2022)."""
    layers = import_keras().layers
    nothing = layers.Cropping1D((0, x.shape[1] - 1), name="one_token")(x)
    query = layers.Rescaling(0.0, name="no_token")(nothing)
    query = layers.Normalization(axis=(1, 2), name="probe")(query)
    attention = layers.MultiHeadAttention(
        of.n_heads, of.width // of.n_heads, name="pooling_attention"
    )
    x = attention(query, x)
    y = _mlp(of, "pooling", _norm(of, "pooling_norm")(x))
    return layers.Flatten(name=POOLED)(layers.Add(name="pooling_add")([x, y]))


def _put_positions(model: keras.Model, of: Architecture, tensors: Tensors) -> None:
    """Let the layer of the positions add tokens and positions, for this size of image."""
    d, family = of.width, of.family
    old = tuple(side // patch for side, patch in zip(of.image_size, of.patch, strict=True))
    new = model.get_layer(PATCHES).output.shape[1:3]
    n_special = int(family.has_class and family.has_class_position) + family.n_distilled
    shape = (n_special + old[0] * old[1], d)
    positions: np.ndarray = np.zeros(shape, np.float32)
    if not family.is_rotary:
        positions = tensors.take("positions", shape if family.is_tower else (1, *shape))
        positions = positions.reshape(shape)
    grid = positions[n_special:].reshape(*old, d)
    if tuple(new) != old:
        grid = family.interpolated(grid, tuple(new))
    rows = []
    if family.has_class:
        token = tensors.take("class_token", (d,) if family.is_tower else (1, 1, d)).reshape(1, d)
        rows.append(token + positions[:1] if family.has_class_position else token)
    if family.n_distilled:
        rows.append(tensors.take("distillation_token", (1, 1, d))[0] + positions[1:2])
    if of.n_registers:
        rows.append(tensors.take("register_tokens", (1, of.n_registers, d))[0])
    added = np.concatenate([*rows, grid.reshape(-1, d)])
    add_always(model.get_layer("positions"), added)


def add_always(layer: Any, added: np.ndarray) -> None:
    """Let a `Normalization` layer add (tokens, width) to whatever it is given."""
    count = np.zeros((), layer.weights[2].dtype)
    set_weights(layer, [-added, np.ones_like(added), count])


def _load_block(
    model: keras.Model,
    of: Architecture,
    layer: str,
    name: str,
    tensors: Tensors,
    linear: Linear,
    norm: Norm,
) -> None:
    d, hidden = of.width, of.mlp_width
    norm(f"{layer}_norm1", f"{name}.norm1")
    norm(f"{layer}_norm2", f"{name}.norm2")
    inside = [linear(f"{name}.{one}", d, d) for one in ("q", "k", "v")]
    outside = _scaled(linear(f"{name}.out", d, d), of, f"{name}.scale1", tensors)
    _put_attention(model, of, f"{layer}_attention", inside, outside)
    if of.is_gated and tensors.has(f"{name}.gate.weight"):
        model.get_layer(f"{layer}_gate").set_weights(linear(f"{name}.gate", d, hidden))
        model.get_layer(f"{layer}_fc1").set_weights(linear(f"{name}.fc1", d, hidden))
    elif of.is_gated:  # side by side
        kernel, bias = linear(f"{name}.fc1", d, 2 * hidden)
        model.get_layer(f"{layer}_gate").set_weights([kernel[:, :hidden], bias[:hidden]])
        model.get_layer(f"{layer}_fc1").set_weights([kernel[:, hidden:], bias[hidden:]])
    else:
        model.get_layer(f"{layer}_fc1").set_weights(linear(f"{name}.fc1", d, hidden))
    last = _scaled(linear(f"{name}.fc2", hidden, d), of, f"{name}.scale2", tensors)
    model.get_layer(f"{layer}_fc2").set_weights(last)


def _scaled(
    linear: tuple[np.ndarray, np.ndarray], of: Architecture, name: str, tensors: Tensors
) -> tuple[np.ndarray, np.ndarray]:
    if not of.family.has_scale:
        return linear
    scale = tensors.take(name, (of.width,))
    return linear[0] * scale, linear[1] * scale


def _put_attention(
    model: keras.Model, of: Architecture, layer: str, inside: Any, outside: Any
) -> None:
    """Set kernels (d, d) and biases (d,) of queries, keys and values, and of what comes out."""
    if of.family.is_rotary:
        for one, weights in zip(("q", "k", "v", "out"), (*inside, outside), strict=True):
            model.get_layer(f"{layer}_{one}").set_weights(weights)
        grid = model.get_layer(PATCHES).output.shape[1:3]
        for one, table in vit_rotary.turns(of, grid, n_prefix(of)).items():
            add_always(model.get_layer(f"{layer}_{one}"), table)
        return
    size = of.width // of.n_heads
    weights = []
    for kernel, bias in inside:
        weights += [kernel.reshape(-1, of.n_heads, size), bias.reshape(of.n_heads, size)]
    weights += [outside[0].reshape(of.n_heads, size, -1), outside[1]]
    model.get_layer(layer).set_weights(weights)


def _load_head(
    model: keras.Model, of: Architecture, tensors: Tensors, linear: Linear, norm: Norm
) -> None:
    d = of.width
    add_always(model.get_layer("probe"), tensors.take("head.probe", (1, 1, d))[0])
    kernels = tensors.take("head.attention.in_proj_weight", (3 * d, d)).reshape(3, d, d)
    biases = tensors.take("head.attention.in_proj_bias", (3 * d,)).reshape(3, d)
    inside = [(kernel.T, bias) for kernel, bias in zip(kernels, biases, strict=True)]
    outside = linear("head.attention.out_proj", d, d)
    _put_attention(model, of, "pooling_attention", inside, outside)
    norm("pooling_norm", "head.layernorm")
    model.get_layer("pooling_fc1").set_weights(linear("head.fc1", d, of.mlp_width))
    model.get_layer("pooling_fc2").set_weights(linear("head.fc2", of.mlp_width, d))
