"""Values of more than 8 bits, and which of them are black and white.

Networks see 0 to 255. What a format or a file says is white is white: of 16 bits 65,535, of a TIFF
of 12 bits 4,095. Floats that all lie from 0 to 1 are shown as viewers show them. A declared range
comes before that. Where nothing says which values are black and white, there is no picture: scaled
by its own extremes, every image would be scaled otherwise.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from featcache.data.damage import UnreadableImageError

Range = Optional[tuple[float, float]]  # the values that become 0 and 255, where they are known

DARK = 16  # the level that 12 bits reach in a file of 16
READ_BY_RANGE = b"values read by their range"  # goes into the digest of what was read otherwise
STARTS = (b"II", b"MM", b"Pf")  # of files that may have been
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_SIXTEEN, _UNIT = (0.0, 65535.0), (0.0, 1.0)
_HALF_A_LEVEL = 0.5 / 255  # beyond a range by less than that, the level is the same


@dataclass(frozen=True)
class Kind:
    """What a Pillow image's file says of its values, as long as they are not loaded."""

    is_deep: bool  # one channel of more than 8 bits
    is_deep_colour: bool  # several, of which Pillow reads the 8 high bits
    known: Range
    unit: float | None  # of the file's values in those that Pillow gives; None is not known
    is_unsigned: bool
    is_negative: bool  # the least value is white
    transparent: int | None  # value

    @property
    def was_misread(self) -> bool:
        """Whether pictures made before ranges were known are others."""
        return self.is_deep and (self.known != _SIXTEEN or self.is_negative)


@dataclass(frozen=True)
class Samples:
    """The values of a deep image, upright, before it is known which are black and white."""

    kind: Kind
    values: np.ndarray  # (height, width)

    @classmethod
    def of(cls, kind: Kind, image: Any) -> Samples:
        """Return those of a loaded Pillow image."""
        values = np.asarray(image)
        # Pillow keeps 32 bits without a sign as if they had one
        return cls(kind, values.view(np.uint32) if kind.is_unsigned else values)

    @property
    def identity(self) -> bytes:
        """What tells them from any others, whichever range is declared."""
        kind, values = self.kind, self.values
        facts = [kind.known, kind.unit, kind.is_negative, kind.transparent]
        told = json.dumps([*facts, values.shape, str(values.dtype)])
        return told.encode() + values.tobytes()

    def pixels(self, declared: Range) -> np.ndarray:
        """Return the picture, (height, width, 3) uint8, or 4 where it is transparent.

        Raises
        ------
        UnreadableImageError
            When neither `declared` nor the file says what is black and white, or a value is not
            finite.
        """
        values, transparent = self.values, self.kind.transparent
        low, high = self._range(declared)
        is_long = values.dtype.kind in "iu" and values.dtype.itemsize > 2  # too long for float32
        exact = values.astype(np.float64 if is_long else np.float32)
        grey = ((exact - low) * (255.0 / (high - low))).round().clip(0, 255).astype(np.uint8)
        if self.kind.is_negative:
            grey = 255 - grey
        if transparent is None:
            return np.repeat(grey[..., None], 3, axis=-1)
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        return np.stack([grey, grey, grey, alpha], axis=-1)

    def _range(self, declared: Range) -> tuple[float, float]:
        least, most = float(self.values.min()), float(self.values.max())
        known, unit = self.kind.known, self.kind.unit
        if not np.isfinite([least, most]).all():
            raise UnreadableImageError("it has values that are not finite")
        if declared is not None and unit is not None:
            return declared[0] * unit, declared[1] * unit
        if declared is None and known is not None:
            return known
        is_unit = least > -_HALF_A_LEVEL and most < 1 + _HALF_A_LEVEL
        if declared is None and is_unit and self.values.dtype.kind == "f":
            return _UNIT
        raise UnreadableImageError(
            f"its values go from {least:g} to {most:g}, and nothing says which are black and "
            f"white; convert it to 8 bits, or extract with --value-range LOW HIGH"
        )


def kind_of(image: Any) -> Kind:
    """Return what is known of the values of a Pillow image; loading makes it forget some of it."""
    tags = getattr(image, "tag_v2", {})
    is_sixteen = image.mode.startswith("I;16")
    is_deep = is_sixteen or image.mode in ("I", "F")
    white, packing = _stored(image)
    is_known = is_sixteen or (image.mode == "I" and image.format in ("PNG", "PPM"))
    is_unsigned = image.mode == "I" and bool(tags) and _first(tags, _SAMPLE_FORMAT, 1) == 1
    return Kind(
        is_deep=is_deep,
        is_deep_colour=not is_deep and (";16" in packing or 255 < (white or 0) < 65535),
        known=(0.0, 2.0 ** _first(tags, _BITS, 16) - 1) if is_known else None,
        unit=65535 / white if white else None,
        is_unsigned=is_unsigned,
        is_negative=_first(tags, _PHOTOMETRIC, 1) == 0,
        transparent=image.info.get("transparency") if is_deep else None,
    )


def was_misread(data: bytes) -> bool:
    """Return whether a file's picture was another one before ranges were known."""
    kind = _kind_of_file(data)
    return kind is not None and kind.was_misread


def is_deep(raw: Any) -> bool:
    """Return whether what a source gives for an image has more than 8 bits a value."""
    kind = _kind_of_file(raw) if isinstance(raw, bytes) else getattr(raw, "kind", None)
    return kind is not None and (kind.is_deep or kind.is_deep_colour)


def _kind_of_file(data: bytes) -> Kind | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["TIFF", "PPM", "PNG"]) as image:
            return kind_of(image)
    except Exception:  # of what is damaged there is no picture
        return None


def _stored(image: Any) -> tuple[int | None, str]:
    """Return the value of white in a PPM file, which Pillow makes 65,535, and how pixels lie."""
    tiles = getattr(image, "tile", ())
    if not tiles:  # loaded already
        return (None if image.format == "PPM" else 65535), ""
    decoder, _, _, how = tiles[0]
    return (how[-1] if decoder.startswith("ppm") else 65535), str(how)


def _first(tags: Any, number: int, default: int) -> int:
    found = tags.get(number, default)
    return int(found[0] if isinstance(found, tuple) else found)
