"""Feature files whose rows stay in the parts they were written to, in the folder beside the file.

`NAME.h5` has every column, and says for each row which part of `NAME.h5.parts` has it and where;
a virtual data set makes of them what plain h5py reads as one. featcache itself opens the parts: of
one that is gone HDF5 would give zeros.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.core.errors import StoreError
from featcache.store import hdf5, placeholders
from featcache.store.strings import read_attribute, read_column, write_attribute, write_column

TABLE = "parts"  # group: `name` (k,), `of_row` and `place` (n, views)
PARTS = ".parts"  # after the name of a feature file: the folder of its parts
MOST_RUNS = 50_000  # of neighbouring rows, in the virtual data set; it is left out beyond


class MissingPartError(StoreError):
    """A part of a feature file is gone."""

    def __init__(self, path: Path):
        where = f"its part '{path.parent.name}/{path.name}' is gone"
        if not path.parent.is_dir():  # of a file that was copied or moved, as a rule
            where = f"its parts do not lie beside it; put the folder '{path.parent.name}' there"
        super().__init__(where)


@dataclass(frozen=True)
class Table:
    """Where the rows of a feature file lie."""

    names: tuple[str, ...]  # of parts
    sizes: tuple[int, ...]  # rows in each
    of_row: np.ndarray  # (n, views) int32: number of the part
    place: np.ndarray  # (n, views) int32: row in it


class PartedRows:
    """Rows that lie in parts; read by slices as a data set of h5py is."""

    def __init__(self, file: h5py.File, name: str):
        self._folder = folder_of(Path(file.filename))
        self._names = read_column(file, f"{TABLE}/name")
        if not all(map(hdf5.is_part, self._names)):
            raise hdf5.ForeignDataError(file, name, "in files that are no parts")
        self._of_row, self._place = file[f"{TABLE}/of_row"], file[f"{TABLE}/place"]
        row_shape = tuple(json.loads(read_attribute(file, "row_shape")))
        self.dtype = np.dtype(read_attribute(file, "row_dtype"))
        n, n_views = self._of_row.shape
        self._is_views = name == "views"
        self.shape = (n, n_views, *row_shape) if self._is_views else (n, *row_shape)
        chunk = hdf5.chunk_shape((n, *row_shape), self.dtype)
        self.chunks = (chunk[0], 1, *chunk[1:]) if self._is_views else chunk
        self._row_shape, self._chunk_rows = row_shape, chunk[0]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: slice | tuple[slice, int]) -> np.ndarray:
        rows, view = key if isinstance(key, tuple) else (key, None)
        if view is None and self._is_views:
            every = [self[rows, one] for one in range(self.shape[1])]
            return np.stack(every, axis=1)
        return self._read(rows, view or 0)

    def _read(self, rows: slice, view: int) -> np.ndarray:
        of_row, place = self._of_row[rows, view], self._place[rows, view]
        return self._gathered(of_row, place)

    def take(self, rows: np.ndarray, view: int) -> np.ndarray:
        """Return rows by number, in their order; rising numbers are read fastest."""
        unique, which = np.unique(rows, return_inverse=True)
        return self._gathered(self._of_row[unique, view], self._place[unique, view])[which]

    def _gathered(self, of_row: np.ndarray, place: np.ndarray) -> np.ndarray:
        found = np.empty((len(of_row), *self._row_shape), self.dtype)
        order = np.lexsort((place, of_row))
        starts = np.flatnonzero(np.diff(of_row[order])) + 1
        placeholders.fetch_small(self._folder / self._names[n] for n in np.unique(of_row).tolist())
        for mine in np.split(order, starts) if len(order) else ():
            with opened(self._folder / self._names[of_row[mine[0]]]) as part:
                # a chunk is read whole anyway; those between are not, as maps are large
                gaps = np.diff(place[mine] // self._chunk_rows) > 1
                for run in np.split(mine, np.flatnonzero(gaps) + 1):
                    first, last = place[run[0]], place[run[-1]]
                    found[run] = self._span(part, first, last + 1)[place[run] - first]
        return found

    def _span(self, part: h5py.File, first: int, stop: int) -> np.ndarray:
        """Return rows of a part; raise OSError where it has no such rows, as when it is another."""
        try:
            span = np.asarray(part["features"][first:stop])
        except FileNotFoundError as error:  # it was being read from a bucket
            raise MissingPartError(Path(part.filename)) from error
        except (KeyError, ValueError) as error:
            raise OSError(f"'{part.filename}' has no features") from error
        if span.shape != (stop - first, *self._row_shape):
            raise OSError(f"'{part.filename}' has no rows {first} to {stop - 1}")
        return span


def folder_of(path: Path) -> Path:
    """Return the folder of the parts of a feature file, whether there is one or not."""
    return path.with_name(path.name + PARTS)


def part_files(folder: Path) -> list[Path]:
    """Return the parts in a folder of parts, sorted; what else lies there is somebody's own."""
    return sorted(path for path in folder.glob("part-*.h5") if hdf5.is_part(path.name))


def opened(part: Path) -> h5py.File:
    """Open a part for reading.

    Raises
    ------
    MissingPartError
        When it is gone.
    OSError
        When it cannot be read.
    """
    try:
        return hdf5.reading(part)
    except FileNotFoundError as error:
        raise MissingPartError(part) from error


def rows_of(file: h5py.File, name: str = "features") -> Any:
    """Return `features` or `views` of an open feature file, wherever they lie.

    Raises
    ------
    KeyError
        When it has no such rows.
    """
    if name == "features" and TABLE in file:
        return PartedRows(file, name)
    if name == "views" and TABLE in file and file[f"{TABLE}/of_row"].shape[1] > 1:
        return PartedRows(file, name)
    return file[name]


def names_of(path: Path) -> frozenset[str]:
    """Return the parts that a published feature file needs; none if it is of one piece, or gone.

    Of one that cannot be read it may be any in its folder.
    """
    try:
        with hdf5.reading(path) as file:
            return frozenset(read_column(file, f"{TABLE}/name")) if TABLE in file else frozenset()
    except FileNotFoundError:
        return frozenset()
    except (OSError, KeyError, RuntimeError, ValueError, TypeError):
        return frozenset(part.name for part in part_files(folder_of(path)))


def lenders(path: Path) -> list[Path]:
    """Return the files with the rows of a feature file: its parts, or itself."""
    names = names_of(path)
    return [folder_of(path) / name for name in sorted(names)] or [path]


def bytes_of(path: Path) -> int:
    """Return what a feature file takes on the disk, with its parts."""
    return sum(one.stat().st_size for one in {path, *lenders(path)} if one.exists())


def where(file: h5py.File) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the parts of an open feature file, and (n, views): which has each row."""
    return read_column(file, f"{TABLE}/name"), np.asarray(file[f"{TABLE}/of_row"][:])


def write(file: h5py.File, path: Path, table: Table, row_shape: Sequence[int], dtype: str) -> None:
    """Write where the rows of the feature file at `path` lie, and a virtual data set of them."""
    write_column(file, f"{TABLE}/name", table.names)
    for name in ("of_row", "place"):
        column = getattr(table, name)
        file.create_dataset(f"{TABLE}/{name}", data=column, chunks=True, fletcher32=True)
    write_attribute(file, "row_shape", json.dumps(list(row_shape)))
    write_attribute(file, "row_dtype", dtype)
    n, n_views = table.of_row.shape
    runs = [list(_runs(table.of_row[:, view], table.place[:, view])) for view in range(n_views)]
    if sum(map(len, runs)) > MOST_RUNS:
        return
    features = h5py.VirtualLayout((n, *row_shape), dtype)
    views = h5py.VirtualLayout((n, n_views, *row_shape), dtype)
    folder = folder_of(path).name.replace("%", "%%")  # as HDF5 has it: %b would be a number
    sources = [
        h5py.VirtualSource(f"{folder}/{name}", "features", (size, *row_shape), dtype)
        for name, size in zip(table.names, table.sizes, strict=True)
    ]
    for view, mine in enumerate(runs):
        for start, stop, part, place in mine:
            some = sources[part][place : place + stop - start]
            if view == 0:
                features[start:stop] = some
            if n_views > 1:
                views[start:stop, view] = some
    file.create_virtual_dataset("features", features)
    if n_views > 1:
        file.create_virtual_dataset("views", views)


def _runs(of_row: np.ndarray, place: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Yield start and stop of neighbouring rows that are neighbours in a part too, and where."""
    breaks = np.flatnonzero((np.diff(of_row) != 0) | (np.diff(place) != 1)) + 1
    bounds = [0, *breaks.tolist(), len(of_row)]
    for start, stop in itertools.pairwise(bounds):
        yield start, stop, int(of_row[start]), int(place[start])


def taken(found: Any, rows: np.ndarray, view: int) -> np.ndarray:
    """Return rows of a data set in their given order; those of a chunk are read at once.

    HDF5 reads a chunk whole for each row that is asked for on its own.
    """
    if isinstance(found, PartedRows):
        return found.take(rows, view)
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    row_shape = found.shape[2:] if view else found.shape[1:]
    taken = np.empty((len(rows), *row_shape), found.dtype)
    apart = np.diff(wanted // found.chunks[0]) > 0 if found.chunks else np.diff(wanted) > 1
    breaks = np.flatnonzero(apart) + 1
    for places in np.split(np.arange(len(rows)), breaks) if len(rows) else ():
        first, last = wanted[places[0]], wanted[places[-1]]
        run = slice(first, last + 1)
        block = np.asarray(found[run, view] if view else found[run])
        taken[order[places]] = block[wanted[places] - first]
    return taken
