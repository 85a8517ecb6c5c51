"""Which images train and which judge: the held-out part and the folds.

Both go by image content. A held-out part drawn from a digest of (seed, image digest) is the same
for every head and run, hardly moves when images are added, and never has a copy of a training
image; folds keep copies together too.
"""

from __future__ import annotations

import hashlib

import numpy as np

from featcache.errors import HeadError, SpecError

HELD_OUT_FRACTION = 0.2


def held_out(
    labels: np.ndarray, digests: np.ndarray, seed: int, fraction: float = HELD_OUT_FRACTION
) -> np.ndarray:
    """Return a mask of the rows to hold out: of each class the first `fraction` by digest.

    Parameters
    ----------
    labels : (n,) int; every value is a stratum.
    digests : (n, 16) uint8, content digests; rows with equal digests land on one side.
    seed : int, mixed into the order.

    Returns
    -------
    (n,) bool. A class with at least two different images keeps one on each side.
    """
    first, copy_of = _unique(digests)
    order = [
        hashlib.blake2b(
            digests[row].tobytes(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)
        ).digest()
        for row in first
    ]
    strata = labels[first]
    out = np.zeros(len(first), bool)
    for stratum in np.unique(strata):
        members = sorted(np.flatnonzero(strata == stratum), key=lambda i: order[i])
        n_out = round(fraction * len(members))
        if len(members) > 1:
            n_out = min(max(n_out, 1), len(members) - 1)
        out[members[:n_out]] = True
    return np.asarray(out[copy_of])


def check_seed(seed: int) -> None:
    """Raise SpecError unless every random generator in use takes this seed."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise SpecError(f"seed must be a whole number from 0 to 2**32 - 1; got {seed}.")


def parts(
    labels: np.ndarray, digests: np.ndarray, splits: np.ndarray | None, seed: int
) -> dict[str, np.ndarray]:
    """Return row masks `train`, `val` and `test`.

    The source's own splits are kept. Where it has no test part, a stratified fifth of the labelled
    rows is held out as `test`. `val` may be empty. Unlabelled rows are in no part.
    """
    labelled = labels >= 0
    given = np.full(len(labels), "train", object) if splits is None else splits
    if not np.any(given == "test"):
        test = np.zeros(len(labels), bool)
        test[labelled] = held_out(labels[labelled], digests[labelled], seed)
        given = np.where(test, "test", given)
    return {name: (given == name) & labelled for name in ("train", "val", "test")}


def folds(
    labels: np.ndarray, digests: np.ndarray, n_folds: int, seed: int, class_names: tuple[str, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train rows, test rows) of each stratified, shuffled fold; copies stay together.

    Raises
    ------
    HeadError
        When there is a single class, or a class has fewer different images than folds.
    """
    from sklearn.model_selection import StratifiedKFold

    first, copy_of = _unique(digests)
    strata = labels[first]
    counts = np.bincount(strata, minlength=len(class_names))
    if np.count_nonzero(counts) < 2:
        only = class_names[counts.argmax()]
        raise HeadError(f"A head needs two classes or more; the training part has only '{only}'.")
    if not counts.min():
        raise HeadError(
            f"Class '{class_names[counts.argmin()]}' has no training image that could be read. "
            f"Add images to it, or remove its folder."
        )
    if counts.min() < n_folds:
        smallest = class_names[counts.argmin()]
        raise HeadError(
            f"Class '{smallest}' has {counts.min()} different training image(s), fewer than the "
            f"{n_folds} folds. Add images or use fewer folds (--cv)."
        )
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    return [
        (np.flatnonzero(np.isin(copy_of, train)), np.flatnonzero(np.isin(copy_of, test)))
        for train, test in splitter.split(strata, strata)
    ]


def _unique(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each different digest, and for every row its place in that list."""
    _, first, copy_of = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # number them by first appearance, not by digest
    return np.sort(first), rank[copy_of.ravel()]
