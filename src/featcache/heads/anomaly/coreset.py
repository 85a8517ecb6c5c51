"""Few points that stand for many: greedy k-centre, as PatchCore takes its memory.

Sources: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Roth et al.
2022, "Towards total recall in industrial anomaly detection" (PatchCore), with its random
projection before.
"""

from __future__ import annotations

import numpy as np

PROJECTED = 128  # dimensions in which distances are compared; of more they are nearly the same
_CANDIDATES = 2048  # looked at together
_BLOCK = 16_384  # points whose distances are computed at a time


def k_centres(points: np.ndarray, n_centres: int, seed: int) -> np.ndarray:
    """Return (n_centres,) int64: each after the first is the point farthest from those before.

    That is done exactly, and many at a time: distances to the centres only fall, so among the
    farthest points the next ones are known until none of them is as far as all other points were.

    Parameters
    ----------
    points : (n, d) float32.
    n_centres : at most n.
    seed : of the first centre and of the projection.
    """
    rng = np.random.default_rng(seed)
    z = _projected(points, rng)
    norms = np.einsum("ij,ij->i", z, z)
    chosen = [int(rng.integers(len(z)))]
    nearest = np.full(len(z), np.inf, np.float32)  # squared distance to the nearest centre
    _update(nearest, z, norms, np.array(chosen))
    while len(chosen) < n_centres:
        taken = _next(nearest, z, norms, n_centres - len(chosen))
        chosen += taken.tolist()
        _update(nearest, z, norms, taken)
    return np.array(chosen)


def _projected(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return points in fewer dimensions, their distances kept (Johnson and Lindenstrauss 1984)."""
    d = points.shape[1]
    if d <= PROJECTED:
        return np.ascontiguousarray(points, np.float32)
    random = rng.standard_normal((d, PROJECTED), np.float32) / np.float32(np.sqrt(PROJECTED))
    return np.asarray(points @ random)


def _next(nearest: np.ndarray, z: np.ndarray, norms: np.ndarray, at_most: int) -> np.ndarray:
    """Return the next centres, one or more."""
    n = min(_CANDIDATES, len(z) - 1)
    order = np.argpartition(nearest, -(n + 1)) if n + 1 < len(z) else np.argsort(nearest)
    others = float(nearest[order[-(n + 1)]])  # as far as a point can be that is no candidate
    some = order[-n:]
    mine, left = z[some], nearest[some].copy()
    # all of them at once: products of a matrix and a vector are slow where cores are busy
    between = norms[some, None] - 2 * (mine @ mine.T) + norms[some]
    taken: list[int] = []
    while len(taken) < at_most:
        place = int(left.argmax())
        if taken and left[place] < others:
            break
        taken.append(int(some[place]))
        np.minimum(left, between[place], out=left)
        left[place] = -1.0  # never twice, whatever rounding made of its distance to itself
    return np.array(taken)


def _update(nearest: np.ndarray, z: np.ndarray, norms: np.ndarray, centres: np.ndarray) -> None:
    """Take further centres into the distances to the nearest one."""
    theirs, their_norms = z[centres].T, norms[centres]
    for start in range(0, len(z), _BLOCK):
        some = slice(start, start + _BLOCK)
        distance = z[some] @ theirs
        distance *= -2
        distance += their_norms
        np.minimum(nearest[some], distance.min(axis=1) + norms[some], out=nearest[some])
    nearest[centres] = -1.0
