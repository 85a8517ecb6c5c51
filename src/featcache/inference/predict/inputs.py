"""Images to predict: files, folders, manifests, tar files, or whatever Python has in memory.

Nothing is sorted that the caller put in order, and nothing is left out: of a list or a manifest
every line stands for itself, also one that is there twice or names a file that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from featcache.core.errors import SourceError, SpecError
from featcache.core.labels import unlabelled
from featcache.data import examples, openers, sources
from featcache.data.sources.base import as_id
from featcache.data.sources.contents import Files
from featcache.data.sources.folder import ARCHIVE, walk
from featcache.data.sources.manifest import READERS

Named = tuple[str, str]  # how an image is named in the predictions, and its path


def opened(what: Any, root: str | os.PathLike[str] | None = None) -> list[sources.Source]:
    """Return images as sources, one after the other in the order in which they were given.

    Parameters
    ----------
    what : one of

        - an image file, or a folder, with all images below it in the order of their paths;
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
        text = os.fspath(what)
        if not text.startswith(examples.PREFIX) and not os.path.lexists(text):
            raise SourceError(f"Image '{text}' does not exist.")
        paths: list[str] | None = [text]
    else:
        paths, what = _paths(what)
    if root is not None and not any(_is_manifest(path) for path in paths or ()):
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
    plain: list[Named] = []
    for path in paths:
        found = _below(path, root)
        if isinstance(found, sources.Source):
            if plain:
                yield _files(plain)
                plain = []
            yield found
        else:
            plain += found
    if plain:
        yield _files(plain)


def _below(path: str, root: str | None) -> list[Named] | sources.Source:
    if path.startswith(examples.PREFIX):
        return openers.open_source(path)
    _check(path, "the list of images")
    if _is_manifest(path):
        return _listed(Path(path), root)
    if os.path.isdir(path):
        found = walk(path)
        if found.archives and not found.images:
            return openers.open_source(path)
        if not found.images:
            raise SourceError(f"There are no images in '{path}'.")
        return sorted((as_id(image), image) for image in found.images)
    if path.lower().endswith(ARCHIVE) and Path(path).is_file():
        return openers.open_source(path)
    return [(as_id(path), path)]


def _is_manifest(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in READERS and Path(path).is_file()


def _listed(manifest: Path, root: str | None) -> list[Named]:
    """Return what a manifest lists, named as it does."""
    folder = os.fspath(manifest.parent) if root is None else root
    if not os.path.isdir(folder):
        raise SourceError(f"Root folder '{folder}' of manifest '{manifest}' does not exist.")
    found = []
    for line, record in READERS[manifest.suffix.lower()](manifest):
        cell = record.get("path")
        place = f"line {line} of '{manifest.name}'"
        if not isinstance(cell, str) or not cell.strip():
            raise SourceError(f"There is no path in {place}.")
        _check(cell, place)
        found.append((as_id(cell.strip()), os.path.join(folder, cell.strip())))
    if not found:
        raise SourceError(f"Manifest '{manifest}' lists no images.")
    return found


def _check(path: str, place: str) -> None:
    """Raise SourceError where no file can have this path."""
    try:
        if path and b"\0" not in os.fsencode(path):
            return
    except UnicodeEncodeError:
        pass
    raise SourceError(f"A path in {place} is no path: {path!a}.")


def _files(named: list[Named]) -> sources.Source:
    names, paths = zip(*named, strict=True)
    return sources.Source(
        name="images",
        origin="",
        ids=names,
        contents=Files(paths),
        annotations=unlabelled(len(names)),
    )
