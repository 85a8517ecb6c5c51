"""Small parts of a feature file made into large ones, or into one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.core.errors import SpecError, StoreError, one_line
from featcache.core.keys import view_keys
from featcache.store import parted
from featcache.store.features import Features
from featcache.store.index import DamagedFileError, Parts, Rows
from featcache.store.layout import locked, owner
from featcache.store.uploading import pushing
from featcache.store.working_copy import root_of
from featcache.store.writing import publish

LARGE_BYTES = 256 << 20  # of a part


@dataclass(frozen=True)
class Compacted:
    """What became of the parts of a feature file."""

    features: Features
    n_before: int  # parts; 0 is a file of one piece
    n_after: int


def compact(
    path: Path,
    into_one: bool = False,
    wait: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Compacted:
    """Put the rows of a feature file into large parts, in their order, or all into the file.

    Readers go on meanwhile. What the rows of removed images took is free then.

    Parameters
    ----------
    path : the feature file; in a working copy of a bucket it is compacted there, too.
    into_one : leave no parts.
    wait, say : as for `locked`.

    Raises
    ------
    StoreError
        When the file cannot be read, or does not lie in the cache folder it was made for.
    BehindError
        When another machine published the file meanwhile; nothing is lost.
    DiskError
        When there is no room: old and new rows are there at once.
    """
    if into_one and root_of(path) is not None:
        raise SpecError(
            f"'{path}' lies in a bucket, where rows stay in parts. Leave out --one-file."
        )
    features = Features(path)
    if not parted.names_of(path):
        return Compacted(features, 0, 0)
    # before the lock, which would make a cache folder of any folder
    if owner(path.parent) != features.provenance["source"]:
        raise StoreError(
            f"'{path}' does not lie in the cache folder it was made for. Move it and its parts "
            f"back to their folder there, beside source.json."
        )
    with locked(path, wait, say), pushing(path):
        features = Features(path)  # another process may have been quicker
        before = parted.names_of(path)
        if not before:
            return Compacted(features, 0, 0)
        spec, origin = features.spec, features.provenance["source"]
        parts = Parts(path, spec, origin)
        if into_one:
            made, rows = None, Rows(parted.lenders(path))
            if (rows.find_views(features.digests, spec) < 0).any():
                raise features.to_repair("a part is gone or cannot be read")
        else:
            written = [parts.write(keys, block) for keys, block in _large_blocks(features)]
            made, rows = parts, Rows(written)
        try:
            done = publish(path, spec, features.metadata, rows, features.provenance, made)
        except DamagedFileError as error:
            raise features.to_repair(one_line(error).rstrip(".")) from error
        parts.clear()
        return Compacted(done, len(before), len(parted.names_of(path)))


def _large_blocks(features: Features) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield keys and rows in file order, view by view."""
    row_bytes = int(np.prod(features.shape[1:])) * features.dtype.itemsize
    size = max(1, LARGE_BYTES // row_bytes)
    for view in range(features.spec.views):
        for start in range(0, len(features), size):
            some = np.arange(start, min(start + size, len(features)))
            keys = view_keys(features.digests[some], view, features.spec.augment)
            yield keys, features.read_rows(some, view)
