"""Scores of places drawn over an image."""

from __future__ import annotations

import numpy as np

RED = np.array([230, 20, 20], np.float32)
_OPAQUE = 0.7  # at most, so that what lies below can be seen


def overlay(image: np.ndarray, heat: np.ndarray, threshold: float) -> np.ndarray:
    """Return an image (height, width, 3) uint8, the redder the farther a place is off.

    From half the threshold on a place is tinted, at one and a half times it most.

    Parameters
    ----------
    image : (height, width, 3) uint8.
    heat : (height, width) scores, 0 or more.
    threshold : the score above which an image is an anomaly.
    """
    strength = np.clip(heat / max(threshold, 1e-12) - 0.5, 0, 1)[..., None] * _OPAQUE
    mixed: np.ndarray = (1 - strength) * image + strength * RED
    return np.asarray(mixed.round(), np.uint8)
