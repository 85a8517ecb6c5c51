"""The built-in example collections: `example:clipart` and `example:digits`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PREFIX = "example:"
NAMES = ("clipart", "digits")

CLIPART = Path(__file__).parent / "clipart"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits: images (1797, 8, 8, 3) uint8, labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = (bunch.images * 255 / 16).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), bunch.target.astype(np.int64)
