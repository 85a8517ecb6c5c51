"""Are the boxes of two runs of a detector the same?"""

from __future__ import annotations

import numpy as np

from featcache.detection.suppression import BOXES, COUNT

Outputs = dict[str, np.ndarray]  # of `suppression.detections`, by name
HALF_A_PIXEL = 0.5  # of the network's image, that a box may be apart
# of boxes that must be the same: where two overlap by just the limit, or two cells are equally
# sure, the last bits of the features decide which one is left
LEAST_SHARE = 0.98


def n_same(expected: Outputs, got: Outputs, place: int) -> int:
    """Return how many of the expected boxes of an image are there: same class, as near as that."""
    n, m = int(expected[COUNT][place]), int(got[COUNT][place])
    near = np.abs(expected[BOXES][place, :n, None] - got[BOXES][place, None, :m]).max(axis=-1)
    alike = expected["classes"][place, :n, None] == got["classes"][place, None, :m]
    return int((alike & (near <= HALF_A_PIXEL)).any(axis=1).sum())
