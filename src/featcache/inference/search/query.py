"""What is looked for: images, rows and classes, and others that it should be unlike, as a vector.

A query is a direction: the mean of the unit vectors of what is asked for, less that of what is not
wanted (Rocchio 1971, "Relevance feedback in information retrieval").
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache import store
from featcache.core.checks import bad, shown
from featcache.core.errors import SpecError
from featcache.extraction.embedder import OPTIONS, Embedder
from featcache.inference.predict.inputs import opened
from featcache.networks import backbones

UNWANTED = 0.5  # weight of what is not wanted


@dataclass(frozen=True)
class Query:
    """A direction, and the rows that it was made of, which are no answers."""

    vector: np.ndarray  # (d,) float32 of length 1
    own: frozenset[int]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) float32 of length 1; those of zeros stay."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)


def query_of(
    features: store.Features,
    like: Any,
    rows: Sequence[Any],
    classes: Sequence[str],
    unlike: Sequence[Any],
    cache_dir: Any,
) -> Query:
    """Return the query of what is asked for; arguments are those of `search`.

    Raises
    ------
    SpecError
        When nothing is asked for, or there is no such row or class.
    """
    own = [row_of(features, one) for one in rows]
    wanted = [_means(features, own, classes)]
    if like is not None:
        wanted.append(embedded(features, like, cache_dir))
    vectors = np.concatenate(wanted)
    if not len(vectors):
        raise SpecError("Say what to look for: images, rows (--row) or a class (--class).")
    vector = unit(vectors).mean(axis=0)
    if unlike:
        names = [one for one in unlike if one in features.class_names]
        others = [row_of(features, one) for one in unlike if one not in features.class_names]
        vector = vector - UNWANTED * unit(_means(features, others, names)).mean(axis=0)
    if not vector.any():
        raise SpecError("What is looked for and what is not cancel each other. Leave one out.")
    return Query(unit(vector[None])[0], frozenset(own))


def embedded(features: store.Features, images: Any, cache_dir: Any) -> np.ndarray:
    """Return vectors (m, d): given ones as they are, or images through the network of a file.

    Raises
    ------
    SpecError
        When vectors are of another length.
    """
    found = np.asarray(images) if isinstance(images, (np.ndarray, list)) else None
    if found is not None and found.dtype.kind == "f" and found.ndim in (1, 2):
        found = found.reshape(-1, found.shape[-1])
        if found.shape[1] != features.shape[1]:
            must = f"have the {features.shape[1]} features of '{features.path}'"
            raise bad("vectors", must, found)
        return found
    name, options = backbones.options_of(features.spec, features.provenance["weights"])
    own = {key: value for key, value in options.items() if key in OPTIONS}
    cache = features.path.parent.parent if cache_dir is None else cache_dir
    made = Embedder(name, cache_dir=cache, **own)
    return np.asarray(made.transform(_listed(images)))


def _listed(images: Any) -> Any:
    """Return images as `Embedder` takes them: one as a list, of folders what lies below them."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return images
    found: list[Any] = []
    for one in images if isinstance(images, (list, tuple)) else [images]:
        if isinstance(one, (str, os.PathLike)) and os.path.isdir(one):
            found += (path for part in opened(one) for path in part.paths or ())
        else:
            found.append(one)
    return found


def row_of(features: store.Features, one: Any) -> int:
    """Return a row by its number or its id; raise SpecError where there is none."""
    if isinstance(one, str) and one in features.ids:
        return features.ids.index(one)
    try:
        row = int(one)
    except (TypeError, ValueError):
        raise SpecError(f"There is no image {shown(one)} in '{features.path}'.") from None
    if not 0 <= row < len(features):
        raise SpecError(f"'{features.path}' has rows 0 to {len(features) - 1}; got {row}.")
    return row


def _means(features: store.Features, rows: list[int], classes: Iterable[str]) -> np.ndarray:
    """Return (m, d): the vector of each row, and the mean of each class."""
    found = [unit(features.read_rows(rows))] if rows else []
    for name in classes:
        if name not in features.class_names:
            known = ", ".join(features.class_names[:10]) or "none"
            raise SpecError(f"'{features.path}' has no class {shown(name)}; it has {known}.")
        label = features.class_names.index(name)
        mine = (
            features.labels == label
            if features.labels.ndim == 1
            else features.labels[:, label] == 1
        )
        members = np.flatnonzero(mine)
        if not len(members):
            raise SpecError(f"No image of '{features.path}' is of the class '{name}'.")
        some = members[np.linspace(0, len(members) - 1, min(len(members), 1000)).astype(int)]
        found.append(unit(features.read_rows(some)).mean(axis=0, keepdims=True))
    return np.concatenate(found) if found else np.zeros((0, features.shape[1]), np.float32)
