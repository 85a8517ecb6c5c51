"""Values of more than 8 bits: what is black and white, and what nobody says."""

from __future__ import annotations

import hashlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from featcache.data import decoding, sources
from featcache.data.damage import UnreadableImageError

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
UNIT = np.linspace(0, 1, 400).reshape(20, 20)
GREY = np.rint(255 * UNIT).astype(np.uint8)
UNKNOWN = "nothing says which are black and white"


def tiff(values, bits, kind, white_is_zero=False, order="<", n_channels=1, width=20):
    """A TIFF by hand; Pillow does not write most of these."""
    body = values.tobytes()
    shape = ((256, width), (257, 20), (258, bits), (259, 1), (262, int(not white_is_zero)))
    tags = [*shape, (273, 8), (277, n_channels), (278, 20), (279, len(body)), (339, kind)]
    if n_channels == 3:
        tags = [(number, 2 if number == 262 else value) for number, value in tags]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    entries = b"".join(struct.pack(f"{order}HHII", number, 4, 1, value) for number, value in tags)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def packed_12(values):
    """Two values in three bytes."""
    left, right = values.reshape(-1, 2).T
    three = [left >> 4, (left & 15) << 4 | right >> 8, right & 255]
    return np.stack(three, axis=1).astype(np.uint8)


FLOATS = UNIT.astype("<f4")
WIDE = (4095 * UNIT).astype("<i4")
KNOWN = {
    "floats of 0 to 1": tiff(FLOATS, 32, FLOAT),
    "big-endian": tiff(FLOATS.astype(">f4"), 32, FLOAT, order=">"),
    "white is zero": tiff(1 - FLOATS, 32, FLOAT, white_is_zero=True),
    "half a level too far": tiff(FLOATS + np.float32(0.4 / 255) * (FLOATS - 1), 32, FLOAT),
    "12 bits packed": tiff(packed_12((4095 * UNIT).astype(int)), 12, UNSIGNED),
    "16 bits": tiff((65535 * UNIT).astype("<u2"), 16, UNSIGNED),
    "16 bits, white is zero": tiff((65535 * (1 - UNIT)).astype("<u2"), 16, UNSIGNED, True),
    "12 bits by its header": b"P5 20 20 4095\n" + (4095 * UNIT).astype(">u2").tobytes(),
    "portable float map": b"Pf\n20 20\n-1.0\n" + FLOATS[::-1].tobytes(),
}
REFUSED = {
    "floats of 0 to 255": (tiff(255 * FLOATS, 32, FLOAT), f"from 0 to 255, and {UNKNOWN}"),
    "floats of -1 to 1": (tiff(2 * FLOATS - 1, 32, FLOAT), f"from -1 to 1, and {UNKNOWN}"),
    "32 bits": (tiff(WIDE, 32, SIGNED), f"from 0 to 4095, and {UNKNOWN}"),
    "32 bits without a sign": (tiff(((2**32 - 1) * UNIT).astype("<u4"), 32, UNSIGNED), UNKNOWN),
    "16 bits with a sign": (tiff(WIDE.astype("<i2"), 16, SIGNED), UNKNOWN),
    "no number": (tiff(np.where(GREY > 9, np.nan, FLOATS).astype("<f4"), 32, FLOAT), "not finite"),
}


def encoded(values, kind):
    data = io.BytesIO()
    Image.fromarray(values).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_to_be_white_is_white(name):
    pixels = decoding.decode(KNOWN[name])
    assert pixels.shape == (20, 20, 3)
    assert np.abs(pixels - GREY[..., None].astype(int)).max() <= 1  # of 12 bits


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_says_is_refused_with_the_cure(name):
    data, reason = REFUSED[name]
    with pytest.raises(UnreadableImageError, match=reason):
        decoding.decode(data)


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (tiff(WIDE, 32, SIGNED), (0, 4095)),
        (tiff(2 * FLOATS - 1, 32, FLOAT), (-1, 1)),
        (tiff(((2**32 - 1) * UNIT).astype("<u4"), 32, UNSIGNED), (0, 2**32 - 1)),
        (encoded(WIDE.astype(np.uint16), "PNG"), (0, 4095)),
        (encoded(WIDE.astype(np.uint16), "TIFF"), (0, 4095)),
        (KNOWN["12 bits by its header"], (0, 4095)),
        (b"P5 20 20 65535\n" + WIDE.astype(">u2").tobytes(), (0, 4095)),
    ],
)
def test_a_declared_range_is_black_to_white(data, declared):
    pixels = decoding.decode(data, value_range=declared)
    assert np.abs(pixels - GREY[..., None].astype(int)).max() <= 1


def test_beyond_a_declared_range_is_black_or_white_and_8_bits_are_as_they_are():
    pixels = decoding.decode(KNOWN["floats of 0 to 1"], value_range=(0.4, 0.6))[..., 0]
    assert (pixels[UNIT < 0.4] == 0).all()
    assert (pixels[UNIT > 0.6] == 255).all()
    data = encoded(GREY, "PNG")
    np.testing.assert_array_equal(decoding.decode(data, value_range=(0, 9)), decoding.decode(data))


def test_sixteen_bits_are_what_they_always_were():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(every / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoding.decode(encoded(every, "PNG"))[..., 0], expected)


def test_colours_of_16_bits_are_read_by_8_so_no_range_holds():
    data = b"P6 20 20 4095\n" + np.repeat(WIDE.astype(">u2"), 3).tobytes()
    assert decoding.decode(data).max() == 255
    with pytest.raises(UnreadableImageError, match="colours have 16 bits"):
        decoding.decode(data, value_range=(0, 4095))


def test_only_files_whose_picture_was_wrong_have_another_digest():
    was_right = {"8 bits", "16 bits", "12 bits by its header"}
    every = KNOWN | {name: data for name, (data, _) in REFUSED.items()}
    every["8 bits"] = encoded(GREY, "TIFF")
    for name, data in every.items():
        is_of_bytes = sources.digest(data) == hashlib.blake2b(data, digest_size=16).digest()
        assert is_of_bytes == (name in was_right), name


def test_a_pillow_image_is_seen_as_its_file_is():
    for data in (KNOWN["floats of 0 to 1"], encoded(WIDE.astype(np.uint16), "PNG")):
        image = Image.open(io.BytesIO(data))
        for declared in (None, (0.0, 0.5)):
            np.testing.assert_array_equal(
                decoding.upright(image).pixels(declared),
                decoding.decode(data, value_range=declared),
            )


def test_pillow_images_of_other_values_are_other_images():
    """Which of them look the same is known when a range is declared, and not before."""
    first, second = (Image.fromarray(np.full((2, 2), value, np.uint16)) for value in (3, 5))
    pictures = [decoding.upright(image) for image in (first, second)]
    assert (pictures[0].pixels(None) == pictures[1].pixels(None)).all()
    assert pictures[0].identity != pictures[1].identity
