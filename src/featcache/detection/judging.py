"""Which of the boxes found on an image are right, and which of those drawn were missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featcache.core.boxes import Boxes
from featcache.detection.frames import overlaps
from featcache.detection.scoring import Found

OVERLAP = 0.5  # from which on a box of the same class is the one that was drawn


@dataclass(frozen=True)
class Judged:
    """The boxes of one image."""

    places: np.ndarray  # (k,) of the found ones that are shown
    is_right: np.ndarray  # (k,) bool
    is_missed: np.ndarray  # (m,) bool: of the drawn ones; ignored ones are not missed


def judged(found: Found, drawn: Boxes, min_score: float) -> Judged:
    """Return which boxes are right, the best score first, each drawn one at most once.

    Parameters
    ----------
    drawn : of this image alone. What is found on an ignored one is right.
    min_score : from which a box is shown.
    """
    places = np.flatnonzero(found.scores >= min_score)
    near = overlaps(found.corners[places], drawn.corners)
    near[found.classes[places, None] != drawn.classes[None]] = 0
    is_free = np.ones(len(drawn.classes), bool)
    is_right = np.zeros(len(places), bool)
    for place in range(len(places)):
        open_ = np.where(is_free, near[place], 0)
        if open_.size and open_.max() >= OVERLAP:
            mine = int(open_.argmax())
            is_right[place] = True
            is_free[mine] = bool(drawn.ignored[mine])
    return Judged(places, is_right, is_free & ~drawn.ignored)
