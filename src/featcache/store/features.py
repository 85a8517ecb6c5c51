"""A published feature file, read lazily."""

from __future__ import annotations

import hashlib
import json
import os
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
    stamps: np.ndarray  # (n, 2) int64: size and modification time (ns) of each file, -1 unknown

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
            try:
                self.spec = ExtractionSpec.from_dict(json.loads(file.attrs["spec"]))
                self.class_names: tuple[str, ...] = tuple(json.loads(file.attrs["class_names"]))
                self.task: str = file.attrs["task"]
                self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
                self.shape: tuple[int, ...] = tuple(file["features"].shape)
                self.dtype: np.dtype[Any] = file["features"].dtype
                for column in ("ids", "digests", "labels", "stamps"):
                    n_rows = len(file[column])
                    if n_rows != self.shape[0]:
                        raise ValueError(f"'{column}' has {n_rows} rows, not {self.shape[0]}")
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        reason = " ".join(str(error).split()).rstrip(".")
        return StoreError(f"Feature file '{self.path}' is damaged: {reason}. Extract again.")

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
        labels = np.asarray(self._read("labels"))
        if len(labels) and labels.max() >= len(self.class_names):
            raise self._damaged(ValueError(f"label {labels.max()} has no class name"))
        return labels

    @cached_property
    def stamps(self) -> np.ndarray:
        """(n, 2) int64: size in bytes and modification time in ns of each file, -1 unknown."""
        return np.asarray(self._read("stamps"))

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

    def load_columns(self) -> None:
        """Read everything but the features; raise StoreError where that fails."""
        for name in ("ids", "digests", "labels", "stamps", "splits", "failures"):
            getattr(self, name)

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
                where = f"'{name}' cannot be read"
                if name == "features" and (spans := damaged_spans(file[name])):
                    where = f"checksum of rows {shown_spans(spans)} does not match"
                raise StoreError(
                    f"Feature file '{self.path}' is damaged: {where}. Run `featcache verify "
                    f"--repair` to compute just that again."
                ) from error

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        with _open(self.path, "Feature file") as file:
            yield file


def damaged_spans(features: h5py.Dataset) -> list[tuple[int, int]]:
    """Return first and last row of every chunk whose checksum does not match."""
    spans = []
    size = features.chunks[0] if features.chunks else len(features)
    for start in range(0, len(features), size):
        try:
            features[start : start + size]
        except OSError:
            spans.append((start, min(start + size, len(features)) - 1))
    return spans


def shown_spans(spans: Iterable[tuple[int, int]]) -> str:
    """Return spans of rows as text."""
    return ", ".join(f"{first}\u2013{last}" for first, last in spans)


@contextmanager
def _open(path: Path, what: str) -> Iterator[h5py.File]:
    if path.is_dir():
        raise StoreError(f"'{path}' is a folder; a feature file (.h5) is expected.")
    if not path.is_file():
        raise StoreError(f"{what} '{path}' does not exist. Run `featcache extract` first.")
    try:
        # HDF5's own locks fail on network file systems, and rename makes them needless
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(
            f"{what} '{path}' is truncated or no HDF5 file. Run `featcache extract` again."
        ) from error
    with file:
        yield file
