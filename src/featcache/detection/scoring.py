"""Average precision as COCO defines it, by pycocotools, with an interval over images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.core.boxes import Boxes
from featcache.core.errors import SpecError
from featcache.detection.frames import kept

METRICS = ("map50", "map", "ap50")
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads precision off
_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of intersection over union
_DRAWS = 200  # of images, for an interval
_LEVEL = 0.95


@dataclass(frozen=True)
class Found:
    """Boxes that a model found on one image, the best first, in pixels of the file."""

    corners: np.ndarray  # (k, 4) float64
    classes: np.ndarray  # (k,) int64
    scores: np.ndarray  # (k,) float32


@dataclass(frozen=True)
class Precision:
    """How good boxes are."""

    map50: float  # mean over classes of the average precision at an overlap of 0.5
    map: float  # mean over overlaps of 0.5 to 0.95, and classes
    ap50: float  # at an overlap of 0.5, whatever the class: is what is found there at all?
    intervals: dict[str, tuple[float, float]]  # 95 %, of map50 and ap50, over images
    of_class: list[dict[str, Any]]  # name, ap50, ap (NaN without boxes), boxes
    curve: list[float]  # precision at RECALLS, overlap 0.5, mean over classes
    curve_without_classes: list[float]

    def scores(self) -> dict[str, float]:
        """Return the metrics by name."""
        return {name: getattr(self, name) for name in METRICS}


def precision(
    found: Sequence[Found],
    boxes: Boxes,
    names: Sequence[str],
    iou: float,
    units: np.ndarray | None = None,
) -> Precision:
    """Return the average precision of boxes found on images.

    Parameters
    ----------
    found : of each image.
    boxes : drawn on the same images; ignored ones cost nothing, found or not.
    iou : above which, without classes, the better of two boxes suppresses the other.
    units : (n,) int; images of the same number are drawn together for intervals. None computes
        no interval.

    Raises
    ------
    SpecError
        When pycocotools is not installed.
    """
    of_classes = _evaluated(found, boxes, len(names))
    alone = [_without_classes(one, iou) for one in found]
    one_class = Boxes(
        boxes.starts, boxes.corners, np.zeros_like(boxes.classes), boxes.ignored, boxes.sizes
    )
    of_any = _evaluated(alone, one_class, 1)
    every, any_ = of_classes.table(), of_any.table()
    counts = np.bincount(boxes.classes[~boxes.ignored], minlength=len(names))
    return Precision(
        map50=_mean(every[0]),
        map=_mean(every),
        ap50=_mean(any_[0]),
        intervals={}
        if units is None
        else {"map50": of_classes.interval(units), "ap50": of_any.interval(units)},
        of_class=[
            {
                "name": name,
                "ap50": _mean(every[0, :, place]),
                "ap": _mean(every[:, :, place]),
                "boxes": int(counts[place]),
            }
            for place, name in enumerate(names)
        ],
        curve=[_mean(every[0, place]) for place in range(len(RECALLS))],
        curve_without_classes=[_mean(any_[0, place]) for place in range(len(RECALLS))],
    )


def map50(found: Sequence[Found], boxes: Boxes, n_classes: int) -> float:
    """Return `Precision.map50` alone."""
    return _mean(_evaluated(found, boxes, n_classes).table()[0])


def best_threshold(found: Sequence[Found], boxes: Boxes, n_classes: int) -> tuple[float, float]:
    """Return the score from which boxes are best shown, and the F1 of boxes there.

    The highest harmonic mean of precision and recall at an overlap of 0.5.
    """
    matched = _evaluated(found, boxes, n_classes).matches()
    n_boxes = int((~boxes.ignored).sum())
    if not len(matched) or not n_boxes:
        return 0.5, 0.0
    order = np.argsort(-matched[:, 0], kind="stable")
    scores, hits = matched[order, 0], np.cumsum(matched[order, 1])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + n_boxes)
    last = int(np.flatnonzero(f1 == f1.max())[-1])
    return float(scores[last]), float(f1.max())


def _without_classes(one: Found, iou: float) -> Found:
    nothing = np.zeros_like(one.classes)
    places = kept(one.corners, one.scores, nothing, iou)
    return Found(one.corners[places], nothing[places], one.scores[places])


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is known, as COCO takes it; NaN where nothing is."""
    known = np.asarray(values)[np.asarray(values) > -1]
    return float(known.mean()) if known.size else float("nan")


@dataclass
class _Evaluated:
    """What pycocotools found of each image."""

    evaluation: Any  # COCOeval
    n_images: int

    def table(self) -> np.ndarray:
        """Return (overlaps, recalls, classes) precision, -1 where there is no box."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.evaluation.accumulate()
        return np.asarray(self.evaluation.eval["precision"][:, :, :, 0, 0])

    def interval(self, units: np.ndarray) -> tuple[float, float]:
        """Return the 95 % interval of precision at an overlap of 0.5, over draws of images."""
        evaluation, n = self.evaluation, self.n_images
        every = evaluation.evalImgs
        members = [np.flatnonzero(units == one) for one in np.unique(units)]
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(_DRAWS):
            some = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
            # by class, then by image
            evaluation.evalImgs = [
                every[first + row] for first in range(0, len(every), n) for row in some.tolist()
            ]
            evaluation._paramsEval.imgIds = evaluation.params.imgIds = list(range(len(some)))
            drawn.append(_mean(self.table()[0]))
        evaluation.evalImgs = every
        evaluation._paramsEval.imgIds = evaluation.params.imgIds = list(range(n))
        low, high = np.nanquantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return float(low), float(high)

    def matches(self) -> np.ndarray:
        """Return (k, 2): score of each box found, and 1 where it is one that was drawn."""
        rows = [
            np.stack([one["dtScores"], one["dtMatches"][0] > 0], axis=1)[~one["dtIgnore"][0]]
            for one in self.evaluation.evalImgs
            if one is not None and len(one["dtScores"])
        ]
        return np.concatenate(rows) if rows else np.zeros((0, 2))


def _evaluated(found: Sequence[Found], boxes: Boxes, n_classes: int) -> _Evaluated:
    coco, cocoeval = pycocotools()
    n = len(boxes)
    categories = [{"id": place} for place in range(n_classes)]
    truth = _indexed(coco, _drawn(boxes), categories, n)
    said = _indexed(coco, _said(found), categories, n)
    evaluation = cocoeval.COCOeval(truth, said, "bbox")
    parameters = evaluation.params
    parameters.imgIds, parameters.catIds = list(range(n)), list(range(n_classes))
    parameters.areaRng, parameters.areaRngLbl = [[0, 1e10]], ["all"]
    parameters.maxDets, parameters.iouThrs = [100], _THRESHOLDS
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return _Evaluated(evaluation, n)


def pycocotools() -> tuple[Any, Any]:
    """Return pycocotools' modules coco and cocoeval; raise SpecError where it is not installed."""
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        raise SpecError(
            "To measure boxes install pycocotools: pip install 'featcache[detection]'."
        ) from None
    return coco, cocoeval


def _indexed(coco: Any, rows: list[dict[str, Any]], categories: Any, n: int) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        made = coco.COCO()
        images = [{"id": row} for row in range(n)]
        made.dataset = {"images": images, "annotations": rows, "categories": categories}
        made.createIndex()
    return made


def _drawn(boxes: Boxes) -> list[dict[str, Any]]:
    columns = (boxes.image_of, boxes.classes, boxes.corners, boxes.ignored)
    return [
        _annotation(number, row, kind, corners) | {"iscrowd": int(ignored), "ignore": int(ignored)}
        for number, (row, kind, corners, ignored) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]


def _said(found: Sequence[Found]) -> list[dict[str, Any]]:
    rows = (
        (row, *one)
        for row, each in enumerate(found)
        for one in zip(
            each.classes.tolist(), each.corners.tolist(), each.scores.tolist(), strict=True
        )
    )
    return [
        _annotation(number, row, kind, corners) | {"score": score}
        for number, (row, kind, corners, score) in enumerate(rows, 1)
    ]


def _annotation(number: int, row: int, kind: int, corners: list[float]) -> dict[str, Any]:
    left, top, right, bottom = corners
    width, height = right - left, bottom - top
    return {
        "id": number,
        "image_id": row,
        "category_id": kind,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
    }
