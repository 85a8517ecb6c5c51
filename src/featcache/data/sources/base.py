"""A source: an ordered table of images, and one look at each of them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from featcache.core.checks import picked_rows, whole_number
from featcache.core.errors import SourceError
from featcache.core.escapes import escaped
from featcache.core.labels import Annotations
from featcache.core.text import alike, few
from featcache.data import levels
from featcache.data.sources.contents import Contents, Files, Raw, Stamp
from featcache.data.sources.objects import Objects
from featcache.data.sources.passed_over import PassedOver

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Source:
    """An ordered collection of images with what is known about each."""

    name: str  # plain name, used for the folder below the cache folder
    origin: str  # absolute path, URL without secrets, example:NAME or memory:NAME
    ids: tuple[str, ...]  # sorted, unique
    contents: Contents
    annotations: Annotations
    options: Mapping[str, str] = field(default_factory=dict)  # with `origin`, open it again
    digests: np.ndarray | None = None  # (n, 16) uint8 where opening it gave them
    limited_to: int | None = None  # how many images of all `limit` left
    passed_over: PassedOver = field(default_factory=PassedOver)  # beside the images
    notes: tuple[str, ...] = ()  # what a reader should know of how it was understood

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the images, see `Annotations`."""
        return self.annotations.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return self.annotations.class_names

    @property
    def splits(self) -> tuple[str, ...] | None:
        """train, val or test of each image, where the source says."""
        return self.annotations.splits

    @property
    def n_passed_over(self) -> int:
        """Files that are no images by name, or lie outside the class folders."""
        return self.passed_over.n_files

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to say of what was found, a sentence each."""
        twins = alike(self.class_names)
        said = f"Classes that differ in case or spaces alone are different ones: {few(twins)}."
        more = (said,) if twins else ()
        return self.passed_over.remarks() + self.notes + self.annotations.remarks + more

    @property
    def paths(self) -> tuple[str, ...] | None:
        """Paths of the images where they are files."""
        return self.contents.paths if isinstance(self.contents, Files) else None

    @property
    def places(self) -> tuple[str, ...] | None:
        """Paths and URLs of the images where each is a file or an object by itself."""
        return self.contents.places if isinstance(self.contents, Objects) else self.paths

    def get(self, row: int) -> Raw:
        """Return an image: its file's bytes, pixels (height, width, 3 or 4), or deep values.

        Raises
        ------
        OSError
            When it cannot be had.
        """
        return self.contents.get(whole_number("row", row, 0, len(self) - 1))

    def stamp(self, row: int) -> Stamp | None:
        """Return size, times and inode of a file; None where there is no such thing.

        Raises
        ------
        OSError
            When it is gone or is no regular file.
        """
        return self.contents.stamp(whole_number("row", row, 0, len(self) - 1))

    def take(self, rows: np.ndarray) -> Source:
        """Return the source with only these rows, in their given (ascending) order.

        Raises
        ------
        SpecError
            When there are no such rows.
        """
        rows = picked_rows(rows, len(self)).reshape(-1)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            contents=self.contents.take(rows),
            annotations=self.annotations.take(rows),
            digests=None if self.digests is None else self.digests[rows],
        )

    def limit(self, n: int) -> Source:
        """Return `n` samples spread evenly over the sorted ids: every class keeps its share."""
        n = whole_number("n", n, 1)
        if n >= len(self):
            return replace(self, limited_to=n)
        rows = np.linspace(0, len(self) - 1, n).round().astype(np.int64)
        return replace(self.take(rows), limited_to=n)


def identity(raw: Raw) -> bytes:
    """Return the bytes that identify an image: the file's, or the pixels with their shape.

    Files whose picture was another one in earlier versions get another identity than they had, so
    that no feature of that picture is taken for theirs.
    """
    if isinstance(raw, bytes):
        is_other = raw.startswith(levels.STARTS) and levels.was_misread(raw)
        return raw + levels.READ_BY_RANGE if is_other else raw
    if isinstance(raw, levels.Samples):
        return raw.identity
    kind = "" if raw.dtype == np.uint8 else str(raw.dtype)
    return f"{raw.shape}{kind}".encode() + raw.tobytes()


def digest(raw: Raw) -> bytes:
    """Return BLAKE2b-128 of an image's `identity`."""
    return hashlib.blake2b(identity(raw), digest_size=DIGEST_BYTES).digest()


def sorted_ids(ids: Sequence[str], where: Callable[[int], str]) -> np.ndarray:
    """Return the order that sorts ids.

    Raises
    ------
    SourceError
        When an id is there twice; it names both places.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for one, next_one in itertools.pairwise(order):
        if ids[one] == ids[next_one]:
            raise SourceError(
                f"Two images have the id '{ids[one]}': {where(one)} and {where(next_one)}. "
                f"Remove or rename one."
            )
    return np.array(order, np.int64)


def as_id(path: str) -> str:
    """Return a path as valid UTF-8, with / between folders; see `escaped`."""
    return as_ids([path])[0]


def as_ids(paths: Sequence[str]) -> list[str]:
    """Return paths as `as_id` does, all at once: nearly always none has to be looked at."""
    paths = [path if os.sep == "/" else path.replace(os.sep, "/") for path in paths]
    try:
        "".join(paths).encode()
    except UnicodeEncodeError:
        return list(map(escaped, paths))
    return paths
