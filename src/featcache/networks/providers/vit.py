"""Vision transformers from folders as Hugging Face or timm lays them out: DINOv2, ViT, SigLIP, …

The folder's weights and its description identify a network; where it lies does not. Nothing is
downloaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.errors import SpecError
from featcache.networks import checkpoint
from featcache.networks.providers import folder, timm, vit_families, vit_network
from featcache.networks.providers.base import Entry, Provider

if TYPE_CHECKING:
    import keras


def entry_of(path: Path) -> Entry:
    """Return what a folder says of its network; see `folder.entry_of`."""
    of = vit_families.architecture_of(folder.config_of(path), path)
    pooling = of.family.pooled if of.has_head or of.family.has_class else "avg"
    return folder.entry_of(path, of.image_size, pooling)


def _build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    path = Path(weights)
    of = vit_families.architecture_of(folder.config_of(path.parent), path.parent)
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


# its networks have no names of their own: folders are given
PROVIDER = Provider({}, _build, identity=checkpoint.identity)
FOLDERS = folder.Folders(vit_families.KINDS, entry_of, PROVIDER)
