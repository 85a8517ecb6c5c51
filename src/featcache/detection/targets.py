"""What each cell of the head's grid is to say, from the boxes on an image.

Centres as in CenterNet (Zhou, Wang and Kraehenbuehl 2019, "Objects as points"): one at the cell of
a box's middle, falling off around it. As in TTFNet (Liu et al. 2020, "Training-time-friendly
network for real-time object detection") the fall is as wide as the box, and every cell under it
learns the box and its class, weighted by it; so cells beside the middle say the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featcache.detection.frames import areas

SPREAD = 0.54 / 6  # standard deviation of a centre's fall, of the box's side; TTFNet's
LEAST_SPREAD = 0.3  # cells
LEAST = 0.02  # a fall below it is none


class Targets(NamedTuple):
    """Of one image; h x w cells."""

    centres: np.ndarray  # (h, w) float32: 1 at the cell of a middle, less around it
    corners: np.ndarray  # (h, w, 4) float32, pixels of the network's image
    classes: np.ndarray  # (h, w) int32
    weights: np.ndarray  # (h, w) float32: of a cell for its box, 1 a box in all; 0: none
    counted: np.ndarray  # (h, w) float32: 0 under boxes that are to be ignored, else 1


def targets(
    corners: np.ndarray,
    classes: np.ndarray,
    ignored: np.ndarray,
    grid: tuple[int, int],
    image_size: tuple[int, int],
) -> Targets:
    """Return what cells are to say.

    Parameters
    ----------
    corners : (m, 4) in pixels of the network's image; classes (m,) int; ignored (m,) bool.
    grid : rows and columns of cells.
    image_size : height and width of the network's image.
    """
    (rows, columns), stride = grid, np.array(image_size) / grid  # of y, x
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(grid, stride, strict=True))
    made = Targets(
        np.zeros(grid, np.float32),
        np.zeros((*grid, 4), np.float32),
        np.zeros(grid, np.int32),
        np.zeros(grid, np.float32),
        np.ones(grid, np.float32),
    )
    strongest = np.zeros(grid, np.float32)
    # of two boxes over a cell it belongs to the one whose middle is nearer, for its size
    for place in np.argsort(-areas(corners)).tolist():
        left, top, right, bottom = corners[place]
        inside = np.outer((y >= top) & (y <= bottom), (x >= left) & (x <= right))
        if ignored[place]:
            made.counted[inside] = 0
            continue
        row = min(max(int((top + bottom) / 2 // stride[0]), 0), rows - 1)
        column = min(max(int((left + right) / 2 // stride[1]), 0), columns - 1)
        high, wide = (
            max(side * SPREAD, LEAST_SPREAD * step)
            for side, step in zip((bottom - top, right - left), stride, strict=True)
        )
        fall = np.outer(
            np.exp(-((y - y[row]) ** 2) / (2 * high**2)),
            np.exp(-((x - x[column]) ** 2) / (2 * wide**2)),
        ).astype(np.float32)
        fall[fall < LEAST] = 0
        inside[row, column] = True  # also of a box smaller than a cell
        np.maximum(made.centres, fall, out=made.centres)
        mine = inside & (fall > 0) & (fall >= strongest)
        strongest[mine] = fall[mine]
        made.corners[mine], made.classes[mine] = corners[place], classes[place]
        made.weights[mine] = fall[mine] / fall[mine].sum()
    made.counted[made.weights > 0] = 1
    return made
