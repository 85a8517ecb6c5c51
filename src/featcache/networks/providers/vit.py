"""Vision transformers from folders as Hugging Face or timm has them: DINOv2, SigLIP, …"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.errors import SpecError
from featcache.networks import checkpoint
from featcache.networks.providers import described, timm, vit_families, vit_network
from featcache.networks.providers.base import Entry

if TYPE_CHECKING:
    import keras


def entry_of(path: Path) -> Entry:
    """Return what a folder says of its network; see `described.entry_of`."""
    of = vit_families.architecture_of(described.config_of(path), path)
    pooling = of.family.pooled if of.has_head or of.family.has_class else "avg"
    return described.entry_of(path, of.image_size, pooling)


def _build(name: str, path: Path, image_size: tuple[int, int]) -> keras.Model:
    of = vit_families.architecture_of(described.config_of(path.parent), path.parent)
    if any(side < patch for side, patch in zip(image_size, of.patch, strict=True)):
        height, width = image_size
        raise SpecError(
            f"{name} does not take images of {height} x {width} pixels: its patches have "
            f"{of.patch[0]} x {of.patch[1]}."
        )
    tensors = checkpoint.Tensors(path, of.family.names, vit_families.IGNORED, timm.parts)
    model = vit_network.network(of, image_size)
    vit_network.load(model, of, tensors)
    return model


READER = described.Reader(vit_families.KINDS, entry_of, _build)
