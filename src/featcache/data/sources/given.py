"""What a caller says about images given from Python, and the order they get by it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.core.errors import SpecError
from featcache.core.labels import Annotations, Columns, clean, from_columns, row_number
from featcache.data.sources.base import DIGEST_BYTES, Source, sorted_ids
from featcache.data.sources.contents import Contents

PREFIX = "memory:"  # of the origin of a source that only the caller can give again


@dataclass(frozen=True)
class Given:
    """What a caller says about images besides the images; every column has one entry per image."""

    labels: Any = None  # class indices or names; (n, n_classes) of 0 and 1; or lists of names
    targets: Any = None  # (n,) or (n, n_targets) numbers
    class_names: Sequence[str] | None = None
    target_names: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    groups: Sequence[Any] | None = None
    ids: Sequence[str] | None = None
    name: str | None = None

    def is_empty(self) -> bool:
        """Return whether nothing was said."""
        return all(value is None for value in vars(self).values())


def in_order(
    kind: str, contents: Contents, about: Annotations, digests: np.ndarray, given: Given
) -> Source:
    """Sort by id; without ids the images are numbered."""
    n = len(digests)
    if given.ids is not None and len(given.ids) != n:
        raise SpecError(f"ids has {len(given.ids)} entries for {n} images.")
    width = len(str(n - 1))
    ids = [clean(str(id_)) for id_ in given.ids or ()] or [f"{row:0{width}d}" for row in range(n)]
    order = sorted_ids(ids, row_number)
    # unnamed images get a name by content, so that two collections never share a feature file
    said = repr((ids, about.y.tolist(), about.splits, about.groups))
    content = hashlib.blake2b(digests.tobytes() + said.encode(), digest_size=4).hexdigest()
    name = checked_name(given.name) or f"{kind}-{content}"
    return Source(
        name=name,
        origin=PREFIX + name,
        ids=tuple(ids[row] for row in order.tolist()),
        contents=contents.take(order),
        annotations=about.take(order),
        digests=digests[order],
    )


def checked_name(name: str | None) -> str | None:
    """Return a collection's name; raise SpecError unless it can be a folder's."""
    if name is not None and (not name or name.startswith(".") or set(name) & set('/\\:\0"<>|?*')):
        raise SpecError(f"name becomes a folder's name in the cache; '{name}' cannot.")
    return name


def annotated(n: int, given: Given) -> Annotations:
    """Return what is said of `n` images, checked."""
    columns = Columns(
        split=None if given.splits is None else [str(name) for name in given.splits],
        group=None if given.groups is None else [clean(str(name)) for name in given.groups],
        class_names=None if given.class_names is None else list(given.class_names),
    )
    for name in ("labels", "targets", "splits", "groups"):
        value = getattr(given, name)
        if value is not None and len(value) != n:
            raise SpecError(f"{name} has {len(value)} entries for {n} images.")
    if given.targets is not None:
        targets = np.asarray(given.targets, np.float64).reshape(n, -1)
        columns.targets = targets.tolist()
        names = given.target_names or [f"target_{i}" for i in range(targets.shape[1])]
        if len(names) != targets.shape[1]:
            raise SpecError(f"target_names has {len(names)} names for {targets.shape[1]} targets.")
        columns.target_names = tuple(names)
    if given.labels is not None:
        _set_labels(columns, given.labels)
    return from_columns(n, columns)


def _set_labels(columns: Columns, labels: Any) -> None:
    """Put labels into columns as names: one per row, or several where rows are sequences."""
    if any(isinstance(row, (list, tuple, set)) and _is_words(row) for row in labels):
        columns.labels = [None if row is None else sorted(row) for row in labels]
        return
    values = np.asarray(labels)
    if values.ndim == 1 and values.dtype.kind in "iu":
        known = columns.class_names or [str(n) for n in sorted(set(values[values >= 0].tolist()))]
        if columns.class_names is None:
            columns.label = [None if v < 0 else str(v) for v in values.tolist()]
        else:
            if values.max() >= len(known):
                raise SpecError(f"labels has class {values.max()}, but {len(known)} class_names.")
            columns.label = [None if v < 0 else known[v] for v in values.tolist()]
        columns.class_names = known
    elif values.ndim == 1 and values.dtype.kind in "OUS":
        columns.label = [None if v is None else str(v) for v in values.tolist()]
    elif values.ndim == 2 and np.isin(values, (0, 1)).all():
        names = columns.class_names or [str(n) for n in range(values.shape[1])]
        if len(names) != values.shape[1]:
            raise SpecError(f"class_names has {len(names)} names for {values.shape[1]} columns.")
        columns.class_names = names
        hot = [[names[i] for i in np.flatnonzero(row).tolist()] for row in values]
        if all(len(row) == 1 for row in hot):
            columns.label = [row[0] for row in hot]  # one-hot: one class an image
        else:
            columns.labels = hot
    else:
        raise SpecError(
            f"labels must be class indices or names, one per image, or rows of 0 and 1 or of "
            f"names; got an array {values.shape} of {values.dtype}. Numbers to predict are targets."
        )


def _is_words(row: Any) -> bool:
    return all(isinstance(name, str) for name in row)


def as_row(value: bytes) -> np.ndarray:
    """Return a digest as a row of an array."""
    assert len(value) == DIGEST_BYTES
    return np.frombuffer(value, np.uint8)
