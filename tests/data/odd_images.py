"""A corpus of good, odd and bad image files, and what is to be expected of each.

`write` makes it from the clip art and one seed: the same files every time, each with a picture of
its own, so that no row can stand for another. What a file shows is asked of plain Pillow, from the
encoded file and never from `featcache.decoding`, which is what the corpus is to test: the file is
good where Pillow loads all of it and the checksums of its pixels hold, and bad where not.

    python tests/data/odd_images.py FOLDER
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageOps, features

from featcache.data.examples import CLIPART

GOOD, BAD, PASSED_OVER = "good", "bad", "passed over"
MAX_PIXELS = 1_000_000  # to be set for the run: what is larger is bad

# the classes; of what was cut or garbled, some files are still good
ALL_GOOD = ("jpeg", "png", "names", "other formats")
EITHER = ("cut", "garbled")
ALL_BAD = ("no images", "too large", "links")

ORIENTATION = 0x0112
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a tiff:Orientation=\"%d\"/></x:xmpmeta>"
XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
NO_EXIF = b"Exif\0\0this is no TIFF header"


@dataclass(frozen=True)
class Expected:
    """What is to become of one file."""

    verdict: str
    pixels: np.ndarray | None = None  # (height, width, 3) uint8 upright, of a good one
    why: str = ""  # in Pillow's words, of a bad one


def write(root: Path, seed: int = 0) -> dict[str, Expected]:
    """Write the corpus below `root`; return what to expect by id (path below `root`)."""
    corpus = _Corpus(root, seed)
    for fill in (_jpeg, _png, _other_formats, _names, _cut, _garbled, _no_images):
        fill(corpus)
    _too_large(corpus)
    _links(corpus)
    _passed_over(corpus)
    return corpus.expected


def seen(path: Path) -> np.ndarray:
    """Return the first frame upright, (height, width, 3) uint8, transparent parts on white.

    Raises
    ------
    Exception
        Any, where Pillow cannot load all of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on odd files
        with Image.open(path) as image:
            image.load()
            try:
                image = ImageOps.exif_transpose(image)
            except Exception:  # the pixels are all there; only what is said about them is damaged
                image = image.copy()
        if image.mode == "I" or image.mode.startswith("I;16"):
            levels = np.asarray(image, np.int64)
            rgb = np.repeat(np.rint(levels / 257).astype(np.uint8)[..., None], 3, axis=2)
            rgb[levels == image.info.get("transparency", -1)] = 255
            return rgb
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


class _Corpus:
    """The folder being filled, and a new picture for every file in it."""

    def __init__(self, root: Path, seed: int):
        self.root = root
        self.rng = np.random.default_rng(seed)
        self.expected: dict[str, Expected] = {}
        files = sorted(CLIPART.rglob("*.jpg"))
        self._originals = iter([files[i] for i in self.rng.permutation(len(files))])

    def picture(self, size: tuple[int, int] | None = None, mode: str = "RGB") -> Image.Image:
        """Return a picture no other file has: clip art with a little noise."""
        size = size or tuple(self.rng.integers(20, 65, 2).tolist())
        with Image.open(next(self._originals)) as image:
            small = np.asarray(image.convert("RGB").resize(size), np.int64)
        noisy = small + self.rng.integers(-20, 21, small.shape)
        rgb = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        if mode == "I;16":
            grey = np.asarray(rgb.convert("L"), np.int64) * 257
            grey += self.rng.integers(-128, 129, grey.shape)
            return Image.fromarray(grey.clip(0, 65535).astype(np.uint16))
        if mode in ("RGBA", "LA", "PA"):
            alpha = self.rng.integers(0, 256, size[::-1], np.uint8)
            alpha[::3], alpha[1::3] = 0, 255  # all, nothing, and what lies between
            rgb.putalpha(Image.fromarray(alpha))
        return rgb.convert(mode)

    def path(self, id_: str) -> Path:
        """Return where a file is to lie, its folder made."""
        path = self.root / id_
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, id_: str, data: bytes) -> None:
        """Write a file and ask Pillow what it shows."""
        path = self.path(id_)
        path.write_bytes(data)
        self.expected[_as_id(id_)] = self._judge(path)

    def add_bad(self, id_: str, why: str, data: bytes | None = None) -> None:
        """Expect a file to be bad whatever Pillow says; write it where there are `data`."""
        if data is not None:
            self.path(id_).write_bytes(data)
        self.expected[_as_id(id_)] = Expected(BAD, why=why)

    def _judge(self, path: Path) -> Expected:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path) as image:
                    n_pixels = image.width * image.height
            if n_pixels > MAX_PIXELS:
                return Expected(BAD, why=f"{n_pixels} pixels")
            if _has_wrong_checksum(path.read_bytes()):
                return Expected(BAD, why="checksum")
            return Expected(GOOD, seen(path))
        except Exception as error:  # decoders raise almost anything
            return Expected(BAD, why=f"{type(error).__name__}: {error}")


def _as_id(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _exif(orientation: int, order: str = "<") -> bytes:
    """Return an EXIF block with one entry, the orientation."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    entry = struct.pack(f"{order}HHIHH", ORIENTATION, 3, 1, orientation, 0)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", 1) + entry + bytes(4)


def _profile() -> bytes:
    """Return a colour profile, without the time it was made."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def _markers(data: bytes, code: int) -> list[int]:
    """Return where a marker occurs in a JPEG file."""
    mark = bytes([0xFF, code])
    return [i for i in range(len(data)) if data.startswith(mark, i)]


def _with_segment(data: bytes, code: int, payload: bytes, at: int = 2) -> bytes:
    """Insert a marker segment into a JPEG file; right at its start if not told."""
    segment = bytes([0xFF, code]) + struct.pack(">H", len(payload) + 2) + payload
    return data[:at] + segment + data[at:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _has_wrong_checksum(data: bytes) -> bool:
    """Whether a PNG's pixels are other bytes than were written; Pillow does not ask."""
    at = 8 if data.startswith(b"\x89PNG\r\n\x1a\n") else len(data)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if (
            kind == b"IDAT"
            and len(body) == length
            and _chunk(kind, body) != data[at:][: 12 + length]
        ):
            return True
        at += 12 + length
    return False


def _with_chunk(data: bytes, kind: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    """Insert a chunk into a PNG file before the first of another kind."""
    at = data.index(before) - 4
    return data[:at] + _chunk(kind, body) + data[at:]


def _raw_png(image: Image.Image, kind: int, depth: int = 8, interlaced: bool = False) -> bytes:
    """Write a PNG file by hand: what Pillow does not write, as interlaced or 16-bit colour."""
    pixels = np.asarray(image)
    if depth == 16:
        pixels = pixels.astype(">u2") * 257
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first column, first row, steps
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = b"".join(
        b"\0" + row.tobytes()
        for left, top, across, down in passes
        for row in pixels[top::down, left::across]
        if row.size
    )
    header = struct.pack(">IIBBBBB", *image.size, depth, kind, 0, 0, interlaced)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _jpeg(corpus: _Corpus) -> None:
    picture = corpus.picture

    def add(name: str, data: bytes) -> None:
        corpus.add(f"jpeg/{name}.jpg", data)

    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            name = subsampling.replace(":", "") + (" progressive" if progressive else "")
            options = {"subsampling": subsampling, "progressive": progressive}
            add(name, _encode(picture(), "JPEG", **options))
    for name, factors in (("440", 0x12), ("411", 0x41)):
        # Pillow does not write these. Of whole blocks 4:2:2 and 4:4:0 have as many, in another
        # order, and so have 4:2:0 and 4:1:1.
        data = bytearray(
            _encode(picture((64, 48)), "JPEG", subsampling="4:2:2" if name == "440" else "4:2:0")
        )
        data[_markers(data, 0xC0)[0] + 11] = factors
        add(name, bytes(data))
    add("grey", _encode(picture(mode="L"), "JPEG"))
    add("grey progressive", _encode(picture(mode="L"), "JPEG", progressive=True))
    add("cmyk", _encode(picture(mode="CMYK"), "JPEG"))
    add("cmyk progressive", _encode(picture(mode="CMYK"), "JPEG", progressive=True))
    add("cmyk rotated", _encode(picture(mode="CMYK"), "JPEG", exif=_exif(6)))
    add("rgb", _encode(picture(), "JPEG", keep_rgb=True))
    add("optimised", _encode(picture(), "JPEG", optimize=True))
    add("restart blocks", _encode(picture(), "JPEG", restart_marker_blocks=2))
    add("restart rows", _encode(picture(), "JPEG", restart_marker_rows=1))
    add("worst", _encode(picture(), "JPEG", quality=1))
    add("best", _encode(picture(), "JPEG", quality=100, subsampling="4:4:4"))
    for size in ((1, 1), (1, 64), (64, 1), (2, 3), (8, 8), (17, 33)):
        add("{} x {}".format(*size), _encode(picture(size), "JPEG"))

    for orientation in range(10):  # 0 and 9 mean nothing
        add(f"exif {orientation}", _encode(picture(), "JPEG", exif=_exif(orientation)))
    add("exif big-endian", _encode(picture(), "JPEG", exif=_exif(8, ">")))
    add("exif grey", _encode(picture(mode="L"), "JPEG", exif=_exif(5)))
    add("exif no tiff", _encode(picture(), "JPEG", exif=NO_EXIF))
    add("exif cut", _encode(picture(), "JPEG", exif=_exif(6)[:20]))
    add("exif twice", _with_segment(_encode(picture(), "JPEG", exif=_exif(6)), 0xE1, _exif(1)))
    add(
        "exif prefix twice", _with_segment(_encode(picture(), "JPEG"), 0xE1, NO_EXIF[:6] + _exif(6))
    )
    data = _encode(picture(), "JPEG")
    add("exif after frame header", _with_segment(data, 0xE1, _exif(6), _markers(data, 0xDA)[0]))
    add("xmp", _with_segment(_encode(picture(), "JPEG"), 0xE1, XMP_MARK + XMP % 6))
    data = _encode(picture(), "JPEG")
    xmp = XMP_MARK + XMP % 8
    add("xmp after frame header", _with_segment(data, 0xE1, xmp, _markers(data, 0xDA)[0]))

    add("comment", _encode(picture(), "JPEG", comment=b"\xff\xd8 as if it were a marker"))
    add("profile", _encode(picture(), "JPEG", icc_profile=_profile()))
    data = _encode(picture(), "JPEG")
    add("no jfif", data[:2] + data[20:])
    for transform in (0, 1):
        adobe = b"Adobe\0\x64\0\0\0\0" + bytes([transform])
        add(f"adobe {transform}", _with_segment(_encode(picture(), "JPEG"), 0xEE, adobe))
    add("fill bytes", _encode(picture(), "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb"))
    add("trailing zeros", _encode(picture(), "JPEG") + bytes(1000))
    add("trailing text", _encode(picture(), "JPEG") + b"and so on")
    add("trailing image", _encode(picture(), "JPEG") + _encode(picture(), "JPEG"))
    add("two frames", _encode(picture(), "MPO", save_all=True, append_images=[picture()]))
    for n_scans in (1, 2, 5):  # a whole file, but coarse: a decoder may smooth it as it likes
        data = _encode(picture((64, 64)), "JPEG", progressive=True)
        add(f"first {n_scans} scans", data[: _markers(data, 0xDA)[n_scans]] + b"\xff\xd9")


def _png(corpus: _Corpus) -> None:
    picture = corpus.picture

    def add(name: str, data: bytes) -> None:
        corpus.add(f"png/{name}.png", data)

    for mode in ("RGB", "L", "RGBA", "LA", "P", "1", "I;16"):
        add(mode.replace(";", "-"), _encode(picture(mode=mode), "PNG"))
    for bits in (1, 2, 4):
        few = picture().quantize(2**bits)
        add(f"palette {bits} bits", _encode(few, "PNG", bits=bits))
    add("palette with index", _encode(picture(mode="P"), "PNG", transparency=30))
    add("palette with alphas", _encode(picture(mode="P"), "PNG", transparency=bytes(range(256))))
    rgb = picture()
    add("rgb with colour", _encode(rgb, "PNG", transparency=rgb.getpixel((3, 3))))
    grey = picture(mode="L")
    add("grey with level", _encode(grey, "PNG", transparency=grey.getpixel((3, 3))))
    grey = picture(mode="1")
    add("black and white with level", _encode(grey, "PNG", transparency=0))
    deep = picture(mode="I;16")
    level = struct.pack(">H", deep.getpixel((3, 3)))
    add("16 bits with level", _with_chunk(_encode(deep, "PNG"), b"tRNS", level))
    add("16 bits rotated", _encode(picture(mode="I;16"), "PNG", exif=_exif(6)))
    for name, kind, mode in (("rgb", 2, "RGB"), ("rgba", 6, "RGBA"), ("la", 4, "LA")):
        add(f"16 bits {name}", _raw_png(picture(mode=mode), kind, depth=16))
        add(f"interlaced {name}", _raw_png(picture(mode=mode), kind, interlaced=True))
    add("interlaced grey", _raw_png(picture(mode="L"), 0, interlaced=True))
    add("interlaced 16 bits", _raw_png(picture(mode="L"), 0, depth=16, interlaced=True))
    add("interlaced 3 x 2", _raw_png(picture((3, 2)), 2, interlaced=True))
    for size in ((1, 1), (1, 64), (64, 1)):
        add("{} x {}".format(*size), _encode(picture(size), "PNG"))

    for orientation in (1, 2, 3, 5, 6, 8):
        add(f"exif {orientation}", _encode(picture(), "PNG", exif=_exif(orientation)))
    add("exif alpha", _encode(picture(mode="RGBA"), "PNG", exif=_exif(7)))
    add("exif no tiff", _encode(picture(), "PNG", exif=NO_EXIF))
    add("exif last", _with_chunk(_encode(picture(), "PNG"), b"eXIf", _exif(6)[6:], b"IEND"))
    itxt = b"XML:com.adobe.xmp" + bytes(5) + XMP % 6
    add("xmp", _with_chunk(_encode(picture(), "PNG"), b"iTXt", itxt))
    add("xmp last", _with_chunk(_encode(picture(), "PNG"), b"iTXt", itxt, b"IEND"))
    digits = b"\nexif\n%8d\n%s\n" % (len(_exif(6)), _exif(6).hex().encode())
    profile = b"Raw profile type exif\0\0" + zlib.compress(digits)
    add("exif as text", _with_chunk(_encode(picture(), "PNG"), b"zTXt", profile))

    add("text", _with_chunk(_encode(picture(), "PNG"), b"tEXt", b"Title\0an apple"))
    add("gamma", _with_chunk(_encode(picture(), "PNG"), b"gAMA", struct.pack(">I", 100_000)))
    add("own chunk", _with_chunk(_encode(picture(), "PNG"), b"abCd", b"whatever"))
    add("background", _with_chunk(_encode(picture(), "PNG"), b"bKGD", bytes(6)))
    add("profile", _encode(picture(), "PNG", icc_profile=_profile()))
    add("stored", _encode(picture(), "PNG", compress_level=0))
    data = _encode(picture(), "PNG", compress_level=9)
    at = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, at)
    packed = data[at + 8 : at + 8 + length]
    pieces = [_chunk(b"IDAT", packed[i : i + 7]) for i in range(0, length, 7)]
    add("many pieces", data[:at] + b"".join(pieces) + data[at + 12 + length :])
    add("no end", _encode(picture(), "PNG")[:-12])
    add("trailing text", _encode(picture(), "PNG") + b"and so on")
    frames = [picture((30, 40)) for _ in range(3)]
    add("animated", _encode(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    frames = [picture((30, 40)) for _ in range(3)]
    still = {"save_all": True, "append_images": frames[1:], "default_image": True}
    add("animated after a still", _encode(frames[0], "PNG", **still))


def _other_formats(corpus: _Corpus) -> None:
    picture = corpus.picture

    def add(name: str, kind: str, image: Image.Image, **options: Any) -> None:
        corpus.add(f"other formats/{name}", _encode(image, kind, **options))

    def more(n: int = 2, mode: str = "RGB") -> dict[str, Any]:
        return {"save_all": True, "append_images": [picture((30, 40), mode) for _ in range(n)]}

    add("lossy.webp", "WEBP", picture(), quality=40)
    add("lossless.webp", "WEBP", picture(), lossless=True)
    add("alpha.webp", "WEBP", picture(mode="RGBA"))
    add("alpha lossless.webp", "WEBP", picture(mode="RGBA"), lossless=True)
    add("animated.webp", "WEBP", picture((30, 40)), **more())
    add("animated alpha.webp", "WEBP", picture((30, 40), "RGBA"), **more(mode="RGBA"))
    add("rotated.webp", "WEBP", picture(), exif=_exif(6))
    add("xmp.webp", "WEBP", picture(), xmp=XMP % 6)
    add("exif no tiff.webp", "WEBP", picture(), exif=NO_EXIF)
    add("1 x 1.webp", "WEBP", picture((1, 1)))
    add("1 x 64.webp", "WEBP", picture((1, 64)), lossless=True)

    add("colour.gif", "GIF", picture())
    add("grey.gif", "GIF", picture(mode="L"))
    add("two colours.gif", "GIF", picture(mode="1"))
    add("transparent.gif", "GIF", picture(mode="P"), transparency=30)
    add("alpha.gif", "GIF", picture(mode="RGBA"))
    add("not interlaced.gif", "GIF", picture(), interlace=0)
    add("animated.gif", "GIF", picture((30, 40)), **more(), duration=20, disposal=2)
    add("animated alpha.gif", "GIF", picture((30, 40), "RGBA"), **more(mode="RGBA"), disposal=1)
    add("1 x 1.gif", "GIF", picture((1, 1)))
    data = bytearray(_encode(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 70, 80)  # the screen is larger than the first frame
    corpus.add("other formats/smaller than its screen.gif", bytes(data))

    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma"):
        add(f"{compression}.tif", "TIFF", picture(), compression=compression)
    add("group4.tiff", "TIFF", picture(mode="1"), compression="group4")
    modes = ["L", "P", "RGBA", "LA", "CMYK", "I;16", "LAB"]
    if int(PIL.__version__.split(".")[0]) >= 13:  # Pillow 12 cannot read the one that it writes
        modes.append("YCbCr")
    for mode in modes:
        image = picture(mode=mode)
        image.info.pop("icc_profile", None)  # Pillow's own says when it was made
        add(f"{mode.replace(';', '-')}.tiff", "TIFF", image)
    big_endian = picture(mode="I;16").convert("I").convert("I;16B")
    add("16 bits big-endian.tiff", "TIFF", big_endian)
    add("16 bits lzw.tiff", "TIFF", picture(mode="I;16"), compression="tiff_lzw")
    for orientation in (2, 3, 6, 8):
        add(f"rotated {orientation}.tiff", "TIFF", picture(), exif=_exif(orientation))
    add("rotated alpha.tiff", "TIFF", picture(mode="RGBA"), exif=_exif(5), compression="tiff_lzw")
    add("pages.tiff", "TIFF", picture(), **more())
    add("big.tiff", "TIFF", picture(), big_tiff=True)
    add("1 x 64.tiff", "TIFF", picture((1, 64)))

    for mode in ("RGB", "L", "P", "1", "RGBA"):
        add(f"{mode}.bmp", "BMP", picture(mode=mode))
    add("no header.dib", "DIB", picture())
    data = bytearray(_encode(picture((24, 31)), "BMP"))
    data[22:26] = struct.pack("<i", -31)  # its first row is the upper one
    corpus.add("other formats/top down.bmp", bytes(data))

    add("binary.ppm", "PPM", picture())
    add("binary.pgm", "PPM", picture(mode="L"))
    add("bits.pgm", "PPM", picture(mode="1"))
    add("16 bits.pgm", "PPM", picture(mode="I;16"))
    values = np.asarray(picture((9, 7))) // 2  # up to 127
    text = "P3 # as text\n9 7\n127\n" + " ".join(map(str, values.ravel())) + "\n"
    corpus.add("other formats/text.ppm", text.encode())
    corpus.add("other formats/7 bits.ppm", b"P6 9 7 127\n" + values[::-1].tobytes())

    if features.check("avif"):  # Pillow may be built without it
        add("lossy.avif", "AVIF", picture(), quality=50)
        add("alpha.avif", "AVIF", picture(mode="RGBA"))
        add("grey.avif", "AVIF", picture(mode="L"))
        add("rotated.avif", "AVIF", picture(), exif=_exif(6))
        add("animated.avif", "AVIF", picture((30, 40)), **more())  # says when it was made


def _names(corpus: _Corpus) -> None:
    picture = corpus.picture
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
    for kind, suffix in zip(
        kinds, ("jpg", "png", "jpeg", "gif", "jpg", "tif", "webp"), strict=True
    ):
        corpus.add(f"names/{kind} in truth.{suffix}", _encode(picture(), kind))
    for name in (
        "two  spaces and one at the end .jpg",
        "größe.jpg",
        "cafe\u0301 decomposed.jpg",
        "りんご 🍎.png",
        "UPPER.JPG",
        "Mixed.PnG",
        "short.jpe",
        "long.jfif",
        "dots.tar.gz.v1.2.jpg",
        "no 100% #1 'quote' \"two\" [a-z]* {x} $HOME ~ & ; ?.jpg",
        "-rf.jpg",
        "a\nbreak.jpg",
        "back\\slash.jpg",
        "http:..host.jpg",
        "x" * 240 + ".png",
        "no utf \udcff\udce4.jpg",
        "deeper/and deeper/still.png",
        "a folder named.jpg/inside.png",
    ):
        try:
            corpus.add(f"names/{name}", _encode(picture(), "PNG" if "png" in name else "JPEG"))
        except OSError:  # some file systems take no such name
            (corpus.root / "names" / name).unlink(missing_ok=True)
    copied = _encode(picture(), "JPEG")
    for name in ("names/a copy.jpg", "names/z copy.jpg", "png/copy.png"):
        corpus.add(name, copied)
    corpus.path("names/a link.jpg").symlink_to("UPPER.JPG")
    corpus.expected["names/a link.jpg"] = corpus.expected["names/UPPER.JPG"]
    corpus.path("names/around").symlink_to("..")
    corpus.path("names/an empty folder named.png").mkdir()


def _encoders() -> Iterator[tuple[str, Callable[[Image.Image], bytes]]]:
    """Yield what is to be damaged: a name, and how to encode a picture so."""
    for name, kind, options in (
        ("plain.jpg", "JPEG", {}),
        ("progressive.jpg", "JPEG", {"progressive": True}),
        ("rotated.jpg", "JPEG", {"exif": _exif(6)}),
        ("restart.jpg", "JPEG", {"restart_marker_blocks": 3}),
        ("plain.png", "PNG", {}),
        ("rotated.png", "PNG", {"exif": _exif(6)}),
        ("plain.gif", "GIF", {}),
        ("lossy.webp", "WEBP", {}),
        ("lossless.webp", "WEBP", {"lossless": True}),
        ("plain.tif", "TIFF", {}),
        ("lzw.tif", "TIFF", {"compression": "tiff_lzw"}),
        ("plain.bmp", "BMP", {}),
        ("plain.ppm", "PPM", {}),
        *([("lossy.avif", "AVIF", {})] if features.check("avif") else []),
    ):
        yield name, lambda image, kind=kind, options=options: _encode(image, kind, **options)


def _cut(corpus: _Corpus) -> None:
    for name, encode in _encoders():
        stem, suffix = os.path.splitext(name)
        for share in (0.05, 0.3, 0.6, 0.9):
            data = encode(corpus.picture())
            corpus.add(f"cut/{stem} {share}{suffix}", data[: int(share * len(data))])
        for n_bytes in (1, 10):
            data = encode(corpus.picture())
            corpus.add(f"cut/{stem} less {n_bytes}{suffix}", data[:-n_bytes])


def _garbled(corpus: _Corpus) -> None:
    rng = corpus.rng
    for name, encode in _encoders():
        stem, suffix = os.path.splitext(name)
        for number in range(2):  # bytes anywhere
            data = bytearray(encode(corpus.picture()))
            places = rng.integers(2, len(data), 6)
            data[:] = [rng.integers(256) if i in places else b for i, b in enumerate(data)]
            corpus.add(f"garbled/{stem} {number}{suffix}", bytes(data))
        data = bytearray(encode(corpus.picture()))
        middle = len(data) // 2
        data[middle : middle + 40] = rng.bytes(40)
        corpus.add(f"garbled/{stem} middle{suffix}", bytes(data))
        data = encode(corpus.picture())
        corpus.add(f"garbled/{stem} gap{suffix}", data[:middle] + data[middle + 9 :])
    bad = bytearray(_encode(corpus.picture(), "PNG"))
    bad[bad.index(b"IDAT") + 30] ^= 0xFF
    for copy in "ab":
        corpus.add(f"garbled/copy {copy}.png", bytes(bad))
    data = _encode(corpus.picture(), "PNG")
    at = data.index(b"IDAT") - 6  # in the header's checksum
    corpus.add("garbled/header checksum.png", data[:at] + b"no" + data[at + 2 :])
    (length,) = struct.unpack_from(">I", data, data.index(b"IDAT") - 4)
    end = data.index(b"IDAT") + 4 + length
    corpus.add("garbled/pixels checksum.png", data[:end] + b"no" + data[end + 2 :])
    corpus.add("garbled/too little.png", _with_rows(corpus.picture((20, 20)), 12))
    corpus.add("garbled/too much.png", _with_rows(corpus.picture((20, 20)), 25))
    corpus.add("garbled/short chunk.png", _with_chunk(data, b"pHYs", b"\0"))
    data = _encode(corpus.picture(), "JPEG")
    corpus.add("garbled/short adobe.jpg", _with_segment(data, 0xEE, b"Adobe"))
    data = bytearray(_encode(corpus.picture((40, 40)), "JPEG"))
    at = _markers(data, 0xC0)[0]
    data[at + 5 : at + 7] = struct.pack(">H", 900)  # the header says more rows than there are
    corpus.add("garbled/taller.jpg", bytes(data))
    corpus.add("garbled/end early.jpg", _encode(corpus.picture(), "JPEG")[:700] + b"\xff\xd9")


def _with_rows(image: Image.Image, n_rows: int) -> bytes:
    """Return a PNG file that has another number of rows than its header says."""
    data = bytearray(_raw_png(image.resize((image.width, n_rows)), 2))
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 0)
    data[8:33] = _chunk(b"IHDR", header)
    return bytes(data)


def _no_images(corpus: _Corpus) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("inside.png"), _encode(corpus.picture(), "PNG"))
    jpeg, png = _encode(corpus.picture(), "JPEG"), _encode(corpus.picture(), "PNG")
    header = struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
    for name, data in {
        "empty.jpg": b"",
        "empty.png": b"",
        "empty.webp": b"",
        "one byte.gif": b"G",
        "text.jpg": b"This is no image.\n",
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "utf-16.png": "no image".encode("utf-16"),
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "record.jpeg": json.dumps({"error": "quota"}).encode(),
        "packed.png": packed.getvalue(),
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n",
        "array.tif": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "film.webp": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(50),
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
        "zeros.bmp": bytes(5000),
        "start only.jpg": jpeg[:2],
        "start and end.jpg": jpeg[:2] + jpeg[-2:],
        "tables only.jpg": jpeg[: _markers(jpeg, 0xC0)[0]] + jpeg[-2:],
        "no scan.jpg": jpeg[: _markers(jpeg, 0xDA)[0]],
        "signature only.png": png[:8],
        "header only.png": png[:33],
        "no pixels.png": png[:33] + _chunk(b"IEND", b""),
        "no width.png": png[:8] + _chunk(b"IHDR", header) + png[33:],
        "header only.gif": b"GIF89a",
        "screen only.gif": b"GIF89a\x05\0\x05\0\0\0\0;",
        "header only.webp": b"RIFF\x1a\0\0\0WEBP",
        "header only.bmp": b"BM" + bytes(12),
        "header only.tif": b"II*\0\x08\0\0\0",
        "header only.ppm": b"P6\n5 5\n255\n",
        "no size.ppm": b"P6\n0 0\n255\n",
        "words.ppm": b"P3 two three four\n",
        "header only.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    }.items():
        corpus.add(f"no images/{name}", data)
    # a program, which Pillow would have another program run if there is one: it never ends
    loop = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"
    corpus.add_bad("no images/program.jpg", "a PostScript program", loop)


def _too_large(corpus: _Corpus) -> None:
    """Write what has more than `MAX_PIXELS`, or says so; and what has exactly as many."""

    def of(size: tuple[int, int], mode: str = "L") -> Image.Image:
        return corpus.picture((50, 50)).convert(mode).resize(size)

    corpus.add("too large/bits.png", _encode(of((3000, 3000), "1"), "PNG"))
    corpus.add("too large/one row more.jpg", _encode(of((1000, 1001)), "JPEG"))
    corpus.add("too large/plain.png", _encode(of((1001, 1000)), "PNG", compress_level=1))
    corpus.add("too large/long.gif", _encode(of((1, 65000)).resize((20, 60000)), "GIF"))
    corpus.add("too large/fax.tif", _encode(of((1500, 1500), "1"), "TIFF", compression="group4"))
    corpus.add("too large/flat.bmp", _encode(of((1200, 1200), "1"), "BMP"))
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = _encode(corpus.picture(), "PNG")
    corpus.add("too large/by its header.png", data[:8] + _chunk(b"IHDR", header) + data[33:])
    data = bytearray(_encode(corpus.picture(), "JPEG"))
    at = _markers(data, 0xC0)[0]
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    corpus.add("too large/by its header.jpg", bytes(data))
    corpus.add("png/as large as may be.png", _encode(of((1000, 1000), "1"), "PNG"))


def _links(corpus: _Corpus) -> None:
    corpus.path("links/dangling.jpg").symlink_to("nowhere.jpg")
    corpus.add_bad("links/dangling.jpg", "it leads nowhere")
    corpus.path("links/itself.png").symlink_to("itself.png")
    corpus.add_bad("links/itself.png", "it leads to itself")
    os.mkfifo(corpus.path("links/pipe.jpg"))
    corpus.add_bad("links/pipe.jpg", "reading it would wait for ever")
    if os.geteuid() != 0:  # root may read everything
        corpus.add_bad("links/secret.jpg", "it may not be read", _encode(corpus.picture(), "JPEG"))
        corpus.path("links/secret.jpg").chmod(0)


def _passed_over(corpus: _Corpus) -> None:
    image = _encode(corpus.picture(), "JPEG")
    for id_ in (
        "jpeg/Thumbs.db",
        "jpeg/.hidden.jpg",
        "jpeg/no suffix",
        "jpeg/whole.jpg.part",
        "png/notes.txt",
        "png/.DS_Store",
        "png/labels.csv",
        "beside the classes.jpg",
    ):
        corpus.path(id_).write_bytes(image)
        corpus.expected[id_] = Expected(PASSED_OVER)


def summary(expected: dict[str, Expected]) -> str:
    """Return how many files there are, by folder and by what is expected of them."""
    counts = Counter((id_.partition("/")[0], one.verdict) for id_, one in expected.items())
    lines = [f"{folder:24} {verdict:12} {n:4}" for (folder, verdict), n in sorted(counts.items())]
    total = Counter(one.verdict for one in expected.values())
    return "\n".join([*lines, ", ".join(f"{n} {verdict}" for verdict, n in total.items())])


if __name__ == "__main__":
    print(summary(write(Path(sys.argv[1]))))
