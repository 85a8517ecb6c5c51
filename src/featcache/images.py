"""One image file to upright RGB pixels, and many of them to batches at the network's size.

Plain JPEG and PNG files are decoded by TensorFlow inside `tf.data`. Whatever TensorFlow would read
otherwise than a person sees it (EXIF rotation, alpha, palettes, CMYK, 16 bits) and every other
format goes through Pillow, and so does what TensorFlow fails on: Pillow either reads it or says
why not. Both are resized by the same TensorFlow op. No normalisation here; values stay 0 to 255.
"""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from featcache import quiet
from featcache.sources import Scan, Source

MAX_PIXELS = 178_956_970  # Pillow's limit against decompression bombs
BACKGROUND = (255, 255, 255)  # under transparent pixels

_EXIF_ORIENTATION = 0x0112


class UnreadableImageError(Exception):
    """Why one image cannot be used; the caller records it and goes on."""


def is_plain(data: bytes) -> bool:
    """Return whether TensorFlow decodes this file to what Pillow shows upright."""
    if data.startswith(b"\xff\xd8"):
        return _is_plain_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _is_plain_png(data)
    return False


def decode(data: bytes) -> np.ndarray:
    """Return upright RGB, (height, width, 3) uint8, composited on white.

    Raises
    ------
    UnreadableImageError
        When Pillow cannot decode all of it, or it has more than `MAX_PIXELS`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}"
                )
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("no known image format") from error
    # a decoder raises almost anything on damaged data; one bad file must not end a long run
    except Exception as error:
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error


def resize(image: Any, image_size: tuple[int, int], method: str) -> Any:
    """Return a TensorFlow image (..., height, width, 3) as float32 at `image_size`.

    The aspect ratio is not kept, as in `keras.utils.image_dataset_from_directory`. `method` is
    "bilinear" or "antialias" (bilinear with a wider filter when shrinking; better, slower).
    """
    tf = quiet.tensorflow()
    return tf.image.resize(image, image_size, "bilinear", antialias=method == "antialias")


def batches(
    source: Source,
    scanned: Scan,
    rows: Sequence[int],
    *,
    image_size: tuple[int, int],
    resize_method: str,
    batch_size: int,
    failures: dict[int, str],
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield (row numbers, images) for `rows` of a source: the plain ones in order, then the rest.

    Parameters
    ----------
    scanned : what `sources.scan(source, is_plain)` gave.
    rows : row numbers to load.
    failures : filled with the reason for every row that could not be loaded.

    Yields
    ------
    (b,) int64 and (b, height, width, 3) float32 on the device, b <= `batch_size`.
    """
    tf = quiet.tensorflow()
    paths = source.paths or ()
    in_graph = [row for row in rows if scanned.plain[row]]
    left = dict.fromkeys(row for row in rows if not scanned.plain[row])

    def load(row: Any, path: Any) -> Any:
        # The op reads PNG too. INTEGER_ACCURATE gives Pillow's pixels; the default is a level off.
        image = tf.io.decode_jpeg(tf.io.read_file(path), 3, dct_method="INTEGER_ACCURATE")
        return row, _sized(resize(image, image_size, resize_method), image_size)

    if in_graph:
        files = [os.fsencode(paths[row]) for row in in_graph]
        dataset = tf.data.Dataset.from_tensor_slices((np.array(in_graph, np.int64), files))
        dataset = dataset.map(load, tf.data.AUTOTUNE).ignore_errors()
        # what TensorFlow fails on never arrives; it stays in `left` and Pillow has the last word
        left.update(dict.fromkeys(in_graph))
        for numbers, images in dataset.batch(batch_size).prefetch(2):
            numbers = numbers.numpy()
            for row in numbers.tolist():
                del left[row]
            yield numbers, images

    def decoded() -> Iterator[tuple[int, np.ndarray]]:
        for row, image in _in_threads(source, left):
            if isinstance(image, UnreadableImageError):
                failures[row] = str(image)
            else:
                yield row, image

    if left:
        signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None, None, 3), tf.uint8))
        dataset = tf.data.Dataset.from_generator(decoded, output_signature=signature)
        dataset = dataset.map(
            lambda row, image: (row, _sized(resize(image, image_size, resize_method), image_size)),
            tf.data.AUTOTUNE,
        )
        for numbers, images in dataset.batch(batch_size).prefetch(2):
            yield numbers.numpy(), images


def _sized(image: Any, image_size: tuple[int, int]) -> Any:
    image.set_shape((*image_size, 3))
    return image


def pixels(source: Source, row: int) -> np.ndarray:
    """Return one image of a source as upright RGB, (height, width, 3) uint8.

    Raises
    ------
    UnreadableImageError
        When its file is gone or cannot be decoded.
    """
    if source.arrays is not None:
        return np.asarray(source.arrays[row])
    try:
        return decode(source.read(row))
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error


def _in_threads(
    source: Source, rows: Iterable[int]
) -> Iterator[tuple[int, np.ndarray | UnreadableImageError]]:
    """Yield rows in order with their pixels or the reason there are none, a few ahead."""

    def attempt(row: int) -> np.ndarray | UnreadableImageError:
        try:
            return pixels(source, row)
        except UnreadableImageError as error:
            return error

    workers = os.cpu_count() or 1
    queue: deque[tuple[int, Future[np.ndarray | UnreadableImageError]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for row in rows:
            queue.append((row, pool.submit(attempt, row)))
            if len(queue) > 2 * workers:
                first, future = queue.popleft()
                yield first, future.result()
        while queue:
            first, future = queue.popleft()
            yield first, future.result()


def _to_rgb(image: Any) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        # 16-bit grey: Pillow's own conversion to RGB clips at 255 instead of scaling
        grey = (np.asarray(image).astype(np.float32) / 257.0).round().clip(0, 255)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        image.alpha_composite(layer)
    return np.asarray(image.convert("RGB"))


def _is_plain_jpeg(data: bytes) -> bool:
    """Grey or three components, upright by its EXIF orientation, not over the limit."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0") and not _is_upright(segment[6:]):
            return False
        if marker == 0xE1 and b"tiff:Orientation" in segment:  # XMP may rotate as well
            return False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(segment) < 6:
                return False
            height, width, components = struct.unpack(">HHB", segment[1:6])
            return components in (1, 3) and 0 < height * width <= MAX_PIXELS
        position += 2 + length
    return False


def _is_upright(exif: bytes) -> bool:
    """Read the orientation entry of a TIFF header's first directory; absent means upright."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return True
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, offset)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, offset + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION:
                return bool(value == 1)
    except struct.error:
        return False  # damaged: let Pillow judge
    return True


def _is_plain_png(data: bytes) -> bool:
    """Eight bits, grey or RGB, without transparency or orientation, not over the limit."""
    if len(data) < 33:
        return False
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if depth != 8 or colour not in (0, 2) or not 0 < width * height <= MAX_PIXELS:
        return False
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind in (b"tRNS", b"eXIf"):
            return False
        if kind == b"IDAT":
            return True
        position += 12 + length
    return False
