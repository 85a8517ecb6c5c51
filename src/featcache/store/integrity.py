"""Looking for damage in a feature file, and saving what is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from featcache.errors import StoreError
from featcache.store.features import Features
from featcache.store.publishing import CHUNK_ROWS
from featcache.store.rows import Parts


@dataclass(frozen=True)
class Damage:
    """What cannot be trusted in a feature file."""

    rows: tuple[tuple[int, int], ...]  # first and last row of each damaged chunk of features
    columns: tuple[str, ...]  # damaged datasets other than features

    def __bool__(self) -> bool:
        return bool(self.rows or self.columns)

    def __str__(self) -> str:
        rows = ", ".join(f"{first}\u2013{last}" for first, last in self.rows)
        texts = [f"features of rows {rows}"] if rows else []
        return " and ".join(texts + [f"column '{name}'" for name in self.columns])


def verify(features: Features) -> Damage:
    """Read everything in a feature file; HDF5 checks each chunk against its checksum."""
    columns = []
    rows = []
    with h5py.File(features.path, "r", locking=False) as file:
        for name in ("ids", "digests", "labels", "stamps", "splits", "failures/id"):
            try:
                if name in file:
                    file[name][:]
            except (OSError, KeyError):
                columns.append(name)
        for start in range(0, len(features), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(features))
            try:
                is_good = bool(np.isfinite(file["features"][start:stop]).all())
            except OSError:
                is_good = False
            if not is_good:
                rows.append((start, stop - 1))
    return Damage(tuple(rows), tuple(columns))


def salvage(features: Features, damage: Damage) -> Path:
    """Put the whole rows of a damaged file into parts and delete it; return its path.

    The next extraction takes the parts up and computes the other rows. Nothing whole is lost if
    this is cut short: a part that exists is whole, and the file goes last.
    """
    parts = Parts(features.path, features.fingerprint, features.provenance["source"])
    bad = {first for first, _ in damage.rows}
    if "digests" not in damage.columns:
        with h5py.File(features.path, "r", locking=False) as file:
            for start in range(0, len(features), CHUNK_ROWS):
                if start not in bad:
                    block = file["features"][start : start + CHUNK_ROWS]
                    parts.write(features.digests[start : start + CHUNK_ROWS], block)
    try:
        features.path.unlink()
    except OSError as error:
        raise StoreError(f"'{features.path}' cannot be replaced: {error.strerror}.") from error
    return features.path
