"""Images of a source to batches at the network's size.

Plain JPEG and PNG files are decoded by TensorFlow inside `tf.data`. Whatever TensorFlow would read
otherwise than a person sees it (EXIF rotation, alpha, palettes, CMYK, 16 bits) and every other
format goes through Pillow, and so does what TensorFlow fails on: Pillow either reads it or says
why not. Both are resized by the same TensorFlow op. No normalisation here; values stay 0 to 255.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Union

import numpy as np

from featcache import decoding, quiet
from featcache.decoding import UnreadableImageError, VanishedImageError, is_plain
from featcache.sources import Scan, Source
from featcache.spec import BACKGROUND, MAX_PIXELS, ExtractionSpec

__all__ = ["MAX_PIXELS", "UnreadableImageError", "batches", "is_plain", "pixels", "resize"]

Decoded = Union[np.ndarray, UnreadableImageError]


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
    spec: ExtractionSpec,
    batch_size: int,
    failures: dict[int, str],
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield (row numbers, images) for `rows` of a source: the plain ones in order, then the rest.

    Parameters
    ----------
    scanned : what `sources.scan(source, is_plain)` gave.
    rows : row numbers to load.
    spec : says the size and how it is reached, and what lies under transparent pixels.
    failures : filled with the reason for every row that could not be loaded. One whose file could
        no longer be read loses its digest in `scanned`: it says nothing about that content.
    max_pixels : larger images are failures.

    Yields
    ------
    (b,) int64 and (b, height, width, 3) float32 on the device, b <= `batch_size`.
    """
    in_graph = [row for row in rows if scanned.plain[row]]
    # what TensorFlow fails on never arrives; it stays in `left` and Pillow has the last word
    left = dict.fromkeys(rows)
    with decoding.own_limit():
        if in_graph:
            for numbers, images in _decoded_by_tensorflow(source, in_graph, spec, batch_size):
                numbers = numbers.numpy()
                for row in numbers.tolist():
                    del left[row]
                yield numbers, images
        if left:

            def readable() -> Iterator[tuple[int, np.ndarray]]:
                for row, image in _in_threads(source, left, spec.background, max_pixels):
                    if isinstance(image, np.ndarray):
                        yield row, image
                        continue
                    failures[row] = str(image)
                    if isinstance(image, VanishedImageError):
                        scanned.digests[row] = 0

            yield from _batched(readable, source.contents.dtype, spec, batch_size)


def pixels(
    source: Source,
    row: int,
    background: str = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Return one image of a source as upright RGB, (height, width, 3), 0 to 255.

    Raises
    ------
    UnreadableImageError
        When its file is gone or cannot be decoded.
    """
    try:
        raw = source.get(row)
    except OSError as error:
        raise VanishedImageError(error.strerror or str(error)) from error
    if isinstance(raw, bytes):
        return decoding.decode(raw, background, max_pixels)
    return decoding.composite(raw, background)


def _decoded_by_tensorflow(
    source: Source, rows: Sequence[int], spec: ExtractionSpec, batch_size: int
) -> Iterator[tuple[Any, Any]]:
    tf = quiet.tensorflow()
    numbers = np.array(rows, np.int64)
    if source.paths is not None:
        paths = [os.fsencode(source.paths[row]) for row in rows]
        dataset = tf.data.Dataset.from_tensor_slices((numbers, paths))
        dataset = dataset.map(lambda row, path: (row, tf.io.read_file(path)), tf.data.AUTOTUNE)
    else:
        signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.string))
        dataset = tf.data.Dataset.from_generator(
            lambda: _read(source, rows), output_signature=signature
        )

    def load(row: Any, data: Any) -> Any:
        # The op reads PNG too. INTEGER_ACCURATE gives Pillow's pixels; the default is a level off.
        image = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")
        return row, _sized(image, spec)

    dataset = dataset.map(load, tf.data.AUTOTUNE).ignore_errors()
    yield from dataset.batch(batch_size).prefetch(2)


def _read(source: Source, rows: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """Yield rows with their bytes; what cannot be read any more is left out."""
    for row in rows:
        try:
            yield row, source.get(row)
        except OSError:
            continue


def _batched(
    decoded: Callable[[], Iterator[tuple[int, np.ndarray]]],
    dtype: str,
    spec: ExtractionSpec,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield batches of images that are decoded already, resized."""
    tf = quiet.tensorflow()
    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None, None, 3), dtype))
    dataset = tf.data.Dataset.from_generator(decoded, output_signature=signature)
    dataset = dataset.map(lambda row, image: (row, _sized(image, spec)), tf.data.AUTOTUNE)
    for numbers, images in dataset.batch(batch_size).prefetch(2):
        yield numbers.numpy(), images


def _sized(image: Any, spec: ExtractionSpec) -> Any:
    image = resize(image, spec.image_size, spec.resize)
    image.set_shape((*spec.image_size, 3))
    return image


def _in_threads(
    source: Source, rows: Iterable[int], background: str, max_pixels: int
) -> Iterator[tuple[int, Decoded]]:
    """Yield rows in order with their pixels or the reason there are none, a few ahead."""

    def attempt(row: int) -> Decoded:
        try:
            return pixels(source, row, background, max_pixels)
        except UnreadableImageError as error:
            return error

    workers = (os.cpu_count() or 1) if source.contents.is_concurrent else 1
    queue: deque[tuple[int, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for row in rows:
            queue.append((row, pool.submit(attempt, row)))
            if len(queue) > 2 * workers:
                first, future = queue.popleft()
                yield first, future.result()
        while queue:
            first, future = queue.popleft()
            yield first, future.result()
