"""Images in object storage and on web servers, whole objects or members of tar files there.

Listings say what tells that an object is unchanged; where there was none, each is asked for it.
What was read and may be asked for again is `kept`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featcache.data import remote
from featcache.data.sources.contents import Contents, Files, Stamp
from featcache.data.sources.kept import Kept
from featcache.data.urls import is_url

UNKNOWN = (-1, -1, -1, -1)


@dataclass(frozen=True)
class Objects:
    """Objects by URL, and files by path where both are in a list."""

    places: tuple[str, ...] = field(repr=False)  # with what opens them: never written down
    stamps: np.ndarray | None = None  # (n, 4) int64 as listed; None asks for each
    kept: Kept = field(default_factory=Kept)
    is_concurrent = is_encoded = is_far = True
    dtype = "uint8"

    def get(self, row: int) -> bytes:
        """Return an object's bytes."""
        place = self.places[row]
        if not is_url(place):
            return Files((place,)).get(0)
        data = self.kept.get(place)
        if data is None:
            size = -1 if self.stamps is None else int(self.stamps[row, 0])
            data = remote.read(place, size)
            self.kept.put(place, data)
        return data

    def forget(self, row: int) -> None:
        """Do not keep an object any longer."""
        self.kept.forget(self.places[row])

    def stamp(self, row: int) -> Stamp | None:
        """Return size, time and version, in place of an inode."""
        place = self.places[row]
        if not is_url(place):
            return Files((place,)).stamp(0)
        return remote.stamp(place) if self.stamps is None else _stamp(self.stamps[row])

    def take(self, rows: np.ndarray) -> Objects:
        """Return only these objects."""
        stamps = None if self.stamps is None else self.stamps[rows]
        return Objects(tuple(self.places[row] for row in rows.tolist()), stamps, self.kept)


@dataclass(frozen=True)
class ObjectMembers:
    """Files inside uncompressed tar files that are objects; each is read as a part of one."""

    archives: tuple[str, ...] = field(repr=False)
    archive: np.ndarray  # (n,) index into archives
    offsets: np.ndarray  # (n,) where a member's bytes begin
    sizes: np.ndarray  # (n,) bytes
    stamps: np.ndarray  # (n, 4) int64: the member's size, its tar file's time and version
    kept: Kept = field(default_factory=Kept)
    is_concurrent = is_encoded = is_far = True
    dtype = "uint8"

    def get(self, row: int) -> bytes:
        """Return a member's bytes."""
        key = self._key(row)
        data = self.kept.get(key)
        if data is None:
            number, offset = key
            data = remote.read(self.archives[number], int(self.sizes[row]), offset)
            self.kept.put(key, data)
        return data

    def forget(self, row: int) -> None:
        """Do not keep a member any longer."""
        self.kept.forget(self._key(row))

    def stamp(self, row: int) -> Stamp | None:
        """Return the member's size, with the tar file's time and version."""
        return _stamp(self.stamps[row])

    def take(self, rows: np.ndarray) -> ObjectMembers:
        """Return only these members."""
        columns = (self.archive[rows], self.offsets[rows], self.sizes[rows], self.stamps[rows])
        return ObjectMembers(self.archives, *columns, self.kept)

    def _key(self, row: int) -> tuple[int, int]:
        return int(self.archive[row]), int(self.offsets[row])


Far = (Objects, ObjectMembers)


def at(places: Sequence[str]) -> Contents:
    """Return the images at paths and URLs."""
    return Objects(tuple(places)) if any(map(is_url, places)) else Files(tuple(places))


def as_stamps(infos: Sequence[remote.Info]) -> np.ndarray:
    """Return (n, 4) int64 stamps of what a listing says."""
    stamps = [remote.stamp_of(info) or UNKNOWN for info in infos]
    return np.array(stamps, np.int64).reshape(-1, 4)


def _stamp(row: np.ndarray) -> Stamp | None:
    size, modified_ns, changed_ns, version = row.tolist()
    return None if size < 0 else (size, modified_ns, changed_ns, version)
