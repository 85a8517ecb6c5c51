"""Families of ConvNeXt: what a config.json says, and how each names its tensors.

Names are brought to one naming: stem, stem_norm, stages.I.(norm, down), stages.I.blocks.J.(dw,
norm, fc1, grn, fc2, scale), norm.
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

_OF_CONVNEXT = (
    (r"^convnext(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.", "stem."),
    (r"^embeddings\.layernorm\.", "stem_norm."),
    (r"^encoder\.", ""),
    (r"^layernorm\.", "norm."),
    (r"downsampling_layer\.0\.", "norm."),
    (r"downsampling_layer\.1\.", "down."),
    (r"\.layers\.", ".blocks."),
    (r"\.dwconv\.", ".dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv([12])\.", r".fc\1."),
    (r"\.layer_scale_parameter$", ".scale"),
)
_OF_DINOV3 = (
    (r"^model\.", ""),
    (r"^layer_norm\.", "norm."),
    (r"^stages\.0\.downsample_layers\.0\.", "stem."),
    (r"^stages\.0\.downsample_layers\.1\.", "stem_norm."),
    (r"downsample_layers\.0\.", "norm."),
    (r"downsample_layers\.1\.", "down."),
    (r"\.layers\.", ".blocks."),
    (r"\.depthwise_conv\.", ".dw."),
    (r"\.layer_norm\.", ".norm."),
    (r"\.pointwise_conv([12])\.", r".fc\1."),
    (r"\.gamma$", ".scale"),
)
_OF_TIMM = (
    (r"^stem\.0\.", "stem."),
    (r"^stem\.1\.", "stem_norm."),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "classifier."),
    (r"downsample\.0\.", "norm."),
    (r"downsample\.1\.", "down."),
    (r"\.conv_dw\.", ".dw."),
    (r"\.mlp\.", "."),
    (r"\.gamma$", ".scale"),
)
IGNORED = r"^classifier\."


@dataclass(frozen=True)
class Family:
    """What a kind of ConvNeXt has."""

    names: tuple[tuple[str, str], ...]
    has_scale: bool = True  # LayerScale, where the config does not leave it out
    has_grn: bool = False  # global response normalisation
    grn_is_flat: bool = False  # weights of (channels,) instead of (1, 1, 1, channels)
    norm_of_map: bool = False  # also of each place of the map, and not of the mean alone
    epsilon: float = 1e-6  # of normalisation, the last one's where the config does not say


FAMILIES = {
    "convnext": Family(_OF_CONVNEXT, epsilon=1e-12),
    "convnextv2": Family(_OF_CONVNEXT, has_scale=False, has_grn=True, epsilon=1e-12),
    "dinov3_convnext": Family(_OF_DINOV3, norm_of_map=True),
    "timm_convnext": Family(_OF_TIMM),
    "timm_convnextv2": Family(_OF_TIMM, has_scale=False, has_grn=True, grn_is_flat=True),
}
KINDS = frozenset(FAMILIES)  # as a config.json names them


@dataclass(frozen=True)
class Architecture:
    """A ConvNeXt, from its config.json."""

    family: Family
    widths: tuple[int, ...]  # channels of each stage
    depths: tuple[int, ...]  # blocks of each stage
    patch: int  # pixels, of the stem
    image_size: int
    epsilon: float  # of the last normalisation
    inner_epsilon: float  # of all others
    activation: str
    has_scale: bool
    is_convolved: bool  # weights of its linear layers are those of 1 x 1 convolutions

    @property
    def least_side(self) -> int:
        """Pixels that give a map of one place."""
        return int(self.patch * 2 ** (len(self.widths) - 1))


def architecture_of(config: Mapping[str, Any], folder: Path) -> Architecture:
    """Return what a config.json of one of `KINDS` describes.

    Raises
    ------
    BackboneError
        When it is not what its family has.
    """
    kind = str(config["model_type"])
    try:
        return _architecture(config, FAMILIES[kind])
    except (TypeError, ValueError) as error:
        raise BackboneError(f"'{folder / CONFIG}' is no config of a {kind}: {error}") from error


def _architecture(config: Mapping[str, Any], family: Family) -> Architecture:
    widths = _wholes("hidden_sizes", config.get("hidden_sizes") or [96, 192, 384, 768])
    depths = _wholes("depths", config.get("depths") or [3, 3, 9, 3])
    if len(widths) != len(depths):
        raise ValueError(f"{len(widths)} hidden_sizes do not go with {len(depths)} depths")
    epsilon = positive("layer_norm_eps", config.get("layer_norm_eps", family.epsilon))
    size = config.get("image_size", 224)
    activation = config.get("hidden_act", "gelu")
    check_choice("hidden_act", activation, activations.KNOWN)
    return Architecture(
        family=family,
        widths=widths,
        depths=depths,
        patch=whole_number("patch_size", config.get("patch_size", 4), 1),
        image_size=min(_wholes("image_size", size if isinstance(size, (list, tuple)) else [size])),
        epsilon=epsilon,
        inner_epsilon=epsilon if family.norm_of_map else 1e-6,
        activation=activation,
        has_scale=family.has_scale and config.get("layer_scale_init_value", 1e-6) > 0,
        is_convolved=bool(config.get("conv_mlp", False)),
    )


def _wholes(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise bad(name, "be a list of whole numbers", values)
    return tuple(whole_number(name, value, 1) for value in values)
