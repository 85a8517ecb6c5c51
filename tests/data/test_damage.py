"""Damage that decoders take for a picture, and harmless ends that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from featcache.core.tensorflow import import_tensorflow
from featcache.data import decoding, plain
from featcache.data.damage import UnreadableImageError

# a gradient: its compressed rows repeat each other, so that one byte spoils many
SMOOTH = np.indices((96, 96, 3)).sum(0).astype(np.uint8)
NOISY = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
CUT = r"it is cut off: [\d,]+ of at least [\d,]+ bytes are there"
ZEROS = "zeros stand where its end should be"


def encoded(pixels, kind, mode="RGB", **options):
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_one_wrong_byte_among_a_pngs_pixels(mode):
    """Pillow takes about half of these."""
    tf = import_tensorflow()
    data = encoded(SMOOTH, "PNG", mode)
    first = data.index(b"IDAT") + 4
    for at in range(first, len(data) - 16, 7):
        bad = data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]
        if plain.plain_orientation(bad):
            with pytest.raises(tf.errors.InvalidArgumentError):
                tf.io.decode_jpeg(bad, 3)
        with pytest.raises(UnreadableImageError, match="its pixels are damaged: the checksum at"):
            decoding.decode(bad)


def test_a_png_of_numbers_of_colours_without_the_colours():
    data = encoded(SMOOTH, "PNG", "P")
    start = data.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    assert decoding.decode(data).any()
    with pytest.raises(UnreadableImageError, match="its palette is missing"):
        decoding.decode(data[:start] + data[end:])


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize(
    "data",
    [encoded(NOISY, "PNG", "RGBA"), encoded(NOISY, "JPEG", quality=100)],
    ids=["png", "jpeg"],
)
def test_zeros_in_place_of_the_rest(data, share):
    n = int(share * len(data))
    filled = data[:n] + bytes(len(data) - n)
    assert not plain.plain_orientation(filled)
    with pytest.raises(UnreadableImageError, match=f"its pixels are damaged|{ZEROS}"):
        decoding.decode(filled)


def test_zeros_in_place_of_the_rest_where_the_preview_has_an_end():
    """A thumbnail in EXIF is a JPEG of its own."""
    preview = b"Exif\0\0" + encoded(NOISY[:8, :8], "JPEG")
    data = encoded(NOISY, "JPEG", quality=100, exif=preview)
    with pytest.raises(UnreadableImageError, match=ZEROS):
        decoding.decode(data[:-2000] + bytes(2000))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("more", [b"\0" * 50, b"and so on"])
def test_what_follows_the_end_does_no_harm(kind, more):
    data = encoded(NOISY, kind)
    np.testing.assert_array_equal(decoding.decode(data + more), decoding.decode(data))


def test_ends_that_no_pixel_needs():
    png, jpeg = encoded(NOISY, "PNG"), encoded(NOISY, "JPEG")
    np.testing.assert_array_equal(decoding.decode(png[:-12]), NOISY)
    without_end = decoding.decode(jpeg[:-2] + b"and so on" * 9)
    np.testing.assert_array_equal(without_end, decoding.decode(jpeg))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("JPEG", {}, "truncated"),
        ("JPEG", {"progressive": True}, "truncated"),
        ("PNG", {}, "truncated"),
        ("GIF", {}, "truncated"),
        ("PPM", {}, "truncated"),
        ("BMP", {}, CUT),
        ("WEBP", {}, CUT),
        ("WEBP", {"lossless": True}, CUT),
        ("TIFF", {}, CUT),
        ("TIFF", {"compression": "tiff_lzw"}, CUT),
        ("TIFF", {"big_tiff": True}, CUT),
    ],
)
def test_a_file_that_is_cut_off_says_so(kind, options, reason, share):
    data = encoded(NOISY, kind, **options)
    with pytest.raises(UnreadableImageError, match=reason):
        decoding.decode(data[: int(share * len(data))])
