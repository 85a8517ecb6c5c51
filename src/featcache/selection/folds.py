"""A dataset in matrices, and which rows learn and judge in which fold.

Features are read once, a block at a time, into a scratch file that every process maps into its
memory, so that a matrix is in memory once however many processes fit heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.core import arrays, float32
from featcache.core.errors import HeadError
from featcache.core.labels import Annotations
from featcache.core.memory import release
from featcache.core.repeats import Repeats, sentence
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted
from featcache.data import splits
from featcache.scoring.leaderboard import FeatureSet
from featcache.scoring.near_duplicates import near_duplicates
from featcache.selection.dataset import Dataset, Reader

SMALL_CLASS, IMBALANCE = 10, 20.0  # from here a warning says that classes are small or uneven
SHOWN_PAIRS = 3

SplitMasks = dict[str, np.ndarray]  # train, val and test -> (n,) bool, as `splits.parts` gives them


@dataclass(frozen=True)
class FoldedData:
    """Matrices in scratch files, and who is in which fold; row numbers are those of a matrix."""

    views: tuple[np.ndarray, ...]  # of each set (n, v, d), the clean view first
    y: np.ndarray  # (n,) class indices, or (n, k)
    folds: np.ndarray  # (repeats, n) int16: outer fold of each training row, -1 for held-out rows
    train: np.ndarray  # (n_train,) int64
    test: np.ndarray  # (n_test,) int64
    units: np.ndarray  # (n,) int64: rows of one unit, copies or a group, are never parted
    n_same: tuple[int, ...]  # of each set, how many different images have another's features

    @property
    def n_folds(self) -> int:
        """Folds of each repeat."""
        return int(self.folds.max()) + 1


def prepare(
    dataset: Dataset, parts: SplitMasks, cv: int, repeats: int, seed: int, scratch: Path
) -> FoldedData:
    """Part the rows, then read every matrix once into a file in `scratch`.

    Raises
    ------
    HeadError
        When folds cannot be made, or features are not all finite numbers.
    """
    about = dataset.annotations
    train, test = np.flatnonzero(parts["train"] | parts["val"]), np.flatnonzero(parts["test"])
    if not len(train):
        raise HeadError("There are no labelled training images. Add some to train/ and extract.")
    folds = np.full((repeats, len(about)), -1, np.int16)
    learnt = about.take(train)
    for repeat in range(repeats):
        # far from the seeds next to it, so that seed 1 does not repeat what seed 0 did second
        drawn = splits.folds(
            learnt, dataset.digests[train], cv, (seed + 1_000_003 * repeat) % 2**32
        )
        for number, (_, tested) in enumerate(drawn):
            folds[repeat, train[tested]] = number
    mapped = [
        _mapped(reader, one, dataset, scratch / f"{number}.npy")
        for number, (reader, one) in enumerate(zip(dataset.readers, dataset.sets, strict=True))
    ]
    views = tuple(matrix for matrix, _ in mapped)
    n_same = tuple(n for _, n in mapped)
    units = splits.units(dataset.digests, about.groups)
    return FoldedData(views, about.y, folds, train, test, units, n_same)


def _warnings_of_copies(dataset: Dataset) -> list[str]:
    """Name images whose copies say something else; of numbers, measured twice, that is no fault."""
    task = TASKS[dataset.annotations.task]
    if task.kind is TargetKind.NUMBERS:
        return []
    y = dataset.annotations.y.reshape(len(dataset.digests), -1)
    unit_of = splits.units(dataset.digests, None)
    _, first = np.unique(unit_of, return_index=True)
    odd = np.flatnonzero((y != y[first[unit_of]]).any(axis=1))
    if not len(odd):
        return []
    pair = (int(first[unit_of[odd[0]]]), int(odd[0]))
    one, other = (f"row {row}" if dataset.ids is None else f"'{dataset.ids[row]}'" for row in pair)
    return [
        f"{counted(len(odd), 'copy of an image says', 'copies of images say')} other {task.nouns} "
        f"than the first one: {one} and {other}. Keep what is right."
    ]


def warnings_of(dataset: Dataset, parts: SplitMasks, data: FoldedData) -> tuple[str, ...]:
    """Return what a reader of the scores should know of the data, a sentence each."""
    about, found = dataset.annotations, _warnings_of_copies(dataset)
    if TASKS[about.task].is_one_class:
        if not about.labels.any():
            found.append(
                "There is nothing but good images, so no score says how well anomalies are told; "
                "the first head is taken unjudged."
            )
    elif TASKS[about.task].kind is TargetKind.CLASS:
        counts = np.bincount(
            about.labels[parts["train"] | parts["val"]], minlength=len(about.class_names)
        )
        least, most = counts.argmin(), counts.argmax()
        smallest = (
            f"Class '{about.class_names[least]}' has {counted(counts[least], 'training image')}"
        )
        if counts[most] > IMBALANCE * max(counts[least], 1):
            found.append(
                f"{smallest}, '{about.class_names[most]}' has {counts[most]}: look at "
                f"balanced-accuracy, and try --class-weight balanced."
            )
        elif counts[least] < SMALL_CLASS:
            found.append(f"{smallest}: what is said of it is uncertain.")
    if TASKS[about.task].kind is TargetKind.NUMBERS:
        found += _warnings_of_targets(about.take(np.flatnonzero(parts["train"] | parts["val"])))
    if about.groups is not None and about.splits is not None:
        sides: dict[str, set[bool]] = {}
        for group, split in zip(about.groups, about.splits, strict=True):
            sides.setdefault(group, set()).add(split == "test")
        both = [group for group, found_in in sides.items() if group and len(found_in) == 2]
        if both:
            found.append(
                f"{counted(len(both), 'group is', 'groups are')} in the given test part and among "
                f"those learnt from, so "
                f"the held-out score is too good: {', '.join(repr(one) for one in both[:3])}."
            )
    pairs = splits.shared(about, dataset.digests)
    if pairs:
        named = "; ".join(
            f"'{dataset.ids[test]}' is '{dataset.ids[learnt]}'" if dataset.ids else f"row {test}"
            for learnt, test in pairs[:3]
        )
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        found.append(
            f"{len(pairs)} of the given test images are also among those learnt from, so the "
            f"held-out score is too good: {named}{more}."
        )
    for one, n_same in zip(dataset.sets, data.n_same, strict=True):
        if n_same:
            name = f"{one.name}: " if len(dataset.sets) > 1 else ""
            found.append(f"{name}{sentence(n_same, len(about))}")
    return tuple(found)


def _warnings_of_targets(learnt: Annotations) -> list[str]:
    found = [
        f"The target '{name}' is {column[0]:g} for all training images: there is nothing to learn, "
        f"and R2 is undefined."
        for name, column in zip(learnt.output_names, learnt.y.T, strict=True)
        if (column == column[0]).all()
    ]
    if rounded := float32.complaint(learnt.output_names, learnt.y):
        found.append(f"{rounded}: as it is, heads are scored as they are, and not stitched.")
    return found


def warnings_of_features(dataset: Dataset, data: FoldedData, features: int) -> tuple[str, ...]:
    """Return a sentence on held-out images that look like one that is learnt from, if any do.

    Parameters
    ----------
    features : which set of features says so.
    """
    if dataset.ids is None:  # rows of plain arrays are near each other for any reason
        return ()
    views = data.views[features]
    same = {test for _, test in splits.shared(dataset.annotations, dataset.digests)}
    test = np.array([row for row in data.test.tolist() if row not in same], np.int64)

    def read(rows: np.ndarray) -> np.ndarray:
        some = np.asarray(views[rows, 0])
        release(views)
        return some

    found = near_duplicates(read, data.train, test)
    if not found.pairs:
        return ()
    named = "; ".join(
        f"'{dataset.ids[pair.test]}' like '{dataset.ids[pair.train]}'"
        for pair in found.pairs[:SHOWN_PAIRS]
    )
    more = len(found.pairs) - SHOWN_PAIRS
    return (
        f"{len(found.pairs)} of {counted(found.n_compared, 'held-out image')} "
        f"{'looks' if len(found.pairs) == 1 else 'look'} like one that is learnt from, as a "
        f"resized copy does, so the held-out score may be too good: {named}"
        f"{f' and {more} more' if more > 0 else ''}. Remove copies, or give those of an image one "
        f"group in a manifest.",
    )


def _mapped(
    reader: Reader, one: FeatureSet, dataset: Dataset, path: Path
) -> tuple[np.ndarray, int]:
    """Write a matrix to a scratch file, refusing what is no number, and map it read-only.

    Returns
    -------
    The matrix, and how many different images have the features of another.
    """
    start, n, repeats = 0, len(dataset.annotations), Repeats()
    with path.open("wb") as file:
        for block in reader():
            if not start:
                header = {
                    "descr": np.lib.format.dtype_to_descr(block.dtype),
                    "fortran_order": False,
                    "shape": (n, *block.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
            fits = arrays.usable(block)
            if not fits.all():
                row = start + int(np.flatnonzero(~fits)[0])
                what = f"'{dataset.ids[row]}'" if dataset.ids else f"row {row}"
                where = f" in '{one.path}'" if one.path else ""
                raise HeadError(
                    f"The features of {what}{where} are not all finite numbers below "
                    f"{arrays.LARGEST:.0e}, so nothing can be learnt from them. Leave it out, or "
                    f"mend what made them."
                )
            repeats.add(block[:, 0])
            # written, not mapped: pages of a mapping would count as this process's memory
            file.write(np.ascontiguousarray(block).data)  # `tofile` would not say what failed
            start += len(block)
    return np.asarray(np.load(path, mmap_mode="r")), repeats.count(dataset.digests)
