"""Images of a source to batches at the networks' sizes.

Plain JPEG and PNG files are decoded by TensorFlow inside `tf.data` and turned upright. Whatever
TensorFlow would read otherwise than a person sees it (alpha, palettes, CMYK, 16 bits) and every
other format goes through Pillow, and so does what TensorFlow fails on: Pillow either reads it or
says why not. Both are resized by the same TensorFlow op. No normalisation here; values stay 0 to
255.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from featcache.core.spec import MAX_PIXELS, ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import augment, decoding
from featcache.data.decoding import UnreadableImageError, VanishedImageError, plain_orientation
from featcache.data.sources import Scan, Source

__all__ = ["MAX_PIXELS", "UnreadableImageError", "batches", "pixels", "plain_orientation", "resize"]

Decoded = Union[np.ndarray, UnreadableImageError]
CLEAN = (0,)
PARALLEL = os.cpu_count() or 1  # images in work at once


def resize(image: Any, image_size: tuple[int, int], method: str) -> Any:
    """Return a TensorFlow image (..., height, width, 3) as float32 at `image_size`.

    The aspect ratio is not kept, as in `keras.utils.image_dataset_from_directory`. `method` is
    "bilinear" or "antialias" (bilinear with a wider filter when shrinking; better, slower).
    """
    tf = import_tensorflow()
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
    scanned : what `sources.scan(source, plain_orientation)` gave.
    rows : row numbers to load.
    spec : says the size and how it is reached, and what lies under transparent pixels.
    failures : filled with the reason for every row that could not be loaded. One whose file could
        no longer be read loses its digest in `scanned`: it says nothing about that content.
    max_pixels : larger images are failures.

    Yields
    ------
    (b,) int64 and (b, height, width, 3) float32, b <= `batch_size`.
    """
    for numbers, (images,) in stacks(
        source,
        scanned,
        rows,
        specs=[spec],
        batch_size=batch_size,
        failures=failures,
        max_pixels=max_pixels,
    ):
        yield numbers, images[:, 0]


def stacks(
    source: Source,
    scanned: Scan,
    rows: Sequence[int],
    *,
    specs: Sequence[ExtractionSpec],
    view_numbers: tuple[int, ...] = CLEAN,
    batch_size: int,
    failures: dict[int, str],
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    """Yield what `batches` does for several specs and views; each image is decoded once.

    Parameters
    ----------
    specs : the images of each; they differ in nothing about images but `image_size`, and not in
        that with `decode_scale`, which goes by it.
    view_numbers : which views to make, 0 is the clean one.
    batch_size : images a batch, all views counted.

    Yields
    ------
    (b,) int64, and for each spec (b, n_views, height, width, 3) float32.
    """
    recipe = _Recipe(
        spec=specs[0],
        sizes=tuple(dict.fromkeys(spec.image_size for spec in specs)),
        views=view_numbers,
        digests=scanned.digests,
        batch_size=max(1, batch_size // len(view_numbers)),
    )
    assert not (recipe.spec.decode_scale and len(recipe.sizes) > 1)
    place = [recipe.sizes.index(spec.image_size) for spec in specs]
    in_graph = [row for row in rows if scanned.orientations[row]]
    # what TensorFlow fails on never arrives; it stays in `left` and Pillow has the last word
    left = dict.fromkeys(rows)
    with decoding.own_limit():
        if in_graph:
            for numbers, images in _decoded_by_tensorflow(source, scanned, in_graph, recipe):
                for row in numbers.tolist():
                    del left[row]
                yield numbers, tuple(images[i] for i in place)
        if left:

            def readable() -> Iterator[tuple[int, np.ndarray]]:
                for row, image in _in_threads(source, left, recipe, max_pixels):
                    if isinstance(image, np.ndarray):
                        yield row, image
                        continue
                    failures[row] = str(image)
                    if isinstance(image, VanishedImageError):
                        scanned.digests[row] = 0

            for numbers, images in _decoded_already(readable, source.contents.dtype, recipe):
                yield numbers, tuple(images[i] for i in place)


def read(
    source: Source,
    scanned: Scan,
    rows: np.ndarray,
    *,
    spec: ExtractionSpec,
    view: int = 0,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return images of rows (n,) in their order, and which of them could be read.

    Returns
    -------
    (n, height, width, 3) float32, zeros where there is none, and (n,) bool.
    """
    block = np.zeros((len(rows), *spec.image_size, 3), np.float32)
    is_read = np.zeros(len(rows), bool)
    place = {row: number for number, row in enumerate(rows.tolist())}
    for numbers, (stack,) in stacks(
        source,
        scanned,
        [row for row in rows.tolist() if row not in scanned.unreadable],
        specs=[spec],
        view_numbers=(view,),
        batch_size=batch_size,
        failures={},
    ):
        places = [place[row] for row in numbers.tolist()]
        block[places] = stack[:, 0]
        is_read[places] = True
    return block, is_read


def pixels(
    source: Source,
    row: int,
    spec: ExtractionSpec,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Return one image of a source as upright RGB, (height, width, 3), 0 to 255.

    With `spec.decode_scale` a large JPEG is smaller already, but at least twice the spec's size.

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
        side = max(spec.image_size) if spec.decode_scale else None
        return decoding.decode(raw, spec.background, max_pixels, side)
    return decoding.composite(raw, spec.background)


@dataclass(frozen=True)
class _Recipe:
    """What becomes of each decoded image."""

    spec: ExtractionSpec  # for all but the size
    sizes: tuple[tuple[int, int], ...]
    views: tuple[int, ...]
    digests: np.ndarray  # (n, 16) uint8 by row
    batch_size: int

    def made(self, row: Any, image: Any) -> tuple[Any, ...]:
        """Return row and images (n_views, height, width, 3), one tensor a size."""
        drawn = self._draws(row) if self.views != CLEAN else None
        stacks = []
        for size in self.sizes:
            made = [self._view(image, size, place, drawn) for place in range(len(self.views))]
            stack = made[0][None] if len(made) == 1 else import_tensorflow().stack(made)
            stack.set_shape((len(self.views), *size, 3))
            stacks.append(stack)
        return (row, *stacks)

    def _view(self, image: Any, size: tuple[int, int], place: int, drawn: Any) -> Any:
        """One view; what is cheap on a small image comes after resizing."""
        if self.views[place] == 0:
            return resize(image, size, self.spec.resize)
        ways, mine = self.spec.augment, drawn[place]
        image = resize(
            augment.crop(image, mine) if "crop" in ways else image, size, self.spec.resize
        )
        if "flip" in ways:
            image = augment.flip(image, mine)
        return augment.color(image, mine) if "color" in ways else image

    def _draws(self, row: Any) -> Any:
        tf = import_tensorflow()
        drawn = tf.numpy_function(
            lambda number: augment.draws(self.digests[number], self.views),
            [row],
            tf.float32,
            stateful=False,
        )
        return tf.ensure_shape(drawn, (len(self.views), augment.N_DRAWS))

    def batched(self, dataset: Any) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
        """Yield batches as arrays; they are views of TensorFlow's memory, not to be written to."""
        options = import_tensorflow().data.Options()
        # tuning ends with a dataset only when its current period ends, and periods double: a run
        # of 3 s may wait for 2 s more (TensorFlow 2.21; see docs/decisions/threads.md)
        options.autotune.enabled = False
        for numbers, *images in dataset.batch(self.batch_size).prefetch(2).with_options(options):
            yield numbers.numpy(), tuple(stack.numpy() for stack in images)


def _decoded_by_tensorflow(
    source: Source, scanned: Scan, rows: Sequence[int], recipe: _Recipe
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    tf = import_tensorflow()
    numbers = np.array(rows, np.int64)
    orientations = scanned.orientations[numbers].astype(np.int32)
    if source.paths is not None:
        paths = [os.fsencode(source.paths[row]) for row in rows]
        dataset = tf.data.Dataset.from_tensor_slices((numbers, orientations, paths))
        dataset = dataset.map(lambda row, turn, path: (row, turn, tf.io.read_file(path)), PARALLEL)
    else:
        kinds = (tf.int64, tf.int32, tf.string)
        dataset = tf.data.Dataset.from_generator(
            lambda: _read(source, numbers, orientations),
            output_signature=tuple(tf.TensorSpec((), kind) for kind in kinds),
        )

    def load(row: Any, orientation: Any, data: Any) -> Any:
        image = decode(data, recipe.spec)
        image = tf.cond(orientation == 1, lambda: image, lambda: turned(image, orientation))
        return recipe.made(row, image)

    yield from recipe.batched(dataset.map(load, PARALLEL).ignore_errors())


def decode(data: Any, spec: ExtractionSpec) -> Any:
    """Return a plain JPEG or PNG file, a TensorFlow string, as (height, width, 3) uint8.

    With `spec.decode_scale` a large JPEG is decoded at the ratio that `decoding` says.
    """
    tf = import_tensorflow()

    def at(ratio: int) -> Any:
        # The op reads PNG too. INTEGER_ACCURATE gives Pillow's pixels; the default is a level off.
        return tf.io.decode_jpeg(data, 3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    if not spec.decode_scale:
        return at(1)
    side = max(spec.image_size)
    shortest = tf.cond(
        tf.image.is_jpeg(data),
        lambda: tf.reduce_min(tf.io.extract_jpeg_shape(data)[:2]),
        lambda: 0,
    )
    cases = [
        (shortest >= decoding.shortest_side(ratio, side), functools.partial(at, ratio))
        for ratio in decoding.RATIOS
    ]
    return tf.case(cases, default=lambda: at(1))


def turned(image: Any, orientation: Any) -> Any:
    """Return a TensorFlow image (height, width, 3) upright, by its EXIF orientation, 1 to 8.

    Turning comes before resizing, as in Pillow's path, so that not a bit of the result differs. All
    orientations are one gather; TensorFlow's transposition of bytes logs an error of oneDNN's.
    """
    tf = import_tensorflow()
    height, width = tf.shape(image)[0], tf.shape(image)[1]

    def is_in(*some: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(some))

    rows, columns = tf.range(height), tf.range(width)
    rows = tf.where(is_in(3, 4, 6, 7), rows[::-1], rows)
    columns = tf.where(is_in(2, 3, 7, 8), columns[::-1], columns)
    places = tf.cond(
        is_in(5, 6, 7, 8),
        lambda: rows[None, :] * width + columns[:, None],
        lambda: rows[:, None] * width + columns[None, :],
    )
    return tf.gather(tf.reshape(image, (-1, 3)), places)


def _read(
    source: Source, rows: np.ndarray, orientations: np.ndarray
) -> Iterator[tuple[int, int, Any]]:
    """Yield rows with orientation and bytes; what cannot be read any more is left out."""
    for row, orientation in zip(rows.tolist(), orientations.tolist(), strict=True):
        try:
            yield row, orientation, source.get(row)
        except OSError:
            continue


def _decoded_already(
    decoded: Callable[[], Iterator[tuple[int, np.ndarray]]], dtype: str, recipe: _Recipe
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    tf = import_tensorflow()
    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None, None, 3), dtype))
    dataset = tf.data.Dataset.from_generator(decoded, output_signature=signature)
    yield from recipe.batched(dataset.map(recipe.made, PARALLEL))


def _in_threads(
    source: Source, rows: Iterable[int], recipe: _Recipe, max_pixels: int
) -> Iterator[tuple[int, Decoded]]:
    """Yield rows in order with their pixels or the reason there are none, a few ahead."""

    def attempt(row: int) -> Decoded:
        try:
            return pixels(source, row, recipe.spec, max_pixels)
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
