"""What is known about each image besides its pixels: labels or targets, splits, groups.

One table for sources, feature files and heads, so that a row number means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featcache.core.boxes import Boxes, DrawnRows, gathered, names_in, renamed
from featcache.core.errors import SourceError
from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind, first_of
from featcache.core.text import composed, merged, one_form

UNLABELLED = -1
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Annotations:
    """What is known about n images; row i of every column is image i.

    What is unknown is -1 in `labels`, NaN in `targets` and "" in `groups`.
    """

    # (n,) int64 into class_names; of several labels (n, n_classes) of 0 and 1; number of boxes
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    splits: tuple[str, ...] | None = None  # train, val or test
    groups: tuple[str, ...] | None = None  # images of one group never lie on both sides
    masks: tuple[str, ...] | None = None  # paths of pictures of where anomalies are; "" is none
    targets: np.ndarray | None = None  # (n, n_targets) float64
    target_names: tuple[str, ...] = ()
    task: str = DEFAULT_TASK  # one of TASKS; what heads learn
    remarks: tuple[str, ...] = ()  # what a reader should know of how it was read, a sentence each
    boxes: Boxes | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Annotations:
        """Return the annotations of these rows, in their given order."""
        pick = rows.tolist()
        return replace(
            self,
            labels=self.labels[rows],
            splits=None if self.splits is None else tuple(self.splits[row] for row in pick),
            groups=None if self.groups is None else tuple(self.groups[row] for row in pick),
            masks=None if self.masks is None else tuple(self.masks[row] for row in pick),
            targets=None if self.targets is None else self.targets[rows],
            boxes=None if self.boxes is None else self.boxes.take(rows),
        )

    def same_as(self, other: Annotations) -> bool:
        """Return whether every column and name is the same."""
        for name in ("targets", "boxes"):
            if (getattr(self, name) is None) != (getattr(other, name) is None):
                return False
        return (
            np.array_equal(self.labels, other.labels)
            and (self.boxes is None or self.boxes.same_as(other.boxes))
            and (self.targets is None or _are_equal(self.targets, other.targets))
            and all(
                getattr(self, name) == getattr(other, name)
                for name in ("class_names", "splits", "groups", "masks", "target_names", "task")
            )
        )

    @property
    def y(self) -> np.ndarray:
        """What a head of this task learns: `labels`, or `targets` where they are numbers."""
        if self._are_numbers:
            assert self.targets is not None
            return self.targets
        return self.labels

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the columns of a head's outputs are called: classes, labels or targets."""
        return self.target_names if self._are_numbers else self.class_names

    @property
    def is_known(self) -> np.ndarray:
        """(n,) bool: rows of which `y` is known."""
        known = ~np.isnan(self.y) if self._are_numbers else self.labels >= 0
        return np.asarray(known if known.ndim == 1 else known.all(axis=1))

    @property
    def strata(self) -> np.ndarray:
        """(n,) int64: what is held out in equal shares. The class; else all rows are alike."""
        return self.labels if TASKS[self.task].is_stratified else np.zeros(len(self), np.int64)

    @property
    def _are_numbers(self) -> bool:
        return TASKS[self.task].kind is TargetKind.NUMBERS


def _are_equal(targets: np.ndarray, others: np.ndarray | None) -> bool:
    return others is not None and np.array_equal(targets, others, equal_nan=True)


def unlabelled(n: int) -> Annotations:
    """Return annotations that know nothing."""
    return Annotations(np.full(n, UNLABELLED, np.int64))


def clean(text: str) -> str:
    """Return text that UTF-8 and HDF5 can hold: without zeros and halves of characters."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def row_number(row: int) -> str:
    """Say which row, where the rows have no better name."""
    return f"row {row}"


@dataclass
class Columns:
    """Columns as a person writes them, before they are checked; None where there is none."""

    label: Sequence[str | None] | None = None  # one class name per image
    labels: Sequence[Sequence[str] | None] | None = None  # several class names per image
    targets: Sequence[Sequence[float | None]] | None = None
    target_names: tuple[str, ...] = ()
    split: Sequence[str | None] | None = None
    group: Sequence[str | None] | None = None
    mask: Sequence[str | None] | None = None
    class_names: Sequence[str] | None = None  # their order; None is sorted
    task: str | None = None  # None: the plain task of what there is
    boxes: DrawnRows | None = None
    sizes: np.ndarray | None = None  # (n, 2) int: of images with boxes, see `Boxes`
    remarks: tuple[str, ...] = ()


def from_columns(n: int, columns: Columns, where: Callable[[int], str] = row_number) -> Annotations:
    """Return checked annotations of n images.

    Unless the columns name it, the task is detection where there are boxes, regression where there
    are targets and no labels, multi-label where an image may have several, else classification.
    Labels and groups that differ in their Unicode form alone are the same, see `one_form`.

    Parameters
    ----------
    where : gives the place of a row for error messages, as "line 7 of 'list.csv'".

    Raises
    ------
    SourceError
        When a value is not allowed, or more than one of label, labels and boxes is given.
    """
    given = [name for name in ("label", "labels", "boxes") if getattr(columns, name) is not None]
    if len(given) > 1:
        raise SourceError(
            f"There is a column '{given[0]}' and a column '{given[1]}'; give one: 'label' for one "
            f"class an image, 'labels' for several, 'boxes' for what is where."
        )
    task = first_of(TargetKind.CLASS).name
    names: tuple[str, ...] = ()
    labels = np.full(n, UNLABELLED, np.int64)
    columns, remarks = _in_one_form(_storable(columns))
    boxes = targets = None
    if columns.boxes is not None:
        task = first_of(TargetKind.BOXES).name
        names = _names(names_in(columns.boxes), columns.class_names)
        boxes = gathered(columns.boxes, {name: at for at, name in enumerate(names)}, columns.sizes)
        labels = boxes.counts
        labels[[row is None for row in columns.boxes]] = UNLABELLED
    elif columns.labels is not None:
        task = first_of(TargetKind.LABELS).name
        several = [None if row is None else list(row) for row in columns.labels]
        names = _names([name for row in several for name in row or ()], columns.class_names)
        labels = _multi_hot(several, names, where)
    elif columns.label is not None:
        names = _names([name for name in columns.label if name], columns.class_names)
        index = {name: number for number, name in enumerate(names)}
        for row, name in enumerate(columns.label):
            if name:
                labels[row] = _index(index, name, where(row))
    if columns.targets is not None:
        filled = [[np.nan if cell is None else cell for cell in row] for row in columns.targets]
        targets = np.array(filled, np.float64).reshape(n, -1)
        if np.isinf(targets).any():
            row = int(np.flatnonzero(np.isinf(targets).any(axis=1))[0])
            raise SourceError(f"The target in {where(row)} is infinite; a number is expected.")
        if not given:
            task = first_of(TargetKind.NUMBERS).name
    return Annotations(
        labels=labels,
        class_names=names,
        splits=None if columns.split is None else _splits(columns.split, where),
        groups=None if columns.group is None else tuple(name or "" for name in columns.group),
        masks=None if columns.mask is None else tuple(name or "" for name in columns.mask),
        targets=targets,
        target_names=columns.target_names,
        task=columns.task or task,
        remarks=columns.remarks + remarks,
        boxes=boxes,
    )


def _in_one_form(columns: Columns) -> tuple[Columns, tuple[str, ...]]:
    """Return columns in which equal labels and groups are equal texts, and what to say of it."""
    known = columns.class_names or ()
    said = [name for name in columns.label or () if name]
    said += [name for row in columns.labels or () for name in row or ()]
    said += names_in(columns.boxes or ())
    labels = one_form(said, known)
    groups = one_form(name for name in columns.group or () if name)
    made = replace(columns)
    if columns.label is not None:
        made.label = [labels[name] if name else None for name in columns.label]
    if columns.labels is not None:
        made.labels = [row and [labels[name] for name in row] for row in columns.labels]
    made.boxes = columns.boxes and renamed(columns.boxes, labels.__getitem__)
    if columns.group is not None:
        made.group = [groups[name] if name else None for name in columns.group]
    return made, merged("Labels", labels) + merged("Groups", groups)


def _storable(columns: Columns) -> Columns:
    """Return columns with every name as files hold it; raise SourceError of a target that is two.

    See `clean`.
    """
    targets = tuple(map(clean, columns.target_names))
    if twice := [name for name in targets if targets.count(name) > 1]:
        raise SourceError(f"The target '{twice[0]}' is there twice; each needs a name of its own.")
    made = replace(columns, target_names=targets)
    if columns.label is not None:
        made.label = [name and clean(name) for name in columns.label]
    if columns.labels is not None:
        made.labels = [row and list(map(clean, row)) for row in columns.labels]
    made.boxes = columns.boxes and renamed(columns.boxes, clean)
    for column in ("group", "mask"):
        if (cells := getattr(columns, column)) is not None:
            setattr(made, column, [cell and clean(cell) for cell in cells])
    if columns.class_names is not None:
        made.class_names = list(map(clean, columns.class_names))
    return made


def _names(found: Sequence[str], given: Sequence[str] | None) -> tuple[str, ...]:
    """Return class names in the given order, else sorted: as numbers where all are numbers."""
    if given is not None:
        if not all(given):
            raise SourceError(
                "class_names has an empty name, which would be taken for no label; give it one."
            )
        if len(set(map(composed, given))) < len(given):
            raise SourceError("class_names has a name twice; each class needs its own.")
        return tuple(given)
    names = set(found)
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _index(index: dict[str, int], name: str, place: str) -> int:
    try:
        return index[name]
    except KeyError:
        raise SourceError(
            f"The label '{name}' in {place} is none of class_names: {', '.join(index)}."
        ) from None


def _multi_hot(
    given: Sequence[Sequence[str] | None], names: tuple[str, ...], where: Callable[[int], str]
) -> np.ndarray:
    index = {name: number for number, name in enumerate(names)}
    labels = np.zeros((len(given), len(names)), np.int64)
    for row, cells in enumerate(given):
        if cells is None:
            labels[row] = UNLABELLED
        for name in cells or ():
            labels[row, _index(index, name, where(row))] = 1
    return labels


def _splits(given: Sequence[str | None], where: Callable[[int], str]) -> tuple[str, ...]:
    known = []
    for row, name in enumerate(given):
        split = SPLITS.get((name or "").strip().lower())
        if split is None:
            raise SourceError(
                f"The split in {where(row)} must be train, val or test; got '{name or ''}'."
            )
        known.append(split)
    return tuple(known)
