"""Folders of images: one subfolder per class, optionally under train/, val/ and test/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featcache.core.labels import SPLITS, UNLABELLED, Annotations
from featcache.core.text import composed, merged, one_form
from featcache.data.sources import passed_over
from featcache.data.sources.base import Source, as_ids, sorted_ids
from featcache.data.sources.contents import Contents, Files
from featcache.data.sources.layout import Layout, Parts, remarks, understood
from featcache.data.sources.manifest import READERS
from featcache.data.sources.passed_over import PassedOver


@dataclass
class Found:
    """What lies below a folder; paths."""

    images: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)  # tar files
    others: list[str] = field(default_factory=list)  # of files, tar files apart
    left_out: Counter[str] = field(default_factory=Counter)  # folders, by name

    def not_taken(self) -> PassedOver:
        """Return what is not taken; tar files are where there are no images beside them."""
        paths = self.others + (self.archives if self.images else [])
        kinds = Counter(passed_over.kind_of(os.path.basename(path)) for path in paths)
        return PassedOver(kinds, self.left_out)


def walk(root: str) -> Found:
    """Return what lies below `root`; links are followed, but never back to a folder above."""
    found = Found()
    above = {root: {_identity(root)}}  # by folder: itself and what it lies in
    for folder, subfolders, files in os.walk(root, followlinks=True):
        chain = above.pop(folder)
        kept = []
        for name in sorted(subfolders):
            path = os.path.join(folder, name)
            if passed_over.is_left_out(name):
                found.left_out[name] += 1
            elif (identity := _identity(path)) not in chain:
                above[path] = chain | {identity}
                kept.append(name)
        subfolders[:] = kept
        taken = passed_over.images_among(files)
        found.images += [os.path.join(folder, name) for name in files if name in taken]
        for name in files:
            if name not in taken:
                kind = found.archives if passed_over.is_archive(name) else found.others
                kind.append(os.path.join(folder, name))
    return found


def open_folder(root: Path, found: Found) -> Source:
    """Return the images of a folder as a source."""
    return understood_as(os.fspath(root), found, root.name or "root", Files)


def understood_as(
    root: str, found: Found, name: str, contents: Callable[[tuple[str, ...]], Contents]
) -> Source:
    """Return images below a root, with the classes and splits that folders say."""
    prefix = len(os.path.join(root, ""))
    paths = found.images
    every = as_ids([path[prefix:] for path in paths])
    order = sorted_ids(every, lambda row: repr(paths[row])).tolist()
    parts = [tuple(filter(None, id_.split("/"))) for id_ in every]
    layout = understood(root, parts)
    # a stray image beside the class folders has no label; Keras passes it over, and so do we
    order = [row for row in order if len(parts[row]) >= layout.n_parts]
    ids = tuple(every[row] for row in order)
    folders = [parts[row][layout.class_at] for row in order] if layout.has_classes else []
    forms = one_form(folders)
    names = tuple(sorted(set(forms.values())))
    index = {name: label for label, name in enumerate(names)}
    labels = [index[forms[name]] for name in folders] or [UNLABELLED] * len(ids)
    others = as_ids([path[prefix:] for path in found.others])
    tables = sorted(one for one in others if "/" not in one and passed_over.ending(one) in READERS)
    return Source(
        name=name,
        origin=root,
        ids=ids,
        contents=contents(tuple(paths[row] for row in order)),
        annotations=Annotations(
            labels=np.array(labels, np.int64),
            class_names=names,
            splits=tuple(SPLITS[parts[row][0].lower()] for row in order)
            if layout.has_splits
            else None,
            remarks=merged("Class folders", forms),
        ),
        passed_over=_not_taken(found, layout, parts),
        notes=(
            *remarks(root, layout, parts, tables),
            *_lost(layout, every, others, Counter(folders)),
        ),
    )


def _not_taken(found: Found, layout: Layout, every: Sequence[Parts]) -> PassedOver:
    """Return what was passed over: also images that lie beside the folders."""
    made = found.not_taken()
    where = "class folders" if layout.has_classes else "splits"
    for parts in every:
        if len(parts) < layout.n_parts:
            made.files[f"{passed_over.kind_of(parts[-1])} beside the {where}"] += 1
    return made


def _lost(
    layout: Layout, ids: Sequence[str], others: Sequence[str], n_images: Mapping[str, int]
) -> tuple[str, ...]:
    """Return which classes lost pictures; also those whose folder has nothing else."""
    lost: Counter[str] = Counter()
    for id_ in passed_over.may_be_lost(ids, others):
        parts = id_.split("/")
        at = layout.class_at if parts[0].lower() in SPLITS else 0
        if len(parts) > at + 1:
            lost[composed(parts[at])] += 1
    taken: Counter[str] = Counter()
    for name, n in n_images.items():
        taken[composed(name)] += n
    return passed_over.lost_classes(taken, lost, "in files that were passed over")


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
