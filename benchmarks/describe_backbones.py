"""Size and work of every backbone with a name, for `featcache backbones`.

    python benchmarks/describe_backbones.py

Builds each network without weights and writes src/featcache/networks/measures.json: parameters
(without a classifier), features, side in pixels, multiply-adds of one image, and the file that
Keras keeps its weights in. To be run when a network is added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.networks import registry
from featcache.networks.backbones import build
from featcache.networks.providers import convnext_families, convnext_network, vit_network
from featcache.networks.providers.vit_families import architecture_of
from featcache.networks.published import PUBLISHED

FILE = Path(registry.__file__).with_name("measures.json")


def sizes(width: int, heads: int, depth: int, mlp: int) -> dict[str, int]:
    """Return the fields of a config that all families share."""
    names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    return dict(zip(names, (width, heads, depth, mlp), strict=True))


SMALL, BASE, LARGE = (384, 6, 12, 1536), (768, 12, 12, 3072), (1024, 16, 24, 4096)
SO400M = (1152, 16, 27, 4304)
GATED3 = {"use_gated_mlp": True, "hidden_act": "silu"}
DINOV2 = {
    "small": sizes(*SMALL),
    "base": sizes(*BASE),
    "large": sizes(*LARGE),
    "giant": sizes(1536, 24, 40, 6144) | {"use_swiglu_ffn": True},
}
DINOV3 = {
    "small": sizes(*SMALL),
    "small-plus": sizes(*SMALL) | GATED3,
    "base": sizes(*BASE),
    "large": sizes(*LARGE),
    "huge-plus": sizes(1280, 20, 32, 5120) | GATED3,
}
SIGLIP = {  # and its side
    "base": (sizes(*BASE) | {"patch_size": 16}, 224),
    "large": (sizes(*LARGE) | {"patch_size": 16}, 256),
    "so400m": (sizes(*SO400M) | {"patch_size": 14}, 384),
}
CONFIGS: dict[str, tuple[dict[str, Any], int]] = {  # as they are published, and side of images
    **{
        f"dinov2-{size}{end}": (
            {"model_type": kind, "image_size": 518, "patch_size": 14} | one,
            224,
        )
        for size, one in DINOV2.items()
        for end, kind in (("", "dinov2"), ("-registers", "dinov2_with_registers"))
    },
    **{
        f"dinov3-{size}": ({"model_type": "dinov3_vit", "num_register_tokens": 4} | one, 224)
        for size, one in DINOV3.items()
    },
    **{
        f"{family}-{size}": ({"model_type": "siglip_vision_model", "image_size": side} | one, side)
        for family in ("siglip", "siglip2")
        for size, (one, side) in SIGLIP.items()
    },
    **{
        name: ({"model_type": "clip_vision_model", "patch_size": patch} | sizes(*one), 224)
        for name, patch, one in (
            ("clip-vit-b32", 32, BASE),
            ("clip-vit-b16", 16, BASE),
            ("clip-vit-l14", 14, LARGE),
        )
    },
    "vit-base": ({"model_type": "vit"} | sizes(*BASE), 224),
    "vit-large": ({"model_type": "vit"} | sizes(*LARGE), 224),
    "deit-base": ({"model_type": "deit"} | sizes(*BASE), 224),
}


CONVNEXT = {  # channels of the first stage, and blocks
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
    "large": (192, (3, 3, 27, 3)),
}
MAPS = {  # configs of networks that give maps; all take 224 pixels
    f"{family}-{size}": {
        "model_type": kind,
        "hidden_sizes": [width * 2**stage for stage in range(4)],
        "depths": depths,
    }
    for family, kind in (("convnextv2", "convnextv2"), ("dinov3-convnext", "dinov3_convnext"))
    for size, (width, depths) in CONVNEXT.items()
}


class Counted:
    """Tensors of zeros, of whatever shape is asked for, and how many numbers they have."""

    def __init__(self) -> None:
        self.n = 0

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        self.n += int(np.prod(shape))
        return np.zeros(shape, np.float32)

    def has(self, name: str) -> bool:
        return True

    def check_all_taken(self) -> None:
        """Say nothing: all that is asked for is there."""


def of_published(name: str) -> dict[str, Any]:
    """Measure a vision transformer by one and by two of its blocks, which are all alike."""
    config, side = CONFIGS[name]
    depth, found = config["num_hidden_layers"], []
    for n_blocks in (1, 2):
        of = architecture_of(config | {"num_hidden_layers": n_blocks}, Path())
        model, counted = vit_network.network(of, (side, side)), Counted()
        vit_network.load(model, of, counted)
        found.append(np.array([counted.n, multiply_adds(model)]))
    parameters, work = found[0] + (depth - 1) * (found[1] - found[0])
    return {
        "parameters": int(parameters),
        "features": config["hidden_size"],
        "image_size": side,
        "multiply_adds": int(work),
    }


def of_map(name: str) -> dict[str, Any]:
    """Measure a ConvNeXt."""
    of = convnext_families.architecture_of(MAPS[name], Path())
    model, counted = convnext_network.network(of, (224, 224)), Counted()
    convnext_network.load(model, of, counted)
    return {
        "parameters": counted.n,
        "features": of.widths[-1],
        "image_size": 224,
        "multiply_adds": multiply_adds(model),
    }


def of_catalogue(name: str) -> dict[str, Any]:
    """Measure a network of the registry, and see which file Keras would load."""
    keras = import_keras()
    from keras.src.utils import file_utils

    entry, files = registry.find(name), []
    side = entry.image_size
    assert isinstance(side, int)
    if registry.CATALOGUE[name] is registry.keras_applications.PROVIDER:
        remembered = mock.patch.object(
            file_utils, "get_file", lambda fname, *_, **__: files.append(fname) or fname
        )
        with remembered, mock.patch.object(keras.Model, "load_weights", return_value=None):
            model = build(name, "imagenet", (side, side))
    else:
        model = build(name, "random", (side, side))
    found = {
        "parameters": int(sum(np.prod(one.shape) for one in model.weights)),
        "features": int(model.output_shape[-1]),
        "image_size": side,
        "multiply_adds": multiply_adds(model),
    }
    return found | ({"file": files[-1]} if files else {})


def multiply_adds(model: Any) -> int:
    """Return how many multiplications with an addition one image takes, in what has weights."""
    layers, total = import_keras().layers, 0
    for one in getattr(model, "operations", model.layers):  # a Sequential has layers alone
        shape = one.output.shape[1:] if not isinstance(one.output, list) else ()
        if isinstance(one, import_keras().Model):  # ConvNeXt of Keras has some inside
            total += multiply_adds(one)
        elif isinstance(one, layers.Dense):
            total += int(np.prod(shape[:-1])) * int(np.prod(one.kernel.shape))
        elif isinstance(one, layers.SeparableConv2D):
            kernels = one.depthwise_kernel, one.pointwise_kernel
            total += int(np.prod(shape[:2])) * sum(int(np.prod(kernel.shape)) for kernel in kernels)
        elif isinstance(one, (layers.Conv2D, layers.DepthwiseConv2D)):
            total += int(np.prod(shape[:2])) * int(np.prod(one.kernel.shape))
        elif isinstance(one, layers.MultiHeadAttention):
            query, keys = one.input[0].shape[1], one.input[-1].shape[1]
            width = shape[-1]
            total += 2 * (query + keys) * width**2 + 2 * query * keys * width
        elif type(one).__name__ == "DotProductAttention":
            n_tokens, n_heads, size = shape
            total += 2 * n_tokens**2 * n_heads * size
    return total


def main() -> None:
    found = {}
    for name in [*registry.CATALOGUE, *PUBLISHED]:
        if name in MAPS:
            found[name] = of_map(name)
        else:
            found[name] = of_published(name) if name in CONFIGS else of_catalogue(name)
        print(name, found[name], flush=True)
        import_keras().backend.clear_session()
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
