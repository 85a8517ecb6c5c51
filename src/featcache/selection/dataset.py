"""What there is to learn: labelled rows of feature files, or of plain arrays.

No feature is read here; `folds` reads them, block by block.
"""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache import store
from featcache.core import arrays
from featcache.core.checks import bad, check_choice
from featcache.core.errors import HeadError
from featcache.core.labels import UNLABELLED, Annotations
from featcache.core.tasks import TASKS, TargetKind, Task
from featcache.core.text import counted
from featcache.scoring.leaderboard import FeatureSet

BLOCK = 4096
TARGETS = "be classes, 0 and 1 with a column per label, or numeric targets, for each row of X"

Reader = Callable[[], Iterator[np.ndarray]]  # gives blocks (m, v, d) of a set's chosen rows


@dataclass(frozen=True)
class Dataset:
    """What there is to learn from, before its features are read."""

    sets: tuple[FeatureSet, ...]
    readers: tuple[Reader, ...]  # one per set
    annotations: Annotations  # of the chosen rows
    digests: np.ndarray  # (n, 16) uint8 of the chosen rows
    ids: tuple[str, ...] | None  # names of the chosen rows, for messages
    rows: tuple[np.ndarray, ...]  # (n,) the chosen rows in each set's own file
    path: Path | None = None  # of the first file, as the caller named it

    @property
    def size_bytes(self) -> int:
        """Size of the matrices of all sets."""
        n = len(self.annotations)
        return sum(
            n * one.n_features * 4
            if one.spec is None
            else n * one.spec.views * one.n_features * np.dtype(one.spec.dtype).itemsize
            for one in self.sets
        )


def of_files(files: Sequence[store.Features]) -> Dataset:
    """Return what several feature files of the same images have in common.

    Raises
    ------
    HeadError
        When they are of different tasks or classes, share no image, or hold unpooled maps.
    """
    first = files[0]
    for file in files:
        if TASKS[file.task].kind is TargetKind.BOXES:
            raise HeadError(
                f"'{file.path}' has boxes, which no head of this comparison learns. Use "
                f"fit_detector; `featcache fit-heads` does so by itself."
            )
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
    if not len(rows[0]) or not first.annotations.output_names:
        raise _nothing_labelled(first)
    _check_same_labels(files, rows)
    about = first.annotations.take(rows[0])
    ids = tuple(first.ids[row] for row in rows[0].tolist())
    _check_targets(about, ids, first)
    names = _names([_name_of(file, files) for file in files])
    return Dataset(
        sets=tuple(
            FeatureSet(name, file.content, file.shape[1], file.path.resolve(), file.spec)
            for name, file in zip(names, files, strict=True)
        ),
        readers=tuple(_reader(file, part) for file, part in zip(files, rows, strict=True)),
        annotations=about,
        digests=first.digests[rows[0]],
        ids=ids,
        rows=rows,
        path=first.path,
    )


def of_arrays(
    X: Any, y: Any, task: str | None = None, groups: Sequence[Any] | None = None
) -> Dataset:
    """Return plain arrays as a dataset; what is to be learnt is recognised as scikit-learn does.

    Parameters
    ----------
    X : (n, d) numbers.
    y : (n,) classes of any kind, (n, k) of 0 and 1, or float targets (n,) or (n, k).
    task : name of one of `TASKS`; None goes by `y`.
    groups : (n,), rows of one group are never parted.
    """
    X = arrays.features(X)
    if X.dtype not in (np.float16, np.float32):
        X = X.astype(np.float32)
    about = _learnt(y, task)
    if len(about) != len(X):
        raise HeadError(
            f"X has {counted(len(X), 'row')} and y has {len(about)}; they must have the same "
            f"number."
        )
    if groups is not None:
        given = arrays.entries("groups", groups, len(X), "rows")
        named = ("" if arrays.is_missing(one) else str(one) for one in given)
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

    return Dataset((whole,), (read,), about, digests, None, (np.arange(len(X)),))


def _reader(file: store.Features, rows: np.ndarray) -> Reader:
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
        same = np.array_equal(ours.y, theirs.y, equal_nan=ours.y.dtype.kind == "f")
        if not same or ours.splits != theirs.splits or ours.groups != theirs.groups:
            raise HeadError(
                f"'{files[0].path}' and '{file.path}' say different things of the same images "
                f"(labels, splits or groups). Extract both from the same source again."
            )


def _check_targets(about: Annotations, ids: tuple[str, ...], file: store.Features) -> None:
    """Raise HeadError where a target is a number that is too large to learn from."""
    if TASKS[about.task].kind is not TargetKind.NUMBERS or (fits := arrays.usable(about.y)).all():
        return
    row = int(np.flatnonzero(~fits)[0])
    raise HeadError(
        f"The target {about.y[row, np.abs(about.y[row]).argmax()]:.6g} of '{ids[row]}' in "
        f"'{file.path}' is too large to learn from; the limit is {arrays.LARGEST:.0e}. Mend it or "
        f"leave it empty, or give all targets in a larger unit, and extract again."
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


def _nothing_labelled(file: store.Features) -> HeadError:
    task = TASKS[file.task]
    column = f"fill in the column {task.column} of its manifest"
    cure = f"Put images into one subfolder per class, or {column}"
    if task.kind is not TargetKind.CLASS:  # no folder says that
        cure = column.capitalize()
    elif file.splits:
        cure = f"Put images into one subfolder of train/ per class, or {column}"
    return HeadError(
        f"Feature file '{file.path}' has no labelled training images. {cure}, and extract again."
    )


def _learnt(y: Any, task: str | None) -> Annotations:
    check_choice("task", task, (None, *TASKS))
    y = _plain(arrays.array("y", y, TARGETS))
    learnt = TASKS[task] if task is not None else _recognised(y)
    if learnt is None or not y.size or y.ndim > 2:
        raise bad("y", TARGETS, y, kind=HeadError)
    unknown = np.full(len(y), UNLABELLED, np.int64)
    if learnt.kind is TargetKind.NUMBERS:
        if y.dtype.kind not in arrays.NUMBERS:
            raise bad(
                "y", "be numbers in (n_samples,) or (n_samples, n_targets)", y, kind=HeadError
            )
        targets = y.astype(np.float64).reshape(len(y), -1)
        arrays.check_usable("y", targets)
        names = tuple(f"target {number}" for number in range(targets.shape[1]))
        return Annotations(unknown, targets=targets, target_names=names, task=learnt.name)
    if learnt.kind is TargetKind.LABELS:
        if y.ndim != 2 or not np.isin(y, (0, 1)).all():
            raise bad("y", "be 0 and 1, one column per label, of several labels", y, kind=HeadError)
        names = tuple(str(number) for number in range(y.shape[1]))
        return Annotations(y.astype(np.int64), names, task=learnt.name)
    if y.ndim != 1:
        raise bad("y", "have one dimension where it holds classes", y, kind=HeadError)
    classes, labels = np.unique(y, return_inverse=True)
    return Annotations(labels.astype(np.int64), tuple(map(str, classes)), task=learnt.name)


def _plain(y: np.ndarray) -> np.ndarray:
    """Return an array of numbers or texts as one; raise HeadError of any other, and of gaps."""
    if y.dtype.kind == "O":
        values = y.ravel().tolist()
        gaps = [place for place, value in enumerate(values) if arrays.is_missing(value)]
        if gaps:
            row = gaps[0] // (y.size // len(y))
            raise HeadError(
                f"y must say something of every row, and does not of {len(gaps)}, first of row "
                f"{row} ({values[gaps[0]]}). Leave those rows out."
            )
        if any(all(isinstance(value, kind) for value in values) for kind in (str, numbers.Real)):
            y = np.array(values).reshape(y.shape)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "backslashreplace")
    if y.dtype.kind not in arrays.NUMBERS + "U":
        raise bad("y", TARGETS, y, kind=HeadError)
    arrays.check_usable("y", y)
    return y


def _recognised(y: np.ndarray) -> Task | None:
    """Return the task of plain targets, as scikit-learn sees them; None of anything else."""
    from sklearn.utils.multiclass import type_of_target

    if not y.size:
        return None
    found = type_of_target(y)
    return next((task for task in TASKS.values() if found in task.target_types), None)
