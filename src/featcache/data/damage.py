"""Files that are not whole, by what their formats say of their own bytes and length.

Decoders notice most damage. Here is what they take for a picture, and reasons where theirs say
nothing. All of it costs far less than decoding, and nothing of files that TensorFlow decodes.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

from featcache.data.plain import START_OF_SCAN, segments

_PNG, _JPEG, _END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
_FILLER = bytes(16)  # what a file that was not written to its end may end in
_INDEXED = 3  # a PNG's pixels are numbers of colours
_BIG_TIFF = 43
# of TIFF: where the strips or tiles lie, and how long they are
_PLACES = ((273, 279), (324, 325))


class UnreadableImageError(Exception):
    """Why one image cannot be used; the caller records it and goes on."""


class VanishedImageError(UnreadableImageError):
    """An image that was there and is no more, or is another: next time it may be fine."""


def check(data: bytes) -> None:
    """Raise UnreadableImageError for damage that Pillow takes for a picture."""
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(_JPEG) and data.endswith(_FILLER):
        _check_jpeg(data)


def cut_off(data: bytes) -> str:
    """Return how much of a file that cannot be decoded is there, "" where that cannot be told."""
    try:
        whole = _declared_bytes(data)
    except Exception:  # of damaged headers; what the decoder said must do
        return ""
    if whole <= len(data):
        return ""
    return f"it is cut off: {len(data):,} of at least {whole:,} bytes are there"


def _check_png(data: bytes) -> None:
    """Compare the checksums of the pixels, and look for their palette, which Pillow does not."""
    position, has_palette = len(_PNG), False
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if kind == b"IEND" or end + 4 > len(data):  # cut off: Pillow counts the pixels
            return
        has_palette |= kind == b"PLTE"
        if kind == b"IDAT":
            if data[25] == _INDEXED and not has_palette:  # all black to Pillow
                raise UnreadableImageError("its palette is missing")
            (expected,) = struct.unpack_from(">I", data, end)
            if zlib.crc32(memoryview(data)[position + 4 : end]) != expected:
                raise UnreadableImageError(
                    f"its pixels are damaged: the checksum at byte {end:,} is another one"
                )
        position = end + 4


def _check_jpeg(data: bytes) -> None:
    """Refuse zeros in place of the rest of a file: they decode, to a picture of nothing."""
    for marker, position, _ in segments(data):
        if marker == START_OF_SCAN and data.find(_END, position) < 0:
            raise UnreadableImageError("it is cut off: zeros stand where its end should be")


def _declared_bytes(data: bytes) -> int:
    """Return how long a file is at least, by its own word."""
    if data.startswith(b"RIFF"):
        return 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return int.from_bytes(data[2:6], "little")
    if data[4:8] == b"ftyp":
        return _end_of_boxes(data)
    if data.startswith((b"II", b"MM")):
        return _end_of_strips(data)
    return 0


def _end_of_boxes(data: bytes) -> int:
    """Follow the boxes of AVIF."""
    position = 0
    while position + 16 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:  # it did not fit into four bytes
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length < 8:  # to the end of the file, or damaged
            return 0
        position += length
    return position


def _end_of_strips(data: bytes) -> int:
    """Ask a TIFF's first directory, which often is the last thing in its file."""
    from PIL import Image

    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def number(at: int, n_bytes: int) -> int:
        return int.from_bytes(data[at : at + n_bytes], order)

    is_big = number(2, 2) == _BIG_TIFF
    directory = number(8, 8) if is_big else number(4, 4)
    n_bytes, of_entry = (8, 20) if is_big else (2, 12)
    end = directory + n_bytes + of_entry * max(1, number(directory, n_bytes))
    if end > len(data):
        return end
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
        tags = image.tag_v2
        ends = [
            place + length
            for places, lengths in _PLACES
            for place, length in zip(tags.get(places, ()), tags.get(lengths, ()), strict=True)
        ]
    return max(ends, default=0)
