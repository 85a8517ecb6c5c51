"""How an image of any size becomes one of a network's."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from featcache.core.checks import bad
from featcache.core.errors import SpecError

LETTERBOX = "letterbox"
RESIZES = ("bilinear", "antialias", "bicubic", LETTERBOX)
GREY = 127  # what a letterbox has beside the image: next to the mean that most networks subtract
NONE, CENTER = "none", "center"  # crops; a share below 1 follows: "center 0.875"


class Geometry(NamedTuple):
    """What of an image is taken, at which size, and how it is interpolated."""

    image_size: tuple[int, int]  # height, width in pixels
    resize: str  # one of RESIZES
    crop: str = NONE

    @property
    def share(self) -> float:
        """How much of the largest part of the right proportions is taken, a side; 1 is all."""
        return share_of(self.crop)

    @property
    def side(self) -> int:
        """The longer side, in pixels, of what the part was taken from at this size."""
        return math.ceil(max(self.image_size) / self.share)


class Placement(NamedTuple):
    """Where images lie in a network's: places (y, x) become scales * (y, x) + offsets."""

    scales: np.ndarray  # (n, 2) float64
    offsets: np.ndarray  # (n, 2) float64, pixels


def inside(sizes: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
    """Return (n, 2) int64: the largest sizes of the same proportions that fit into `wanted`.

    In whole numbers, so that TensorFlow's twin of it (`image_ops`) never differs by a rounding.

    Parameters
    ----------
    sizes : (n, 2) int, heights and widths in pixels, 1 or more.
    """
    height, width = np.asarray(sizes, np.int64).T
    most_high, most_wide = wanted
    high = np.minimum(most_high, (2 * height * most_wide + width) // (2 * width))
    wide = np.minimum(most_wide, (2 * width * most_high + height) // (2 * height))
    return np.asarray(np.maximum(np.stack([high, wide], axis=1), 1))


def placement(sizes: np.ndarray, geometry: Geometry) -> Placement:
    """Return where whole images (no crop) of sizes (n, 2), upright, lie at a geometry's size."""
    sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
    wanted = np.array(geometry.image_size, np.int64)
    if geometry.resize != LETTERBOX:
        return Placement(wanted / sizes, np.zeros(sizes.shape))
    new = inside(sizes, geometry.image_size)
    return Placement(new / sizes, ((wanted - new) // 2).astype(np.float64))


def share_of(crop: str) -> float:
    """Return the share of a crop, 1 where none is said."""
    return 1.0 if crop in (NONE, CENTER) else float(crop.removeprefix(CENTER))


def crop_of(share: float) -> str:
    """Return the crop that takes a share of the sides."""
    return CENTER if share == 1 else f"{CENTER} {share:.9g}"


def check_crop(crop: object, resize: object = None) -> None:
    """Raise SpecError unless a spec may have this crop, with this way to resize."""
    if not isinstance(crop, str) or not re.fullmatch(r"none|center( 0\.\d*[1-9])?", crop):
        raise bad("crop", "be none, or center and a share below 1", crop)
    if resize == LETTERBOX and crop != NONE:
        raise SpecError("letterbox keeps all of an image; leave out crop, or resize otherwise.")
