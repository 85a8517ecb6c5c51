"""Manifests: a table of images in CSV, TSV, JSON Lines or Parquet, or COCO's file of annotations.

The column `path` is needed; `split`, `group`, `mask` and those that a task is read from (`label`,
`labels`, `target`, `boxes`) are known, and others can be named as targets; all the rest is ignored.
Paths are relative to the manifest's folder, or to `root`, which can be a URL; `on_disk` says which
files they mean. A path can also be a URL by itself.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from featcache.core.errors import SourceError, one_line
from featcache.core.escapes import path_of
from featcache.core.labels import from_columns
from featcache.core.text import counted
from featcache.data.sources import coco
from featcache.data.sources.base import Source, as_id, as_ids, sorted_ids
from featcache.data.sources.boxed import in_images
from featcache.data.sources.cells import Record, cell, columns_of
from featcache.data.sources.download import Download
from featcache.data.sources.listed import Named, as_given, check_path
from featcache.data.sources.objects import at
from featcache.data.sources.on_disk import WINDOWS, Disk, is_of_windows
from featcache.data.sources.passed_over import in_left_out
from featcache.data.urls import as_url, below, is_url, parent, path_in, plain, shown

Table = Union[Path, Download]


def open_manifest(path: Table, root: str | None, target: str | None) -> Source:
    """Return the images that a manifest lists.

    Raises
    ------
    SourceError
        When it cannot be read, a column is missing, a cell is not allowed, an id is there twice or
        lies outside the root. The message names the line.
    """
    records = [
        (f"{place} of '{path.name}'", record)
        for place, record in READERS[path.suffix.lower()](path)
    ]
    if not records:
        raise SourceError(f"Manifest '{path}' lists no images.")
    folder = _folder_of(path, root)
    options = {"root": shown(folder)} if root is not None else {}
    return of_records(f"manifest '{path}'", path.stem, str(path), records, folder, target, options)


def of_records(
    what: str,
    name: str,
    origin: str,
    records: Sequence[tuple[str, Record]],
    folder: str,
    target: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Source:
    """Return the images that records list.

    Parameters
    ----------
    what : lists them, in the middle of a sentence.
    records : where each stands, and what it says.
    folder : that their paths are relative to, or its URL.
    options : with which, and with `target`, the source is opened again.

    Raises
    ------
    SourceError
        As `open_manifest`; also when none of the images exists.
    """
    disk = Disk()
    rows = [record for _, record in records]

    def where(row: int) -> str:
        return records[row][0]

    named = [
        _found(folder, cell(record, "path", where(row)), where(row), disk)
        for row, record in enumerate(rows)
    ]
    ids = as_ids([name for name, _ in named])
    paths = [place for _, place in named]
    order = sorted_ids(ids, where)
    contents = at(paths)
    columns = in_images(columns_of(rows, target, where), contents)
    annotations = from_columns(len(rows), columns, where).take(order)
    if not any(is_url(place) or os.path.lexists(place) for place in paths):
        first = paths[0]
        also = f", or '{first.replace(WINDOWS, '/')}'" if is_of_windows(named[0][0]) else ""
        raise SourceError(
            f"No image of {what} exists; the first would be '{first}'{also}. If the "
            f"paths are relative to another folder, give it (--root)."
        )
    return Source(
        name=name,
        origin=origin,
        ids=tuple(ids[row] for row in order.tolist()),
        contents=contents.take(order),
        annotations=annotations,
        options={**(options or {}), **({"target": target} if target else {})},
        notes=disk.remarks() + in_left_out(ids),
    )


def list_manifest(path: Table, root: str | None) -> Source:
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
        place = f"{line} of '{path.name}'"
        if not isinstance(cell, str) or not cell.strip():
            raise SourceError(f"There is no path in {place}.")
        check_path(cell, place)
        url = _url_of(folder, cell.strip(), place)
        name = plain(cell.strip()) if is_url(cell.strip()) else cell.strip()
        there = url or disk.find(path_of(os.path.join(folder, cell.strip())))
        found.append((as_id(name), there))
    if not found:
        raise SourceError(f"Manifest '{path}' lists no images.")
    return as_given(found, notes=disk.remarks())


def _folder_of(path: Table, root: str | None) -> str:
    """Return the folder that a manifest's paths are relative to, or its URL."""
    if root is None:
        folder = parent(path.url) if isinstance(path, Download) else os.fspath(path.parent)
    else:
        folder = as_url(root) or Disk().find(os.path.abspath(root))
    if is_url(folder):
        return folder.rstrip("/")
    if not os.path.isdir(folder):
        raise SourceError(f"Root folder '{folder}' of manifest '{path}' does not exist.")
    return folder


def _url_of(folder: str, cell: str, place: str) -> str | None:
    """Return the URL that a cell is, or that its path has below a folder's; None on this disk."""
    try:
        url = as_url(cell)
    except SourceError as error:
        raise SourceError(f"The path in {place}: {error}") from None
    return below(folder, cell) if url is None and is_url(folder) else url


def _found(folder: str, cell: str | None, place: str, disk: Disk) -> Named:
    """Return the id of an image, which is its path relative to the root, and where it lies."""
    if not cell:
        raise SourceError(f"There is no path in {place}.")
    try:
        os.fsencode(cell)
    except UnicodeEncodeError:
        raise SourceError(f"The path in {place} is no path: {cell!a}.") from None
    if "\0" in cell:
        raise SourceError(f"The path in {place} has a zero byte.")
    if is_url(folder) and not is_url(cell):
        cell = posixpath.normpath(cell)
        if cell.split("/")[0] in ("", os.pardir):
            raise _outside(cell, place, shown(folder))
    if url := _url_of(folder, cell, place):
        name, root = plain(url), f"{plain(folder)}/"
        if not is_url(folder) or not name.startswith(root):
            return name, url
        return (path_in(url, name.removeprefix(root)) if is_url(cell) else cell), url
    found = disk.find(path_of(os.path.normpath(os.path.join(folder, cell))))
    relative = os.path.relpath(os.path.normpath(found), folder)
    if relative.split(os.sep)[0] == os.pardir or os.path.isabs(relative):
        raise _outside(cell, place, folder)
    return relative.replace(os.sep, "/"), os.path.join(folder, relative)


def _outside(cell: str, place: str, folder: str) -> SourceError:
    return SourceError(
        f"The path '{cell}' in {place} lies outside '{folder}'. Give a folder that has all images "
        f"(--root)."
    )


def _check_header(path: Table, names: Sequence[Any]) -> None:
    if "path" not in names:
        shown = ", ".join(str(name) for name in names[:8]) or "none"
        raise SourceError(f"Manifest '{path}' has no column 'path'; its columns are: {shown}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise SourceError(f"Manifest '{path}' has the column '{twice[0]}' twice.")


def _delimited(path: Table) -> Iterator[tuple[str, Record]]:
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
                yield f"line {reader.line_num}", dict(zip(names, cells, strict=True))
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error
    except csv.Error as error:
        raise SourceError(f"Line {reader.line_num} of '{path.name}': {error}.") from error


def _delimiter(header: str) -> str:
    """Return the comma, or the semicolon that spreadsheets in many languages write instead."""
    return ";" if "," not in header and ";" in header else ","


def _json_lines(path: Table) -> Iterator[tuple[str, Record]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise SourceError(f"Line {number} of '{path.name}' is no JSON object.")
                yield f"line {number}", record
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"Line {number} of '{path.name}' is no JSON: {error}.") from error


def _no_text(path: Table, error: UnicodeDecodeError) -> SourceError:
    return SourceError(f"Manifest '{path}' is no UTF-8 text: {error.reason}. Save it as UTF-8.")


def _parquet(path: Table) -> Iterator[tuple[str, Record]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SourceError(
            f"To read '{path}' install pyarrow: pip install 'featcache[parquet]'."
        ) from None
    file = path if isinstance(path, Path) else path.open("rb")
    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = one_line(error, 200)
        raise SourceError(f"Manifest '{path}' is no Parquet file: {reason}.") from error
    _check_header(path, table.column_names)
    yield from ((f"line {number}", row) for number, row in enumerate(table.to_pylist(), 1))


READERS: dict[str, Callable[[Table], Iterator[tuple[str, Record]]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".json": coco.records,
}
