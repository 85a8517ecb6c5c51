"""The columns of a feature file beside its features: what they are, how they lie in HDF5.

Beside HDF5's checksum of each chunk, one over all columns and attributes is kept as an attribute:
it also tells that they belong together, and that a file took another's place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from featcache.core.boxes import Boxes, starts_of
from featcache.core.labels import Annotations
from featcache.core.tasks import TASKS
from featcache.store.strings import read_attribute, read_column, write_attribute, write_column

HASHED_AT_ONCE = 4096  # texts
BOX_COLUMNS = ("corners", "classes", "ignored", "sizes")  # of `Boxes`; `labels` says how many
ATTRIBUTES = ("spec", "fingerprint", "provenance")  # under the checksum, beside the columns


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    id: str
    digest: bytes  # zero bytes where the file itself could not be read
    reason: str


@dataclass(frozen=True)
class Metadata:
    """All of a feature file but its features: row i of every column is image i."""

    ids: tuple[str, ...]
    digests: np.ndarray  # (n, 16) uint8
    annotations: Annotations
    failures: tuple[Failure, ...]
    stamps: np.ndarray  # (n, 2) int64: size and modification time (ns) of each file, -1 unknown

    def matches(self, other: Metadata) -> bool:
        """Return whether other metadata has the same rows; stamps apart."""
        return (
            self.ids == other.ids
            and np.array_equal(self.digests, other.digests)
            and self.annotations.same_as(other.annotations)
            and self.failures == other.failures
        )

    def checksum(self, attributes: dict[str, str]) -> str:
        """Return BLAKE2b-128 of every column and of the given attributes, hex."""
        total = hashlib.blake2b(digest_size=16)
        for name, column in self.columns():
            total.update(f"{name}\0".encode())
            if isinstance(column, np.ndarray):
                total.update(f"{column.shape}{column.dtype.str}".encode() + column.tobytes())
            else:
                for start in range(0, len(column) or 1, HASHED_AT_ONCE):
                    block = "\0".join([*column[start : start + HASHED_AT_ONCE], ""])
                    total.update(block.encode("utf-8", "surrogatepass"))
        names = {**attributes, **self.names()}
        total.update(json.dumps(names, sort_keys=True).encode())
        return total.hexdigest()

    def columns(self) -> Iterator[tuple[str, np.ndarray | tuple[str, ...]]]:
        """Yield the path in the file and the values of every column."""
        about = self.annotations
        yield "ids", self.ids
        yield "digests", self.digests
        yield "labels", about.labels
        yield "stamps", self.stamps
        for name in ("targets", "splits", "groups", "masks"):
            if (column := getattr(about, name)) is not None:
                yield name, column
        if about.boxes is not None:
            for name in BOX_COLUMNS:
                yield f"boxes/{name}", getattr(about.boxes, name)
        yield "failures/id", tuple(one.id for one in self.failures)
        yield "failures/reason", tuple(one.reason for one in self.failures)
        digests = np.frombuffer(b"".join(one.digest for one in self.failures), np.uint8)
        yield "failures/digest", digests.reshape(-1, 16)

    def learnable(self) -> Iterator[np.ndarray]:
        """Yield digests, and the columns that a head could learn from."""
        about = self.annotations
        yield from (self.digests, about.labels)
        if about.targets is not None:
            yield about.targets
        if about.boxes is not None:
            yield from (getattr(about.boxes, name) for name in BOX_COLUMNS)

    def names(self) -> dict[str, str]:
        """Return the attributes that name classes, targets and task."""
        return {
            "class_names": json.dumps(self.annotations.class_names, ensure_ascii=False),
            "target_names": json.dumps(self.annotations.target_names, ensure_ascii=False),
            "task": self.annotations.task,
        }


def write_metadata(file: h5py.File, metadata: Metadata, attributes: dict[str, str]) -> None:
    """Write every column, its names, `attributes` and the checksum of all."""
    for name, column in metadata.columns():
        if not isinstance(column, np.ndarray):
            write_column(file, name, column)
        elif len(column):
            file.create_dataset(name, data=column, fletcher32=True)
        else:  # a dataset without rows cannot have chunks, nor needs it any
            file.create_dataset(name, data=column)
    for name, text in {**attributes, **metadata.names()}.items():
        write_attribute(file, name, text)
    write_attribute(file, "checksum", metadata.checksum(attributes))


def read_metadata(file: h5py.File) -> Metadata:
    """Return the columns of a feature file.

    Raises
    ------
    OSError, KeyError, ValueError, TypeError
        When something is damaged, missing, or does not fit together.
    """
    task = read_attribute(file, "task")
    labels = np.asarray(file["labels"][:])
    annotations = Annotations(
        labels=labels,
        class_names=tuple(json.loads(read_attribute(file, "class_names"))),
        splits=read_column(file, "splits") if "splits" in file else None,
        groups=read_column(file, "groups") if "groups" in file else None,
        masks=read_column(file, "masks") if "masks" in file else None,
        targets=np.asarray(file["targets"][:]) if "targets" in file else None,
        target_names=tuple(json.loads(read_attribute(file, "target_names"))),
        task=task,
        boxes=_boxes(file, labels) if "boxes" in file else None,
    )
    if task not in TASKS:
        raise ValueError(f"unknown task '{task}'")
    columns = (read_column(file, "failures/id"), file["failures/digest"][:])
    failures = zip(*columns, read_column(file, "failures/reason"), strict=True)
    return Metadata(
        ids=read_column(file, "ids"),
        digests=np.asarray(file["digests"][:]),
        annotations=annotations,
        failures=tuple(Failure(id_, digest.tobytes(), reason) for id_, digest, reason in failures),
        stamps=np.asarray(file["stamps"][:]),
    )


def _boxes(file: h5py.File, counts: np.ndarray) -> Boxes:
    columns = {name: np.asarray(file[f"boxes/{name}"][:]) for name in BOX_COLUMNS}
    return Boxes(starts=starts_of(counts), **columns)


def checked_attributes(file: h5py.File) -> dict[str, str]:
    """Return the attributes that are under the checksum."""
    return {name: read_attribute(file, name) for name in ATTRIBUTES}
