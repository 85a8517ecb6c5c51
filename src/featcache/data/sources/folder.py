"""Folders of images: one subfolder per class, optionally under train/, val/ and test/."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featcache.core.errors import SourceError
from featcache.core.labels import SPLITS, UNLABELLED, Annotations
from featcache.data.sources.base import Source, as_id, sorted_ids
from featcache.data.sources.contents import Files

SUFFIXES = {  # files that are images by name; all others are passed over
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib"),
    *(".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"),
}
ARCHIVE = ".tar"


@dataclass
class Found:
    """What lies below a folder."""

    images: list[str] = field(default_factory=list)  # paths
    archives: list[str] = field(default_factory=list)  # tar files
    n_others: int = 0


def walk(root: str) -> Found:
    """Return what lies below `root`; links are followed, but never back to a folder above."""
    found = Found()
    above = {root: {_identity(root)}}  # by folder: itself and what it lies in
    for folder, subfolders, files in os.walk(root, followlinks=True):
        chain = above.pop(folder)
        kept = []
        for name in sorted(subfolders):
            path = os.path.join(folder, name)
            if not name.startswith(".") and (identity := _identity(path)) not in chain:
                above[path] = chain | {identity}
                kept.append(name)
        subfolders[:] = kept
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                found.n_others += 1
            elif suffix in SUFFIXES:
                found.images.append(os.path.join(folder, name))
            elif suffix == ARCHIVE:
                found.archives.append(os.path.join(folder, name))
            else:
                found.n_others += 1
    return found


def open_folder(root: Path, found: Found) -> Source:
    """Return the images of a folder as a source."""
    prefix = len(os.path.join(root, ""))
    paths = found.images
    every = [as_id(path[prefix:]) for path in paths]
    order = sorted_ids(every, lambda row: repr(paths[row])).tolist()
    parts = {every[row]: tuple(every[row].split("/")) for row in order}
    has_splits = splits_of(os.fspath(root), parts.values())
    depth = 1 if has_splits else 0
    has_classes = any(len(p) > depth + 1 for p in parts.values())
    if has_classes:
        # a stray image beside the class folders has no label; Keras passes it over, and so do we
        order = [row for row in order if len(parts[every[row]]) > depth + 1]
    ids = tuple(every[row] for row in order)
    names = tuple(sorted({parts[id_][depth] for id_ in ids})) if has_classes else ()
    index = {name: label for label, name in enumerate(names)}
    labels = [index[parts[id_][depth]] if has_classes else UNLABELLED for id_ in ids]
    return Source(
        name=root.name or "root",
        origin=os.fspath(root),
        ids=ids,
        contents=Files(tuple(paths[row] for row in order)),
        annotations=Annotations(
            labels=np.array(labels, np.int64),
            class_names=names,
            splits=tuple(SPLITS[parts[id_][0].lower()] for id_ in ids) if has_splits else None,
        ),
        n_passed_over=found.n_others + len(found.archives) + len(paths) - len(ids),
    )


def splits_of(root: str, parts: Collection[tuple[str, ...]]) -> bool:
    """Return whether the folders at the top are splits, with classes below them.

    Raises
    ------
    SourceError
        When splits and other folders lie side by side.
    """
    tops = {p[0] for p in parts if len(p) > 1}
    named = {top for top in tops if top.lower() in SPLITS}
    deep = {p[0] for p in parts if len(p) > 2}
    if not named & deep:
        return False  # images lie directly in train/ and test/: these are classes
    if tops == named:
        return True
    if len({SPLITS[top.lower()] for top in named}) > 1:
        raise SourceError(
            f"'{root}' has {', '.join(sorted(named))} beside "
            f"{', '.join(sorted(tops - named)[:3])}; expected either splits with classes "
            f"below them, or classes alone."
        )
    return False


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
