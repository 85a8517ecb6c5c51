"""The selected head's heat maps against masks of the held-out images, where there are any."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featcache import store
from featcache.core.errors import HeadError, one_line
from featcache.core.text import counted
from featcache.data import loading, openers
from featcache.data.listing import list_images
from featcache.heads.anomaly import AnomalyHead
from featcache.heads.anomaly.base import ANOMALY
from featcache.scoring.places import scores_of_places

MOST_IMAGES = 500  # whose every pixel is compared, spread over all


def place_scores(
    head: AnomalyHead, features: store.Features, rows: np.ndarray, y: np.ndarray
) -> tuple[dict[str, float], str]:
    """Return what `scores_of_places` gives of images, and a remark; {} where nothing can be said.

    An image that is good has no place to find; of an anomaly without a mask nothing is known, so it
    is left out.

    Parameters
    ----------
    rows : (m,) of the feature file.
    y : (m,) 0 of good images.

    Raises
    ------
    HeadError
        When a mask is gone, cannot be read, or is not of its image's size.
    """
    masks = features.annotations.masks
    if masks is None or not head.has_heat_maps:
        return {}, ""
    named = np.array([bool(masks[row]) for row in rows.tolist()])
    known = np.flatnonzero(named | (y != ANOMALY))
    if not named.any():
        return {}, ""
    known = known[np.linspace(0, len(known) - 1, min(len(known), MOST_IMAGES)).round().astype(int)]
    seen = np.zeros((len(known), *features.spec.image_size), bool)
    at = np.flatnonzero(named[known])
    seen[at] = _read(features, rows[known[at]])
    maps = np.concatenate([_as_large(head, features, row) for row in rows[known].tolist()])
    left = int(np.sum(y == ANOMALY) - np.sum(named & (y == ANOMALY)))
    also = f"; {counted(left, 'anomaly', 'anomalies')} without one left out" if left else ""
    return scores_of_places(maps, seen), f"{counted(len(at), 'mask')}{also}"


def _as_large(head: AnomalyHead, features: store.Features, row: int) -> np.ndarray:
    """Return (1, height, width): a heat map at the size of the network's images."""
    from PIL import Image

    (heat,) = head.heat_maps(features.read_rows([row]))
    size = features.spec.image_size
    large = Image.fromarray(heat).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(large)[None]


def _read(features: store.Features, rows: np.ndarray) -> np.ndarray:
    """Return (m, height, width) bool: masks as a network sees their images, not black is odd."""
    masks = features.annotations.masks
    assert masks is not None
    folder = _folder(features)
    read = [_mask(folder / masks[row], folder / features.ids[row]) for row in rows.tolist()]
    listing = list_images(openers.open_source(read))
    pixels, _ = loading.read(listing, np.arange(len(read)), spec=features.spec.clean, batch_size=32)
    return np.asarray(pixels[..., 0] > 127)


def _mask(path: Path, image: Path) -> np.ndarray:
    """Return a mask (height, width, 3) uint8 of 0 and 255, as large as its image."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise HeadError(
            f"The mask '{path}' of '{image.name}' does not exist. Put it there, or leave the cell "
            f"empty and extract again."
        )
    try:
        with Image.open(path) as mask, Image.open(image) as seen:
            found = np.asarray(mask.convert("L"))
            size = ImageOps.exif_transpose(seen).size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise HeadError(
            f"The mask '{path}' of '{image.name}' cannot be read: {one_line(error)}."
        ) from error
    if found.shape[::-1] != size:
        raise HeadError(
            f"The mask '{path}' is {found.shape[1]} x {found.shape[0]} pixels, and its image "
            f"'{image.name}' {size[0]} x {size[1]}. A mask is as large as its image; mend it, or "
            f"leave the cell empty and extract again."
        )
    return np.repeat(np.where(found > 0, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def _folder(features: store.Features) -> Path:
    """Return the folder that the paths of masks are relative to, as those of the images are."""
    root = features.provenance.get("source_options", {}).get("root")
    source = Path(str(features.provenance.get("source", "")))
    folder = Path(root) if root else source.parent
    if not folder.is_dir():
        raise HeadError(
            f"The masks of '{features.path}' lie below '{folder}', which is no folder here. Put "
            f"them back, or leave the column mask out and extract again."
        )
    return folder
