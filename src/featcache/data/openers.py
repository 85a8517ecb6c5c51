"""Where images come from, as one ordered table: folders, manifests, tar files, memory, examples.

The order is always that of the sorted ids, and every other column follows it. Nothing is decoded
here; a sample is its id, what is said about it, and the bytes that give it a digest.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.core.checks import bad, check_text, with_checked_arguments
from featcache.core.errors import SourceError, SpecError
from featcache.core.escapes import path_of
from featcache.data import examples
from featcache.data.sources import prefix, voc, yolo
from featcache.data.sources.base import Source, as_id
from featcache.data.sources.download import Download
from featcache.data.sources.example import open_example
from featcache.data.sources.folder import Found, open_folder, walk
from featcache.data.sources.given import PREFIX, Given
from featcache.data.sources.listed import as_given
from featcache.data.sources.manifest import READERS, list_manifest, of_records, open_manifest
from featcache.data.sources.memory import open_images
from featcache.data.sources.on_disk import Disk
from featcache.data.sources.passed_over import ARCHIVE, SUFFIXES
from featcache.data.sources.shards import open_archive, open_shards
from featcache.data.sources.tf_data import open_dataset
from featcache.data.urls import as_url, name_of, plain, shown


@dataclass(frozen=True)
class FileKind:
    """Files that list or hold images: how they are opened, for extraction and for prediction."""

    name: str  # at the beginning of a sentence
    open: Callable[[Path | Download, str | None, str | None], Source]
    """(absolute path or URL, root, target) -> images by id, with what is known."""
    as_given: Callable[[Path | Download, str | None], Source] | None = None
    """(path, root) -> images as they were given, see `listed`; None is as `open` has them."""
    has_root: bool = False  # the paths in it can be relative to another folder


# The one registry of what a path can be, beside folders and examples: by suffix, in lower case. A
# new kind of source is its file in `sources` and a line here.
FILE_KINDS: dict[str, FileKind] = {
    **dict.fromkeys(READERS, FileKind("Manifest", open_manifest, list_manifest, has_root=True)),
    ARCHIVE: FileKind("Tar file", open_archive),
}


@with_checked_arguments
def open_source(
    what: Any,
    *,
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    **given: Any,
) -> Source:
    """Return a collection of images, in the order of their sorted ids.

    Parameters
    ----------
    what : one of

        - a folder with one subfolder per class, optionally under train/, val/ and test/; without
          subfolders the images have no labels;
        - a manifest ending in .csv, .tsv, .jsonl or .parquet, with a column `path` and any of
          `label`, `labels` (names separated by |), `target`, `boxes`, `split`, `group`;
        - images with boxes: COCO's .json of annotations, or a folder as Pascal VOC or YOLO has it;
        - a tar file in WebDataset's layout, or a folder of them;
        - the URL of one of these in object storage, s3://, gs://, az:// or hf://datasets/owner/name,
          or of a manifest or tar file at https://; each needs an extra, as featcache[s3]. The
          clients find credentials by their own means. Objects are as the source's opening found
          them: open it again to see what has changed;
        - example:clipart or example:digits;
        - a list of paths; an array (n, height, width, 3) uint8, or a list of arrays; a list of
          Pillow images; a `tf.data.Dataset` of images or (image, label);
        - a `Source`, which is returned as it is.
    root : folder, or its URL, that a manifest's paths are relative to; None is the manifest's own.
        A path in a manifest can also be a URL by itself.
    target : target columns of a manifest or of tar files, separated by commas; makes the task
        regression.
    **given : what is known about images given from Python, one entry per image: `labels` (class
        indices, -1 unknown, or names; rows of 0 and 1, or lists of names for several labels),
        `targets` (numbers, (n,) or (n, n_targets)), `splits` (train, val, test), `groups`, `ids`;
        also `class_names`, `target_names`, and `name`, the collection's own in the cache folder.

    Raises
    ------
    SourceError
        When it does not exist, has no images, or something in it is not as expected.
    SpecError
        When an option is wrong.
    """
    if target is not None:
        check_text("target", target, "be names of columns, separated by commas")
    try:
        columns = Given(**given)
    except TypeError:
        odd = sorted(set(given) - set(vars(Given())))
        raise SpecError(
            f"open_source knows no '{odd[0]}'; it knows {', '.join(vars(Given()))}."
        ) from None
    if isinstance(what, (str, os.PathLike)):
        if not columns.is_empty():
            raise SpecError(
                f"'{os.fspath(what)}' says itself what is known about its images; "
                f"{', '.join(given)} can be given only with images from Python."
            )
        return _open_path(os.fspath(what), None if root is None else os.fspath(root), target)
    if root is not None or target is not None:
        raise SpecError("root and target are options of manifests and tar files.")
    if isinstance(what, Source):
        return what
    if hasattr(what, "element_spec"):
        return open_dataset(what, columns)
    if _is_sequence(what):
        return open_images(what, columns)
    raise bad(
        "images", "be a path, a list of paths or of images, an array or a tf.data.Dataset", what
    )


def open_as_given(path: str, root: str | None = None) -> Source | None:
    """Return what a path stands for in a prediction, as it was given; None for a file by itself.

    A folder stands for all images below it, in the order of their paths. Labels are not looked for.

    Raises
    ------
    SourceError
        When there are no images, or they cannot be listed.
    """
    if path.startswith(examples.PREFIX):
        return open_example(path)
    url = as_url(path)
    kind = file_kind(path)
    if kind is not None:
        root = root if kind.has_root else None
        if kind.as_given is not None:
            return kind.as_given(Download(url) if url else Path(path), root)
        return kind.open(Download(url) if url else Path(os.path.abspath(path)), root, None)
    if url is not None:
        return _folder_as_given(url)
    if not os.path.isdir(path):
        return None
    found = walk(path)
    if found.archives and not found.images:
        return open_source(path)
    if not found.images:
        raise SourceError(f"There are no images in '{path}'{found.not_taken().instead()}.")
    return as_given(sorted((as_id(image), image) for image in found.images), found.not_taken())


def file_kind(path: str) -> FileKind | None:
    """Return what kind of file lies at a path or URL, of those that list or hold images."""
    if url := as_url(path):
        return None if url.endswith("/") else FILE_KINDS.get(_suffix(name_of(url)))
    kind = FILE_KINDS.get(_suffix(path))
    return kind if Path(path).is_file() else None


def takes_target(path: str) -> bool:
    """Return whether what lies at a path or URL has columns, some of which can be targets."""
    return file_kind(path) is not None if as_url(path) else not Path(path).is_dir()


def reopen(provenance: Mapping[str, Any], instead: Any = None) -> Source:
    """Return the source that a file's provenance names, or what is given `instead`.

    Raises
    ------
    SourceError
        When it cannot be had any more.
    """
    if instead is not None:
        return open_source(instead)
    return open_source(provenance["source"], **provenance.get("source_options", {}))


def _open_path(text: str, root: str | None, target: str | None) -> Source:
    if text.startswith(examples.PREFIX):
        if root is not None or target is not None:
            raise SpecError(f"root and target are options of manifests; '{text}' is an example.")
        return open_example(text)
    if text.startswith(PREFIX):
        raise SourceError(
            f"The images '{text}' were given from Python; give them again from there."
        )
    if url := as_url(text):
        return _open_url(url, root, target)
    text = path_of(text)
    if not text:
        raise SpecError("The image folder's name is empty; give a folder or example:clipart.")
    text = Disk().find(text)
    path = Path(text)
    if not path.exists():
        if glob.has_magic(text) or "{" in text:
            raise SourceError(f"'{text}' is a pattern; give the folder that has the files.")
        what = (
            FILE_KINDS[suffix].name if (suffix := _suffix(text)) in FILE_KINDS else "Image folder"
        )
        raise SourceError(f"{what} '{path}' does not exist.")
    kind = file_kind(text)
    if root is not None and not (kind and kind.has_root):
        raise SpecError(f"root is an option of manifests; '{path}' is none.")
    if kind is not None:
        # not resolved: what a file lists is relative to where it is found, be it a link
        return kind.open(Path(os.path.abspath(text)), root, target)
    path = path.resolve()
    if not path.is_dir():
        raise SourceError(
            f"'{path}' is no folder; a folder with one subfolder per class is expected, or a file "
            f"ending in {', '.join(FILE_KINDS)}."
        )
    if boxed := next((kind for kind in (voc, yolo) if kind.is_one(path)), None):
        records, notes = boxed.records(path)
        origin = os.fspath(path)
        opened = of_records(f"'{path}'", path.name or "root", origin, records, origin)
        return replace(opened, notes=opened.notes + notes)
    found = walk(os.fspath(path))
    if not found.images and found.archives:
        return open_shards(os.fspath(path), found.archives, target, found.not_taken())
    if target is not None:
        raise SpecError(f"target is an option of manifests and tar files; '{path}' is a folder.")
    if not found.images:
        raise SourceError(
            f"Image folder '{path}' has no images; expected one subfolder per class with files "
            f"ending in {', '.join(sorted(SUFFIXES))}{found.not_taken().instead()}."
        )
    return open_folder(path, found)


def _open_url(url: str, root: str | None, target: str | None) -> Source:
    kind = file_kind(url)
    if root is not None and not (kind and kind.has_root):
        raise SpecError(f"root is an option of manifests; '{shown(url)}' is none.")
    if kind is not None:
        return kind.open(Download(url), root, target)
    url = url.rstrip("/")
    found, infos = prefix.walk(url)
    if not found.images and found.archives:
        return open_shards(url, found.archives, target, found.not_taken())
    if target is not None:
        raise SpecError(f"target is an option of manifests and tar files; '{url}' is a folder.")
    _check_images(url, found)
    return prefix.open_prefix(url, found, infos)


def _folder_as_given(url: str) -> Source | None:
    """Return all images below a URL; None for that of an image."""
    if _suffix(name_of(url)) in SUFFIXES and not url.endswith("/"):
        return None
    url = url.rstrip("/")
    found, infos = prefix.walk(url)
    if found.archives and not found.images:
        return open_shards(url, found.archives, None, found.not_taken())
    _check_images(url, found)
    places = tuple(sorted(found.images))
    named = list(zip(map(plain, places), places, strict=True))
    return as_given(named, found.not_taken(), contents=prefix.listed(places, infos))


def _check_images(url: str, found: Found) -> None:
    if not found.images:
        if found == Found():
            raise SourceError(
                f"There is nothing below '{url}'; expected a folder of images, or a file ending in "
                f"{', '.join(FILE_KINDS)}. Mend the URL."
            )
        raise SourceError(
            f"There are no images below '{url}'; expected one folder per class with objects ending "
            f"in {', '.join(sorted(SUFFIXES))}{found.not_taken().instead()}."
        )


def _is_sequence(what: Any) -> bool:
    """Return whether something has a length and items by number, as a sparse matrix has not."""
    is_none = isinstance(what, (bytes, Mapping, type)) or hasattr(what, "toarray")
    has_items = hasattr(what, "__len__") and hasattr(what, "__getitem__")
    return has_items and not is_none and getattr(what, "shape", (1,)) != ()


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
