"""The HDF5 feature file: reading it, making it from parts, publishing it whole. See docs/format.md.

Only this room knows h5py. While rows are computed they go to small part files beside the final
one; a part, like the file itself, is written under a temporary name, flushed to disk and renamed,
so that whatever exists under its own name is whole. Rows are found again by content digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache import splits
from featcache.errors import SpecError, StoreError
from featcache.spec import FORMAT_VERSION, ExtractionSpec

CHUNK_ROWS = 1024  # rows of `features` a checksummed chunk, and the unit of copying
KIND = "featcache features"
SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    id: str
    digest: bytes  # zero bytes where the file itself could not be read
    reason: str


@dataclass(frozen=True)
class Table:
    """All of a feature file but its features: row i of every column is image i."""

    ids: tuple[str, ...]
    digests: np.ndarray  # (n, 16) uint8
    labels: np.ndarray  # (n,) int64, -1 where unknown
    class_names: tuple[str, ...]
    splits: tuple[str, ...] | None
    failures: tuple[Failure, ...]

    def matches(self, features: Features) -> bool:
        """Return whether a published file already holds exactly these rows."""
        return (
            self.ids == features.ids
            and np.array_equal(self.digests, features.digests)
            and np.array_equal(self.labels, features.labels)
            and self.class_names == features.class_names
            and self.splits == features.splits
            and self.failures == features.failures
        )


class Features:
    """A published feature file, read lazily.

    Parameters
    ----------
    path : the .h5 file.

    Raises
    ------
    StoreError
        When it is missing, truncated, no feature file, or of another format version.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        with self._open() as file:
            version = file.attrs.get("format_version")
            if file.attrs.get("kind") != KIND or version is None:
                raise StoreError(f"'{self.path}' is an HDF5 file, but no feature file.")
            if version != FORMAT_VERSION:
                raise StoreError(
                    f"Feature file '{self.path}' has format version {version}; this featcache "
                    f"reads version {FORMAT_VERSION}. Extract again with this version."
                )
            if not file.attrs.get("complete", False):
                raise StoreError(f"Feature file '{self.path}' is incomplete. Extract again.")
            self.spec = ExtractionSpec.from_dict(json.loads(file.attrs["spec"]))
            self.class_names: tuple[str, ...] = tuple(json.loads(file.attrs["class_names"]))
            self.task: str = file.attrs["task"]
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
            self.shape: tuple[int, ...] = tuple(file["features"].shape)
            self.dtype: np.dtype[Any] = file["features"].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Features('{self.path}', shape={self.shape}, dtype={self.dtype})"

    @property
    def fingerprint(self) -> str:
        """Digest of the spec that made the numbers."""
        return self.spec.fingerprint

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The image paths relative to the source, sorted; row i of `X` is `ids[i]`."""
        return tuple(self._read("ids", as_text=True))

    @cached_property
    def digests(self) -> np.ndarray:
        """(n, 16) uint8: BLAKE2b-128 of each image file."""
        return np.asarray(self._read("digests"))

    @cached_property
    def labels(self) -> np.ndarray:
        """(n,) int64 into `class_names`, -1 where unknown."""
        return np.asarray(self._read("labels"))

    @cached_property
    def splits(self) -> tuple[str, ...] | None:
        """train, val or test of each row as the source gave them, or None."""
        with self._open() as file:
            given = "splits" in file
        return tuple(self._read("splits", as_text=True)) if given else None

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Every image that could not be read."""
        ids, reasons = (self._read(f"failures/{c}", as_text=True) for c in ("id", "reason"))
        digests = self._read("failures/digest")
        return tuple(
            Failure(id_, digest.tobytes(), reason)
            for id_, digest, reason in zip(ids, digests, reasons, strict=True)
        )

    @cached_property
    def content(self) -> str:
        """Digest of everything that a head could learn from, hex: changes when a row does."""
        total = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        total.update(json.dumps([self.ids, self.class_names, self.splits]).encode())
        total.update(self.digests.tobytes())
        total.update(self.labels.tobytes())
        return total.hexdigest()

    @cached_property
    def X(self) -> np.ndarray:  # noqa: N802
        """(n, d) features as stored, float32 or float16, read on first use."""
        return np.asarray(self._read("features"))

    def rows(self, part: str | None = None, seed: int = 0) -> np.ndarray:
        """Return the row numbers of train, val or test (see `splits.parts`), or all labelled ones.

        Raises
        ------
        SpecError
            When there is no part of that name.
        """
        if part is None:
            return np.flatnonzero(self.labels >= 0)
        if part not in SPLIT_NAMES:
            raise SpecError(f"split must be one of {', '.join(SPLIT_NAMES)}; got '{part}'.")
        given = None if self.splits is None else np.array(self.splits, object)
        return np.flatnonzero(splits.parts(self.labels, self.digests, given, seed)[part])

    def arrays(self, part: str | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return (X, y): features (m, d) and class indices (m,) of one part, or of all labelled.

        Where the source has no test part, "test" is the fifth that `fit_heads` holds out with the
        same seed, and "train" the rest.
        """
        rows = self.rows(part, seed)
        return self.X[rows], self.labels[rows]

    def _read(self, name: str, as_text: bool = False) -> Any:
        with self._open() as file:
            try:
                return file[name].asstr()[:] if as_text else file[name][:]
            except (OSError, KeyError) as error:
                raise StoreError(
                    f"Feature file '{self.path}' is damaged: '{name}' cannot be read ({error}). "
                    f"Delete the file and extract again."
                ) from error

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        with _open(self.path, "Feature file") as file:
            yield file


@contextmanager
def _open(path: Path, what: str) -> Iterator[h5py.File]:
    if not path.is_file():
        raise StoreError(f"{what} '{path}' does not exist. Run `featcache extract` first.")
    try:
        # HDF5's own locks fail on network file systems, and rename makes them needless
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(
            f"{what} '{path}' is truncated or no HDF5 file. Delete it and extract again."
        ) from error
    with file:
        yield file


class Parts:
    """The part files of one extraction: rows kept so far, in the order they were computed.

    Parameters
    ----------
    target : the feature file they are for; parts lie in `target` + ".parts".
    fingerprint : of the spec; parts of another one are not used.
    """

    def __init__(self, target: Path, fingerprint: str):
        self.folder = target.with_name(target.name + ".parts")
        self.fingerprint = fingerprint

    def paths(self) -> list[Path]:
        """Return the parts that can be used; files that were never finished are deleted."""
        for path in self.folder.glob("*.tmp"):
            path.unlink(missing_ok=True)
        return [path for path in sorted(self.folder.glob("part-*.h5")) if self._is_ours(path)]

    def _is_ours(self, path: Path) -> bool:
        try:
            with h5py.File(path, "r", locking=False) as file:
                return bool(file.attrs["fingerprint"] == self.fingerprint)
        except (OSError, KeyError):
            return False

    def write(self, digests: np.ndarray, features: np.ndarray) -> None:
        """Keep rows: digests (b, 16) uint8 and features (b, d)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"part-{uuid.uuid4().hex}.h5"
        with _published(path) as file:
            file.attrs["fingerprint"] = self.fingerprint
            file.create_dataset("digests", data=digests, fletcher32=True)
            file.create_dataset("features", data=features, fletcher32=True)

    def remove(self) -> None:
        """Delete all parts; they are in the published file now."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
            except (OSError, KeyError):
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
        """Return the features of kept rows by number, (m, d), in that order."""
        blocks: dict[int, np.ndarray] = {}
        for source in np.unique(self._file[numbers]):
            mine = np.flatnonzero(self._file[numbers] == source)
            rows = self._row[numbers[mine]]
            with h5py.File(self.paths[source], "r", locking=False) as file:
                # one contiguous read, then pick: HDF5's own fancy indexing is far slower
                block = file["features"][rows.min() : rows.max() + 1]
            blocks[source] = block[rows - rows.min()]
        first = next(iter(blocks.values()))
        gathered = np.empty((len(numbers), *first.shape[1:]), first.dtype)
        for source, block in blocks.items():
            gathered[self._file[numbers] == source] = block
        return gathered


def publish(
    path: Path,
    spec: ExtractionSpec,
    table: Table,
    rows: Rows,
    provenance: dict[str, Any],
) -> Features:
    """Assemble the feature file from kept rows and put it in place in one rename.

    Returns
    -------
    Features, opened from `path`.
    """
    numbers = rows.find(table.digests)
    assert (numbers >= 0).all(), "every image of the table has a computed row"
    text = h5py.string_dtype()
    with _published(path) as file:
        for start in range(0, len(numbers), CHUNK_ROWS):
            block = rows.read(numbers[start : start + CHUNK_ROWS])
            if start == 0:
                shape = (len(numbers), *block.shape[1:])
                chunks = (min(CHUNK_ROWS, len(numbers)), *block.shape[1:])
                out = file.create_dataset(
                    "features", shape, spec.dtype, chunks=chunks, fletcher32=True
                )
            out[start : start + len(block)] = block
        file.create_dataset("ids", data=list(table.ids), dtype=text, chunks=True, fletcher32=False)
        file.create_dataset("digests", data=table.digests, fletcher32=True)
        file.create_dataset("labels", data=table.labels, fletcher32=True)
        if table.splits is not None:
            file.create_dataset("splits", data=list(table.splits), dtype=text)
        failures = file.create_group("failures")
        failures.create_dataset("id", data=[f.id for f in table.failures], dtype=text)
        failures.create_dataset("reason", data=[f.reason for f in table.failures], dtype=text)
        digests = np.frombuffer(b"".join(f.digest for f in table.failures), np.uint8)
        failures.create_dataset("digest", data=digests.reshape(-1, 16))
        file.attrs["kind"] = KIND
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["spec"] = json.dumps(spec.to_dict(), sort_keys=True)
        file.attrs["fingerprint"] = spec.fingerprint
        file.attrs["class_names"] = json.dumps(table.class_names, ensure_ascii=False)
        file.attrs["task"] = "classification"
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        file.attrs["complete"] = True
    return Features(path)


def source_folder(cache_dir: Path, name: str, origin: str) -> Path:
    """Return the folder of a source below the cache folder, made if need be.

    It bears the source's name; a second source of the same name gets a suffix.
    """
    prepare(cache_dir)
    digest = hashlib.blake2b(os.fsencode(origin), digest_size=3).hexdigest()
    for folder in (cache_dir / name, cache_dir / f"{name}-{digest}"):
        owner = folder / "source.json"
        if not folder.exists():
            folder.mkdir()
            owner.write_text(json.dumps({"origin": origin}, ensure_ascii=False))
        try:
            if json.loads(owner.read_text())["origin"] == origin:
                return folder
        except (OSError, ValueError, KeyError):
            continue
    raise StoreError(f"Cache folder '{folder}' belongs to another source. Use another --cache-dir.")


def prepare(cache_dir: Path) -> None:
    """Make the cache folder, which keeps itself out of git."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    ignore = cache_dir / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")


def of_fingerprint(cache_dir: Path, spec: ExtractionSpec) -> list[Path]:
    """Return the feature files anywhere in the cache folder that have this spec."""
    found = []
    for path in sorted(cache_dir.glob(f"*/{spec.short_name}*.h5")):
        try:
            if Features(path).fingerprint == spec.fingerprint:
                found.append(path)
        except (StoreError, SpecError):
            continue  # damaged or foreign: it has nothing to give
    return found


@contextmanager
def _published(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears under `path` whole, or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", locking=False) as file:
            yield file
        with temporary.open("rb+") as raw:
            os.fsync(raw.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """View digests (n, 16) uint8 as n sortable keys."""
    return np.ascontiguousarray(digests).view("V16").ravel()
