"""Images to predict: any number of files, folders, manifests and others, or images from Python.

Nothing is sorted that the caller put in order, and nothing is left out. What a path can be, and how
that is opened, `openers` knows, for extraction and prediction alike; here they are only lined up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from featcache.core.errors import SourceError, SpecError
from featcache.core.escapes import path_of
from featcache.data import examples, openers, sources, urls
from featcache.data.sources.base import as_id
from featcache.data.sources.listed import Named, as_given, check_path
from featcache.data.sources.on_disk import Disk
from featcache.data.sources.passed_over import PassedOver
from featcache.data.urls import as_url, is_url


def opened(what: Any, root: str | os.PathLike[str] | None = None) -> list[sources.Source]:
    """Return images as sources, one after the other in the order in which they were given.

    Parameters
    ----------
    what : one of

        - an image file or its URL, or a folder, with all images below it, by path;
        - a manifest (.csv, .tsv, .jsonl, .parquet) with a column `path`, others are ignored;
        - a tar file, or a folder of them; an example;
        - any number of those; of a list a file that does not exist is one that cannot be read;
        - images from Python, as `open_source` takes them.
    root : folder that the paths in manifests are relative to; None is each manifest's own.

    Raises
    ------
    SourceError
        When a single path does not exist, a folder or manifest has no images, or a manifest cannot
        be read.
    SpecError
        When `root` is given and there is no manifest.
    """
    if isinstance(what, (str, os.PathLike)):
        text = as_url(os.fspath(what)) or Disk().find(path_of(os.fspath(what)))
        is_elsewhere = is_url(text) or text.startswith(examples.PREFIX)
        if not is_elsewhere and not os.path.lexists(text):
            raise SourceError(f"Image '{text}' does not exist.")
        paths: list[str] | None = [text]
    else:
        paths, what = _paths(what)
    if root is not None and not any(_takes_root(path) for path in paths or ()):
        raise SpecError("root is an option of manifests, and there is none among the images.")
    if paths is None:
        return [openers.open_source(what)]
    if not paths:
        raise SourceError("There are no images; the list is empty.")
    return list(_grouped(paths, None if root is None else os.fspath(root)))


def _paths(what: Any) -> tuple[list[str] | None, Any]:
    """Return the paths that something is a list of, else None, and the thing with its items."""
    if isinstance(what, Iterator):
        what = list(what)
    if not isinstance(what, (list, tuple)):
        return None, what
    are_paths = [isinstance(one, (str, os.PathLike)) for one in what]
    if all(are_paths):
        return [os.fspath(one) for one in what], what
    if any(are_paths):
        raise SourceError(
            f"A list of images has either paths or images; item {are_paths.index(True)} is a path, "
            f"item {are_paths.index(False)} is a {type(what[are_paths.index(False)]).__name__}."
        )
    return None, what


def _grouped(paths: Iterable[str], root: str | None) -> Iterator[sources.Source]:
    """Yield sources in the order of paths; what lies side by side on disk makes one."""
    plain, disk = _Plain(), Disk()
    for path in map(path_of, paths):
        if not path.startswith(examples.PREFIX):
            check_path(path, "the list of images")
        url = as_url(path)
        there = url or disk.find(path)
        found = openers.open_as_given(there, root)
        if found is None:
            plain.named.append((as_id(urls.plain(url) if url else path), there))
        elif found.paths is not None:
            plain.add(found)
        else:
            if plain.named:
                yield plain.source(disk)
                plain, disk = _Plain(), Disk()
            yield found
    if plain.named:
        yield plain.source(disk)


@dataclass
class _Plain:
    """Image files, one after the other, and what there is to say of them."""

    named: list[Named] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    notes: tuple[str, ...] = ()

    def add(self, found: sources.Source) -> None:
        assert found.paths is not None
        self.named += zip(found.ids, found.paths, strict=True)
        self.passed_over += found.passed_over
        self.notes += found.notes

    def source(self, disk: Disk) -> sources.Source:
        return as_given(self.named, self.passed_over, self.notes + disk.remarks())


def _takes_root(path: str) -> bool:
    kind = openers.file_kind(as_url(path) or Disk().find(path))
    return kind is not None and kind.has_root
