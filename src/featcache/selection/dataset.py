"""What heads are compared on: matrices of features, what is to be learnt, and the folds.

Features are read once, a block at a time, into a scratch file that every process maps into its
memory, so that a matrix is in memory once however many processes fit heads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache import store
from featcache.core.errors import HeadError, SpecError
from featcache.core.labels import UNLABELLED, Annotations
from featcache.data import splits
from featcache.scoring.leaderboard import FeatureSet

BLOCK = 4096
LARGEST = 1e15  # of a feature or target
SMALL_CLASS, IMBALANCE = 10, 20.0  # from here a warning says that classes are small or uneven


Part = dict[str, np.ndarray]  # train, val and test -> (n,) bool, as `splits.parts` gives them


@dataclass(frozen=True)
class Source:
    """What there is to learn from, before its features are read."""

    sets: tuple[FeatureSet, ...]
    readers: tuple[Any, ...]  # one a set: gives blocks (m, v, d) of its chosen rows
    annotations: Annotations  # of the chosen rows
    digests: np.ndarray  # (n, 16) uint8 of the chosen rows
    ids: tuple[str, ...] | None  # names of the chosen rows, for messages
    rows: tuple[np.ndarray, ...]  # (n,) the chosen rows in each set's own file
    path: Path | None = None  # of the first file, as the caller named it


@dataclass(frozen=True)
class Data:
    """Matrices in scratch files, and who is in which fold; row numbers are those of a matrix."""

    views: tuple[np.ndarray, ...]  # of each set (n, v, d), the clean view first
    y: np.ndarray  # (n,) class indices, or (n, k)
    folds: np.ndarray  # (repeats, n) int16: outer fold of each training row, -1 for held-out rows
    train: np.ndarray  # (n_train,) int64
    test: np.ndarray  # (n_test,) int64
    units: np.ndarray  # (n,) int64: rows of one unit, copies or a group, are never parted

    @property
    def n_folds(self) -> int:
        """Folds of each repeat."""
        return int(self.folds.max()) + 1


def of_files(files: Sequence[store.Features]) -> Source:
    """Return what several feature files of the same images have in common.

    Raises
    ------
    HeadError
        When they are of different tasks or classes, share no image, or hold unpooled maps.
    """
    first = files[0]
    for file in files:
        if len(file.shape) != 2:
            raise HeadError(
                f"'{file.path}' holds maps of {' x '.join(map(str, file.shape[1:]))}, and heads "
                f"learn from vectors. Extract with --pooling avg, max or flatten."
            )
    for other in files[1:]:
        ours, theirs = first.annotations, other.annotations
        same = (ours.task, ours.class_names, ours.target_names) == (
            *(theirs.task, theirs.class_names, theirs.target_names),
        )
        if not same:
            raise HeadError(
                f"'{first.path}' and '{other.path}' do not have the same classes or targets, so "
                f"heads on them cannot be compared. Extract both from the same source."
            )
    rows = _common(files)
    known = first.annotations.is_known[rows[0]]
    rows = tuple(part[known] for part in rows)
    if not len(rows[0]):
        raise HeadError(_nothing_labelled(first))
    _check_same_labels(files, rows)
    names = _names([_name_of(file, files) for file in files])
    return Source(
        sets=tuple(
            FeatureSet(name, file.content, file.shape[1], file.path.resolve(), file.spec)
            for name, file in zip(names, files, strict=True)
        ),
        readers=tuple(_reader(file, part) for file, part in zip(files, rows, strict=True)),
        annotations=first.annotations.take(rows[0]),
        digests=first.digests[rows[0]],
        ids=tuple(first.ids[row] for row in rows[0].tolist()),
        rows=rows,
        path=first.path,
    )


def of_arrays(
    X: Any, y: Any, task: str | None = None, groups: Sequence[Any] | None = None
) -> Source:
    """Return plain arrays as a source; what is to be learnt is recognised as scikit-learn does.

    Parameters
    ----------
    X : (n, d) numbers.
    y : (n,) classes of any kind, (n, k) of 0 and 1, or float targets (n,) or (n, k).
    task : classification, multi-label or regression; None goes by `y`.
    groups : (n,), rows of one group are never parted.
    """
    X = np.asarray(X)
    if X.ndim != 2 or not len(X) or X.dtype.kind not in "fiub":
        raise HeadError(f"X must be numbers in (n_samples, n_features); got {X.dtype} {X.shape}.")
    if X.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            X = X.astype(np.float32)
    about = _learnt(y, task)
    if len(about) != len(X):
        raise HeadError(f"X has {len(X)} rows and y {len(about)}; they must be as many.")
    if groups is not None:
        if len(groups) != len(X):
            raise HeadError(f"X has {len(X)} rows and groups {len(groups)}.")
        named = ("" if one is None or one != one else str(one) for one in groups)
        about = replace(about, groups=tuple(named))
    joined = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in X)
    digests = np.frombuffer(joined, np.uint8).reshape(len(X), 16)
    total = hashlib.blake2b(digest_size=16)
    total.update(digests.tobytes())
    total.update(np.ascontiguousarray(about.y).tobytes())
    total.update(json.dumps([about.class_names, about.groups]).encode())
    whole = FeatureSet("arrays", total.hexdigest(), X.shape[1])

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(X), BLOCK):
            yield X[start : start + BLOCK, None]

    return Source((whole,), (read,), about, digests, None, (np.arange(len(X)),))


def prepare(source: Source, part: Part, cv: int, repeats: int, seed: int, scratch: Path) -> Data:
    """Part the rows, then read every matrix once into a file in `scratch`.

    Raises
    ------
    HeadError
        When folds cannot be made, or features are not all finite numbers.
    """
    about = source.annotations
    train, test = np.flatnonzero(part["train"] | part["val"]), np.flatnonzero(part["test"])
    if not len(train):
        raise HeadError("There are no labelled training images. Add some to train/ and extract.")
    folds = np.full((repeats, len(about)), -1, np.int16)
    learnt = about.take(train)
    for repeat in range(repeats):
        # far from the seeds next to it, so that seed 1 does not repeat what seed 0 did second
        parts = splits.folds(learnt, source.digests[train], cv, (seed + 1_000_003 * repeat) % 2**32)
        for number, (_, tested) in enumerate(parts):
            folds[repeat, train[tested]] = number
    views = tuple(
        _mapped(reader, one, source, scratch / f"{number}.npy")
        for number, (reader, one) in enumerate(zip(source.readers, source.sets, strict=True))
    )
    units = splits.units(source.digests, about.groups)
    return Data(views, about.y, folds, train, test, units)


def warnings_of(source: Source, part: Part) -> tuple[str, ...]:
    """Return what a reader of the scores should know of the data, a sentence each."""
    about, found = source.annotations, []
    if about.task == "classification":
        counts = np.bincount(
            about.labels[part["train"] | part["val"]], minlength=len(about.class_names)
        )
        least, most = counts.argmin(), counts.argmax()
        smallest = f"Class '{about.class_names[least]}' has {counts[least]} training images"
        if counts[most] > IMBALANCE * max(counts[least], 1):
            found.append(
                f"{smallest}, '{about.class_names[most]}' has {counts[most]}: look at "
                f"balanced-accuracy, and try --class-weight balanced."
            )
        elif counts[least] < SMALL_CLASS:
            found.append(f"{smallest}: what is said of it is uncertain.")
    if about.groups is not None and about.splits is not None:
        sides: dict[str, set[bool]] = {}
        for group, split in zip(about.groups, about.splits, strict=True):
            sides.setdefault(group, set()).add(split == "test")
        both = [group for group, found_in in sides.items() if group and len(found_in) == 2]
        if both:
            found.append(
                f"{len(both)} groups are in the given test part and among those learnt from, so "
                f"the held-out score is too good: {', '.join(repr(one) for one in both[:3])}."
            )
    pairs = splits.shared(about, source.digests)
    if pairs:
        named = "; ".join(
            f"'{source.ids[test]}' is '{source.ids[learnt]}'" if source.ids else f"row {test}"
            for learnt, test in pairs[:3]
        )
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        found.append(
            f"{len(pairs)} of the given test images are also among those learnt from, so the "
            f"held-out score is too good: {named}{more}."
        )
    return tuple(found)


def _reader(file: store.Features, rows: np.ndarray) -> Any:
    """Return a function that yields the chosen rows of a file, with all views."""
    wanted = np.zeros(len(file), bool)
    wanted[rows] = True
    name = "views" if file.spec.views > 1 else "features"

    def read() -> Iterator[np.ndarray]:
        start = 0
        for block in file.blocks(name):
            some = block[wanted[start : start + len(block)]]
            start += len(block)
            yield some if some.ndim == 3 else some[:, None]

    return read


def _mapped(reader: Any, one: FeatureSet, source: Source, path: Path) -> np.ndarray:
    """Write a matrix to a scratch file, refusing what is no number, and map it read-only."""
    start, n = 0, len(source.annotations)
    with path.open("wb") as file:
        for block in reader():
            if not start:
                header = {
                    "descr": np.lib.format.dtype_to_descr(block.dtype),
                    "fortran_order": False,
                    "shape": (n, *block.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
                header_end = file.tell()
            # of larger ones the squares are infinite in float32
            usable = (np.abs(block, dtype=np.float32) < LARGEST).all(axis=(1, 2))
            if not usable.all():
                row = start + int(np.flatnonzero(~usable)[0])
                what = f"'{source.ids[row]}'" if source.ids else f"row {row}"
                where = f" in '{one.path}'" if one.path else ""
                raise HeadError(
                    f"The features of {what}{where} are not all finite numbers below "
                    f"{LARGEST:.0e}, so nothing can be learnt from them. Leave it out, or "
                    f"mend what made them."
                )
            # written, not mapped: pages of a mapping would count as this process's memory
            np.ascontiguousarray(block).tofile(file)
            start += len(block)
            if file.tell() != header_end + start * block[0].nbytes:  # tofile does not tell
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path.parent))
    return np.asarray(np.load(path, mmap_mode="r"))


def _common(files: Sequence[store.Features]) -> tuple[np.ndarray, ...]:
    """Return the rows of each file that are in all of them: same id, same content."""
    if len(files) == 1:
        return (np.arange(len(files[0])),)
    keys = [
        {id_: (digest.tobytes(), row) for row, (id_, digest) in enumerate(pairs)}
        for pairs in (zip(file.ids, file.digests, strict=True) for file in files)
    ]
    shared = [
        id_
        for id_, (digest, _) in keys[0].items()
        if all(id_ in other and other[id_][0] == digest for other in keys[1:])
    ]
    if not shared:
        raise HeadError(
            f"'{files[0].path}' and the others have no image in common, so heads on them cannot be "
            f"compared. Extract all from the same source."
        )
    # in the order of the ids, which is that of every file
    return tuple(np.array([key[id_][1] for id_ in shared], int) for key in keys)


def _check_same_labels(files: Sequence[store.Features], rows: tuple[np.ndarray, ...]) -> None:
    ours = files[0].annotations.take(rows[0])
    for file, part in zip(files[1:], rows[1:], strict=True):
        theirs = file.annotations.take(part)
        same = np.array_equal(ours.y, theirs.y, equal_nan=ours.task == "regression")
        if not same or ours.splits != theirs.splits or ours.groups != theirs.groups:
            raise HeadError(
                f"'{files[0].path}' and '{file.path}' say different things of the same images "
                f"(labels, splits or groups). Extract both from the same source again."
            )


def _name_of(file: store.Features, files: Sequence[store.Features]) -> str:
    backbones = [other.spec.backbone for other in files]
    if backbones.count(file.spec.backbone) == 1:
        return Path(file.spec.backbone).stem if "/" in file.spec.backbone else file.spec.backbone
    return file.path.stem


def _names(names: list[str]) -> list[str]:
    """Return the names, numbered where one is there twice."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return made


def _nothing_labelled(file: store.Features) -> str:
    where = "train/" if file.splits else "one subfolder a class"
    return (
        f"Feature file '{file.path}' has no labelled training images. "
        f"Put images into {where} and extract again."
    )


def _learnt(y: Any, task: str | None) -> Annotations:
    from sklearn.utils.multiclass import type_of_target

    y = np.asarray(y)
    kinds = {
        "binary": "classification",
        "multiclass": "classification",
        "multilabel-indicator": "multi-label",
        "continuous": "regression",
        "continuous-multioutput": "regression",
        "multiclass-multioutput": "regression",
    }
    if y.dtype.kind == "f" and not (np.abs(y) < LARGEST).all():
        raise HeadError(
            f"y has values that are not finite numbers below {LARGEST:.0e}. Leave those rows out."
        )
    kind = task or kinds.get(type_of_target(y) if len(y) else "")
    if kind is None or (kind == "multi-label" and y.ndim != 2):
        raise HeadError(f"y of {y.dtype} {y.shape} is none of classes, labels and targets.")
    if task is not None and task not in kinds.values():
        raise SpecError(f"task must be classification, multi-label or regression; got '{task}'.")
    unknown = np.full(len(y), UNLABELLED, np.int64)
    if kind == "regression":
        targets = y.astype(np.float64).reshape(len(y), -1)
        names = tuple(f"target {number}" for number in range(targets.shape[1]))
        return Annotations(unknown, targets=targets, target_names=names, task=kind)
    if kind == "multi-label":
        if not np.isin(y, (0, 1)).all():
            raise HeadError("y of several labels must be 0 and 1, a column a label.")
        names = tuple(str(number) for number in range(y.shape[1]))
        return Annotations(y.astype(np.int64), names, task=kind)
    if y.ndim != 1:
        raise HeadError(f"y of classes must have one dimension; got {y.shape}.")
    classes, labels = np.unique(y, return_inverse=True)
    return Annotations(labels.astype(np.int64), tuple(map(str, classes)))
