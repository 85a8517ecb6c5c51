"""A stitched model over images in blocks: the whole network, or its head alone.

Of an image whose features an extraction has kept only the head runs. However many images there
are, a block of them is in memory at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import progress
from featcache.core.checks import with_checked_arguments
from featcache.core.errors import SourceError, SpecError
from featcache.core.text import counted
from featcache.data import sources
from featcache.data.listing import Listing, ahead
from featcache.inference.predict import known
from featcache.inference.predict.inputs import opened
from featcache.inference.predict.prediction import Prediction, Wanted
from featcache.inference.predict.whole_network import WholeNetwork
from featcache.models import judged_on
from featcache.models.load import load_keras, read_card
from featcache.networks import engines
from featcache.store import working_copy

DEFAULT_CACHE = "cache"
# of images: large enough that what a block costs at its ends is nothing, small enough to be kept
BLOCK_ROWS, BLOCK_BYTES, LEAST_ROWS = 2048, 64_000_000, 32


@dataclass(frozen=True)
class Block:
    """What came of some images that follow each other in a source."""

    outputs: np.ndarray  # (b, n_outputs) float32, NaN where the image could not be read
    features: np.ndarray | None  # (b, …) float32, likewise; None if they were not asked for
    heat_maps: np.ndarray | None  # (b, height, width) float32, likewise
    images: np.ndarray | None  # (b, height, width, 3) uint8 as the model saw them, with heat maps
    from_cache: np.ndarray  # (b,) bool: only the head was run
    digests: np.ndarray  # (b, 16) uint8
    failures: dict[int, str]  # reason by place in the block


class Model:
    """A stitched model with its card, for inference.

    Parameters
    ----------
    path : the .keras file; its card lies beside it.
    device : auto, cpu or gpu.
    runtime : auto, tensorflow or openvino.
    cache_dir : where cached features are looked for, and a converted model is kept for the next
        time, if the folder is there; None does neither.

    Raises
    ------
    StitchError
        When the model or its card is missing or damaged, or they do not belong together.
    SpecError
        When an option is wrong, or this machine has not what it asks for.
    """

    @with_checked_arguments
    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "auto",
        runtime: str = "auto",
        cache_dir: str | os.PathLike[str] | None = DEFAULT_CACHE,
    ):
        engines.check_options(runtime, device, "float32")
        self._cache_dir = None if cache_dir is None else working_copy.pulled(cache_dir)
        if self._cache_dir is not None and self._cache_dir.is_dir():
            engines.keep_programs(self._cache_dir / engines.MODELS_FOLDER, device)
        self.card = read_card(Path(path))
        self.keras_model = load_keras(Path(path), self.card)
        if device == "gpu":
            engines.gpus(device)
        self._network = WholeNetwork(
            self.keras_model,
            self.card.model_digest,
            self._cache_dir,
            device=device,
            runtime=runtime,
        )

    def predict(self, what: Any, *, show_progress: bool = True, **wanted: Any) -> list[Prediction]:
        """Return one prediction an image, in the order in which they were given.

        Arguments are those of `stream`.
        """
        return list(self.stream(what, show_progress=show_progress, **wanted))

    @with_checked_arguments
    def stream(
        self,
        what: Any,
        *,
        top: int | None = None,
        probabilities: bool = False,
        features: bool = False,
        heat_maps: bool = False,
        root: str | os.PathLike[str] | None = None,
        use_cache: bool = True,
        show_progress: bool = True,
    ) -> Iterator[Prediction]:
        """Return an iterator of predictions, for more images than memory holds.

        Parameters
        ----------
        what : an image file, a folder (all images below it, sorted), a manifest, a tar file; a list
            of those, in its order and with its repetitions; or images from Python, as `open_source`
            takes them.
        top : how many classes to name, best first. None is one; of a model of several labels, those
            that the image has.
        probabilities : give every output by name, too; scores where the model has no probabilities.
        features : give the embedding, the input of the model's head, too.
        heat_maps : of a model of anomalies in maps: give (height, width) how far each place is from
            good ones, and the image as the model saw it.
        root : folder that the paths in manifests are relative to; None is each manifest's own.
        use_cache : run only the head for images whose features are in the cache folder.

        Raises
        ------
        SpecError
            When an option does not fit the model or the images.
        SourceError
            When there are no images. At the end, when none of them could be read.
        """
        wanted = Wanted(self.card, top, probabilities, features, heat_maps)
        if heat_maps and not self._network.has_heat_maps:
            raise SpecError(
                f"The model's head, {self.card.head}, says nothing of places in images. Heat maps "
                f"come from patch-knn and gaussian on maps (--pooling none)."
            )
        parts = opened(what, root)
        return self._predictions(parts, wanted, use_cache, show_progress)

    def _predictions(
        self, parts: list[sources.Source], wanted: Wanted, use_cache: bool, show_progress: bool
    ) -> Iterator[Prediction]:
        n_images = sum(map(len, parts))
        for part in parts:
            progress.notes(part.passed_over.sentence() + part.remarks, show_progress)
        n_failed, n_known, first_failure = 0, 0, ""
        with progress.bar("Predicting", n_images, "images", show_progress) as advance:
            for part in parts:
                row = 0
                for block in self.blocks(
                    part,
                    features=wanted.features,
                    heat_maps=wanted.heat_maps,
                    use_cache=use_cache,
                    advance=advance,
                ):
                    ids = part.ids[row : row + len(block.outputs)]
                    row += len(ids)
                    for place, reason in block.failures.items():
                        n_failed += 1
                        first_failure = first_failure or f"'{ids[place]}': {reason}"
                    n_known += int(block.from_cache.sum())
                    yield from self._of_block(block, ids, wanted)
        if n_failed == n_images:
            raise SourceError(
                f"None of {counted(n_images, 'image')} could be read; the first, {first_failure}."
            )
        if n_known:
            progress.note(
                f"Took the features of {n_known} of {counted(n_images, 'image')} from the cache.",
                show_progress,
            )

    def _of_block(self, block: Block, ids: tuple[str, ...], wanted: Wanted) -> Iterator[Prediction]:
        task = self.card.task
        for place, named in enumerate(wanted.named(block.outputs)):
            if place in block.failures:
                yield Prediction(ids[place], error=block.failures[place], task=task)
                continue
            yield Prediction(
                ids[place],
                task=task,
                features=None if block.features is None else block.features[place].copy(),
                heat_map=None if block.heat_maps is None else block.heat_maps[place].copy(),
                image=None if block.images is None else block.images[place].copy(),
                from_cache=bool(block.from_cache[place]),
                **named,
            )

    def blocks(
        self,
        source: sources.Source,
        *,
        features: bool = False,
        heat_maps: bool = False,
        use_cache: bool = True,
        listing: Listing | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> Iterator[Block]:
        """Yield the outputs of a source's images, block by block, in the order of its rows.

        Parameters
        ----------
        features, heat_maps : yield those, too.
        use_cache : run only the head for images whose features are in the cache folder.
        listing : what `Images.listed` found; None looks at each block when its turn comes.
        advance : told how many images are done since last time.
        """
        row_bytes = 4 * (math.prod(self._network.features_shape) + self._network.n_outputs)
        if heat_maps:  # and the images, in float32 first
            row_bytes += 4 * 5 * math.prod(self.card.spec.image_size)
        size = min(BLOCK_ROWS, max(LEAST_ROWS, BLOCK_BYTES // row_bytes))

        def look(first: int) -> tuple[judged_on.Images, Listing]:
            rows = np.arange(first, min(first + size, len(source)))
            some = judged_on.read_as(self.card, source.take(rows))
            return some, some.listed() if listing is None else listing.take(rows)

        # the next block is read and hashed while one is computed
        n_ahead = int(source.contents.is_concurrent)
        for some, seen in ahead(look, range(0, len(source), size), workers=1, at_most=n_ahead):
            yield self._block(some, seen, features, heat_maps, use_cache, advance)

    def _block(
        self,
        images: judged_on.Images,
        listing: Listing,
        with_features: bool,
        with_heat_maps: bool,
        use_cache: bool,
        advance: Callable[[int], None],
    ) -> Block:
        n = len(images)
        outputs = np.full((n, self._network.n_outputs), np.nan, np.float32)
        features = None
        if with_features:
            features = np.full((n, *self._network.features_shape), np.nan, np.float32)
        heat_maps = seen = None
        if with_heat_maps:
            heat_maps = np.full((n, *self.card.spec.image_size), np.nan, np.float32)
            pixels, _ = images.read(listing, np.arange(n), batch_size=LEAST_ROWS)
            seen = np.clip(pixels.round(), 0, 255).astype(np.uint8)
        failures = dict(listing.unreadable)
        from_cache = np.zeros(n, bool)
        if use_cache and self._known is not None:
            places, some = self._known.read(listing.digests)
            if len(places):
                from_cache[places] = True
                outputs[places], *beside = self._network.head(some)
                if heat_maps is not None:
                    heat_maps[places] = beside[0][..., 0]
                if features is not None:
                    features[places] = some
        advance(len(failures) + int(from_cache.sum()))
        left = [row for row in range(n) if row not in failures and not from_cache[row]]
        n_before = len(failures)
        size = self._network.batch_size(len(left)) if left else 1
        batches = images.batches(listing, left, batch_size=size, failures=failures)
        for rows, (embedded, given, *beside) in self._network.run(batches):
            outputs[rows] = given
            if heat_maps is not None:
                heat_maps[rows] = beside[0][..., 0]
            if features is not None:
                features[rows] = embedded
            advance(len(rows))
        advance(len(failures) - n_before)
        return Block(outputs, features, heat_maps, seen, from_cache, listing.digests, failures)

    @property
    def preparing_s(self) -> float:
        """Seconds spent so far on compiling the model and checking that."""
        return self._network.preparing_s

    @cached_property
    def _known(self) -> known.Known | None:
        if self._cache_dir is None or not known.can_be_used(self.card):
            return None
        return known.Known(self._cache_dir, self.card)


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    runtime: str = "auto",
    cache_dir: str | os.PathLike[str] | None = DEFAULT_CACHE,
) -> Model:
    """Return a stitched model, ready to predict; see `Model`."""
    return Model(path, device, runtime, cache_dir)
