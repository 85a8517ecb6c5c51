"""How an image of any size becomes one of a network's."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from featcache.core.checks import bad

RESIZES = ("bilinear", "antialias", "bicubic")
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


def share_of(crop: str) -> float:
    """Return the share of a crop, 1 where none is said."""
    return 1.0 if crop in (NONE, CENTER) else float(crop.removeprefix(CENTER))


def crop_of(share: float) -> str:
    """Return the crop that takes a share of the sides."""
    return CENTER if share == 1 else f"{CENTER} {share:.9g}"


def check_crop(crop: object) -> None:
    """Raise SpecError unless a spec may have this crop."""
    if not isinstance(crop, str) or not re.fullmatch(r"none|center( 0\.\d*[1-9])?", crop):
        raise bad("crop", "be none, or center and a share below 1", crop)
