"""A .keras file as a backbone: the whole model, preprocessing included. Its bytes identify it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras
from featcache.networks.providers.base import Entry, Provider, short

if TYPE_CHECKING:
    import keras

SUFFIX = ".keras"  # of the file, and so of the name that a spec has for it
UNKNOWN_SIDE = 224  # pixels, for models that take images of any size


def entry_of(path: Path) -> Entry:
    """Read the image size from the file's own description, without Keras.

    Raises
    ------
    BackboneError
        When it is no Keras model of RGB images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        _, height, width, channels = layers[0]["config"]["batch_shape"]
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, ValueError, TypeError) as error:
        raise BackboneError(
            f"'{path}' is no Keras model of images, (height, width, channels): {short(error)}. "
            f"Save one with model.save('NAME.keras'), or name a backbone for weights files."
        ) from error
    return entry_for(f"Keras model '{path}'", (height, width, channels))


def entry_for(what: str, shape: Sequence[int | None]) -> Entry:
    """Return the entry of a model that takes images (height, width, channels) as they are.

    Raises
    ------
    BackboneError
        When they are not RGB.
    """
    height, width, channels = shape
    if channels not in (3, None):
        raise BackboneError(f"{what} takes images of {channels} channel(s); 3 (RGB) are expected.")
    return Entry((height, width) if height and width else UNKNOWN_SIDE, "included")


def load(path: Path) -> keras.Model:
    """Return the model in a file.

    Raises
    ------
    BackboneError
        When it does not load, or has several inputs or outputs.
    """
    keras = import_keras()
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # load_model raises whatever a layer's constructor raises
        raise BackboneError(f"'{path}' is no Keras model that loads: {short(error)}") from error
    check_ends(f"Keras model '{path}'", model)
    return model


def check_ends(what: str, model: keras.Model) -> None:
    """Raise BackboneError unless a model has one input and one output."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BackboneError(
            f"{what} has {len(model.inputs)} inputs and {len(model.outputs)} "
            f"outputs; a backbone has one of each."
        )


PROVIDER = Provider(
    {},  # a file is no name: it is asked for by its path
    build=lambda name, weights, image_size: load(Path(weights)),
    weights_path=lambda name, weights: Path(weights),
    again=lambda name, digest: None,
)
