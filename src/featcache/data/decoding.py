"""One encoded image to upright RGB pixels by Pillow.

Orientation is applied, transparency is put on a background, more than 8 bits become 8 (`levels`).
What Pillow cannot read in full is an error with a reason, never half an image.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np

from featcache.core.checks import bad
from featcache.core.errors import one_line
from featcache.core.spec import BACKGROUND, MAX_PIXELS, ExtractionSpec
from featcache.data import damage, levels
from featcache.data.damage import UnreadableImageError
from featcache.data.pillow import known_formats, own_limit

RATIOS = (8, 4, 2)  # JPEG decoders shrink by these at almost no cost


def shortest_side(ratio: int, side: int) -> int:
    """Return from which shorter side on, in pixels, an image for `side` is decoded at 1/`ratio`.

    It then still has twice as many pixels a side as needed, upright or not.
    """
    return 2 * ratio * side


def seen(raw: Any, spec: ExtractionSpec, max_pixels: int, side: int | None) -> np.ndarray:
    """Return what a source gives for an image as upright RGB, (height, width, 3), 0 to 255.

    Raises
    ------
    UnreadableImageError
        When it cannot be seen.
    """
    if isinstance(raw, bytes):
        return decode(raw, spec.background, max_pixels, side, spec.value_range)
    pixels = raw.pixels(spec.value_range) if isinstance(raw, levels.Samples) else raw
    return composite(pixels, spec.background)


def decode(
    data: bytes,
    background: str = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
    value_range: levels.Range = None,
) -> np.ndarray:
    """Return upright RGB, (height, width, 3) uint8, composited on `background`.

    For images that will have this longer `side`, large JPEGs are decoded at 1/2, 1/4 or 1/8.

    Raises
    ------
    UnreadableImageError
        When Pillow cannot decode all of it, it has more than `max_pixels`, or nothing says which
        of its values are black and white.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise UnreadableImageError("the file is empty")
    damage.check(data)
    try:
        with own_limit(), Image.open(io.BytesIO(data), formats=known_formats()) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels are more than {max_pixels}"
                )
            if side is not None and image.format in ("JPEG", "MPO"):
                for ratio in RATIOS:
                    if min(image.size) >= shortest_side(ratio, side):
                        image.draft(image.mode, (image.width // ratio, image.height // ratio))
                        break
            if value_range is not None and levels.kind_of(image).is_deep_colour:
                raise UnreadableImageError(
                    "its colours have 16 bits, of which Pillow reads 8, so --value-range cannot be "
                    "applied; convert it to 8 bits"
                )
            raw = upright(image)
            pixels = raw.pixels(value_range) if isinstance(raw, levels.Samples) else raw
            return composite(pixels, background)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        is_tiff = data.startswith((b"II*\0", b"MM\0*"))
        unknown = (
            "a TIFF that is damaged, or of a kind that Pillow does not read"
            if is_tiff
            else "no known image format"
        )
        reason = damage.cut_off(data) or unknown
        raise UnreadableImageError(reason) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"more than {max_pixels} pixels") from error
    # a decoder raises almost anything on damaged data; one bad file must not end a long run
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        if reason.startswith("decoder error"):  # with a number alone
            reason = f"its pixels are damaged or cut off ({reason})"
        reason = damage.cut_off(data) or reason
        raise UnreadableImageError(reason) from error


def upright(image: Any) -> np.ndarray | levels.Samples:
    """Return a Pillow image as seen, (height, width, 3) uint8, or 4 where it is transparent.

    Of more than 8 bits they are values, whose range is to be said.
    """
    from PIL import ImageOps

    kind = levels.kind_of(image)
    image.load()
    with suppress(Exception):  # of damaged EXIF; the pixels are all there
        image = ImageOps.exif_transpose(image)
    if kind.is_deep:
        return levels.Samples.of(kind, image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def composite(pixels: np.ndarray, background: str = BACKGROUND) -> np.ndarray:
    """Return (height, width, 3): transparent pixels on a colour, others as they are."""
    if pixels.shape[-1] == 3:
        return pixels
    from PIL import Image

    layer = Image.fromarray(pixels)
    image = Image.new("RGBA", layer.size, (*bytes.fromhex(background[1:]), 255))
    image.alpha_composite(layer)
    return np.asarray(image.convert("RGB"))


def colour(text: str) -> str:
    """Return a colour's name or code as #rrggbb.

    Raises
    ------
    SpecError
        When it is none that Pillow's `ImageColor` knows.
    """
    if not isinstance(text, str):
        raise bad("background", "be a colour, as white, black or '#8090a0'", text)
    if text == "white":
        return BACKGROUND  # without importing Pillow
    from PIL import ImageColor

    try:
        return "#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(text)[:3])
    except (ValueError, AttributeError):
        raise bad("background", "be a colour, as white, black or '#8090a0'", text) from None
