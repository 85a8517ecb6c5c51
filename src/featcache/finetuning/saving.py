"""The trained network as a model file: put together, compared with what was trained, then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featcache.core import atomic
from featcache.core.errors import StitchError
from featcache.core.tensorflow import import_keras
from featcache.finetuning.batches import Batches, Live
from featcache.finetuning.stages import Cut, TrainingRun
from featcache.models import card, stitching

if TYPE_CHECKING:
    import keras


def whole(network: keras.Model) -> keras.Model:
    """Return a network as it is shipped: frozen, and without what training needed.

    Another model object on the same layers has neither the optimiser nor our loss, which plain
    Keras could not load.
    """
    model = import_keras().Model(network.inputs[0], network.outputs[0], name=network.name)
    model.trainable = False
    return model


def compared(model: keras.Model, some: Cut, run: TrainingRun) -> stitching.Parity:
    """Return how the whole model, saved and read again, agrees with the suffix that was trained.

    Raises
    ------
    StitchError
        When it does not predict the same for every image.
    """
    keras = import_keras()
    with atomic.temporary(run.folder / "whole.keras", ending=".keras") as path:
        model.save(path)
        read = keras.models.load_model(path, compile=False)
    rows = np.concatenate([run.data.test, run.data.validation, run.data.train])
    if len(rows) > stitching.MAX_PARITY_IMAGES:
        places = np.linspace(0, len(rows) - 1, stitching.MAX_PARITY_IMAGES).round().astype(int)
        rows = rows[places]
    images = Live(
        run.data.images,
        run.data.listing,
        lambda batch: batch,
        read.input_shape[1:],
        stitching.BATCH_SIZE,
        run.plan.seed,
    )
    expected, got = some.batches.outputs(some.suffix, rows), images.outputs(read, rows)
    parity = stitching.compare(
        expected,
        got,
        task=run.described.task,
        output=run.described.output,
        tolerance=_tolerance(some.batches, run.described),
    )
    if not parity.holds:
        raise StitchError(
            f"The whole model does not predict what the trained suffix did on the activations at "
            f"{some.where}: {parity}. Nothing was written; train again with --dtype float32."
        )
    return parity


def _tolerance(batches: Batches, described: card.Card) -> float:
    return max(stitching.TOLERANCE[batches.dtype], stitching.tolerance_of(described.spec))
