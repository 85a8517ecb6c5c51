"""timm's folders in Hugging Face's words: what an `architecture` is, and what its images are.

A config.json of timm names an architecture and what was changed of it (`model_args`); the sizes
that the name stands for are here. Weights are in a `model.safetensors` as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.checks import bad, positive, whole_number
from featcache.core.errors import BackboneError
from featcache.networks.preprocessing import IMAGENET_STATISTICS

# width, blocks, heads
_VIT = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
_GIANT = (1536, 40, 24)  # of DINOv2, with SwiGLU
# width of the first stage, which doubles from one to the next, and blocks of each
_CONVNEXT = {
    "atto": (40, (2, 2, 6, 2)),
    "femto": (48, (2, 2, 6, 2)),
    "pico": (64, (2, 2, 6, 2)),
    "nano": (80, (2, 2, 8, 2)),
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
    "large": (192, (3, 3, 27, 3)),
    "xlarge": (256, (3, 3, 27, 3)),
    "huge": (352, (3, 3, 27, 3)),
}
# numbers that Pillow has for them
_RESIZES = {"lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_CONVOLVED = ("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano")
_PATTERN_OF_VIT = re.compile(r"(?:vit|deit)_(\w+?)_patch(\d+)_\d+")
_PATTERN_OF_DINOV2 = re.compile(r"vit_(\w+?)_patch(\d+)(?:_reg(\d+))?_dinov2")
_PATTERN_OF_CONVNEXT = re.compile(r"convnext(v2)?_([a-z]+)")
# arguments by what Hugging Face calls them; others change what is not known here
_SAME = {
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "patch_size": "patch_size",
    "img_size": "image_size",
    "qkv_bias": "qkv_bias",
    "reg_tokens": "num_register_tokens",
    "mlp_ratio": "mlp_ratio",
    "dims": "hidden_sizes",
    "depths": "depths",
    "conv_mlp": "conv_mlp",
}
_WITHOUT_EFFECT = re.compile(
    r"num_classes|in_chans|global_pool|init_values|ls_init_value|dynamic_img_(size|pad)|.*drop.*|"
    r"strict_img_size|no_embed_class|use_grn"
)


def is_described(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is one of timm."""
    return "architecture" in config and "model_type" not in config


def config_of(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what a config.json of timm describes.

    Raises
    ------
    BackboneError
        When the architecture is not known, or was changed in ways that are not.
    """
    architecture = str(config["architecture"]).partition(".")[0]
    found = _vit(architecture) or _convnext(architecture)
    if found is None:
        raise BackboneError(
            f"'{path}' describes timm's architecture {architecture}; known are "
            f"vit_SIZE_patchN_SIDE, vit_SIZE_patchN_dinov2, vit_SIZE_patchN_reg4_dinov2, "
            f"convnext_SIZE and convnextv2_SIZE."
        )
    changes = config.get("model_args", {})
    if not isinstance(changes, Mapping):
        raise BackboneError(f"'{path}': model_args must be an object, got {changes!r}.")
    found["image_size"] = _sides(config, path)
    for name, value in changes.items():
        if name in _SAME:
            found[_SAME[name]] = value
        elif not _WITHOUT_EFFECT.fullmatch(name):
            raise BackboneError(
                f"'{path}' changes {architecture} by {name} = {value!r}, which is not known; known "
                f"are {', '.join(_SAME)}."
            )
    if "hidden_size" in found:
        _finish_vit(found, config, path)
    return found


def _finish_vit(found: dict[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Put the width of the layers in the middle in, which timm has as a ratio."""
    try:
        width = int(found["hidden_size"] * found.pop("mlp_ratio"))
    except (TypeError, ValueError) as error:
        raise BackboneError(
            f"'{path}' is no config of {config['architecture']}: {error}"
        ) from error
    found["intermediate_size"] = width // 2 if found["use_swiglu_ffn"] else width  # both halves
    if config.get("global_pool", "token") not in ("token", ""):
        raise BackboneError(
            f"'{path}' pools by {config['global_pool']}; known is token, the class token."
        )


def _vit(architecture: str) -> dict[str, Any] | None:
    if match := _PATTERN_OF_DINOV2.fullmatch(architecture):
        size, patch, n_registers = match.groups()
        kind = "timm_dinov2_with_registers" if n_registers else "timm_dinov2"
    elif match := _PATTERN_OF_VIT.fullmatch(architecture):
        (size, patch), n_registers, kind = match.groups(), None, "timm_vit"
    else:
        return None
    is_giant = size == "giant" and kind != "timm_vit"
    if size not in _VIT and not is_giant:
        return None
    width, depth, n_heads = _GIANT if is_giant else _VIT[size]
    return {
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": n_heads,
        "patch_size": int(patch),
        "num_register_tokens": int(n_registers or 0),
        "mlp_ratio": 2.66667 * 2 if is_giant else 4,
        "use_swiglu_ffn": is_giant,
    }


def _convnext(architecture: str) -> dict[str, Any] | None:
    match = _PATTERN_OF_CONVNEXT.fullmatch(architecture)
    if match is None or match[2] not in _CONVNEXT:
        return None
    width, depths = _CONVNEXT[match[2]]
    return {
        "model_type": "timm_convnextv2" if match[1] else "timm_convnext",
        "hidden_sizes": [width * 2**stage for stage in range(4)],
        "depths": list(depths),
        "conv_mlp": architecture in _CONVOLVED,
    }


def images_of(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what a config.json of timm says of images, as a preprocessor_config.json would.

    Raises
    ------
    BackboneError
        When it says no size, or of what share the middle is taken.
    """
    says = _images(config)
    mean, deviation = map(list, IMAGENET_STATISTICS)  # timm's own where nothing is said
    found = {"image_mean": says.get("mean", mean), "image_std": says.get("std", deviation)}
    height, width = _sides(config, path)
    found["resample"] = _RESIZES.get(str(says.get("interpolation", "bicubic")), 0)
    found["size"] = {"height": height, "width": width}
    mode = says.get("crop_mode", "center")
    try:
        share = positive("crop_pct", says.get("crop_pct") or 0.875)
    except ValueError as error:
        raise BackboneError(f"'{path}': {error}") from error
    if mode == "center" or (mode == "squash" and share < 1):
        found |= {"do_center_crop": True, "crop_size": found["size"]}
        found["size"] = {"shortest_edge": int(min(height, width) / share)}
        if mode == "squash":
            found["size"] = {"height": int(height / share), "width": int(width / share)}
    return found


def _sides(config: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Return height and width of images, in pixels."""
    size = _images(config).get("input_size", (3, 224, 224))
    try:
        if not isinstance(size, (list, tuple)) or len(size) != 3:
            raise bad("input_size", "be three numbers", size)
        return whole_number("input_size", size[1], 1), whole_number("input_size", size[2], 1)
    except ValueError as error:
        raise BackboneError(f"'{path}': {error}") from error


def _images(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("pretrained_cfg", config)  # older files have it all at the top
    return found if isinstance(found, Mapping) else {}


def parts(name: str, array: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    """Return what a tensor stands for: queries, keys and values lie in one."""
    if ".qkv." not in name:
        return [(name, array)]
    three = np.array_split(array, 3)
    return [
        (name.replace(".qkv.", f".{one}."), part) for one, part in zip("qkv", three, strict=True)
    ]
