"""ConvNeXt, its second version and DINOv3's, from folders as Hugging Face or timm has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.errors import SpecError
from featcache.networks import checkpoint
from featcache.networks.providers import convnext_families, convnext_network, described
from featcache.networks.providers.base import Entry

if TYPE_CHECKING:
    import keras


def entry_of(path: Path) -> Entry:
    """Return what a folder says of its network; see `described.entry_of`."""
    side = convnext_families.architecture_of(described.config_of(path), path).image_size
    return described.entry_of(path, (side, side), "avg")


def _build(name: str, path: Path, image_size: tuple[int, int]) -> keras.Model:
    of = convnext_families.architecture_of(described.config_of(path.parent), path.parent)
    height, width = image_size
    if min(image_size) < of.least_side:
        raise SpecError(
            f"{name} does not take images of {height} x {width} pixels: each side needs "
            f"{of.least_side}."
        )
    tensors = checkpoint.Tensors(path, of.family.names, convnext_families.IGNORED)
    model = convnext_network.network(of, image_size)
    convnext_network.load(model, of, tensors)
    return model


READER = described.Reader(convnext_families.KINDS, entry_of, _build)
