"""Position embeddings for images of another size, as PyTorch interpolates them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# from (height, width, d) to what it is at another height and width
Interpolated = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
_Kernel = Callable[[np.ndarray], np.ndarray]


def bicubic(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (height, width, d) at another height and width.

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: Keys' kernel (1981)
    with a = -0.75, edges repeated.
    """
    return _resized(grid, size, lambda x: _keys(x, -0.75), False)


def bicubic_antialias(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return what `bicubic` does with `antialias=True`.

    There a = -0.5, the kernel is widened where it shrinks, and cut off at the edges.
    """
    return _resized(grid, size, lambda x: _keys(x, -0.5), True)


def bilinear_antialias(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return what PyTorch's bilinear interpolation does with `antialias=True`."""
    return _resized(grid, size, lambda x: np.maximum(1 - np.abs(x), 0.0), True)


def _resized(
    grid: np.ndarray, size: tuple[int, int], kernel: _Kernel, antialias: bool
) -> np.ndarray:
    rows = _weights(grid.shape[0], size[0], kernel, antialias)
    columns = _weights(grid.shape[1], size[1], kernel, antialias)
    found: np.ndarray = np.einsum("ij,jkd,lk->ild", rows, grid.astype(np.float64), columns)
    return found.astype(np.float32)


def _weights(old: int, new: int, kernel: _Kernel, antialias: bool) -> np.ndarray:
    """Return (new, old): what each place of before has in each new one."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    width = max(scale, 1.0) if antialias else 1.0
    reach = int(np.ceil(2 * width)) + 1
    weights = np.zeros((new, old))
    for row, centre in enumerate(centres):
        places = np.arange(int(np.floor(centre)) - reach, int(np.floor(centre)) + reach + 1)
        some = kernel((places - centre) / width)
        if antialias:
            some = np.where((places >= 0) & (places < old), some, 0.0)
        np.add.at(weights[row], np.clip(places, 0, old - 1), some)
        weights[row] /= weights[row].sum()
    return weights


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    kernel: np.ndarray = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return kernel
