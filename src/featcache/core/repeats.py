"""Different images with the same features: nothing that learns from those tells them apart."""

from __future__ import annotations

import numpy as np

ROUNDING = 2.0  # of the last bit; a batch's place in memory may change it


class Repeats:
    """Looks at the features of images, block by block, and counts those that are not alone."""

    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []
        self._first: np.ndarray | None = None
        self._is_one_row = True  # so far, up to rounding

    def add(self, block: np.ndarray) -> None:
        """Look at the features of the next images, (m, d)."""
        if not len(block):
            return
        self._keys.append(np.array([hash(row.tobytes()) for row in block], np.int64))
        if self._first is None:
            self._first = block[0].astype(np.float64)
        if self._is_one_row:
            apart, scale = np.abs(block - self._first).max(), np.abs(self._first).max()
            self._is_one_row = bool(apart <= ROUNDING * np.finfo(block.dtype).eps * scale)

    def count(self, digests: np.ndarray) -> int:
        """Return how many images have the features of a different one.

        Parameters
        ----------
        digests : (n, 16) uint8 of all images that were looked at; copies are no different images.
        """
        if not self._keys:
            return 0
        keys = np.concatenate(self._keys)
        if not self._is_one_row and len(np.unique(keys)) == len(keys):
            return 0
        images = np.ascontiguousarray(digests[:, :8]).view(np.int64).ravel()
        if self._is_one_row:
            keys = np.zeros_like(keys)
        _, first, n_copies = np.unique(images, return_index=True, return_counts=True)
        _, row, n_images = np.unique(keys[first], return_inverse=True, return_counts=True)
        return int(n_copies[n_images[row] > 1].sum())


def sentence(n_same: int, n: int) -> str:
    """Say that so many of n images have the features of another image."""
    if n_same >= n:
        return (
            f"All {n} images have the very features of another image, though their files differ. "
            f"Unless they are copies saved anew, look at the weights of the backbone, and at how "
            f"images are read (extract --value-range)."
        )
    return (
        f"{n_same} of {n} images have the very features of another image, though their files "
        f"differ: they look the same to the backbone."
    )
