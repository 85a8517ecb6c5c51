"""Families of vision transformers: what a config.json says, and how each names its tensors.

Names are those of the files that are published, and of those that newer transformers write. All
are brought to one naming: patches, class_token, register_tokens, positions, pre_norm,
blocks.N.(norm1, q, k, v, out, scale1, norm2, fc1, fc2, scale2), norm, head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.errors import BackboneError
from featcache.networks.checkpoint import CONFIG

Renamed = tuple[tuple[str, str], ...]

_LINEAR = (
    (r"attention\.attention\.query\.|attention\.q_proj\.|self_attn\.q_proj\.", "q."),
    (r"attention\.attention\.key\.|attention\.k_proj\.|self_attn\.k_proj\.", "k."),
    (r"attention\.attention\.value\.|attention\.v_proj\.|self_attn\.v_proj\.", "v."),
    (r"attention\.output\.dense\.|attention\.o_proj\.|self_attn\.out_proj\.", "out."),
    (r"(?<!attention\.)intermediate\.dense\.|mlp\.fc1\.|mlp\.weights_in\.", "fc1."),
    (r"(blocks\.\d+\.)output\.dense\.", r"\1fc2."),
    (r"mlp\.fc2\.|mlp\.weights_out\.", "fc2."),
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
    has_class: bool = True
    has_patch_bias: bool = True
    norm_of_all: bool = True  # else of the class token alone, when it is taken
    has_scale: bool = False
    antialias: bool = False  # when positions are interpolated
    epsilon: float = 1e-6  # of normalisation, where the config does not say
    activation: str = "gelu"


FAMILIES: dict[str, Family] = {
    "dinov2": Family(_OF_VIT + _LINEAR, has_scale=True),
    "dinov2_with_registers": Family(_OF_VIT + _LINEAR, has_scale=True, antialias=True),
    "vit": Family(_OF_VIT + _LINEAR, epsilon=1e-12),
    "deit": Family(_OF_VIT + _LINEAR, n_distilled=1, epsilon=1e-12),
    "siglip_vision_model": Family(
        _OF_TOWER + _LINEAR, True, "attention", has_class=False, activation="gelu_pytorch_tanh"
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
_TOWERS = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}  # of text and images
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
_SIDES = {"dinov2": 224, "clip_vision_model": 224, "siglip_vision_model": 224}
_PATCHES = {"dinov2": 14, "clip_vision_model": 32}


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
    has_bias: bool  # of queries, keys and values
    is_gated: bool  # SwiGLU
    has_head: bool  # attention pooling


def architecture_of(config: Mapping[str, Any], folder: Path) -> Architecture:
    """Return what a config.json describes.

    Raises
    ------
    BackboneError
        When it is of no family that is known, or not what its family has.
    """
    kind = str(config.get("model_type"))
    if kind in _TOWERS:
        kind, tower = _TOWERS[kind], config.get("vision_config")
        config = tower if isinstance(tower, Mapping) else {}
    if kind not in FAMILIES:
        known = ", ".join(sorted({*FAMILIES, *_TOWERS}))
        raise BackboneError(
            f"'{folder / CONFIG}' describes a network of the kind {kind}; known are {known}."
        )
    family = FAMILIES[kind]
    try:
        return _architecture(config, kind, family)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise BackboneError(f"'{folder / CONFIG}' is no config of a {kind}: {error}") from error


def _architecture(config: Mapping[str, Any], kind: str, family: Family) -> Architecture:
    base = {**_BASE, "patch_size": _PATCHES.get(kind, 16)}
    width, depth, n_heads = (int(config.get(name, base[name])) for name in list(base)[:3])
    if width % n_heads:
        raise ValueError(f"{n_heads} heads do not part {width} numbers a token")
    is_gated = bool(config.get("use_swiglu_ffn", False))
    if "mlp_ratio" in config or kind.startswith("dinov2"):
        mlp_width = int(width * config.get("mlp_ratio", 4))
        mlp_width = (int(mlp_width * 2 / 3) + 7) // 8 * 8 if is_gated else mlp_width
    else:
        mlp_width = int(config.get("intermediate_size", 3072))
    return Architecture(
        family=family,
        width=width,
        depth=depth,
        n_heads=n_heads,
        mlp_width=mlp_width,
        patch=_pair(config.get("patch_size", base["patch_size"])),
        image_size=_pair(config.get("image_size", _SIDES.get(kind, 224))),
        epsilon=float(config.get("layer_norm_eps", family.epsilon)),
        activation=str(config.get("hidden_act", family.activation)),
        n_registers=int(config.get("num_register_tokens", 4)) if family.antialias else 0,
        has_bias=bool(config.get("qkv_bias", True)),
        is_gated=is_gated,
        has_head=family.pooled == "attention" and bool(config.get("vision_use_head", True)),
    )


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (list, tuple)):
        height, width = value
        return int(height), int(width)
    return int(value), int(value)
