"""A published feature file, read lazily."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import h5py
import numpy as np

from featcache.core import checks
from featcache.core.errors import StoreError, one_line
from featcache.core.labels import Annotations
from featcache.core.spec import FORMAT_VERSION, ExtractionSpec
from featcache.data import splits
from featcache.store import hdf5, parted, working_copy
from featcache.store.columns import Failure, Metadata, checked_attributes, read_metadata
from featcache.store.strings import read_attribute

KIND = "featcache features"
WHOLE = operator.itemgetter(slice(None))


class Features:
    """A published feature file, read lazily.

    Parameters
    ----------
    path : the .h5 file, or the URL of one in a cache folder in a bucket, s3://BUCKET/….

    Raises
    ------
    StoreError
        When it is missing, truncated, no feature file, or of another format version.
    """

    @checks.with_checked_arguments
    def __init__(self, path: str | os.PathLike[str]):
        self.path = working_copy.pulled(path)
        try:
            with self._open() as file:
                self._read_attributes(file)
        except StoreError:
            raise
        # whatever h5py makes of a flipped bit, and json of what it then reads
        except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
            reason = one_line(error).rstrip(".")
            raise StoreError(
                f"Feature file '{self.path}' is damaged: {reason}. Extract again."
            ) from error

    def _read_attributes(self, file: h5py.File) -> None:
        version = file.attrs.get("format_version")
        if version is None or "kind" not in file.attrs or read_attribute(file, "kind") != KIND:
            raise StoreError(f"'{self.path}' is an HDF5 file, but no feature file.")
        if version != FORMAT_VERSION:
            raise StoreError(
                f"Feature file '{self.path}' has format version {version}; this featcache "
                f"reads version {FORMAT_VERSION}. Extract again with this version."
            )
        if not file.attrs.get("complete", False):
            raise StoreError(f"Feature file '{self.path}' is incomplete. Extract again.")
        self.spec = ExtractionSpec.from_dict(json.loads(read_attribute(file, "spec")))
        if read_attribute(file, "fingerprint") != self.spec.fingerprint:
            raise ValueError("the fingerprint is not that of the spec")
        self.class_names: tuple[str, ...] = tuple(json.loads(read_attribute(file, "class_names")))
        self.task: str = read_attribute(file, "task")
        self.checksum: str = read_attribute(file, "checksum")
        self.provenance: dict[str, Any] = json.loads(read_attribute(file, "provenance"))
        features = parted.rows_of(file)
        self.shape: tuple[int, ...] = tuple(features.shape)
        self.dtype: np.dtype[Any] = features.dtype
        columns = ["ids", "digests", "labels", "stamps"]
        for column in columns + ["views"] * (self.spec.views > 1):
            n_rows = len(parted.rows_of(file, column))
            if n_rows != self.shape[0]:
                raise ValueError(f"'{column}' has {n_rows} rows, not {self.shape[0]}")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Features('{self.path}', shape={self.shape}, dtype={self.dtype})"

    @property
    def fingerprint(self) -> str:
        """Digest of the spec that made the numbers."""
        return self.spec.fingerprint

    @property
    def ids(self) -> tuple[str, ...]:
        """The image paths relative to the source, sorted; row i of `X` is `ids[i]`."""
        return self.metadata.ids

    @property
    def digests(self) -> np.ndarray:
        """(n, 16) uint8: BLAKE2b-128 of each image file."""
        return self.metadata.digests

    @property
    def annotations(self) -> Annotations:
        """Labels or targets, splits and groups of each row."""
        return self.metadata.annotations

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64 into `class_names`, -1 where unknown; multi-label: (n, n_classes) of 0, 1."""
        return self.annotations.labels

    @property
    def targets(self) -> np.ndarray | None:
        """(n, n_targets) float64, NaN where unknown; None where the source has no targets."""
        return self.annotations.targets

    @property
    def splits(self) -> tuple[str, ...] | None:
        """train, val or test of each row as the source gave them, or None."""
        return self.annotations.splits

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Group of each row as the source gave them, or None; "" is no group."""
        return self.annotations.groups

    @property
    def stamps(self) -> np.ndarray:
        """(n, 2) int64: size in bytes and modification time in ns of each file, -1 unknown."""
        return self.metadata.stamps

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every image that could not be read."""
        return self.metadata.failures

    @cached_property
    def metadata(self) -> Metadata:
        """All of the file but its features, read at once and checked against its checksum."""
        with self._open() as file:
            self._check_same(file)
            try:
                metadata, attributes = read_metadata(file), checked_attributes(file)
            except hdf5.ForeignDataError:
                raise
            except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
                raise self.to_repair(
                    f"its columns cannot be read ({one_line(error, 100)})"
                ) from error
        if metadata.checksum(attributes) != self.checksum:
            raise self.to_repair("the checksum of its columns does not match")
        return metadata

    @cached_property
    def content(self) -> str:
        """Digest of everything that a head could learn from, hex: changes when a row does."""
        total = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        names = [self.ids, self.class_names, self.splits]
        names += [self.groups] if self.groups is not None else []
        total.update(json.dumps(names).encode())
        for column in self.metadata.learnable():
            total.update(column.tobytes())
        return total.hexdigest()

    @cached_property
    def X(self) -> np.ndarray:  # noqa: N802
        """(n, d) features of the clean images as stored, float32 or float16, read on first use."""
        return self._reading("features", WHOLE)

    @cached_property
    def views(self) -> np.ndarray:
        """(n, v, d) features of each image's views as stored, the clean one first.

        Raises
        ------
        StoreError
            When the file was made without `--views`.
        """
        if self.spec.views == 1:
            raise StoreError(
                f"Feature file '{self.path}' has the clean images alone. Extract with --views."
            )
        return self._reading("views", WHOLE)

    def blocks(self, name: str = "features") -> Iterator[np.ndarray]:
        """Yield `features` or `views` in file order, a chunk at a time, keeping none in memory."""
        checks.check_choice("name", name, ("features", "views")[: 1 + (self.spec.views > 1)])
        with self._open() as file:
            self._check_same(file)
            rows = parted.rows_of(file, name)
            size = rows.chunks[0] if rows.chunks else len(self)
            for start in range(0, len(self), size):
                some = slice(start, start + size)
                try:
                    yield np.asarray(rows[some])
                except parted.MissingPartError:  # the rows may lie in other parts by now
                    yield self._reading(name, operator.itemgetter(some))
                except OSError as error:
                    raise self._unreadable(name, rows) from error

    def read_rows(self, rows: Any, view: int = 0) -> np.ndarray:
        """Return one view's features of some rows, in their given order, (m, …) as stored.

        What is read is not kept: for files that do not fit into memory. Rows that lie near each
        other are read at once.

        Parameters
        ----------
        rows : whatever picks rows of an array in NumPy: (m,) row numbers, a list or range of them,
            negative ones from the end, a slice, a mask (n,) bool; or one number, for (…).
        view : 0 is the clean image.

        Raises
        ------
        SpecError
            When there are no such rows, or no such view.
        StoreError
            When a checksum does not match, or another file took this one's place.
        """
        picked = checks.picked_rows(rows, len(self))
        view = checks.whole_number("view", view, 0, self.spec.views - 1)
        wanted, name = picked.reshape(-1), "views" if view else "features"
        found = self._reading(name, lambda rows: parted.taken(rows, wanted, view))
        return found.reshape(*picked.shape, *self.shape[1:])

    def _reading(self, name: str, read: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Return what is read of `features` or `views`; raise StoreError where that fails."""
        while True:
            state = hdf5.file_state(self.path)
            with self._open() as file:
                self._check_same(file)
                rows: Any = None
                try:
                    rows = parted.rows_of(file, name)
                    return read(rows)
                except hdf5.ForeignDataError:
                    raise
                except parted.MissingPartError as error:
                    working_copy.refresh(self.path)
                    if hdf5.file_state(self.path) == state:
                        raise self.to_repair(str(error)) from error
                    # else its rows were put into other parts meanwhile
                except (OSError, KeyError) as error:
                    raise self._unreadable(name, rows) from error

    def _unreadable(self, name: str, rows: Any) -> StoreError:
        """Return the error for `features` or `views`; `rows` None where they cannot be opened."""
        where = f"'{name}' cannot be read"
        if rows is not None and (spans := hdf5.damaged_spans(rows)):
            where = f"checksum of rows {hdf5.shown_spans(spans)} does not match"
        return self.to_repair(where)

    def rows(self, part: str | None = None, seed: int = 0) -> np.ndarray:
        """Return the row numbers of train, val or test (see `splits.parts`), or all labelled ones.

        Raises
        ------
        SpecError
            When there is no part of that name.
        """
        if part is None:
            return np.flatnonzero(self.annotations.is_known)
        checks.check_choice("split", part, ("train", "val", "test"))
        seed = splits.check_seed(seed)
        return np.flatnonzero(splits.parts(self.annotations, self.digests, seed)[part])

    def arrays(self, part: str | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return (X, y): features (m, d) and what is to be learnt, of one part or of all labelled.

        `y` is class indices (m,); multi-label: (m, n_classes) of 0 and 1; regression:
        (m, n_targets) float64.

        Where the source has no test part, "test" is the fifth that `fit_heads` holds out with the
        same seed, and "train" the rest.
        """
        rows = self.rows(part, seed)
        return self.X[rows], self.annotations.y[rows]

    def _check_same(self, file: h5py.File) -> None:
        """Raise StoreError where another file took this one's place: its rows are others."""
        if read_attribute(file, "checksum") != self.checksum:
            raise StoreError(
                f"Feature file '{self.path}' was written anew since it was opened here. Open it "
                f"again."
            )

    def to_repair(self, where: str) -> StoreError:
        """Return the error for damage that computing rows again mends."""
        return StoreError(
            f"Feature file '{self.path}' is damaged: {where}. Run `featcache verify --repair` to "
            f"compute just that again."
        )

    def _open(self) -> AbstractContextManager[h5py.File]:
        return hdf5.opened(self.path, "Feature file")
