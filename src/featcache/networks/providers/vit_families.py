"""Families of vision transformers: what a config.json says, and how each names its tensors.

Names are those of the files that are published, of those that newer transformers write, and timm's.
All are brought to one naming: patches, class_token, register_tokens, positions, pre_norm,
blocks.N.(norm1, q, k, v, out, scale1, norm2, fc1, fc2, scale2), norm, head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.checks import bad, check_choice, positive, whole_number
from featcache.core.errors import BackboneError
from featcache.networks import activations
from featcache.networks.checkpoint import CONFIG
from featcache.networks.interpolation import (
    Interpolated,
    bicubic,
    bicubic_antialias,
    bilinear_antialias,
)

Renamed = tuple[tuple[str, str], ...]

_LINEAR = (
    (r"attention\.attention\.query\.|attention\.q_proj\.|self_attn\.q_proj\.", "q."),
    (r"attention\.attention\.key\.|attention\.k_proj\.|self_attn\.k_proj\.", "k."),
    (r"attention\.attention\.value\.|attention\.v_proj\.|self_attn\.v_proj\.", "v."),
    (r"attention\.output\.dense\.|attention\.o_proj\.|self_attn\.out_proj\.", "out."),
    (r"(?<!attention\.)intermediate\.dense\.|mlp\.(fc1|weights_in|up_proj)\.", "fc1."),
    (r"(blocks\.\d+\.)output\.dense\.", r"\1fc2."),
    (r"mlp\.(fc2|weights_out|down_proj)\.", "fc2."),
    (r"mlp\.gate_proj\.", "gate."),
    (r"layernorm_before\.|layer_norm1\.", "norm1."),
    (r"layernorm_after\.|layer_norm2\.", "norm2."),
    (r"layer_scale([12])\.lambda1", r"scale\1"),
)
_OF_VIT = (
    (r"^(vit|deit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patches."),
    (r"^embeddings\.cls_token$", "class_token"),
    (r"^embeddings\.distillation_token$", "distillation_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "positions"),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"^layernorm\.", "norm."),
)
_OF_DINOV3 = (
    (r"^embeddings\.patch_embeddings\.", "patches."),
    (r"^embeddings\.cls_token$", "class_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^(model\.)?layer\.", "blocks."),
)
_OF_TIMM = (
    (r"^patch_embed\.proj\.", "patches."),
    (r"^cls_token$", "class_token"),
    (r"^reg_token$", "register_tokens"),
    (r"^pos_embed$", "positions"),
    (r"^head\.", "classifier."),
    (r"attn\.(q|k|v)\.", r"\1."),
    (r"attn\.proj\.", "out."),
    (r"mlp\.(fc1|fc2)\.", r"\1."),
    (r"ls([12])\.gamma$", r"scale\1"),
)
_OF_TOWER = (  # a vision tower beside one of text
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embedding\.", "patches."),
    (r"^embeddings\.class_embedding$", "class_token"),
    (r"^embeddings\.position_embedding\.weight$", "positions"),
    (r"^pre_layrnorm\.", "pre_norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"^post_layernorm\.", "norm."),
)
# heads of classification, what training hid, buffers, towers of text and what joins both
IGNORED = (
    r"^(classifier|cls_classifier|distillation_classifier|pooler|decoder|text_model|"
    r"text_projection|visual_projection|logit_scale|logit_bias)\b|mask_token|position_ids"
)


@dataclass(frozen=True)
class Family:
    """What a kind of vision transformer has."""

    names: Renamed
    is_tower: bool = False  # beside one of text: embeddings are (…, d), not (1, …, d)
    pooled: str = "cls"  # what its authors take of it: cls or attention
    n_distilled: int = 0  # tokens after the class token that have positions
    n_registers: int | None = None  # where the config does not say; None has none, whatever it says
    has_class: bool = True
    has_class_position: bool = True  # else it is part of the class token
    has_patch_bias: bool = True
    has_patch_matrix: bool = False  # (d, pixels * 3) instead of (d, 3, height, width)
    norm_of_all: bool = True  # else of the class token alone, when it is taken
    has_scale: bool = False
    is_rotary: bool = False  # queries and keys turn with the place of their patch; see `rotary`
    interpolated: Interpolated = bicubic  # positions, for another size of image
    epsilon: float = 1e-6  # of normalisation, where the config does not say
    activation: str = "gelu"


_TANH = "gelu_pytorch_tanh"
FAMILIES: dict[str, Family] = {
    "dinov2": Family(_OF_VIT + _LINEAR, has_scale=True),
    "dinov2_with_registers": Family(
        _OF_VIT + _LINEAR, n_registers=4, has_scale=True, interpolated=bicubic_antialias
    ),
    "dinov3_vit": Family(
        _OF_DINOV3 + _LINEAR, n_registers=0, has_scale=True, is_rotary=True, epsilon=1e-5
    ),
    "vit": Family(_OF_VIT + _LINEAR, epsilon=1e-12),
    "deit": Family(_OF_VIT + _LINEAR, n_distilled=1, epsilon=1e-12),
    "timm_vit": Family(_OF_TIMM, interpolated=bicubic_antialias),
    "timm_dinov2": Family(_OF_TIMM, has_scale=True, interpolated=bicubic_antialias),
    "timm_dinov2_with_registers": Family(
        _OF_TIMM,
        n_registers=4,
        has_class_position=False,
        has_scale=True,
        interpolated=bicubic_antialias,
    ),
    "siglip_vision_model": Family(
        _OF_TOWER + _LINEAR, True, "attention", has_class=False, activation=_TANH
    ),
    "siglip2_vision_model": Family(
        _OF_TOWER + _LINEAR,
        True,
        "attention",
        has_class=False,
        has_patch_matrix=True,
        interpolated=bilinear_antialias,
        activation=_TANH,
    ),
    "clip_vision_model": Family(
        _OF_TOWER + _LINEAR,
        True,
        has_patch_bias=False,
        norm_of_all=False,
        epsilon=1e-5,
        activation="quick_gelu",
    ),
}
_TOWERS = {  # of text and images
    "siglip": "siglip_vision_model",
    "siglip2": "siglip2_vision_model",
    "clip": "clip_vision_model",
}
KINDS = frozenset({*FAMILIES, *_TOWERS})  # as a config.json names them
# what a config leaves out, as transformers fills it in
_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
}
_OTHERS: dict[str, dict[str, int]] = {
    "dinov2": {"patch_size": 14},
    "dinov3_vit": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "clip_vision_model": {"patch_size": 32},
}
_GATED = ("use_swiglu_ffn", "use_gated_mlp")
_BIASES = {  # parts of a block by what says whether they have one
    "qkv_bias": ("q", "k", "v"),
    "query_bias": ("q",),
    "key_bias": ("k",),
    "value_bias": ("v",),
    "proj_bias": ("out",),
    "mlp_bias": ("fc1", "gate", "fc2"),
}


@dataclass(frozen=True)
class Architecture:
    """A vision transformer, from its config.json."""

    family: Family
    width: int  # of a token
    depth: int  # blocks
    n_heads: int
    mlp_width: int
    patch: tuple[int, int]  # pixels
    image_size: tuple[int, int]  # that positions are for
    epsilon: float
    activation: str
    n_registers: int
    without_bias: frozenset[str]  # parts of a block
    is_gated: bool  # one half of the layer in the middle gates the other, as SwiGLU does
    has_head: bool  # attention pooling
    theta: float  # of rotary positions, the base of their wavelengths


def architecture_of(config: Mapping[str, Any], folder: Path) -> Architecture:
    """Return what a config.json of one of `KINDS` describes.

    Raises
    ------
    BackboneError
        When it is not what its family has.
    """
    kind = str(config.get("model_type"))
    if kind in _TOWERS:
        kind, tower = _TOWERS[kind], config.get("vision_config")
        config = tower if isinstance(tower, Mapping) else {}
    family = FAMILIES[kind]
    try:
        return _architecture(config, kind, family)
    except (TypeError, ValueError) as error:
        raise BackboneError(f"'{folder / CONFIG}' is no config of a {kind}: {error}") from error


def _architecture(config: Mapping[str, Any], kind: str, family: Family) -> Architecture:
    says: dict[str, Any] = {**_BASE, **_OTHERS.get(kind, {}), **config}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    width, depth, n_heads, mlp_width = (whole_number(name, says[name], 1) for name in names)
    if width % n_heads:
        raise ValueError(f"{n_heads} heads do not part {width} numbers a token")
    if family.is_rotary and width // n_heads % 4:
        raise ValueError(f"{width // n_heads} numbers a head are no multiple of 4")
    is_gated = any(config.get(name, False) for name in _GATED)
    if "mlp_ratio" in config or kind.startswith("dinov2"):
        mlp_width = int(width * positive("mlp_ratio", config.get("mlp_ratio", 4)))
        mlp_width = (int(mlp_width * 2 / 3) + 7) // 8 * 8 if is_gated else mlp_width
    biases = {"key_bias": False} if kind == "dinov3_vit" else {}
    biases |= {name: bool(config[name]) for name in _BIASES if name in config}
    patch = _pair("patch_size", says["patch_size"])
    sides = config.get("image_size", 224)
    if "num_patches" in config:  # SigLIP 2 says how many patches a square of positions has
        n_patches = whole_number("num_patches", config["num_patches"], 1)
        sides = [round(n_patches**0.5) * side for side in patch]
    if family.n_registers is None:
        n_registers = 0
    else:
        registers = config.get("num_register_tokens", family.n_registers)
        n_registers = whole_number("num_register_tokens", registers, 0)
    activation = "silu"
    if not config.get("use_swiglu_ffn"):
        activation = config.get("hidden_act", family.activation)
    check_choice("hidden_act", activation, activations.KNOWN)
    return Architecture(
        family=family,
        width=width,
        depth=depth,
        n_heads=n_heads,
        mlp_width=mlp_width,
        patch=patch,
        image_size=_pair("image_size", sides),
        epsilon=positive("layer_norm_eps", config.get("layer_norm_eps", family.epsilon)),
        activation=activation,
        n_registers=n_registers,
        without_bias=frozenset(
            p for name, parts in _BIASES.items() for p in parts if not biases.get(name, True)
        ),
        is_gated=is_gated,
        has_head=family.pooled == "attention" and bool(config.get("vision_use_head", True)),
        theta=positive("rope_theta", config.get("rope_theta", 100.0)),
    )


def _pair(name: str, value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2:
        raise bad(name, "be one number, or height and width", value)
    return whole_number(name, sides[0], 1), whole_number(name, sides[1], 1)
