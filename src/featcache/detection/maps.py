"""Cached maps of images with boxes: which images train and judge, and their maps by the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from featcache import store
from featcache.core.boxes import Boxes
from featcache.core.errors import HeadError
from featcache.core.geometry import NONE
from featcache.core.memory import free_memory
from featcache.core.spec import ExtractionSpec
from featcache.core.tasks import TASKS, TargetKind
from featcache.data import augment, splits
from featcache.detection.frames import mirrored, to_network
from featcache.detection.network import Shape

VAL_FRACTION = 0.15  # of the training part, where the source names no validation part
_SHARE = 0.4  # of the memory that is free, up to which maps are held in it


@dataclass(frozen=True)
class Maps:
    """Feature files of the same images and the same backbone, one for each tapped layer."""

    files: tuple[store.Features, ...]

    @property
    def spec(self) -> ExtractionSpec:
        """The spec of the first; the others differ in the layer alone."""
        return self.files[0].spec

    @property
    def shapes(self) -> list[Shape]:
        """Of an image's maps."""
        return [(one.shape[1], one.shape[2], one.shape[3]) for one in self.files]

    @property
    def boxes(self) -> Boxes:
        """Of all images, in pixels of the files."""
        found = self.files[0].annotations.boxes
        assert found is not None
        return found

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the boxes' classes."""
        return self.files[0].class_names

    @cached_property
    def is_mirrored(self) -> np.ndarray:
        """(n, views) bool: which views show an image mirrored left to right."""
        numbers = tuple(range(self.spec.views))
        if "flip" not in self.spec.augment:
            return np.zeros((len(self.files[0]), len(numbers)), bool)
        drawn = [augment.draws(digest, numbers)[:, 0] < 0.5 for digest in self.files[0].digests]
        found = np.array(drawn)
        found[:, 0] = False  # the clean one is none of them
        return np.asarray(found)

    @cached_property
    def corners(self) -> np.ndarray:
        """(m, 4): the boxes in pixels of the network's image, not mirrored."""
        boxes = self.boxes
        return to_network(boxes.corners, boxes.sizes[boxes.image_of], self.spec.geometry)

    def drawn_on(self, row: int, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return corners (k, 4) in pixels of the network's image, classes and what is ignored."""
        some = slice(self.boxes.starts[row], self.boxes.starts[row + 1])
        corners = self.corners[some]
        if self.is_mirrored[row, view]:
            corners = mirrored(corners, self.spec.image_size[1])
        return corners, self.boxes.classes[some], self.boxes.ignored[some]

    def read(self, rows: np.ndarray, views: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the maps of rows (b,) in their order, (b, h, w, c) float32 each.

        Parameters
        ----------
        views : (b,) which view of each; None is the clean one.
        """
        views = np.zeros(len(rows), np.int64) if views is None else views
        return [self._read(place, rows, views) for place in range(len(self.files))]

    def _read(self, place: int, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        held = self._held
        if held is not None:
            some = held[place][rows, views] if self.spec.views > 1 else held[place][rows]
            return np.asarray(some, np.float32)
        made = np.empty((len(rows), *self.shapes[place]), np.float32)
        for view in np.unique(views).tolist():
            mine = np.flatnonzero(views == view)
            made[mine] = self.files[place].read_rows(rows[mine], view)
        return made

    @cached_property
    def _held(self) -> list[np.ndarray] | None:
        """All maps, where memory has room for them."""
        views = self.spec.views
        size = sum(np.prod(one.shape) * one.dtype.itemsize * views for one in self.files)
        if size > _SHARE * free_memory():
            return None
        return [one.views if views > 1 else one.X for one in self.files]

    def moments(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return mean and variance (channels,) of each map over the clean images of some rows."""
        found = []
        for part in self.read(rows):
            flat = part.reshape(-1, part.shape[-1]).astype(np.float64)
            found.append((flat.mean(axis=0), flat.var(axis=0) + 1e-6))
        return found


def opened(files: Sequence[store.Features]) -> Maps:
    """Return feature files as maps of the same images.

    Raises
    ------
    HeadError
        When they are not: of other images or boxes, of several networks, no maps, or with views
        or a crop that boxes cannot follow.
    """
    first = files[0]
    if TASKS[first.task].kind is not TargetKind.BOXES:
        raise HeadError(
            f"'{first.path}' has no boxes; its task is {first.task}. Extract a manifest with a "
            f"column 'boxes', COCO's file, or a folder as Pascal VOC or YOLO has it."
        )
    for one in files:
        if len(one.shape) != 4:
            raise HeadError(
                f"'{one.path}' has vectors, which do not say where something is. Extract maps: "
                f"--pooling none."
            )
        if one.spec.crop != NONE or "crop" in one.spec.augment:
            raise HeadError(
                f"'{one.path}' has cropped images, and boxes do not follow them. Extract without "
                f"--crop, and views with --augment flip or flip,color."
            )
        if not _is_beside(one, first):
            raise HeadError(
                f"'{one.path}' and '{first.path}' are not of the same images, boxes and network. "
                f"Extract both at once: --layer a,b."
            )
    known = first.annotations.is_known & (first.annotations.boxes.sizes > 0).all(axis=1)  # type: ignore[union-attr]
    if not known.any():
        raise HeadError(f"'{first.path}' has no image with boxes. Extract annotated images.")
    return Maps(tuple(files))


def _is_beside(one: store.Features, first: store.Features) -> bool:
    apart = {"layer", "pooling"}
    same = all(
        getattr(one.spec, field.name) == getattr(first.spec, field.name)
        for field in fields(ExtractionSpec)
        if field.name not in apart
    )
    return (
        same
        and np.array_equal(one.digests, first.digests)
        and one.annotations.same_as(first.annotations)
    )


def parts_of(features: store.Features, seed: int) -> dict[str, np.ndarray]:
    """Return rows to train on, `train`, to choose by, `val`, and held out, `test`.

    Where the source has no validation part, one is taken of the training part.

    Raises
    ------
    HeadError
        When a part has no box.
    """
    about = features.annotations
    masks = splits.parts(about, features.digests, seed)
    if not masks["val"].any():
        rows = np.flatnonzero(masks["train"])
        some, digests = about.take(rows), features.digests[rows]
        # in another order than that of the held-out part, which is taken already
        apart = splits.held_out(some.strata, digests, (seed + 1) % 2**32, VAL_FRACTION, some.groups)
        masks = masks | {"val": masks["val"].copy(), "train": masks["train"].copy()}
        masks["val"][rows[apart]], masks["train"][rows[apart]] = True, False
    assert about.boxes is not None
    found = {name: np.flatnonzero(mask) for name, mask in masks.items()}
    for name, rows in found.items():
        boxes = about.boxes.take(rows)
        if boxes.ignored.all():
            raise HeadError(
                f"The {name} part of '{features.path}' has no box ({len(rows)} images), so nothing "
                f"can be {'learnt' if name == 'train' else 'measured'}. Annotate more images."
            )
    return found
