"""Features that an extraction kept already: for those images only the head of a model has to run.

They count only if they are of the very numbers that the model's backbone gives: of its spec's
fingerprint, computed in single precision, and of a backbone that was not fine-tuned since.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.models.card import Card

if TYPE_CHECKING:
    import keras

HEAD_ROWS = 256  # at once; heads that keep rows of their own multiply them
MAP_ROWS = 16  # likewise of maps, each place of which is multiplied


def can_be_used(described: Card) -> bool:
    """Return whether cached features of the card's spec are what its model computes."""
    is_as_stitched = described.finetuned is None and bool(described.model_digest)
    return is_as_stitched and described.spec.precision == "float32"


class Known:
    """Rows of a spec in a cache folder, by the digest of the image.

    Parameters
    ----------
    cache_dir : the cache folder; it need not exist.
    described : card of the model, of whose spec the rows are.
    """

    def __init__(self, cache_dir: Path, described: Card):
        self._cache_dir = cache_dir
        self._spec = described.spec
        self._attempts = store.Attempts(on_damage=_say)
        self._rows = self._look()

    def read(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of known images in `digests` (b, 16), and their features (m, d).

        A file that turns out to be damaged is passed over, and said so.
        """
        places = np.zeros(0, np.int64)
        for _ in self._attempts:
            numbers = self._rows.find(digests)
            places = np.flatnonzero(numbers >= 0)
            if not len(places):
                break
            with self._attempts:
                return places, self._rows.read(numbers[places]).astype(np.float32, copy=False)
            self._rows = self._look()  # without a damaged file, or where its rows are by now
        return places, np.zeros((0, 0), np.float32)

    def _look(self) -> store.Rows:
        return self._attempts.rows(store.of_spec(self._cache_dir, self._spec))


def _say(error: store.DamagedFileError) -> None:
    progress.note(f"Passed over a file of cached features: {error}")


class HeadAlone:
    """What a model does after its features, run as Keras runs it."""

    def __init__(self, model: keras.Model, features: Any):
        head = import_keras().Model(features, model.outputs)
        tf = import_tensorflow()
        signature = [tf.TensorSpec((None, *features.shape[1:]), tf.float32)]
        # Keras's own predict would compile with XLA, which is slow on CPUs
        self._run = tf.function(lambda some: tf.nest.flatten(head(some, training=False)), signature)
        self._rows = HEAD_ROWS if len(features.shape) == 2 else MAP_ROWS

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return outputs (m, n_outputs) float32 of features (m, …), and heat maps if there are."""
        import_tensorflow()  # which raises where it would wait for ever
        parts = [
            [one.numpy() for one in self._run(features[first : first + self._rows])]
            for first in range(0, len(features), self._rows)
        ]
        return tuple(np.concatenate(some) for some in zip(*parts, strict=True))
