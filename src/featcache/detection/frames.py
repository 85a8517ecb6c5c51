"""Where boxes lie: in pixels of the file as it is shown, and in those of a network's image.

Corners are (m, 4): left, top, right, bottom. Of a network's image the top left corner is 0, 0.
"""

from __future__ import annotations

import numpy as np

from featcache.core.geometry import Geometry, placement


def _affine(sizes: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and offsets (m, 4) of corners on images of sizes (m, 2)."""
    scales, offsets = placement(sizes, geometry)
    order = [1, 0, 1, 0]  # sizes are height and width, corners x and y
    return scales[:, order], offsets[:, order]


def to_network(corners: np.ndarray, sizes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return corners (m, 4) in pixels of the network's image.

    Parameters
    ----------
    corners : (m, 4) in pixels of the files.
    sizes : (m, 2) height and width, upright, of the image that each box is on.
    """
    scales, offsets = _affine(sizes, geometry)
    return np.asarray(corners * scales + offsets)


def to_image(corners: np.ndarray, sizes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return corners (m, 4) in pixels of the files, cut off at their edges; see `to_network`."""
    scales, offsets = _affine(sizes, geometry)
    edges = np.asarray(sizes)[:, [1, 0, 1, 0]]
    return np.asarray(np.clip((corners - offsets) / scales, 0, edges))


def mirrored(corners: np.ndarray, width: int) -> np.ndarray:
    """Return corners (m, 4) on an image of this width that was mirrored left to right."""
    left, top, right, bottom = corners.T
    return np.stack([width - right, top, width - left, bottom], axis=1)


def areas(corners: np.ndarray) -> np.ndarray:
    """Return (...,) areas of corners (..., 4)."""
    sides = np.maximum(corners[..., 2:] - corners[..., :2], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (m, k): intersection over union of corners (m, 4) with corners (k, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = areas(np.concatenate([low, high], axis=2))
    either = areas(one)[:, None] + areas(other)[None] - both
    return np.asarray(both / np.maximum(either, 1e-9))


def kept(corners: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float) -> np.ndarray:
    """Return the places that greedy suppression keeps, the best score first.

    Of boxes of the same class the better one suppresses those that overlap it by more than `iou`;
    of equal scores the first one is better.
    """
    order = np.argsort(-scores, kind="stable")
    suppresses = overlaps(corners, corners) > iou
    suppresses &= classes[:, None] == classes[None]
    found: list[int] = []
    for place in order.tolist():
        if not suppresses[found, place].any():
            found.append(place)
    return np.array(found, np.int64)
