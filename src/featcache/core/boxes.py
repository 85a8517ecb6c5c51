"""Boxes drawn on images: what was drawn on each, in pixels of the image as it is shown.

As a person draws them they have a name, and may lie wrong; `measured` checks them against the size
of their image. Then they are columns, which sources, feature files and heads share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featcache.core.errors import SourceError
from featcache.core.text import counted, few

LEAST_SIDE = 1.0  # pixels; a box of less is degenerate: nothing can be learnt from it
BESIDE = 1.0  # pixels that a box may lie outside its image: tools round, or count pixels from 1


class Drawn(NamedTuple):
    """One box as it was given."""

    label: str
    corners: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    place: str  # for messages, as "box 2 in line 7 of 'boxes.csv'"
    ignored: bool = False


DrawnRows = Sequence[Sequence[Drawn] | None]  # by image; None: nobody looked for any


@dataclass(frozen=True)
class Boxes:
    """Boxes of n images; those of image i are `starts[i]` to `starts[i + 1]`."""

    starts: np.ndarray  # (n + 1,) int64
    corners: np.ndarray  # (m, 4) float64: left, top, right, bottom in pixels, upright
    classes: np.ndarray  # (m,) int64 into class_names
    ignored: np.ndarray  # (m,) bool: crowds, or too difficult; neither learnt nor missed
    sizes: np.ndarray  # (n, 2) int64: height and width of each image in pixels, 0 where unknown

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """(n,) int64: boxes on each image."""
        return np.diff(self.starts)

    @property
    def image_of(self) -> np.ndarray:
        """(m,) int64: the image that each box is on."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, rows: np.ndarray) -> Boxes:
        """Return the boxes of these images, in their given order."""
        counts = self.counts[rows]
        starts = starts_of(counts)
        # first box of each image, counted on from there
        some = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
        return Boxes(
            starts, self.corners[some], self.classes[some], self.ignored[some], self.sizes[rows]
        )

    def same_as(self, other: Boxes | None) -> bool:
        """Return whether every column is the same."""
        return other is not None and all(
            np.array_equal(column, getattr(other, name)) for name, column in vars(self).items()
        )


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Return (n + 1,) int64: where the boxes of each image begin; unknown (-1) has none."""
    return np.concatenate([[0], np.cumsum(np.maximum(counts, 0))]).astype(np.int64)


def names_in(rows: DrawnRows) -> list[str]:
    """Return the label of every box."""
    return [one.label for row in rows for one in row or ()]


def renamed(rows: DrawnRows, name: Callable[[str], str]) -> DrawnRows:
    """Return the boxes under other labels."""
    return [row and [one._replace(label=name(one.label)) for one in row] for row in rows]


def gathered(rows: DrawnRows, index: Mapping[str, int], sizes: np.ndarray | None = None) -> Boxes:
    """Return drawn boxes as columns.

    Raises
    ------
    SourceError
        When a box has a label that is not in `index`.
    """
    every = [one for row in rows for one in row or ()]
    if odd := next((one for one in every if one.label not in index), None):
        raise SourceError(
            f"The label '{odd.label}' of {odd.place} is none of class_names: {', '.join(index)}."
        )
    return Boxes(
        starts=starts_of(np.array([len(row or ()) for row in rows], np.int64)),
        corners=np.array([one.corners for one in every], np.float64).reshape(-1, 4),
        classes=np.array([index[one.label] for one in every], np.int64),
        ignored=np.array([one.ignored for one in every], bool),
        sizes=np.zeros((len(rows), 2), np.int64) if sizes is None else np.asarray(sizes, np.int64),
    )


def measured(rows: DrawnRows, sizes: np.ndarray) -> tuple[list[list[Drawn] | None], list[str]]:
    """Return boxes that lie in their images, and a sentence on those that were left out.

    What a pixel's rounding puts outside is cut off. Degenerate boxes are left out and listed.

    Parameters
    ----------
    sizes : (n, 2) int, height and width of each image; 0 where it cannot be read, and is not
        compared.

    Raises
    ------
    SourceError
        When a box is no box: its numbers are not finite, it is inverted, or outside its image.
    """
    kept: list[list[Drawn] | None] = []
    degenerate: list[str] = []
    for row, (height, width) in zip(rows, np.asarray(sizes).tolist(), strict=True):
        found = None if row is None else [_checked(one, height, width) for one in row]
        if found is not None:
            degenerate += [one.place for one in found if _side(one) < LEAST_SIDE]
            found = [one for one in found if _side(one) >= LEAST_SIDE]
        kept.append(found)
    if not degenerate:
        return kept, []
    n = counted(len(degenerate), "box", "boxes")
    return kept, [
        f"{n} of less than a pixel's width or height {'is' if len(degenerate) == 1 else 'are'} not "
        f"learnt: {few(degenerate)}."
    ]


def _side(one: Drawn) -> float:
    left, top, right, bottom = one.corners
    return min(right - left, bottom - top)


def _checked(one: Drawn, height: int, width: int) -> Drawn:
    left, top, right, bottom = one.corners
    shown = ", ".join(f"{corner:g}" for corner in one.corners)
    if not np.isfinite(one.corners).all():
        raise SourceError(f"The corners of {one.place} are no finite numbers: {shown}.")
    if right < left or bottom < top:
        raise SourceError(
            f"{_first(one.place)} is inverted: its left, top, right and bottom are {shown}. The "
            f"right must not be left of the left, nor the bottom above the top; mend or remove it."
        )
    if not height:
        return one
    reach = (min(left, top, width - right, height - bottom)) * -1
    if reach > BESIDE:
        raise SourceError(
            f"{_first(one.place)} lies {reach:g} pixels outside its image, which is {width} x "
            f"{height} upright: its left, top, right and bottom are {shown}. Mend or remove it."
        )
    corners = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
    return one._replace(corners=corners)


def _first(place: str) -> str:
    return place[:1].upper() + place[1:]
