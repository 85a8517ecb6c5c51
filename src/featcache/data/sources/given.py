"""What a caller says about images given from Python, and the order they get by it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.core import arrays
from featcache.core.checks import bad, check_text, check_texts, whole
from featcache.core.errors import SpecError
from featcache.core.labels import Annotations, Columns, clean, from_columns, row_number
from featcache.core.text import counted
from featcache.data.sources.base import DIGEST_BYTES, Source, sorted_ids
from featcache.data.sources.contents import Contents

LABELS = "be class indices or names, one per image, or rows of 0 and 1 or of names"
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
    width = len(str(n - 1))
    ids = [f"{row:0{width}d}" for row in range(n)]
    if given.ids is not None:
        ids = [clean(str(id_)) for id_ in arrays.entries("ids", given.ids, n)]
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
    if name is None:
        return None
    check_text("name", name)
    if not name or name.startswith(".") or set(name) & set('/\\:\0"<>|?*') or clean(name) != name:
        raise SpecError(f"name becomes a folder's name in the cache; {name!a} cannot.")
    return name


def annotated(n: int, given: Given) -> Annotations:
    """Return what is said of `n` images, checked."""
    columns = Columns()
    if given.splits is not None:
        columns.split = [str(name) for name in arrays.entries("splits", given.splits, n)]
    if given.groups is not None:
        groups = arrays.entries("groups", given.groups, n)
        columns.group = ["" if arrays.is_missing(name) else str(name) for name in groups]
    if given.class_names is not None:
        columns.class_names = check_texts("class_names", given.class_names)
    if given.targets is not None:
        targets = _targets(given.targets, n)
        columns.targets = targets.tolist()
        names = [f"target_{i}" for i in range(targets.shape[1])]
        if given.target_names is not None:
            names = check_texts("target_names", given.target_names)
        if len(names) != targets.shape[1]:
            raise SpecError(
                f"target_names has {counted(len(names), 'name')} for "
                f"{counted(targets.shape[1], 'target')}."
            )
        columns.target_names = tuple(names)
    elif given.target_names is not None:
        raise SpecError("target_names are those of targets; give targets too, or leave them out.")
    if given.labels is not None:
        _set_labels(columns, given.labels, n)
    elif given.class_names is not None:
        raise SpecError("class_names are those of labels; give labels too, or leave them out.")
    return from_columns(n, columns)


def _targets(given: Any, n: int) -> np.ndarray:
    """Return targets as (n, n_targets) float64, NaN where nothing is said."""
    must = f"be numbers, ({n},) or ({n}, n_targets), NaN where unknown"
    found = arrays.array("targets", given, must, SpecError)
    if found.dtype.kind == "O":  # with None, or of whole numbers that no type holds
        try:
            found = found.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise bad("targets", must, given) from error
    if found.dtype.kind not in arrays.NUMBERS or found.ndim > 2 or not found[:1].size:
        raise bad("targets", must, given)
    _check_count("targets", found, n)
    return found.astype(np.float64).reshape(n, -1)


def _set_labels(columns: Columns, labels: Any, n: int) -> None:
    """Put labels into columns as names: one per row, or several where rows are sequences."""
    is_list = isinstance(labels, (list, tuple)) or getattr(labels, "ndim", 0) == 1
    rows = list(labels) if is_list else []
    if any(map(_are_words, rows)):
        _check_count("labels", rows, n)
        odd = [row for row in rows if row is not None and not _are_words(row)]
        if odd:
            raise bad("labels", "be lists of names, or None where unknown", odd[0])
        columns.labels = [None if row is None else sorted(row) for row in rows]
        return
    values = arrays.array("labels", labels, LABELS, SpecError)
    _check_count("labels", values, n)
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
        columns.label = [_name(row, value) for row, value in enumerate(values.tolist())]
    elif values.ndim == 2 and values.shape[1] == 1 and columns.class_names is None:
        cure = "Give classes without their second dimension, and to a single label its class_names."
        raise bad("labels", LABELS, values, cure)
    elif values.ndim == 2 and values.shape[1] and np.isin(values, (0, 1)).all():
        names = columns.class_names or [str(n) for n in range(values.shape[1])]
        if len(names) != values.shape[1]:
            raise SpecError(
                f"class_names has {counted(len(names), 'name')} for "
                f"{counted(values.shape[1], 'column')}."
            )
        columns.class_names = names
        hot = [[names[i] for i in np.flatnonzero(row).tolist()] for row in values]
        if all(len(row) == 1 for row in hot):
            columns.label = [row[0] for row in hot]  # one-hot: one class an image
        else:
            columns.labels = hot
    else:
        raise bad("labels", LABELS, values, "Numbers to predict are targets.")


def _name(row: int, value: Any) -> str | None:
    """Return the name of a class that an array of objects has in a row; None where unknown."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if whole(value) is None:
        raise bad(f"labels[{row}]", "be the name of a class, or None where it is unknown", value)
    return str(value)


def _are_words(row: Any) -> bool:
    return isinstance(row, (list, tuple, set)) and all(isinstance(name, str) for name in row)


def _check_count(name: str, values: Any, n: int) -> None:
    if len(values) != n:
        raise SpecError(
            f"{name} has {counted(len(values), 'entry', 'entries')} for {counted(n, 'image')}."
        )


def as_row(value: bytes) -> np.ndarray:
    """Return a digest as a row of an array."""
    assert len(value) == DIGEST_BYTES
    return np.frombuffer(value, np.uint8)
