"""Manifests: a table of images in CSV, TSV, JSON Lines or Parquet.

The column `path` is needed; `split`, `group` and those that a task is read from (`label`, `labels`,
`target`) are known, and others can be named as targets; all the rest is ignored. Paths are relative
to the manifest's folder, or to `root`; `on_disk` says which files they mean.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.errors import SourceError, SpecError, one_line
from featcache.core.escapes import path_of
from featcache.core.labels import Columns, clean, from_columns
from featcache.core.tasks import TASKS, TargetKind, Task, names_of
from featcache.core.text import composed, counted
from featcache.data.sources.base import Source, as_id, sorted_ids
from featcache.data.sources.contents import Files
from featcache.data.sources.listed import Named, as_given, check_path
from featcache.data.sources.on_disk import WINDOWS, Disk, is_of_windows
from featcache.data.sources.passed_over import in_left_out

SEPARATOR = "|"  # between the names in a cell of `labels`

Record = Mapping[str, Any]


def open_manifest(path: Path, root: str | None, target: str | None) -> Source:
    """Return the images that a manifest lists.

    Raises
    ------
    SourceError
        When it cannot be read, a column is missing, a cell is not allowed, an id is there twice or
        lies outside the root. The message names the line.
    """
    records = list(READERS[path.suffix.lower()](path))
    if not records:
        raise SourceError(f"Manifest '{path}' lists no images.")
    lines = [line for line, _ in records]
    rows = [record for _, record in records]

    def where(row: int) -> str:
        return f"line {lines[row]} of '{path.name}'"

    folder, disk = _folder_of(path, None if root is None else os.path.abspath(root)), Disk()
    below = [
        _id_below(folder, _cell(record, "path"), where(row), disk)
        for row, record in enumerate(rows)
    ]
    ids = [as_id(path) for path in below]
    paths = [os.path.join(folder, path) for path in below]
    order = sorted_ids(ids, where)
    annotations = from_columns(len(rows), columns_of(rows, target, where), where)
    if not any(map(os.path.lexists, paths)):
        first = paths[0]
        also = f", or '{first.replace(WINDOWS, '/')}'" if is_of_windows(below[0]) else ""
        raise SourceError(
            f"No image of manifest '{path}' exists; the first would be '{first}'{also}. If the "
            f"paths are relative to another folder, give it (--root)."
        )
    options = {"root": folder} if root is not None else {}
    return Source(
        name=path.stem,
        origin=os.fspath(path),
        ids=tuple(ids[row] for row in order.tolist()),
        contents=Files(tuple(paths[row] for row in order.tolist())),
        annotations=annotations.take(order),
        options=options | ({"target": target} if target else {}),
        notes=disk.remarks() + in_left_out(ids),
    )


def list_manifest(path: Path, root: str | None) -> Source:
    """Return what a manifest lists as it stands there, for prediction; see `listed`.

    Raises
    ------
    SourceError
        When it cannot be read, lists nothing, or a line has no path.
    """
    folder, disk = _folder_of(path, root), Disk()
    found: list[Named] = []
    for line, record in READERS[path.suffix.lower()](path):
        cell = record.get("path")
        place = f"line {line} of '{path.name}'"
        if not isinstance(cell, str) or not cell.strip():
            raise SourceError(f"There is no path in {place}.")
        check_path(cell, place)
        there = disk.find(path_of(os.path.join(folder, cell.strip())))
        found.append((as_id(cell.strip()), there))
    if not found:
        raise SourceError(f"Manifest '{path}' lists no images.")
    return as_given(found, notes=disk.remarks())


def _folder_of(path: Path, root: str | None) -> str:
    """Return the folder that a manifest's paths are relative to."""
    folder = os.fspath(path.parent) if root is None else Disk().find(root)
    if not os.path.isdir(folder):
        raise SourceError(f"Root folder '{folder}' of manifest '{path}' does not exist.")
    return folder


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
        label, labels, numbers = None, None, _task_in(names, TargetKind.NUMBERS)
    task = label or labels or numbers

    def column(name: str) -> list[str | None] | None:
        if name not in present:
            return None
        cells = (_cell(row, name) for row in rows)
        return [None if cell is None else clean(cell) for cell in cells]

    return Columns(
        task=None if task is None else task.name,
        label=None if label is None else column(label.column),
        labels=None if labels is None else [_several(row.get(labels.column)) for row in rows],
        targets=[
            [_number(row.get(name), name, where(number)) for name in names]
            for number, row in enumerate(rows)
        ]
        if names
        else None,
        target_names=names,
        split=column("split"),
        group=column("group"),
    )


def _task_in(names: Collection[str], kind: TargetKind) -> Task | None:
    """Return the first task of a kind whose column is there."""
    known = (TASKS[name] for name in names_of(kind))
    return next((task for task in known if task.column in names), None)


def _id_below(folder: str, cell: str | None, place: str, disk: Disk) -> str:
    """Return the path of an image on the disk, relative to the root, with / between folders."""
    if not cell:
        raise SourceError(f"There is no path in {place}.")
    try:
        os.fsencode(cell)
    except UnicodeEncodeError:
        raise SourceError(f"The path in {place} is no path: {cell!a}.") from None
    if "\0" in cell:
        raise SourceError(f"The path in {place} has a zero byte.")
    found = disk.find(path_of(os.path.normpath(os.path.join(folder, cell))))
    relative = os.path.relpath(os.path.normpath(found), folder)
    if relative.split(os.sep)[0] == os.pardir or os.path.isabs(relative):
        raise SourceError(
            f"The path '{cell}' in {place} lies outside '{folder}'. Give a folder that has all "
            f"images (--root)."
        )
    return relative.replace(os.sep, "/")


def _cell(record: Record, name: str) -> str | None:
    """Return a cell as text, None where it is empty."""
    value = record.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers beside empty cells are read as floats by many tools
    return str(value).strip() or None


def _several(value: Any) -> list[str] | None:
    """Return the names in a cell of `labels`; None where it is empty, [] for a lone separator."""
    if isinstance(value, (list, tuple)):
        return [clean(str(name).strip()) for name in value]
    text = _cell({"labels": value}, "labels")
    if text is None:
        return None
    return [name for name in map(str.strip, clean(text).split(SEPARATOR)) if name]


def _number(value: Any, name: str, place: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SourceError(f"'{name}' in {place} must be a number; got '{value}'.") from None


def _check_header(path: Path, names: Sequence[Any]) -> None:
    if "path" not in names:
        shown = ", ".join(str(name) for name in names[:8]) or "none"
        raise SourceError(f"Manifest '{path}' has no column 'path'; its columns are: {shown}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise SourceError(f"Manifest '{path}' has the column '{twice[0]}' twice.")


def _delimited(path: Path) -> Iterator[tuple[int, Record]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(header)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_header(path, names)
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(names):
                    raise SourceError(
                        f"Line {reader.line_num} of '{path.name}' has "
                        f"{counted(len(cells), 'cell')}, the header has {len(names)}."
                    )
                yield reader.line_num, dict(zip(names, cells, strict=True))
    except UnicodeDecodeError as error:
        raise SourceError(f"Manifest '{path}' is no UTF-8 text: {error.reason}.") from error
    except csv.Error as error:
        raise SourceError(f"Line {reader.line_num} of '{path.name}': {error}.") from error


def _delimiter(header: str) -> str:
    """Return the comma, or the semicolon that spreadsheets in many languages write instead."""
    return ";" if "," not in header and ";" in header else ","


def _json_lines(path: Path) -> Iterator[tuple[int, Record]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise SourceError(f"Line {number} of '{path.name}' is no JSON object.")
                yield number, record
    except UnicodeDecodeError as error:
        raise SourceError(f"Manifest '{path}' is no UTF-8 text: {error.reason}.") from error
    except ValueError as error:
        raise SourceError(f"Line {number} of '{path.name}' is no JSON: {error}.") from error


def _parquet(path: Path) -> Iterator[tuple[int, Record]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SourceError(
            f"To read '{path}' install pyarrow: pip install 'featcache[parquet]'."
        ) from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = one_line(error, 200)
        raise SourceError(f"Manifest '{path}' is no Parquet file: {reason}.") from error
    _check_header(path, table.column_names)
    yield from enumerate(table.to_pylist(), 1)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Record]]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
