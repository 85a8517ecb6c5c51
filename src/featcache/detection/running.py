"""A head with suppression behind it, run on cached maps; and its boxes in pixels of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.geometry import Geometry
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.detection.frames import to_image
from featcache.detection.maps import Maps
from featcache.detection.scoring import Found
from featcache.detection.settings import Settings
from featcache.detection.suppression import BOXES, COUNT, SCORES, detections

if TYPE_CHECKING:
    import keras

ROWS = 64  # at once


def with_suppression(head: keras.Model, maps: Maps, settings: Settings) -> Any:
    """Return a function of maps, (b, h, w, c) each, to the outputs of `suppression.detections`."""
    keras, tf = import_keras(), import_tensorflow()
    outputs = detections(head.output, maps.spec.image_size, settings)
    model = keras.Model(head.inputs, outputs)
    signature = [tf.TensorSpec((None, *shape), tf.float32) for shape in maps.shapes]
    return tf.function(lambda *some: model(list(some), training=False), signature)


def found_on(run: Any, maps: Maps, rows: np.ndarray) -> list[Found]:
    """Return what a function of `with_suppression` finds on rows of maps, in their order."""
    sizes = maps.boxes.sizes
    every: list[Found] = []
    for first in range(0, len(rows), ROWS):
        some = rows[first : first + ROWS]
        said = {name: part.numpy() for name, part in run(*maps.read(some)).items()}
        every += in_files(said, sizes[some], maps.spec.geometry)
    return every


def in_files(said: dict[str, np.ndarray], sizes: np.ndarray, geometry: Geometry) -> list[Found]:
    """Return a model's outputs as boxes in pixels of files of sizes (n, 2)."""
    every = []
    for row, n in enumerate(said[COUNT].tolist()):
        corners = said[BOXES][row, :n].astype(np.float64)
        size = np.repeat(sizes[row : row + 1], n, axis=0)
        every.append(
            Found(
                to_image(corners, size, geometry) if n else corners.reshape(0, 4),
                said["classes"][row, :n].astype(np.int64),
                said[SCORES][row, :n],
            )
        )
    return every
