"""The network of a stitched model, as it runs: compiled whole, with its features as an output.

Nothing is compiled before there is something to run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import progress
from featcache.core.tensorflow import import_keras
from featcache.inference.predict.known import HeadAlone
from featcache.models import stitching
from featcache.networks import engines

if TYPE_CHECKING:
    import keras

Batch = tuple[np.ndarray, np.ndarray]  # rows (b,), images (b, height, width, 3) float32


class WholeNetwork:
    """A stitched model that gives features and outputs of images, or outputs of features.

    Parameters
    ----------
    model : the stitched model.
    digest : of its file; "" where it is not known.
    cache_dir : where a converted model is kept for the next time, if the folder is there.
    device, runtime : see `engines.compile_frozen`.
    """

    def __init__(
        self, model: keras.Model, digest: str, cache_dir: Path | None, *, device: str, runtime: str
    ) -> None:
        self.preparing_s = 0.0  # spent so far on compiling the model and checking that
        self._model, self._digest, self._cache_dir = model, digest, cache_dir
        self._device, self._runtime = device, runtime
        self._n_images: int | None = None  # of the first ones that are computed
        self._is_checked = False

    @property
    def features_shape(self) -> tuple[int, ...]:
        """Shape of an embedding: (d,), or (height, width, channels) of a map."""
        return tuple(self._features.shape[1:])

    @property
    def has_heat_maps(self) -> bool:
        """Whether the model says where in an image its score comes from."""
        return len(self._model.outputs) > 1

    @property
    def n_outputs(self) -> int:
        """Number of classes, labels or targets."""
        return int(self._model.outputs[0].shape[1])

    @cached_property
    def head(self) -> HeadAlone:
        """What the model does after its features."""
        return HeadAlone(self._model, self._features)

    def batch_size(self, n_images: int) -> int:
        """Return how many of some images to compute at once; nothing is measured on CPUs."""
        self._n_images = self._n_images or n_images
        return engines.batch_size_of(
            None,
            self._device,
            lambda: self._compiled,
            self._model.input_shape[1:],
            n_images,
            self._kept,
            progress.note,
        )

    def run(self, batches: Iterator[Batch]) -> Iterator[tuple[np.ndarray, engines.Outputs]]:
        """Yield rows with features and outputs of the whole model, in the order of the batches.

        After the outputs come heat maps (b, height, width, 1) where the model has them.
        """
        first = next(batches, None)
        if first is None:
            return
        self._make_ready(first[1])
        every = itertools.chain([first], batches)
        yield from engines.in_order(every, self._compiled.start, self._compiled.ahead)

    @cached_property
    def _features(self) -> Any:
        """The Keras tensor between backbone and head."""
        return stitching.features_of(self._model)

    @cached_property
    def _whole(self) -> keras.Model:
        """The model with its features as a first output."""
        outputs = [self._features, *self._model.outputs]
        return import_keras().Model(self._model.inputs[0], outputs)

    @cached_property
    def _compiled(self) -> engines.Compiled:
        return engines.compile_frozen(
            self._whole,
            runtime=self._runtime,
            device=self._device,
            n_images=self._n_images,
            kept=self._kept,
            say=progress.note,
        )

    @property
    def _kept(self) -> engines.ConversionCache | None:
        """Where what was converted and measured is kept."""
        if self._cache_dir is None or not self._cache_dir.is_dir() or not self._digest:
            return None
        names = ["features", "outputs", "heat_maps"][: 1 + len(self._model.outputs)]
        graph = {"model": "stitched", "outputs": names}
        return engines.ConversionCache(self._cache_dir / engines.MODELS_FOLDER, self._digest, graph)

    def _make_ready(self, batch: np.ndarray) -> None:
        """Compile the model and compare it with Keras on the first batch that it sees."""
        if self._is_checked:
            return
        started = time.monotonic()
        self._compiled, _ = engines.agree(
            self._compiled, self._whole, batch, "float32", progress.note
        )
        self._is_checked = True
        self.preparing_s += time.monotonic() - started
