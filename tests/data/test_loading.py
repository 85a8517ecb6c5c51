from __future__ import annotations

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_photos
from PIL import Image

from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import decoding, image_ops, loading, openers, plain
from featcache.data.listing import list_images

SPEC = ExtractionSpec("tiny", "00", (24, 24), "tf")
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def turned_jpeg(orientation: int, kind: int = 3, **options) -> bytes:
    """A JPEG whose EXIF says how to turn it, as a 16-bit number unless `kind` says otherwise."""
    entry = struct.pack("<HHIHH", 0x0112, kind, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return encoded(Image.fromarray(RGB), "JPEG", exif=exif, **options)


PLAIN = {
    "jpeg": encoded(Image.fromarray(RGB), "JPEG"),
    "progressive jpeg": encoded(Image.fromarray(RGB), "JPEG", progressive=True),
    "grey progressive jpeg": encoded(Image.fromarray(RGB).convert("L"), "JPEG", progressive=True),
    "grey jpeg": encoded(Image.fromarray(RGB).convert("L"), "JPEG"),
    "png": encoded(Image.fromarray(RGB), "PNG"),
    "grey png": encoded(Image.fromarray(RGB).convert("L"), "PNG"),
}


def without_last_scan(data: bytes) -> bytes:
    """Cut a progressive JPEG off before its last scan, as some programs do, with a proper end."""
    return data[: data.rindex(b"\xff\xda")] + b"\xff\xd9"


TURNED_BY_8 = turned_jpeg(8)
EXIF_OF_8 = TURNED_BY_8[
    TURNED_BY_8.index(b"\xff\xe1") : TURNED_BY_8.index(b"\xff\xdb")
]  # the segment alone
XMP = (
    b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation=\"6\"/>"
    b"</rdf:RDF></x:xmpmeta>"
)
ODD = {
    "rotated by XMP": PLAIN["jpeg"][:2]
    + b"\xff\xe1"
    + (len(XMP) + 2).to_bytes(2, "big")
    + XMP
    + PLAIN["jpeg"][2:],
    "turned by nine": turned_jpeg(9),
    "turned by a long": turned_jpeg(6, kind=4),
    "turned twice": turned_jpeg(6).replace(b"\xff\xdb", EXIF_OF_8 + b"\xff\xdb", 1),
    "progressive without its last scan": without_last_scan(PLAIN["progressive jpeg"]),
    "cmyk": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "palette": encoded(Image.fromarray(RGB).convert("P"), "PNG"),
    "alpha": encoded(Image.fromarray(RGB).convert("RGBA"), "PNG"),
    "16 bit": encoded(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), "PNG"),
    "gif": encoded(Image.fromarray(RGB), "GIF"),
    "webp": encoded(Image.fromarray(RGB), "WEBP", lossless=True),
    "bmp": encoded(Image.fromarray(RGB), "BMP"),
    "tiff": encoded(Image.fromarray(RGB), "TIFF"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_files_decode_in_tensorflow_to_pillows_very_pixels(kind):
    tf = import_tensorflow()
    assert plain.plain_orientation(PLAIN[kind])
    got = tf.io.decode_jpeg(PLAIN[kind], 3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(got, decoding.decode(PLAIN[kind]))


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_left_to_pillow(kind):
    assert not plain.plain_orientation(ODD[kind])
    assert decoding.decode(ODD[kind]).dtype == np.uint8


def test_rotation_is_applied():
    assert decoding.decode(ODD["rotated by XMP"]).shape == (30, 20, 3)
    assert decoding.decode(turned_jpeg(6)).shape == (30, 20, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_in_tensorflow_to_pillows_very_pixels(orientation, progressive):
    tf = import_tensorflow()
    data = turned_jpeg(orientation, progressive=progressive)
    assert plain.plain_orientation(data) == orientation
    image = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")
    got = image_ops.turned(image, tf.constant(orientation)).numpy()
    np.testing.assert_array_equal(got, decoding.decode(data))


def test_lossless_formats_keep_their_pixels():
    for kind in ("webp", "bmp", "tiff"):
        np.testing.assert_array_equal(decoding.decode(ODD[kind]), RGB)


def test_sixteen_bits_are_scaled_not_clipped():
    np.testing.assert_array_equal(decoding.decode(ODD["16 bit"])[..., 1], RGB[..., 0])


def test_colour_under_transparent_pixels_does_not_show():
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    red.putpixel((0, 0), (255, 0, 0, 255))
    pixels = decoding.decode(encoded(red, "PNG"))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "no known image format"),
        (PLAIN["jpeg"][:200], "."),
        (PLAIN["png"][:60], "."),
    ],
)
def test_unreadable_gives_a_reason_on_one_line(data, reason):
    with pytest.raises(loading.UnreadableImageError, match=reason) as caught:
        decoding.decode(data)
    assert "\n" not in str(caught.value)


def test_too_many_pixels():
    assert not plain.plain_orientation(PLAIN["jpeg"], max_pixels=500)
    with pytest.raises(loading.UnreadableImageError, match="30 x 20 pixels are more than 500"):
        decoding.decode(PLAIN["jpeg"], max_pixels=500)


def load(source, rows, **options):
    listing = list_images(source)
    failures: dict[int, str] = {}
    settings = {"specs": [SPEC], "batch_size": 4}
    got = {}
    for batch in loading.batches(listing, rows, **(settings | options)):
        assert batch.clean.shape[1:] == (24, 24, 3)
        assert len(batch.clean) <= 4
        failures.update((row, one.reason) for row, one in batch.failures.items())
        got.update(zip(batch.rows.tolist(), batch.clean, strict=True))
    return got, failures


def test_batches_give_every_row_its_own_pixels(tmp_path):
    root = make_photos(tmp_path / "p")
    turned = {f"turned {n}": turned_jpeg(n) for n in range(1, 9)}
    files = {**PLAIN, **ODD, **turned, "cut": PLAIN["jpeg"][:300], "empty": b""}
    for name, data in files.items():
        (root / "pear" / f"{name}.jpg").write_bytes(data)
    source = openers.open_source(root)
    got, failures = load(source, list(range(len(source))))
    bad = {row for row, id_ in enumerate(source.ids) if id_ in ("pear/cut.jpg", "pear/empty.jpg")}
    assert set(failures) == bad
    assert set(got) == set(range(len(source))) - bad
    for row, pixels in got.items():
        expected = image_ops.resize(decoding.decode(source.get(row)), SPEC.geometry)
        np.testing.assert_array_equal(pixels, expected)


def test_antialias_differs_when_shrinking(photos):
    source = openers.open_source(photos)
    assert not np.allclose(
        load(source, [0])[0][0],
        load(source, [0], specs=[replace(SPEC, resize="antialias")])[0][0],
    )
