"""Position embeddings for images of another size, as PyTorch interpolates them."""

from __future__ import annotations

import numpy as np


def bicubic(grid: np.ndarray, size: tuple[int, int], antialias: bool = False) -> np.ndarray:
    """Return (height, width, d) at another height and width.

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: Keys' kernel with
    a = -0.75, edges repeated; with `antialias` a = -0.5, widened where it shrinks, and cut off at
    the edges.
    """
    rows = _weights(grid.shape[0], size[0], antialias)
    columns = _weights(grid.shape[1], size[1], antialias)
    found: np.ndarray = np.einsum("ij,jkd,lk->ild", rows, grid.astype(np.float64), columns)
    return found.astype(np.float32)


def _weights(old: int, new: int, antialias: bool) -> np.ndarray:
    """Return (new, old): what each place of before has in each new one."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    width = max(scale, 1.0) if antialias else 1.0
    reach = int(np.ceil(2 * width)) + 1
    weights = np.zeros((new, old))
    for row, centre in enumerate(centres):
        places = np.arange(int(np.floor(centre)) - reach, int(np.floor(centre)) + reach + 1)
        some = _keys((places - centre) / width, -0.5 if antialias else -0.75)
        if antialias:
            some = np.where((places >= 0) & (places < old), some, 0.0)
        np.add.at(weights[row], np.clip(places, 0, old - 1), some)
        weights[row] /= weights[row].sum()
    return weights


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic kernel (1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    kernel: np.ndarray = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return kernel
