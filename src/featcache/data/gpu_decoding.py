"""Plain files to batches on a GPU: it decodes the JPEGs, and resizes them where they then lie.

`tf.data` brings files in batches, in order. Their pixels go side by side into one tensor of
TensorFlow's, and one graph makes the images of all: each is cut out, turned and resized by the
operations of every other image, but a kernel's start is all that it costs, as nothing comes back to
Python in between. What the GPU does not decode goes the usual way, and takes its place in the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from featcache.core import progress
from featcache.core.tensorflow import import_tensorflow
from featcache.core.text import counted
from featcache.data.image_ops import turned
from featcache.data.listing import ahead
from featcache.data.recipe import Recipe

PIXELS = 64_000_000  # decoded at once, unless one image has more: 200 MB of the GPU's memory
WORKERS = 2  # one waits for the network's turn on the GPU while the other one decodes

Load = Callable[[Any, Any, Any], tuple[Any, ...]]  # row, orientation, bytes to row, images


class _Batch(NamedTuple):
    """Images in the order of the files, without what failed."""

    rows: np.ndarray  # (b,) int64
    images: tuple[Any, ...]  # one tensor a geometry; none where there are no rows
    n_jpegs: int  # JPEG files that there were
    n_left: int  # of them, those that the GPU did not decode


@dataclass(frozen=True)
class _Maker:
    """From a batch of files to a batch of images."""

    codec: Any  # `nvimagecodec.Codec`
    make: Callable[..., list[Any]]  # `_made`
    load: Load  # the usual way
    n_calls: int  # of that at once

    def batch(self, files: tuple[Any, Any, Any]) -> _Batch:
        """Return what becomes of rows, orientations and bytes of files."""
        rows, orientations, data = (np.asarray(column) for column in files)
        opened = [self.codec.opened(one) for one in data.tolist()]
        order: list[int] = []  # places in the batch, as the parts have them
        parts: list[tuple[Any, ...]] = []
        for places in _chunks(opened):
            done, images = self._on_gpu(places, opened, rows, orientations)
            if done:
                order += done
                parts.append(images)
        n_jpegs = sum(one is not None for one in opened)
        n_left = n_jpegs - len(order)
        left = sorted(set(range(len(rows))) - set(order))
        for place, one in zip(left, self._usual(left, rows, orientations, data), strict=True):
            if one is not None:
                order.append(place)
                parts.append(tuple(image[None] for image in one))
        images = self._joined(parts, order) if order else ()
        return _Batch(rows[sorted(order)], images, n_jpegs, n_left)

    def _on_gpu(
        self, places: list[int], opened: list[Any], rows: np.ndarray, orientations: np.ndarray
    ) -> tuple[list[int], tuple[Any, ...]]:
        """Return which places were decoded, and their images, one tensor a geometry."""
        tf = import_tensorflow()
        images = self.codec.decode([opened[place] for place in places])
        pairs = zip(places, images, strict=True)
        done = [(place, image) for place, image in pairs if image is not None]
        if not done:
            return [], ()
        mine = [place for place, _ in done]
        shapes = np.array([(image.height, image.width) for _, image in done], np.int32)
        with tf.device(self.codec.device):
            try:
                everything = tf.constant([-1])
                # many times as fast as `tf.reshape`, which counts with hundreds of images
                flat = [
                    tf.raw_ops.Reshape(tensor=self.codec.as_tensor(image), shape=everything)
                    for _, image in done
                ]
                pixels = tf.concat(flat, 0)
                pixels[:1].numpy()  # until the copy is there; then the images may go
                del flat
                made = self.make(rows[mine], orientations[mine], shapes, pixels)
            except tf.errors.ResourceExhaustedError:
                return [], ()
        return mine, tuple(made)

    def _usual(
        self, places: Sequence[int], rows: np.ndarray, orientations: np.ndarray, data: np.ndarray
    ) -> Iterator[tuple[Any, ...] | None]:
        """Yield images, one tensor a geometry, or None where TensorFlow fails."""
        tf = import_tensorflow()

        def load(place: int) -> tuple[Any, ...] | None:
            try:
                return self.load(rows[place], orientations[place], data[place])[1:]
            except tf.errors.OpError:
                return None

        if places:
            yield from ahead(load, places, self.n_calls, 2 * self.n_calls)

    def _joined(self, parts: list[tuple[Any, ...]], order: list[int]) -> tuple[Any, ...]:
        """Return parts as one batch, sorted by their places."""
        if len(parts) == 1:  # as a rule
            return parts[0]
        tf = import_tensorflow()
        with tf.device(self.codec.device):
            sizes = [tf.concat(some, 0) for some in zip(*parts, strict=True)]
            if order != sorted(order):
                sizes = [tf.gather(one, np.argsort(order)) for one in sizes]
        return tuple(sizes)


def decoded(
    dataset: Any, recipe: Recipe, codec: Any, load: Load, n_calls: int
) -> Iterator[tuple[np.ndarray, tuple[Any, ...]]]:
    """Yield row numbers, and batches of images as tensors on the device of a codec.

    Parameters
    ----------
    dataset : rows, orientations and the bytes of plain files.
    codec : decodes JPEG files, as `nvimagecodec.Codec` does.
    load : the usual way of a file, in TensorFlow, as row, orientation and bytes.
    n_calls : of `load` at once.
    """
    maker = _Maker(codec, recipe.traced(_made), load, n_calls)
    n_jpegs = n_left = 0
    for batch in ahead(maker.batch, recipe.in_batches(dataset), WORKERS, WORKERS):
        n_jpegs += batch.n_jpegs
        n_left += batch.n_left
        if len(batch.rows):
            yield batch.rows, batch.images
    if n_left:
        progress.note(
            f"decoder gpu: {n_left:,} of {counted(n_jpegs, 'JPEG file')} could not be decoded by "
            f"the GPU and went the usual way."
        )


def _chunks(opened: Sequence[Any]) -> Iterator[list[int]]:
    """Yield places of files to decode at once, not more pixels than PIXELS unless it is one."""
    chunk: list[int] = []
    n_pixels = 0
    for place, one in enumerate(opened):
        if one is None:
            continue
        n = one.height * one.width
        if chunk and n_pixels + n > PIXELS:
            yield chunk
            chunk, n_pixels = [], 0
        chunk.append(place)
        n_pixels += n
    if chunk:
        yield chunk


def _made(recipe: Recipe) -> Callable[..., list[Any]]:
    """Return a traced function: rows, orientations, shapes and pixels side by side to images."""
    tf = import_tensorflow()
    n_views = len(recipe.views)
    sizes = [geometry.image_size for geometry in recipe.geometries]
    signature = [tf.TensorSpec((n_views, *size, 3), tf.float32) for size in sizes]

    def make(rows: Any, orientations: Any, shapes: Any, pixels: Any) -> list[Any]:
        ends = tf.cumsum(3 * tf.reduce_prod(shapes, axis=1))

        def one(number: Any) -> list[Any]:
            height, width = shapes[number, 0], shapes[number, 1]
            flat = pixels[ends[number] - 3 * height * width : ends[number]]
            # as floats from here on: for bytes, neither gather nor resizing has a kernel on GPUs
            image = tf.cast(tf.reshape(flat, (height, width, 3)), tf.float32)
            orientation = orientations[number]
            image = tf.cond(orientation == 1, lambda: image, lambda: turned(image, orientation))
            return list(recipe.made(rows[number], image)[1:])

        numbers = tf.range(tf.shape(rows)[0])
        made: list[Any] = tf.map_fn(one, numbers, fn_output_signature=signature)
        return made

    kinds = ((None,), tf.int64), ((None,), tf.int32), ((None, 2), tf.int32), ((None,), tf.uint8)
    traced: Callable[..., list[Any]] = tf.function(
        make, [tf.TensorSpec(*kind) for kind in kinds], autograph=False
    )
    return traced
