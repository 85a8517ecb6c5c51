"""What becomes of a decoded image inside `tf.data`: its views at the networks' sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcache.core.geometry import Geometry
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_tensorflow
from featcache.data import augment
from featcache.data.image_ops import by_tensorflow, resize, resize_on_gpu

CLEAN = (0,)


@dataclass(frozen=True)
class Recipe:
    """What becomes of each decoded image."""

    spec: ExtractionSpec  # for all but the geometry
    geometries: tuple[Geometry, ...]
    views: tuple[int, ...]
    digests: np.ndarray  # (n, 16) uint8 by row
    batch_size: int

    @property
    def usual(self) -> Recipe:
        """The same where no GPU decodes."""
        return replace(self, spec=by_tensorflow(self.spec))

    def made(self, row: Any, image: Any) -> tuple[Any, ...]:
        """Return row and images (n_views, height, width, 3), one tensor a geometry."""
        drawn = self._draws(row) if self.views != CLEAN else None
        stacks = []
        for geometry in self.geometries:
            made = [self._view(image, geometry, place, drawn) for place in range(len(self.views))]
            stack = made[0][None] if len(made) == 1 else import_tensorflow().stack(made)
            stack.set_shape((len(self.views), *geometry.image_size, 3))
            stacks.append(stack)
        return (row, *stacks)

    def _view(self, image: Any, geometry: Geometry, place: int, drawn: Any) -> Any:
        """One view; what is cheap on a small image comes after resizing."""
        at_size = resize if self.spec.decoder != "gpu" else resize_on_gpu
        if self.views[place] == 0:
            return at_size(image, geometry)
        ways, mine = self.spec.augment, drawn[place]
        image = at_size(augment.crop(image, mine) if "crop" in ways else image, geometry)
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

    def batched(self, dataset: Any) -> Iterator[tuple[np.ndarray, tuple[Any, ...]]]:
        """Yield row numbers as an array, and batches of images as tensors, which lie on the CPU."""
        for numbers, *images in self.in_batches(dataset):
            yield np.asarray(numbers), tuple(images)

    def in_batches(self, dataset: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the elements of a dataset in batches, tensors, some ahead."""
        options = import_tensorflow().data.Options()
        # tuning ends with a dataset only when its current period ends, and periods double: a run
        # of 3 s may wait for 2 s more (TensorFlow 2.21; see docs/decisions/threads.md)
        options.autotune.enabled = False
        # there is nothing to rewrite in these few steps, and to look for it takes 20 ms each time
        options.experimental_optimization.apply_default_optimizations = False
        yield from dataset.batch(self.batch_size).prefetch(2).with_options(options)

    def traced(self, trace: Callable[[Recipe], Any]) -> Any:
        """Return what `trace` makes of this recipe: a function in a graph.

        That of clean images, which need no more of a recipe, is kept: to trace it takes a tenth of
        a second, which every short run would spend again.
        """
        return _traced(trace, self.spec, self.geometries) if self.views == CLEAN else trace(self)


@functools.lru_cache(maxsize=16)
def _traced(
    trace: Callable[[Recipe], Any], spec: ExtractionSpec, geometries: tuple[Geometry, ...]
) -> Any:
    nothing = np.zeros((0, 16), np.uint8)
    return trace(Recipe(spec, geometries, CLEAN, digests=nothing, batch_size=1))


def views_of(stack: Any, places: Sequence[int]) -> Any:
    """Return some views of images (b, n_views, height, width, 3): those of the first image first.

    (b * v, height, width, 3). Nothing is copied where all views are wanted, or there is but one.
    """
    tf = import_tensorflow()
    stack = tf.convert_to_tensor(stack)
    with tf.device(stack.device):  # where they lie: by itself TensorFlow would use a GPU for any
        if list(places) != list(range(stack.shape[1])):
            stack = tf.gather(stack, list(places), axis=1)
        return tf.reshape(stack, (-1, *stack.shape[2:]))
