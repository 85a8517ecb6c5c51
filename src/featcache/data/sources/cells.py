"""What records say of images: the columns that are known by name, and what their cells may be.

Records come from manifests and tar files alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from featcache.core.checks import shown
from featcache.core.errors import SourceError, SpecError
from featcache.core.labels import Columns
from featcache.core.tasks import TASKS, TargetKind, Task, names_of
from featcache.core.text import composed
from featcache.data.sources import boxed

SEPARATOR = "|"  # between the names in a cell of `labels`

Record = Mapping[str, Any]


def columns_of(rows: Sequence[Record], target: str | None, where: Callable[[int], str]) -> Columns:
    """Return the known columns of records.

    Parameters
    ----------
    target : names of target columns, separated by commas; None is that of a task of numbers, where
        there is one.
    """
    present = {name for row in rows for name in row}
    label = _task_in(present, TargetKind.CLASS)
    labels = _task_in(present, TargetKind.LABELS)
    boxes = _task_in(present, TargetKind.BOXES)
    numbers = _task_in(present, TargetKind.NUMBERS)
    names: tuple[str, ...] = (numbers.column,) if numbers else ()
    if target is not None:
        names = tuple(name.strip() for name in target.split(",") if name.strip())
        if not names:
            raise SpecError(f"target must name one column or several, as a,b; got '{target}'.")
        spelt = {composed(str(name)): name for name in present}
        names = tuple(
            name if name in present else spelt.get(composed(name), name) for name in names
        )
        if missing := [name for name in names if name not in present]:
            raise SourceError(
                f"There is no target column '{missing[0]}'; there are "
                f"{', '.join(sorted(map(str, present)))}."
            )
        # asked for by name, targets are what is to be learnt
        label, labels, boxes, numbers = None, None, None, _task_in(names, TargetKind.NUMBERS)
    task = boxes or label or labels or numbers

    def column(name: str) -> list[str | None] | None:
        if name not in present:
            return None
        return [cell(row, name, where(number)) for number, row in enumerate(rows)]

    return Columns(
        task=None if task is None else task.name,
        label=None if label is None else column(label.column),
        labels=[_several(row, labels.column, where(number)) for number, row in enumerate(rows)]
        if labels
        else None,
        boxes=[boxed.of_cell(row.get(boxes.column), where(at)) for at, row in enumerate(rows)]
        if boxes
        else None,
        targets=[
            [_number(row.get(name), name, where(number)) for name in names]
            for number, row in enumerate(rows)
        ]
        if names
        else None,
        target_names=names,
        split=column("split"),
        group=column("group"),
        mask=column("mask"),
    )


def _task_in(names: Collection[str], kind: TargetKind) -> Task | None:
    """Return the first task of a kind whose column is there."""
    known = (TASKS[name] for name in names_of(kind))
    return next((task for task in known if task.column in names), None)


def cell(record: Record, name: str, place: str) -> str | None:
    """Return a cell as text, None where it is empty; raise SourceError where it is several."""
    value = record.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):  # as Parquet may have texts
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, (list, tuple, dict)):
        several = " Names of several are a column 'labels'." if name == "label" else ""
        raise SourceError(f"'{name}' in {place} must be one value; got {shown(value)}.{several}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers beside empty cells are read as floats by many tools
    return str(value).strip() or None


def _several(record: Record, name: str, place: str) -> list[str] | None:
    """Return the names in a cell of `labels`; None where it is empty, [] for a lone separator."""
    value = record.get(name)
    names: Sequence[str | None]
    if isinstance(value, (list, tuple)):
        names = [cell({name: one}, name, place) for one in value]
    else:
        text = cell(record, name, place)
        if text is None:
            return None
        names = text.split(SEPARATOR)
    return [one.strip() for one in names if one and one.strip()]


def _number(value: Any, name: str, place: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # the last of hundreds of digits
        raise SourceError(f"'{name}' in {place} must be a number; got {shown(value)}.") from None
