"""One encoded image to upright RGB pixels by Pillow, and which files TensorFlow reads the same.

Orientation is applied, transparency is put on a background, 16 bits become 8. What Pillow cannot
read in full is an error with a reason, never half an image.
"""

from __future__ import annotations

import functools
import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from featcache.core.errors import SpecError, one_line
from featcache.core.spec import BACKGROUND, MAX_PIXELS

_EXIF_ORIENTATION = 0x0112
_SHORT = 3  # TIFF's 16-bit number
# chunks that change nothing that is seen, with their length where it is fixed; Pillow judges others
_PLAIN_CHUNKS: dict[bytes, int | None] = {
    b"IHDR": 13,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"pHYs": 9,
    b"tIME": 7,
    b"IDAT": None,
    b"bKGD": None,
    b"sBIT": None,
}
RATIOS = (8, 4, 2)  # JPEG decoders shrink by these at almost no cost
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends the entropy-coded data of a scan
# what the suffixes of a folder's images stand for; Pillow would run a program for PostScript
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "AVIF", "PPM")


class UnreadableImageError(Exception):
    """Why one image cannot be used; the caller records it and goes on."""


class VanishedImageError(UnreadableImageError):
    """An image that was there and is no more, or is another: next time it may be fine."""


def plain_orientation(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Return the EXIF orientation, 1 to 8, where TensorFlow decodes a file as Pillow does; else 0.

    1 is upright, and so is what says nothing.
    """
    if data.startswith(b"\xff\xd8"):
        return _plain_jpeg(data, max_pixels)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return int(_is_plain_png(data, max_pixels))
    return 0


def shortest_side(ratio: int, side: int) -> int:
    """Return from which shorter side on, in pixels, an image for `side` is decoded at 1/`ratio`.

    It then still has twice as many pixels a side as needed, upright or not.
    """
    return 2 * ratio * side


def decode(
    data: bytes,
    background: str = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
) -> np.ndarray:
    """Return upright RGB, (height, width, 3) uint8, composited on `background`.

    For images that will have this longer `side`, large JPEGs are decoded at 1/2, 1/4 or 1/8.

    Raises
    ------
    UnreadableImageError
        When Pillow cannot decode all of it, or it has more than `max_pixels`.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels are more than {max_pixels}"
                )
            if side is not None and image.format in ("JPEG", "MPO"):
                for ratio in RATIOS:
                    if min(image.size) >= shortest_side(ratio, side):
                        image.draft(image.mode, (image.width // ratio, image.height // ratio))
                        break
            return composite(upright(image), background)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("no known image format") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"more than {max_pixels} pixels") from error
    # a decoder raises almost anything on damaged data; one bad file must not end a long run
    except Exception as error:
        raise UnreadableImageError(one_line(error) or type(error).__name__) from error


@functools.cache
def _known_formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextmanager
def own_limit() -> Iterator[None]:
    """Let `max_pixels` alone decide about size, and drop Pillow's remarks on odd files.

    Both are global in Pillow and Python, so this belongs around a whole run, not into its threads.
    """
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def upright(image: Any) -> np.ndarray:
    """Return a Pillow image as seen, (height, width, 3) uint8, or 4 where it is transparent."""
    from PIL import ImageOps

    image.load()
    with suppress(Exception):  # of damaged EXIF; the pixels are all there
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # 16-bit grey: Pillow's own conversion to RGB clips at 255 instead of scaling
        levels = np.asarray(image)
        grey = (levels.astype(np.float32) / 257.0).round().clip(0, 255).astype(np.uint8)
        if "transparency" in image.info:
            alpha = np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)
            return np.stack([grey, grey, grey, alpha], axis=-1)
        return np.repeat(grey[..., None], 3, axis=-1)
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
    if text == "white":
        return BACKGROUND  # without importing Pillow
    from PIL import ImageColor

    try:
        return "#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(text)[:3])
    except (ValueError, AttributeError):
        raise SpecError(
            f"background must be a colour, as white, black or '#8090a0'; got '{text}'."
        ) from None


def _plain_jpeg(data: bytes, max_pixels: int) -> int:
    """Return the orientation of a JPEG of one or three components, whole and not too large."""
    position, frame, said = 2, None, set()  # orientations
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker < 0xC0:  # damaged, for Pillow to judge
            return 0
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            said.add(_exif_orientation(segment[6:]))
        if marker == 0xE1 and b"tiff:Orientation" in segment:  # XMP may rotate as well
            return 0
        if marker in (0xE0, 0xEE) and len(segment) < 12:  # Pillow wants JFIF and Adobe whole
            return 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(segment) < 6:
                return 0
            frame = marker, *struct.unpack(">HHB", segment[1:6])
        if marker == 0xDA:
            if frame is None or data.rfind(b"\xff\xd9", position) < 0:
                return 0  # cut off; TensorFlow would only complain on stderr
            kind, height, width, components = frame
            if components not in (1, 3) or not 0 < height * width <= max_pixels:
                return 0
            # where scans of a progressive file are missing, decoders smooth over it variously
            is_whole = kind in (0xC0, 0xC1) or (
                kind == 0xC2 and _has_every_scan(data, position, components)
            )
            # what a second EXIF segment says otherwise is for Pillow to judge
            return max(said, default=1) if is_whole and len(said) <= 1 else 0
        position += 2 + length
    return 0


def _has_every_scan(data: bytes, position: int, n_components: int) -> bool:
    """Follow a progressive JPEG's scans, from the first one's marker: is every bit of it there?"""
    bits_missing = np.full((n_components, 64), -1)  # of each coefficient; -1 is all of them
    names: dict[int, int] = {}
    while position + 4 <= len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            return not bits_missing.any()
        if marker not in (0xC4, 0xDA, 0xDD, 0xFE):  # tables, scans, restarts, comments
            return False
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + length
        if marker == 0xDA:
            segment = data[position + 4 : end]
            n = segment[0] if segment else 0
            if len(segment) != 4 + 2 * n or not 1 <= n <= n_components:
                return False
            first, last, accuracy = segment[1 + 2 * n], segment[2 + 2 * n], segment[3 + 2 * n]
            for name in segment[1 : 1 + 2 * n : 2]:
                component = names.setdefault(name, len(names))
                if component >= n_components:
                    return False
                bits_missing[component, first : last + 1] = accuracy & 15
            found = _MARKER.search(data, end)
            if found is None:
                return False
            end = found.start()
        position = end
    return not bits_missing.any() and data[position : position + 2] == b"\xff\xd9"


def _exif_orientation(exif: bytes) -> int:
    """Read the orientation entry of a TIFF header's first directory; absent is 1, damaged is 0."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 0  # damaged, or more than one: let Pillow judge
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, offset)
        for entry in range(count):
            tag, kind, n_values, value = struct.unpack_from(
                f"{order}HHIH", exif, offset + 2 + 12 * entry
            )
            if tag == _EXIF_ORIENTATION:
                is_plain = (kind, n_values) == (_SHORT, 1) and 1 <= value <= 8
                return int(value) if is_plain or value == 1 else 0
    except struct.error:
        return 0  # damaged: let Pillow judge
    return 1


def _is_plain_png(data: bytes, max_pixels: int) -> bool:
    """Eight bits, grey or RGB, without transparency or orientation, not over the limit."""
    if len(data) < 33:
        return False
    width, height, depth, kind_of_colour = struct.unpack(">IIBB", data[16:26])
    if depth != 8 or kind_of_colour not in (0, 2) or not 0 < width * height <= max_pixels:
        return False
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"IEND":
            return True
        if kind == b"tEXt":
            if data.startswith((b"Raw profile", b"XML:"), position + 8):  # may rotate
                return False
        elif _PLAIN_CHUNKS.get(kind, -1) not in (None, length):
            return False
        position += 12 + length
    return False
