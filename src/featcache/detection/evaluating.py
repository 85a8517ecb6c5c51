"""How good a stitched detector is on images with boxes: the file as it ships, on images."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

import numpy as np

from featcache.core import atomic, progress
from featcache.core.boxes import Boxes
from featcache.core.checks import check_choice, with_checked_arguments
from featcache.core.errors import SourceError
from featcache.core.text import counted
from featcache.data import splits
from featcache.detection.detector import of_classes
from featcache.detection.model import DetectorModel
from featcache.detection.scoring import Precision, precision
from featcache.inference.evaluate import tables
from featcache.models import judged_on
from featcache.models.card import Card

SPLITS = judged_on.SPLITS
VERSION = 1


@dataclass(frozen=True)
class DetectionEvaluation:
    """How good a detector is on images with boxes; prints as tables."""

    model: str
    source: str
    part: str  # test, train, val or all
    class_names: tuple[str, ...]
    n_images: int
    unreadable: dict[str, str]  # reason by id; not in the scores
    precision: Precision
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain JSON types, None where a number is undefined."""
        plain: dict[str, Any] = atomic.plain({"evaluation_version": VERSION} | asdict(self))
        return plain

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(
            tables.of_scores(self.precision.scores(), self.precision.intervals),
            Text(),
            of_classes(self.precision),
            Text(),
            Text(
                f"{counted(self.n_images, 'image')} ({self.part}) of {self.source}, "
                f"{self.n_images / max(self.seconds, 1e-9):.0f} images/s. Unreadable: "
                f"{len(self.unreadable)}."
            ),
        )

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue().rstrip()


@with_checked_arguments
def evaluate_detector(
    model: str | os.PathLike[str],
    source: Any = None,
    *,
    split: str | None = None,
    root: str | os.PathLike[str] | None = None,
    show_progress: bool = True,
) -> DetectionEvaluation:
    """Return the average precision of a stitched detector, by class and with intervals.

    Parameters
    ----------
    model : the .keras file; its card lies beside it.
    source : images with boxes, as `open_source` takes them; None is where the model's own came
        from. Classes are matched by name: it may have fewer than the model, but no others.
    split : test, train, val or all. None is test for the model's own source, which is what was
        held out, and all for others.
    root : of a manifest, see `open_source`.

    Raises
    ------
    StitchError
        When the model or its card is missing or damaged, or they do not belong together.
    SourceError
        When the images are not there, have no boxes, or boxes of classes that the model has not.
    SpecError
        When an option is wrong, or pycocotools is not installed.
    """
    loaded = DetectorModel(model)
    described = loaded.card
    images = judged_on.open_images(described, source, root)
    progress.notes(images.samples.remarks, show_progress)
    boxes = _matched(images, described)
    is_own = images.samples.origin == described.source
    part = split or ("test" if is_own else "all")
    check_choice("split", part, SPLITS)
    listing = images.listed()
    about = images.samples.annotations
    rows = np.flatnonzero(about.is_known)
    if part != "all":
        rows = np.flatnonzero(splits.parts(about, listing.digests, described.seed)[part])
    if not len(rows):
        raise SourceError(
            f"'{images.samples.origin}' has no image with boxes in its {part} part. Choose another "
            f"one (--split), or all."
        )
    started = time.monotonic()
    every = list(loaded.found(images.take(rows), listing.take(rows), 0.0))
    seconds = time.monotonic() - started
    good = np.array([place for place, one in enumerate(every) if not one.error], int)
    if not len(good):
        raise SourceError(f"None of the images could be read; the first, '{every[0].path}'.")
    groups = about.take(rows[good]).groups
    return DetectionEvaluation(
        model=os.fspath(model),
        source=images.samples.origin,
        part=part,
        class_names=described.class_names,
        n_images=len(good),
        unreadable={one.path: one.error for one in every if one.error},
        precision=precision(
            [one.found for place in good.tolist() if (one := every[place]).found is not None],
            boxes.take(rows[good]),
            described.class_names,
            described.params["settings"]["iou"],
            splits.units(listing.digests[rows[good]], groups),
        ),
        seconds=seconds,
    )


def _matched(images: judged_on.Images, described: Card) -> Boxes:
    """Return a source's boxes with the classes of a model."""
    about, origin = images.samples.annotations, images.samples.origin
    if about.boxes is None:
        raise SourceError(
            f"'{origin}' has no boxes, so nothing says what is right. Give a manifest with a "
            f"column 'boxes', COCO's file, or a folder as Pascal VOC or YOLO has it."
        )
    if odd := sorted(set(about.class_names) - set(described.class_names)):
        raise SourceError(
            f"'{origin}' has boxes of class '{odd[0]}', which the model does not know; it knows "
            f"{', '.join(described.class_names)}."
        )
    place = [described.class_names.index(name) for name in about.class_names]
    boxes = about.boxes
    classes = np.array(place, np.int64)[boxes.classes] if place else boxes.classes
    return Boxes(boxes.starts, boxes.corners, classes, boxes.ignored, boxes.sizes)
