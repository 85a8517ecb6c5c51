"""Which images train and which judge: the held-out part and the folds.

Both go by image content. A held-out part drawn from a digest of (seed, image digest) is the same
for every head and run, hardly moves when images are added, and never has a copy of a training
image; folds keep copies together too. Images of one group count as copies of each other.
"""

from __future__ import annotations

import hashlib

import numpy as np

from featcache.core.checks import whole_number
from featcache.core.errors import HeadError
from featcache.core.labels import Annotations
from featcache.core.tasks import TASKS
from featcache.core.text import counted

HELD_OUT_FRACTION = 0.2
MIN_FOLDS = 3  # nested cross-validation judges on one, chooses on one and learns from the others


def held_out(
    strata: np.ndarray,
    digests: np.ndarray,
    seed: int,
    fraction: float = HELD_OUT_FRACTION,
    groups: tuple[str, ...] | None = None,
) -> np.ndarray:
    """Return a mask of the rows to hold out: of each stratum the first `fraction` by digest.

    Parameters
    ----------
    strata : (n,) int; the classes, as a rule.
    digests : (n, 16) uint8, content digests; rows with equal digests land on one side.
    seed : int, mixed into the order.
    groups : rows of one group land on one side, in the stratum of its first row; "" is no group.

    Returns
    -------
    (n,) bool. A stratum with at least two units, images or groups, keeps one on each side.
    """
    first, unit_of = _units(digests, groups)
    keys = [
        hashlib.blake2b(
            digests[row].tobytes(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)
        ).digest()
        for row in first
    ]
    sizes = _different_images(digests, unit_of)
    strata = strata[first]
    out = np.zeros(len(first), bool)
    for stratum in np.unique(strata):
        members = np.array(sorted(np.flatnonzero(strata == stratum), key=lambda i: keys[i]))
        wanted = round(fraction * sizes[members].sum())
        # as many units as come nearest to the wanted number of images
        n_out = int(np.abs(np.cumsum([0, *sizes[members]]) - wanted).argmin())
        if len(members) > 1:
            n_out = min(max(n_out, 1), len(members) - 1)
        out[members[:n_out]] = True
    return np.asarray(out[unit_of])


def check_seed(seed: object) -> int:
    """Return a seed as int; raise SpecError unless every random generator in use takes it."""
    return whole_number("seed", seed, 0, 2**32 - 1)


def parts(annotations: Annotations, digests: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return row masks `train`, `val` and `test`.

    The source's own splits are kept. Where it has no test part, a stratified fifth of the labelled
    rows is held out as `test`. `val` may be empty. Unlabelled rows are in no part.
    """
    known, n = annotations.is_known, len(annotations)
    splits = annotations.splits
    given = np.full(n, "train", object) if splits is None else np.array(splits, object)
    if not np.any(given == "test"):
        rows = np.flatnonzero(known)
        some = annotations.take(rows)
        test = np.zeros(n, bool)
        test[rows] = held_out(some.strata, digests[rows], seed, groups=some.groups)
        given = np.where(test, "test", given)
    return {name: (given == name) & known for name in ("train", "val", "test")}


def taught(digests: np.ndarray) -> str:
    """Return BLAKE2b-128, hex, of a set of images: (n, 16) uint8 digests in any order.

    In a model's card it tells whether the parts of a source are still those that taught the model.
    """
    every = sorted({digest.tobytes() for digest in digests})
    return hashlib.blake2b(b"".join(every), digest_size=16).hexdigest()


def folds(
    annotations: Annotations, digests: np.ndarray, n_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train rows, test rows) of each shuffled fold; copies and groups stay together.

    Where the task is stratified, every class has about its share of every fold.

    Raises
    ------
    HeadError
        When there is a single class, or a class (or all) has fewer different images or groups than
        folds.
    """
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

    groups = annotations.groups
    first, unit_of = _units(digests, groups)
    unit = "image" if groups is None else "group"
    if not TASKS[annotations.task].is_stratified or _is_good_alone(annotations):
        if len(first) < n_folds:
            raise _too_few("The training part", len(first), unit, n_folds)
        parts = KFold(n_folds, shuffle=True, random_state=seed).split(first)
        return [_rows_of(unit_of, train, test) for train, test in parts]
    labels = annotations.labels
    _check_classes(labels, unit_of, annotations.class_names, n_folds, unit)
    # a group may have several classes, and so may copies of an image
    if groups is not None or (labels != labels[first][unit_of]).any():
        grouped = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        return list(grouped.split(labels, labels, unit_of))
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    parts = splitter.split(first, labels[first])
    return [_rows_of(unit_of, train, test) for train, test in parts]


def shared(annotations: Annotations, digests: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs (row to learn from, test row) of the same image in the given splits.

    One pair for each such test row, with the first such row to learn from.
    """
    if annotations.splits is None:
        return []
    learnt: dict[bytes, int] = {}
    keys = [digest.tobytes() for digest in digests]
    for row, split in enumerate(annotations.splits):
        if split != "test":
            learnt.setdefault(keys[row], row)
    return [
        (learnt[keys[row]], row)
        for row, split in enumerate(annotations.splits)
        if split == "test" and keys[row] in learnt
    ]


def units(digests: np.ndarray, groups: tuple[str, ...] | None) -> np.ndarray:
    """Return (n,) int64: rows with the same number, copies or of one group, must stay together."""
    return _units(digests, groups)[1]


def _is_good_alone(annotations: Annotations) -> bool:
    """Return whether a task of one class has nothing but that one to judge by."""
    return TASKS[annotations.task].is_one_class and not annotations.labels.any()


def _rows_of(
    unit_of: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(np.isin(unit_of, train)), np.flatnonzero(np.isin(unit_of, test))


def _check_classes(
    labels: np.ndarray, unit_of: np.ndarray, names: tuple[str, ...], n_folds: int, unit: str
) -> None:
    """Raise HeadError unless every class has a unit for each fold."""
    counts = np.array([len(np.unique(unit_of[labels == label])) for label in range(len(names))])
    if np.count_nonzero(counts) < 2:
        only = names[counts.argmax()]
        raise HeadError(f"A head needs two classes or more; the training part has only '{only}'.")
    smallest = names[counts.argmin()]
    if not counts.min():
        raise HeadError(
            f"Class '{smallest}' has no training image: none could be read, or all are held out. "
            f"Add some to train on, or leave the class out."
        )
    if counts.min() < n_folds:
        raise _too_few(f"Class '{smallest}'", int(counts.min()), unit, n_folds)


def _too_few(what: str, n: int, unit: str, n_folds: int) -> HeadError:
    fewer = f", or use fewer folds: --cv {n}" if n >= MIN_FOLDS else ""
    return HeadError(
        f"{what} has {counted(n, f'different training {unit}')}, fewer than the {n_folds} folds. "
        f"Add {unit}s{fewer}."
    )


def _units(digests: np.ndarray, groups: tuple[str, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each unit, and for every row the number of its unit.

    A unit is what must stay together: copies of an image, and all images of a group. Copies in two
    groups join them.
    """
    _, unit_of = np.unique(digests, axis=0, return_inverse=True)
    unit_of = unit_of.ravel()
    if groups is not None:
        unit_of = _joined(unit_of, groups)
    _, first, unit_of = np.unique(unit_of, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # number them by first appearance, not by digest
    return np.sort(first), rank[unit_of.ravel()]


def _joined(copy_of: np.ndarray, groups: tuple[str, ...]) -> np.ndarray:
    """Return for each row a number shared by all that copies and groups connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, group_of = np.unique(np.array(groups, str), return_inverse=True)
    in_group = names[group_of] != ""
    n_images = copy_of.max(initial=-1) + 1
    n = n_images + len(names)
    edges = (copy_of[in_group], n_images + group_of[in_group])
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[copy_of])


def _different_images(digests: np.ndarray, unit_of: np.ndarray) -> np.ndarray:
    """Return for each unit its number of different images."""
    _, first = np.unique(digests, axis=0, return_index=True)
    return np.bincount(unit_of[first], minlength=unit_of.max(initial=-1) + 1)
