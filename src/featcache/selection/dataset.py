"""What there is to learn: labelled rows of feature files, or of plain arrays.

No feature is read here; `folds` reads them, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache import store
from featcache.core import arrays
from featcache.core.errors import HeadError
from featcache.core.labels import Annotations
from featcache.core.one_class import learnt_as, names_of
from featcache.core.tasks import TASKS, TargetKind
from featcache.scoring.leaderboard import FeatureSet

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
    # of each set (height, width, channels), where its features are maps: these come flattened
    map_shapes: tuple[tuple[int, int, int] | None, ...] = (None,)

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


def of_files(files: Sequence[store.Features], task: str | None = None, good: str = "") -> Dataset:
    """Return what several feature files of the same images have in common.

    Parameters
    ----------
    task : of one class, to learn that instead of what the files say; None is theirs.
    good : the class that is learnt then; "" is the one that is called so.

    Raises
    ------
    HeadError
        When they are of different tasks or classes, share no image, or hold maps that nothing
        learns from.
    SpecError
        When nothing says which class is good.
    """
    first = files[0]
    for file in files:
        if TASKS[file.task].kind is TargetKind.BOXES:
            raise HeadError(
                f"'{file.path}' has boxes, which no head of this comparison learns. Use "
                f"fit_detector; `featcache fit-heads` does so by itself."
            )
        if len(file.shape) != 2 and (task is None or len(file.shape) != 4):
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
    if task is None or first.annotations.class_names:
        known = first.annotations.is_known[rows[0]]
        rows = tuple(part[known] for part in rows)
        if not len(rows[0]) or not first.annotations.output_names:
            raise _nothing_labelled(first)
    _check_same_labels(files, rows)
    about = first.annotations.take(rows[0])
    if task is not None:
        about = learnt_as(about, task, names_of(about, good))
    ids = tuple(first.ids[row] for row in rows[0].tolist())
    _check_targets(about, ids, first)
    names = _names([_name_of(file, files) for file in files])
    return Dataset(
        sets=tuple(
            FeatureSet(
                name, file.content, math.prod(file.shape[1:]), file.path.resolve(), file.spec
            )
            for name, file in zip(names, files, strict=True)
        ),
        readers=tuple(_reader(file, part) for file, part in zip(files, rows, strict=True)),
        annotations=about,
        digests=first.digests[rows[0]],
        ids=ids,
        rows=rows,
        path=first.path,
        map_shapes=tuple(file.shape[1:] if len(file.shape) == 4 else None for file in files),
    )


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
            yield some.reshape(len(some), file.spec.views, -1)

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
