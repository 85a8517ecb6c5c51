"""How long images take before the network sees them, class by class.

The network takes the same time for every image. What differs from class to class is reading and
decoding, so that alone is timed: one image after the other, of files that were just read.
See docs/decisions/slowest-class.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from featcache.data.damage import UnreadableImageError
from featcache.models.judged_on import Images

N_TIMED = 400  # images in all, and at least one per class
MOST_OF_CLASS = 20


def decoding_ms(images: Images, members: Sequence[np.ndarray]) -> list[tuple[float, int]] | None:
    """Return for each class the ms to read and decode an image, and of how many images.

    It is the median, which another program's work in between does not move.

    Parameters
    ----------
    members : rows of each class; some are spread over them. A class without any gives NaN.

    Returns
    -------
    None where the images are in memory.
    """
    if _is_in_memory(images):
        return None
    a_class = min(MOST_OF_CLASS, max(1, N_TIMED // max(len(members), 1)))
    found = []
    _ms(images, 0)  # the first image of a process also waits for its decoder
    for rows in members:
        places = np.linspace(0, len(rows) - 1, min(a_class, len(rows))).round().astype(int)
        taken = [_ms(images, row) for row in rows[places].tolist()]
        known = [ms for ms in taken if ms is not None]
        found.append((float(np.median(known)) if known else float("nan"), len(known)))
    return found


def _ms(images: Images, row: int) -> float | None:
    started = time.perf_counter()
    try:
        images.pixels(row)
    except UnreadableImageError:
        return None
    return 1e3 * (time.perf_counter() - started)


def _is_in_memory(images: Images) -> bool:
    try:
        return images.samples.stamp(0) is None
    except OSError:  # a file that has gone was one
        return False
