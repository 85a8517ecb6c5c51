"""Which files TensorFlow reads as Pillow does, and their EXIF orientation.

Told from markers and chunks alone; nothing is decoded. What is not known to change nothing that is
seen is left to Pillow.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np

from featcache.core.spec import MAX_PIXELS

START_OF_SCAN = 0xDA  # the JPEG marker before the pixels
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
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends the entropy-coded data of a scan


def plain_orientation(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Return the EXIF orientation, 1 to 8, where TensorFlow decodes a file as Pillow does; else 0.

    1 is upright, and so is what says nothing.
    """
    if data.startswith(b"\xff\xd8"):
        return _plain_jpeg(data, max_pixels)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return int(_is_plain_png(data, max_pixels))
    return 0


def segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, position and content of a JPEG's segments, up to the first scan's header."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker < 0xC0:  # damaged
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position, data[position + 4 : position + 2 + length]
        if marker == START_OF_SCAN:
            return
        position += 2 + length


def _plain_jpeg(data: bytes, max_pixels: int) -> int:
    """Return the orientation of a JPEG of one or three components, whole and not too large."""
    frame, said = None, set()  # orientations
    for marker, position, segment in segments(data):
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
        if marker == START_OF_SCAN:
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
        if marker == START_OF_SCAN:
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
