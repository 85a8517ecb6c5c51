"""Images of a listing to batches at the networks' sizes.

Plain JPEG and PNG files are decoded by TensorFlow inside `tf.data` and turned upright. Whatever
TensorFlow would read otherwise than a person sees it (alpha, palettes, CMYK, 16 bits) and every
other format goes through Pillow, and so does what TensorFlow fails on: Pillow either reads it or
says why not. Both are resized by the same TensorFlow op. No normalisation here; values stay 0 to
255.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, Union

import numpy as np

from featcache.core.spec import MAX_PIXELS, ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import decoding, gpu_decoding, levels, nvimagecodec
from featcache.data.damage import UnreadableImageError, VanishedImageError
from featcache.data.image_ops import decode, turned
from featcache.data.in_passing import plain_files
from featcache.data.listing import Listing, Reading, Unusable, ahead, each
from featcache.data.recipe import CLEAN, Recipe, views_of
from featcache.data.sources import Source

Item = TypeVar("Item")
Decoded = Union[np.ndarray, UnreadableImageError]
Images = Any  # (b, n_views, height, width, 3) float32, a tensor
Arrays = tuple[np.ndarray, tuple[Images, ...]]  # row numbers, images at each size
PARALLEL = os.cpu_count() or 1  # images in work at once


@dataclass(frozen=True)
class Batch:
    """Images of some rows, for every spec, and which rows turned out unusable on the way."""

    rows: np.ndarray  # (b,) int64; the last batch may be of failures alone
    images: tuple[Images, ...]  # for each spec; tensors, as copying them would take longest of all
    failures: Mapping[int, Unusable]  # by row, since the batch before
    # rows, likewise: of more than 8 bits, and no value above 1/16 of white
    dark: frozenset[int] = frozenset()
    is_of_digests: bool = False  # whether the very bytes were decoded that were hashed

    @property
    def clean(self) -> Images:
        """The first view for the first spec, (b, height, width, 3)."""
        return views_of(self.images[0], [0])


def batches(
    listing: Listing,
    rows: Sequence[int],
    *,
    specs: Sequence[ExtractionSpec],
    views: tuple[int, ...] = CLEAN,
    batch_size: int,
    reading: Reading | None = None,
) -> Iterator[Batch]:
    """Yield the images of `rows`, the plain ones in order, then the rest; each is decoded once.

    Parameters
    ----------
    rows : row numbers of the listing.
    specs : the images of each; they differ in nothing about images but `geometry`, and not in
        that with `decode_scale`, which goes by it.
    views : which views to make, 0 is the clean one.
    batch_size : images per batch at most, all views counted.
    reading : of a listing that is not read yet, what is filled in on the way. Of copies only the
        first is yielded then.
    """
    recipe = Recipe(
        spec=specs[0],
        geometries=tuple(dict.fromkeys(spec.geometry for spec in specs)),
        views=views,
        digests=listing.digests if reading is None else reading.digests,
        batch_size=max(1, batch_size // len(views)),
    )
    assert not (recipe.spec.decode_scale and len(recipe.geometries) > 1)
    place = [recipe.geometries.index(spec.geometry) for spec in specs]
    asked = np.array(rows, np.int64)
    # what TensorFlow fails on never arrives, and so is left: Pillow has the last word
    is_done = np.zeros(len(listing), bool)
    failed: deque[tuple[int, Unusable]] = deque()  # TensorFlow's threads add to it
    dark: deque[int] = deque()
    if reading is None:
        arriving = _decoded_by_tensorflow(listing, asked[listing.orientations[asked] > 0], recipe)
    else:
        arriving = _decoded_in_passing(reading, asked, recipe, is_done)
    for numbers, images in arriving:
        is_done[numbers] = True
        made = tuple(images[i] for i in place)
        yield Batch(numbers, made, {}, is_of_digests=reading is not None)
    if reading is not None:
        is_done[list(reading.unreadable)] = True
        failed.extend((row, Unusable(why)) for row, why in sorted(reading.unreadable.items()))
    left = asked[~is_done[asked]].tolist()
    if left:

        def readable() -> Iterator[tuple[int, np.ndarray]]:
            for row, image in _in_threads(listing, left, recipe.spec, dark):
                if isinstance(image, np.ndarray):
                    yield row, image
                else:
                    has_changed = isinstance(image, VanishedImageError)
                    failed.append((row, Unusable(str(image), has_changed)))

        dtype = listing.source.contents.dtype
        for numbers, images in _decoded_already(readable, dtype, recipe.usual):
            made = tuple(images[i] for i in place)
            yield Batch(numbers, made, dict(_drained(failed)), frozenset(_drained(dark)))
    if failed:
        shapes = [(0, len(views), *spec.image_size, 3) for spec in specs]
        nothing = tuple(np.zeros(shape, np.float32) for shape in shapes)
        yield Batch(np.zeros(0, np.int64), nothing, dict(_drained(failed)))


def read(
    listing: Listing,
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
    readable = [row for row in rows.tolist() if row not in listing.unreadable]
    for batch in batches(listing, readable, specs=[spec], views=(view,), batch_size=batch_size):
        places = [place[row] for row in batch.rows.tolist()]
        block[places] = np.asarray(batch.clean)
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
        raw = source.contents.get(row)
    except OSError as error:
        raise VanishedImageError(error.strerror or str(error)) from error
    side = spec.geometry.side if spec.decode_scale else None
    return decoding.seen(raw, spec, max_pixels, side)


def _drained(found: deque[Item]) -> Iterator[Item]:
    with suppress(IndexError):
        while True:
            yield found.popleft()


def _decoded_by_tensorflow(
    listing: Listing, numbers: np.ndarray, recipe: Recipe
) -> Iterator[Arrays]:
    if not len(numbers):
        return
    tf = import_tensorflow()
    source = listing.source
    orientations = listing.orientations[numbers].astype(np.int32)
    if source.paths is not None:
        paths = [os.fsencode(source.paths[row]) for row in numbers.tolist()]
        dataset = tf.data.Dataset.from_tensor_slices((numbers, orientations, paths))
        dataset = dataset.map(lambda row, turn, path: (row, turn, tf.io.read_file(path)), PARALLEL)
    else:
        kinds = (tf.int64, tf.int32, tf.string)
        dataset = tf.data.Dataset.from_generator(
            lambda: _read(source, numbers, orientations),
            output_signature=tuple(tf.TensorSpec((), kind) for kind in kinds),
        )
    yield from _decoded(dataset, recipe)


def _decoded_in_passing(
    reading: Reading, rows: np.ndarray, recipe: Recipe, is_copy: np.ndarray
) -> Iterator[Arrays]:
    """Read all rows and yield the plain ones; copies of earlier rows become true in `is_copy`."""
    tf = import_tensorflow()
    kinds = (tf.int64, tf.int32, tf.string)
    dataset = tf.data.Dataset.from_generator(
        lambda: plain_files(reading, rows.tolist(), is_copy),
        output_signature=tuple(tf.TensorSpec((None,), kind) for kind in kinds),
    )
    yield from _decoded(dataset.unbatch(), recipe)
    for row in rows[~reading.is_looked_at[rows]].tolist():
        reading.read(row)  # what ended the reading before comes up here


def _decoded(dataset: Any, recipe: Recipe) -> Iterator[Arrays]:
    """Yield images of a dataset of rows, orientations and the bytes of plain files."""
    load = recipe.usual.traced(_loader)
    if recipe.spec.decoder == "gpu":
        codec = nvimagecodec.of_gpu()
        yield from gpu_decoding.decoded(dataset.ignore_errors(), recipe, codec, load, PARALLEL)
    else:
        yield from recipe.batched(dataset.map(load, PARALLEL).ignore_errors())


def _loader(recipe: Recipe) -> Any:
    """Return a traced function: row, orientation and bytes of a plain file to row and images."""
    tf = import_tensorflow()
    kinds = (tf.int64, tf.int32, tf.string)

    def load(row: Any, orientation: Any, data: Any) -> Any:
        image = decode(data, recipe.spec)
        image = tf.cond(orientation == 1, lambda: image, lambda: turned(image, orientation))
        return recipe.made(row, image)

    return tf.function(load, [tf.TensorSpec((), kind) for kind in kinds], autograph=False)


def _read(
    source: Source, rows: np.ndarray, orientations: np.ndarray
) -> Iterator[tuple[int, int, Any]]:
    """Yield rows with orientation and bytes; what cannot be read any more is left out."""

    def attempt(row: int) -> Any:
        try:
            return source.contents.get(row)
        except OSError:
            return None

    every = each(source, attempt, rows.tolist())
    for row, orientation, raw in zip(rows.tolist(), orientations.tolist(), every, strict=True):
        if raw is not None:
            yield row, orientation, raw


def _decoded_already(
    decoded: Callable[[], Iterator[tuple[int, np.ndarray]]], dtype: str, recipe: Recipe
) -> Iterator[Arrays]:
    tf = import_tensorflow()
    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None, None, 3), dtype))
    dataset = tf.data.Dataset.from_generator(decoded, output_signature=signature)
    yield from recipe.batched(dataset.map(recipe.made, PARALLEL))


def _in_threads(
    listing: Listing, rows: Iterable[int], spec: ExtractionSpec, dark: deque[int]
) -> Iterator[tuple[int, Decoded]]:
    """Yield rows in order with their pixels or the reason there are none, a few ahead.

    `dark` is added those whose range was probably not said: see `Batch`.
    """
    source = listing.source

    def attempt(row: int) -> Decoded:
        try:
            image = pixels(source, row, spec, listing.max_pixels)
            if spec.value_range is None and image.max() <= levels.DARK and _is_deep(source, row):
                dark.append(row)
            return image
        except UnreadableImageError as error:
            return error

    def numbered(row: int) -> tuple[int, Decoded]:
        return row, attempt(row)

    workers = (os.cpu_count() or 1) if source.contents.is_concurrent else 1
    yield from ahead(numbered, rows, workers, 2 * workers)


def _is_deep(source: Source, row: int) -> bool:
    try:
        return levels.is_deep(source.contents.get(row))
    except OSError:  # gone since it was decoded
        return False
