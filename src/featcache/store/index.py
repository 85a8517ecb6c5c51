"""Computed rows by content digest: the part files of a run, and files that can lend theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.core import atomic
from featcache.core.errors import StoreError, one_line
from featcache.core.keys import view_keys
from featcache.core.spec import ExtractionSpec
from featcache.store import hdf5, parted, placeholders
from featcache.store.hdf5 import file_state
from featcache.store.layout import claim, has_rows_of, locked, mark_clean
from featcache.store.strings import read_attribute, write_attribute
from featcache.store.uploading import upload

PAGED_BYTES = 64 << 20  # in a bucket: smaller parts are read whole, or nearly


class Parts:
    """The part files of one extraction: rows kept so far, each file named by what is in it.

    Some may be those of a published file whose rows stay in parts; they are never deleted here.

    Parameters
    ----------
    target : the feature file they are for; parts lie in `target` + ".parts".
    spec : of the target; parts of another one are not used.
    origin : of the source, whose folder the target lies in.
    """

    def __init__(self, target: Path, spec: ExtractionSpec, origin: str):
        self.target = target
        self.folder = parted.folder_of(target)
        self.spec = spec
        self.origin = origin
        self.stale: set[str] = set()  # names of parts whose rows are to be computed anew

    def paths(self) -> list[Path]:
        """Return the parts that can be used."""
        return list(self._usable())

    def has_any(self) -> bool:
        """Return whether there is a part that can be used."""
        return next(self._usable(), None) is not None

    def _usable(self) -> Iterator[Path]:
        kept = (path for path in parted.part_files(self.folder) if path.name not in self.stale)
        return (path for path in kept if has_rows_of(path, self.spec))

    def write(self, digests: np.ndarray, features: np.ndarray) -> Path:
        """Keep rows: digests, or keys of other views, (b, 16) uint8 and features (b, d).

        Returns
        -------
        The part. Where the cache folder is one in a bucket it lies there, too.

        Raises
        ------
        StorageError
            When it cannot be put there; it is kept here.
        """
        claim(self.folder.parent, self.origin)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / part_name(self.spec.fingerprint, digests, features)
        self.stale.discard(path.name)
        # where one of that name is there, it may be damaged
        n_bytes = digests.nbytes + features.nbytes
        is_far = placeholders.url_of(path) is not None
        with hdf5.replacing(path, n_bytes, paged=is_far and n_bytes > PAGED_BYTES) as file:
            write_attribute(file, "fingerprint", self.spec.fingerprint)
            mark_clean(file, self.spec)
            file.create_dataset("digests", data=digests, fletcher32=True)
            chunks = hdf5.chunk_shape(features.shape, features.dtype)
            file.create_dataset("features", data=features, chunks=chunks, fletcher32=True)
        upload(path)
        return path

    def sweep(self) -> None:
        """Delete what a process left half-written when it died; the lock of the target is held.

        So whoever wrote it is gone, also where this process has its number, as in containers.
        """
        target = atomic.real(self.target)
        for path in (
            *atomic.temporaries(target.parent, f"{target.name}."),
            *atomic.temporaries(self.folder),
        ):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete every part, also damaged and half-written ones; the target's lock is held.

        Those that the published file needs, or may need, stay, but lend nothing any more.
        """
        self.sweep()
        needed = parted.names_of(self.target)
        for path in parted.part_files(self.folder):
            if path.name not in needed:
                path.unlink(missing_ok=True)
        self.stale = set(needed)
        with suppress(OSError):  # not empty, or never made
            self.folder.rmdir()

    def clear_if_left(self) -> None:
        """Delete what a process left when it died between publishing and deleting them."""
        if self.folder.exists():
            # who holds the lock needs them, and a folder that cannot be written keeps them
            with suppress(StoreError, OSError), locked(self.target, False, lambda message: None):
                self.clear()


def part_name(fingerprint: str, digests: np.ndarray, features: np.ndarray) -> str:
    """Return the name of a part by what is in it: the same rows are one file."""
    total = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for array in (digests, features):
        total.update(f"{array.shape}{array.dtype.str}".encode())
        total.update(np.ascontiguousarray(array).data)
    return f"part-{total.hexdigest()}.h5"


def is_as_written(path: Path, spec: ExtractionSpec) -> bool:
    """Return whether a part is there, and has what its name says."""
    try:
        with hdf5.reading(path) as file:
            digests, features = file["digests"][:], file["features"][:]
    except (OSError, KeyError, RuntimeError, ValueError):
        return False
    return part_name(spec.fingerprint, digests, features) == path.name


class DamagedFileError(StoreError):
    """A file that was to lend rows cannot be read."""

    def __init__(self, path: Path, error: Exception):
        super().__init__(f"'{path}' is damaged: {one_line(error)}.")
        self.path = path


class ReplacedFileError(StoreError):
    """Another file took the place of one that was to lend rows: its row numbers are others."""

    def __init__(self, path: Path):
        super().__init__(f"'{path}' was written anew while its rows were looked up.")


class Rows:
    """Computed rows by content digest, wherever they lie: parts and feature files of one spec.

    Views other than the clean one are found by their own keys, see `keys.view_keys`.

    Parameters
    ----------
    paths : files with `digests` and `features`; one that cannot be read gives no rows.
    """

    def __init__(self, paths: Iterable[Path]):
        self.paths: list[Path] = []
        self._states: list[Any] = []
        keys = [np.zeros((0, 16), np.uint8)]
        nothing = np.zeros(0, np.int32)
        files, views, rows = [nothing], [nothing.astype(np.int16)], [nothing]
        for path in placeholders.ahead(paths):
            state = _identity(path)
            try:
                with hdf5.reading(path, peeks=True) as file:
                    digests = file["digests"][:]
                    blocks = [digests, *_keys_of_views(file, digests)]
            except (OSError, KeyError, RuntimeError, ValueError, TypeError):
                continue
            for view, block in enumerate(blocks):
                n = len(block)
                files.append(np.full(n, len(self.paths), np.int32))
                views.append(np.full(n, view, np.int16))
                rows.append(np.arange(n, dtype=np.int32))
            keys += blocks
            self.paths.append(path)
            self._states.append(state)
        sortable = _as_keys(np.concatenate(keys))
        self._file, self._view = np.concatenate(files), np.concatenate(views)
        self._row = np.concatenate(rows)
        self._order = np.argsort(sortable, kind="stable")
        self._sorted = sortable[self._order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return for each digest or key (n, 16) the number of a kept row, or -1."""
        wanted = _as_keys(keys)
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[place] == wanted, self._order[place], -1)

    def find_views(self, digests: np.ndarray, spec: ExtractionSpec) -> np.ndarray:
        """Return for each image (n, 16) the numbers of its kept rows, (n, views), or -1."""
        some = [self.find(view_keys(digests, view, spec.augment)) for view in range(spec.views)]
        return np.stack(some, axis=1)

    def where(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return in which file, by its number in `paths`, and in which row kept rows lie."""
        return self._file[numbers], self._row[numbers]

    def sizes(self) -> np.ndarray:
        """Return how many rows each file has, views apart."""
        clean = self._view == 0
        return np.bincount(self._file[clean], minlength=len(self.paths))

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Return the features of kept rows by number, (m, d), in that order.

        Raises
        ------
        DamagedFileError
            When the file that has them cannot be read.
        ReplacedFileError
            When it is another file by now.
        """
        gathered: np.ndarray | None = None
        for source, view in np.unique([self._file[numbers], self._view[numbers]], axis=1).T:
            mine = np.flatnonzero((self._file[numbers] == source) & (self._view[numbers] == view))
            rows = self._row[numbers[mine]].astype(np.int64)
            try:
                with hdf5.reading(self.paths[source]) as file:
                    features = file["views"] if view else file["features"]
                    if gathered is None:
                        shape = (len(numbers), *file["features"].shape[1:])
                        gathered = np.empty(shape, features.dtype)
                    for some in _by_chunk(rows, features.chunks[0]):
                        first, last = rows[some].min(), rows[some].max()
                        # a contiguous read, then pick: HDF5's own fancy indexing is far slower
                        span = slice(first, last + 1)
                        block = features[span, view] if view else features[span]
                        gathered[mine[some]] = block[rows[some] - first]
            except (OSError, KeyError, RuntimeError, IndexError, ValueError) as error:
                if _identity(self.paths[source]) != self._states[source]:
                    raise ReplacedFileError(self.paths[source]) from error
                raise DamagedFileError(self.paths[source], error) from error
            # only now: what was opened before a replacement is still the file that was indexed
            if _identity(self.paths[source]) != self._states[source]:
                raise ReplacedFileError(self.paths[source])
        assert gathered is not None, "there is at least one row to read"
        return gathered


def _identity(path: Path) -> Any:
    """Return what tells a file from another one in its place: of a part its name does."""
    state = file_state(path)
    return path.name if state is not None and hdf5.is_part(path.name) else state


def _keys_of_views(file: h5py.File, digests: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the keys of each view in a feature file but the clean one, whose rows are features."""
    if "views" in file:
        spec = ExtractionSpec.from_dict(json.loads(read_attribute(file, "spec")))
        for view in range(1, file["views"].shape[1]):
            yield view_keys(digests, view, spec.augment)


def _by_chunk(rows: np.ndarray, chunk_rows: int) -> list[np.ndarray]:
    """Part places in `rows` by the chunk they lie in, so that one chunk at a time is read."""
    chunk = rows // chunk_rows
    order = np.argsort(chunk, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1)


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """View digests (n, 16) uint8 as n sortable keys."""
    return np.ascontiguousarray(digests).view("V16").ravel()
