"""A stitched detector over images: boxes in pixels of each file as it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import progress
from featcache.core.checks import check_number, with_checked_arguments
from featcache.core.errors import SourceError, SpecError
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.tensorflow import import_tensorflow
from featcache.core.text import counted
from featcache.data.listing import Listing
from featcache.data.sources.boxed import upright_sizes
from featcache.detection.running import in_files
from featcache.detection.scoring import Found
from featcache.inference.predict.inputs import opened
from featcache.models import judged_on
from featcache.models.load import load_keras, read_card

BLOCK, BATCH = 512, 16  # images looked at together, and run at once


@dataclass(frozen=True)
class Detected:
    """What a detector found on one image."""

    path: str
    found: Found | None  # None where the image could not be read
    size: tuple[int, int]  # height and width in pixels, as it is shown
    names: tuple[str, ...]  # of the model's classes
    error: str = ""  # why it could not be read

    @property
    def boxes(self) -> list[dict[str, Any]]:
        """Each box as label, score and x, y, width, height in pixels of the file, best first."""
        if self.found is None:
            return []
        columns = (self.found.classes, self.found.scores, self.found.corners)
        return [
            {
                "label": self.names[kind],
                "score": round(score, 6),
                "box": [round(one, 2) for one in (left, top, right - left, bottom - top)],
            }
            for kind, score, (left, top, right, bottom) in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        values = {"path": self.path, "boxes": self.boxes}
        return values | ({"error": self.error} if self.error else {})


class DetectorModel:
    """A stitched detector with its card, for inference.

    Parameters
    ----------
    path : the .keras file; its card lies beside it.

    Raises
    ------
    StitchError
        When the model or its card is missing or damaged, or they do not belong together.
    SpecError
        When it is no detector.
    """

    @with_checked_arguments
    def __init__(self, path: str | os.PathLike[str]):
        self.card = read_card(Path(path))
        if TASKS[self.card.task].kind is not TargetKind.BOXES:
            raise SpecError(
                f"Model '{os.fspath(path)}' is no detector; its task is {self.card.task}."
            )
        self.keras_model = load_keras(Path(path), self.card, of_boxes=True)
        tf = import_tensorflow()
        signature = [tf.TensorSpec((None, *self.card.spec.image_size, 3), tf.float32)]
        # Keras's own predict would compile with XLA, which is slow on CPUs
        self._run = tf.function(lambda batch: self.keras_model(batch, training=False), signature)

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model's outputs for images (n, height, width, 3) at its size, 0 to 255."""
        parts = [
            {name: part.numpy() for name, part in self._run(pixels[first : first + BATCH]).items()}
            for first in range(0, len(pixels), BATCH)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @with_checked_arguments
    def predict(
        self,
        what: Any,
        *,
        min_score: float | None = None,
        root: str | os.PathLike[str] | None = None,
        show_progress: bool = True,
    ) -> list[Detected]:
        """Return what is found on each image, in the order in which they were given.

        Parameters
        ----------
        what, root : see `Model.stream`.
        min_score : from which a box is one, 0 to 1; None is where F1 was best on the validation
            images.

        Raises
        ------
        SpecError, SourceError
            As `Model.stream`.
        """
        least = float(self.card.params["min_score"]) if min_score is None else min_score
        check_number("min_score", least, "lie in 0 to 1", lambda value: 0 <= value <= 1)
        parts = opened(what, root)
        n_images = sum(map(len, parts))
        every: list[Detected] = []
        with progress.bar("Predicting", n_images, "images", show_progress) as advance:
            for part in parts:
                progress.notes(part.passed_over.sentence() + part.remarks, show_progress)
                for first in range(0, len(part), BLOCK):
                    some = part.take(np.arange(first, min(first + BLOCK, len(part))))
                    images = judged_on.read_as(self.card, some)
                    every += self.found(images, images.listed(), least)
                    advance(len(some))
        if all(one.error for one in every):
            raise SourceError(
                f"None of {counted(n_images, 'image')} could be read; the first, "
                f"'{every[0].path}': {every[0].error}."
            )
        return every

    def found(
        self, images: judged_on.Images, listing: Listing, min_score: float
    ) -> Iterator[Detected]:
        """Yield what is found on images of one source, in the order of its rows."""
        failures = dict(listing.unreadable)
        rows = [row for row in range(len(images)) if row not in failures]
        sizes = upright_sizes(images.samples.contents, [True] * len(images))
        found: dict[int, Found] = {}
        for numbers, batch in images.batches(listing, rows, batch_size=BATCH, failures=failures):
            boxes = in_files(self.run(batch), sizes[numbers], self.card.spec.geometry)
            found.update(
                zip(numbers.tolist(), (_above(one, min_score) for one in boxes), strict=True)
            )
        for row, id_ in enumerate(images.samples.ids):
            size = (int(sizes[row, 0]), int(sizes[row, 1]))
            names = self.card.class_names
            yield Detected(id_, found.get(row), size, names, failures.get(row, ""))


def _above(one: Found, least: float) -> Found:
    stays = one.scores >= least
    return Found(one.corners[stays], one.classes[stays], one.scores[stays])


def load_detector(path: str | os.PathLike[str]) -> DetectorModel:
    """Return a stitched detector, ready to predict; see `DetectorModel`."""
    return DetectorModel(path)
