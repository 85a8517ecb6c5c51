"""Looking for damage in a feature file, and saving what is whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import h5py
import numpy as np

from featcache.core.errors import StoreError
from featcache.core.keys import view_keys
from featcache.store import hdf5, parted
from featcache.store.features import Features
from featcache.store.index import Parts, is_as_written
from featcache.store.writing import BLOCK_BYTES


@dataclass(frozen=True)
class Damage:
    """What cannot be trusted in a feature file."""

    rows: tuple[tuple[int, int], ...]  # first and last row of each damaged chunk of features
    columns: tuple[str, ...]  # damaged datasets other than features

    def __bool__(self) -> bool:
        return bool(self.rows or self.columns)

    def __str__(self) -> str:
        texts = [f"features of rows {hdf5.shown_spans(self.rows)}"] if self.rows else []
        texts += [f"column '{name}'" if name != OTHERS else OTHERS for name in self.columns]
        return " and ".join(texts)


ROWS = ("features", "views")  # what is computed, in chunks of the same rows
OTHERS = "columns changed since they were written"


def verify(features: Features) -> Damage:
    """Read everything in a feature file; HDF5 checks each chunk against its checksum."""
    columns = []
    with hdf5.reading(features.path) as file:
        for name in _columns(file):
            try:
                found = file[name]
                if isinstance(found, h5py.Dataset):  # a group of the user's own is not ours
                    found[()]
            except hdf5.ForeignDataError:
                raise
            except (OSError, KeyError, RuntimeError):
                columns.append(name)
        if parted.TABLE in file:
            spans = _spans_in_parts(file, features)
        else:
            spans = {
                span for name in ROWS if name in file for span in hdf5.damaged_spans(file[name])
            }
    if not columns:
        try:
            assert features.metadata
        except StoreError:  # each chunk is whole, but they do not belong together
            columns.append(OTHERS)
    return Damage(tuple(sorted(spans)), tuple(columns))


def _columns(file: h5py.File) -> list[str]:
    """Return every dataset but the features; a group that cannot be opened stands for its own."""
    groups = ("failures", parted.TABLE)
    names = [name for name in file if name not in (*ROWS, *groups)]
    for group in groups:
        try:
            names += [f"{group}/{name}" for name in file[group]] if group in file else []
        except (OSError, KeyError, RuntimeError):
            names.append(group)
    return names


def _spans_in_parts(file: h5py.File, features: Features) -> set[tuple[int, int]]:
    """Return first and last of neighbouring rows with a view in a part that is not as written."""
    try:
        names, of_row = parted.where(file)
    except (OSError, KeyError, RuntimeError, ValueError):
        return {(0, len(features) - 1)}
    folder = parted.folder_of(features.path)
    bad = [n for n, name in enumerate(names) if not is_as_written(folder / name, features.spec)]
    rows = np.flatnonzero(np.isin(of_row, bad).any(axis=1))
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
    return {(int(run[0]), int(run[-1])) for run in runs}


def salvage(features: Features, damage: Damage, parts: Parts) -> None:
    """Put the whole rows of a damaged file into parts; the caller holds its lock.

    The next extraction takes the parts up and computes the other rows. The file itself stays until
    another takes its place.
    """
    names = parted.names_of(features.path)
    if names:
        _salvage_parts(parts, names)
        return
    bad = {first for first, _ in damage.rows}
    if "digests" not in damage.columns:
        with hdf5.reading(features.path) as file:
            for some in _whole_runs(file["features"], bad):
                digests = file["digests"][some]
                parts.write(digests, file["features"][some])
                for view in range(1, features.spec.views):
                    keys = view_keys(digests, view, features.spec.augment)
                    parts.write(keys, file["views"][some, view])


def _salvage_parts(parts: Parts, names: Iterable[str]) -> None:
    """Put the whole rows of damaged parts into others, and delete the damaged ones."""
    for path in (parts.folder / name for name in names):
        if is_as_written(path, parts.spec):
            continue
        with suppress(OSError, KeyError, RuntimeError), hdf5.reading(path) as file:
            digests, features = file["digests"][:], file["features"]
            if len(digests) == len(features):  # else it is none of ours
                bad = {first for first, _ in hdf5.damaged_spans(features)}
                for some in _whole_runs(features, bad):
                    parts.write(digests[some], features[some])
        path.unlink(missing_ok=True)


def _whole_runs(features: h5py.Dataset, bad: set[int]) -> Iterator[slice]:
    """Yield runs of rows without the chunks that begin at `bad`, of a block's size at most."""
    size = features.chunks[0]
    chunk_bytes = int(np.prod(features.chunks)) * features.dtype.itemsize
    most = max(1, BLOCK_BYTES // chunk_bytes)  # a part for each small chunk of maps is too many
    good = np.array([start for start in range(0, len(features), size) if start not in bad], int)
    for run in np.split(good, np.flatnonzero(np.diff(good) > size) + 1):
        for first in range(0, len(run), most):
            some = run[first : first + most]
            yield slice(int(some[0]), int(some[-1]) + size)
