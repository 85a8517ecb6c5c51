"""Batches for training, from kept activations or from images, in an order of their own each epoch.

The order is drawn from the seed and the epoch's number alone: a run that was interrupted goes on
with the batches it would have had.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from featcache import store
from featcache.core.errors import SourceError
from featcache.core.tensorflow import import_tensorflow
from featcache.core.text import counted
from featcache.data.listing import Listing
from featcache.models.judged_on import Images

BLOCK_BYTES = 256 << 20  # of images held at once, so that those that Pillow reads are shuffled too


class Batches(ABC):
    """What a suffix learns from: activations at the boundary (n, …), for rows of a source."""

    shape: tuple[int, ...]  # of one row
    dtype: str

    def __init__(self, batch_size: int, seed: int):
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0  # of which `dataset` gives the batches
        self._traced: tuple[Any, Any] | None = None  # a suffix, and its function

    @abstractmethod
    def read(
        self, rows: np.ndarray, views: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches: places in `rows`, and activations of the view that is wanted of each.

        Rows that cannot be had any more are left out. `views` None is the clean ones.
        """

    @abstractmethod
    def views_of(self, rng: np.random.Generator, n: int) -> np.ndarray | None:
        """Return which view of each of n rows this epoch learns from."""

    def dataset(self, rows: np.ndarray, wanted: np.ndarray) -> Any:
        """Return a `tf.data.Dataset` of (activations, wanted) that follows `epoch`.

        Parameters
        ----------
        rows : (n,) int, of the source.
        wanted : (n, 2, n_outputs) float32, see `Objective.to_train_on`.
        """
        tf = import_tensorflow()

        def of_this_epoch() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = rng.permutation(len(rows))
            for places, batch in self.read(rows[order], self.views_of(rng, len(rows))):
                # layers would compute in half precision if that is what they are given
                yield batch.astype(np.float32), wanted[order[places]]

        signature = (
            tf.TensorSpec((None, *self.shape), tf.float32),
            tf.TensorSpec((None, *wanted.shape[1:]), tf.float32),
        )
        dataset = tf.data.Dataset.from_generator(of_this_epoch, output_signature=signature)
        n_batches = -(-len(rows) // self.batch_size)
        return dataset.apply(tf.data.experimental.assert_cardinality(n_batches)).prefetch(2)

    def outputs(self, suffix: Any, rows: np.ndarray) -> np.ndarray:
        """Return what a suffix gives for the clean images of rows, (n, n_outputs) float32."""
        if self._traced is None or self._traced[0] is not suffix:  # else each epoch traces anew
            tf = import_tensorflow()
            # else each number of rows traces anew, too
            signature = [tf.TensorSpec((None, *suffix.input_shape[1:]), tf.float32)]
            traced = tf.function(lambda batch: suffix(batch, training=False), signature)
            self._traced = suffix, traced
        _, run = self._traced
        found: np.ndarray | None = None
        n_seen = 0
        for places, batch in self.read(rows, None):
            some = np.asarray(run(batch.astype(np.float32)))
            if found is None:
                found = np.full((len(rows), some.shape[1]), np.nan, np.float32)
            found[places] = some
            n_seen += len(places)
        if found is None or n_seen < len(rows):
            raise SourceError(
                f"{len(rows) - n_seen} of {counted(len(rows), 'image')} could no longer be read. "
                f"Run the same command again."
            )
        return found


class Cached(Batches):
    """Activations in a feature file; in memory where they fit, else read as they are needed.

    Parameters
    ----------
    features : of the boundary.
    row_of : (n,) int: the file's row of each row of the source, -1 for none.
    memory_bytes : what may be held.
    """

    def __init__(
        self,
        features: store.Features,
        row_of: np.ndarray,
        batch_size: int,
        seed: int,
        memory_bytes: int,
    ):
        super().__init__(batch_size, seed)
        self.features, self.row_of = features, row_of
        self.shape, self.dtype = features.shape[1:], features.dtype.name
        self.n_views = features.spec.views
        self._held: np.ndarray | None = None
        row_bytes = int(np.prod(self.shape)) * features.dtype.itemsize
        if len(features) * self.n_views * row_bytes <= memory_bytes:
            self._held = features.X[:, None] if self.n_views == 1 else features.views

    def views_of(self, rng: np.random.Generator, n: int) -> np.ndarray | None:
        return None if self.n_views == 1 else rng.integers(self.n_views, size=n)

    def read(
        self, rows: np.ndarray, views: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        mine = self.row_of[rows]
        views = np.zeros(len(rows), int) if views is None else views
        for start in range(0, len(rows), self.batch_size):
            places = np.arange(start, min(start + self.batch_size, len(rows)))
            yield places, self._activations(mine[places], views[places])

    def _activations(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        if self._held is not None:
            return np.asarray(self._held[rows, views])
        batch = np.empty((len(rows), *self.shape), self.dtype)
        for view in np.unique(views):
            of_it = views == view
            batch[of_it] = self.features.read_rows(rows[of_it], int(view))
        return batch


class Live(Batches):
    """Activations computed from the images as they are needed, by the frozen prefix.

    Parameters
    ----------
    images : with `augment` in their spec they change from epoch to epoch, else they are clean.
    run : the prefix, from images (n, height, width, 3), 0 to 255, to activations (n, …).
    """

    dtype = "float32"

    def __init__(
        self,
        images: Images,
        listing: Listing,
        run: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        batch_size: int,
        seed: int,
    ):
        super().__init__(batch_size, seed)
        self.images, self.listing, self.run, self.shape = images, listing, run, shape

    def views_of(self, rng: np.random.Generator, n: int) -> np.ndarray | None:
        # an image has a view of every number; each epoch learns from one that no other has
        return np.full(n, self.epoch + 1) if self.images.spec.augment else None

    def read(
        self, rows: np.ndarray, views: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        view = 0 if views is None else int(views[0])
        image_bytes = 4 * 3 * math.prod(self.images.spec.image_size)
        n_batches = max(1, BLOCK_BYTES // (image_bytes * self.batch_size))
        step = n_batches * self.batch_size
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            block, is_read = self.images.read(
                self.listing, some, view=view, batch_size=self.batch_size
            )
            places = np.flatnonzero(is_read)
            for first in range(0, len(places), self.batch_size):
                batch = places[first : first + self.batch_size]
                yield start + batch, self.run(block[batch])
