"""Computed rows by content digest: the part files of a run, and files that can lend theirs."""

from __future__ import annotations

import glob
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from featcache.errors import StoreError
from featcache.store.folders import claim, has_fingerprint
from featcache.store.publishing import chunk_shape, published
from featcache.store.text import write_attribute

PARTS = ".parts"  # after the name of a feature file: the folder of its parts


class Parts:
    """The part files of one extraction: rows kept so far, in the order they were computed.

    Parameters
    ----------
    target : the feature file they are for; parts lie in `target` + ".parts".
    fingerprint : of the spec; parts of another one are not used.
    origin : of the source, whose folder the target lies in.
    """

    def __init__(self, target: Path, fingerprint: str, origin: str):
        self.target = target
        self.folder = target.with_name(target.name + PARTS)
        self.fingerprint = fingerprint
        self.origin = origin

    def paths(self) -> list[Path]:
        """Return the parts that can be used."""
        return [path for path in sorted(self.folder.glob("part-*.h5")) if self._is_ours(path)]

    def _is_ours(self, path: Path) -> bool:
        return has_fingerprint(path, self.fingerprint)

    def write(self, digests: np.ndarray, features: np.ndarray) -> None:
        """Keep rows: digests (b, 16) uint8 and features (b, d)."""
        claim(self.folder.parent, self.origin)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"part-{uuid.uuid4().hex}.h5"
        with published(path, digests.nbytes + features.nbytes) as file:
            write_attribute(file, "fingerprint", self.fingerprint)
            file.create_dataset("digests", data=digests, fletcher32=True)
            chunks = chunk_shape(features.shape, features.dtype)
            file.create_dataset("features", data=features, chunks=chunks, fletcher32=True)

    def sweep(self) -> None:
        """Delete what a process left half-written when it died; the lock of the target is held.

        So whoever wrote it is gone, also where this process has its number, as in containers.
        """
        for path in self.target.parent.glob(f"{glob.escape(self.target.name)}.*.tmp"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete every part, also damaged and half-written ones; the target's lock is held."""
        self.sweep()
        for path in self.folder.glob("part-*.h5"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            self.folder.rmdir()


class DamagedFileError(StoreError):
    """A file that was to lend rows cannot be read."""

    def __init__(self, path: Path, error: Exception):
        super().__init__(f"'{path}' is damaged: {' '.join(str(error).split())}.")
        self.path = path


class Rows:
    """Computed rows by content digest, wherever they lie: parts and feature files of one spec.

    Parameters
    ----------
    paths : files with `digests` and `features`; one that cannot be read gives no rows.
    """

    def __init__(self, paths: Iterable[Path]):
        self.paths: list[Path] = []
        digests = [np.zeros((0, 16), np.uint8)]
        for path in paths:
            try:
                with h5py.File(path, "r", locking=False) as file:
                    digests.append(file["digests"][:])
                self.paths.append(path)
            except (OSError, KeyError, RuntimeError):
                continue
        keys = _as_keys(np.concatenate(digests))
        sizes = [len(block) for block in digests[1:]]
        self._file = np.repeat(np.arange(len(sizes)), sizes)
        self._row = np.concatenate([np.arange(size) for size in sizes] or [np.zeros(0, int)])
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return for each digest (n, 16) the number of a kept row, or -1."""
        keys = _as_keys(digests)
        if not len(self._sorted):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[place] == keys, self._order[place], -1)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Return the features of kept rows by number, (m, d), in that order.

        Raises
        ------
        DamagedFileError
            When the file that has them cannot be read.
        """
        gathered: np.ndarray | None = None
        for source in np.unique(self._file[numbers]):
            mine = np.flatnonzero(self._file[numbers] == source)
            rows = self._row[numbers[mine]]
            try:
                with h5py.File(self.paths[source], "r", locking=False) as file:
                    features = file["features"]
                    if gathered is None:
                        shape = (len(numbers), *features.shape[1:])
                        gathered = np.empty(shape, features.dtype)
                    for some in _by_chunk(rows, features.chunks[0]):
                        first = rows[some].min()
                        # a contiguous read, then pick: HDF5's own fancy indexing is far slower
                        block = features[first : rows[some].max() + 1]
                        gathered[mine[some]] = block[rows[some] - first]
            except (OSError, KeyError, RuntimeError) as error:
                raise DamagedFileError(self.paths[source], error) from error
        assert gathered is not None, "there is at least one row to read"
        return gathered


def _by_chunk(rows: np.ndarray, chunk_rows: int) -> list[np.ndarray]:
    """Part places in `rows` by the chunk they lie in, so that one chunk at a time is read."""
    chunk = rows // chunk_rows
    order = np.argsort(chunk, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1)


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """View digests (n, 16) uint8 as n sortable keys."""
    return np.ascontiguousarray(digests).view("V16").ravel()
