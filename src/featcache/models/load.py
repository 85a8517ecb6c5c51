"""A .keras file and its card, if they are whole and belong together. Nothing is run here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.errors import SpecError, StitchError, one_line
from featcache.core.keys import digest_file
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.tensorflow import import_keras
from featcache.models import card

if TYPE_CHECKING:
    import keras


def read_card(path: Path) -> card.Card:
    """Return the card of a model file.

    Raises
    ------
    StitchError
        When either is missing, the model is a folder, or the card is damaged.
    """
    if path.is_dir():
        raise StitchError(f"Model '{path}' is a folder; a stitched .keras file is expected.")
    return card.read(path)


def load_keras(path: Path, described: card.Card, *, of_boxes: bool = False) -> keras.Model:
    """Return the Keras model of a card; one that finds boxes only to who knows them.

    Raises
    ------
    StitchError
        When it does not load or is not the model that the card describes.
    SpecError
        When it finds boxes and they are not asked for.
    """
    if TASKS[described.task].kind is TargetKind.BOXES and not of_boxes:
        raise SpecError(
            f"Model '{path}' finds boxes. Load it by load_detector, and measure and export it by "
            f"evaluate_detector and export_detector; it is not fine-tuned."
        )
    if described.model_digest and described.model_digest != digest_file(path):
        raise StitchError(
            f"Model '{path}' is not the file that its card '{card.path_of(path).name}' describes: "
            f"it was changed or replaced since. Stitch again with --overwrite, or put the right "
            f"card beside it."
        )
    models = import_keras().models
    try:
        model: keras.Model = models.load_model(path, compile=False)
    except Exception as error:  # load_model raises whatever zipfile, h5py or a layer raises
        reason = one_line(error, 200)
        raise StitchError(f"Model '{path}' cannot be loaded: {reason}") from error
    if of_boxes:
        is_same, wanted = isinstance(model.output, dict), "boxes"
    else:
        n = len(described.class_names)
        is_same = tuple(model.outputs[0].shape) == (None, n)  # heat maps may come after
        wanted = f"{n} outputs"
    if model.input_shape[1:] != (*described.spec.image_size, 3) or not is_same:
        raise StitchError(
            f"Model '{path}' and its card do not belong together: the card says images of "
            f"{described.spec.image_size} and {wanted}, the model takes {model.input_shape[1:]} "
            f"and gives {model.output_shape}."
        )
    return model
