"""From a working copy into its bucket: what is new, in the order in which readers need it.

A feature file takes the place of the very one that was known here, or of none; where another
machine was quicker that is a `BehindError`, and nothing is written over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featcache.core import progress
from featcache.core.errors import FeatcacheError, SourceError, SpecError, StorageError
from featcache.store import bucket, marker, parted, placeholders, synced
from featcache.store.bucket import BehindError
from featcache.store.hdf5 import file_state
from featcache.store.layout import OWNER_FILE, FolderTakenError
from featcache.store.marker import OWN, PUBLISHED, Marker
from featcache.store.synced import Kind, kind_of
from featcache.store.working_copy import Found, changing, pulled, root_of

IN_THE_MAKING_S = 86400.0  # parts of others that are younger may be those of a run

_uploaded: set[Path] = set()  # parts, by this process


@contextmanager
def pushing(path: Path) -> Iterator[None]:
    """Push what was made inside, also where that ended early; raises as `push`."""
    try:
        yield
    except BaseException:
        with suppress(FeatcacheError):  # the first error is the one to tell
            push(path)
        raise
    push(path)


def push(path: Path) -> None:
    """Put into the bucket what is new in the working copy that a path lies in; else do nothing.

    Raises
    ------
    BehindError
        When another machine wrote or deleted a feature file that was made here, or a part of it.
    FolderTakenError
        When a folder is another source's there.
    SourceError, StorageError
        When the bucket cannot be had, or not be written to.
    """
    root = root_of(path)
    url = None if root is None else marker.url_of(root)
    if root is None or url is None or not _news(root, marker.load(root, url)):
        return
    with changing(root, url) as known:
        news = _news(root, known)  # another process may have been quicker
        if not news:
            return
        listed = bucket.listed(url)
        found = synced.ours(listed)
        for key in news:
            if kind_of(key) is Kind.FEATURES:
                _push_features(root, known, found, key)
            else:
                _put(root, known, key)
        for key in news:
            if kind_of(key) is Kind.BOARD:
                _forget_heads(root, known, found, key)


def push_results(path: Path, show_progress: bool = True) -> None:
    """Push what can be used without the bucket, as heads can; say where that fails."""
    try:
        push(path)
    except (StorageError, SourceError) as error:
        progress.note(f"Kept in '{path}' alone: {error}", show_progress)


def upload(part: Path) -> None:
    """Put a part that was just made into the bucket, where it lies in a working copy.

    It makes room on the disk where there is little; raises as `push`.
    """
    if (url := placeholders.url_of(part)) is None:
        return
    root = part.absolute().parents[2]
    key = part.absolute().relative_to(root).as_posix()
    folder = key.partition("/")[0]
    if kind_of(key) is None:
        raise SpecError(
            f"The source's name, {folder!r}, cannot be part of a key in a bucket. Rename the "
            f"source, or use a folder as --cache-dir."
        )
    cache = marker.url_of(root) or ""
    if f"{folder}/{OWNER_FILE}" not in marker.load(root, cache).files:
        with changing(root, cache) as known:
            _own(root, known, folder)
    bucket.put(url, part.read_bytes())
    _uploaded.add(part)
    if not placeholders.has_room(part):
        found = part.stat()
        placeholders.make(part, found.st_size, found.st_mtime_ns)


@contextmanager
def removing(where: str | Path) -> Iterator[Path]:
    """Yield a cache folder; what is deleted in it inside goes from its bucket, too."""
    root = pulled(where)
    if (url := marker.url_of(root)) is None:
        yield root
        return
    known = marker.load(root, url)
    there = [key for key in (*known.files, *known.parts) if (root / key).exists()]
    yield root
    with changing(root, url) as known:
        gone = [key for key in there if not (root / key).exists()]
        if not gone:
            return
        found = bucket.listed(url)
        for key in reversed(synced.in_order(gone)):
            is_same = key in known.parts or key not in found
            is_same = is_same or found[key].etag == known.files.get(key, ("",))[0]
            if is_same and not _is_needed(root, known, key) and not _has_more(found, key):
                bucket.delete(f"{url}/{key}")
                found.pop(key, None)
                known.files.pop(key, None)
                known.parts.pop(key, None)


def _is_needed(root: Path, known: Marker, key: str) -> bool:
    """Return whether a key is that of a part which a feature file needs, or may need."""
    features, _, name = key.rpartition(f"{parted.PARTS}/")
    if kind_of(key) is not Kind.PART or not (root / features).exists():
        return False
    # what is not pushed yet needs others than what lies in the bucket
    is_same = known.files.get(features, ("", None))[1] == file_state(root / features)
    return not is_same or name in parted.names_of(root / features)


def _has_more(found: Found, key: str) -> bool:
    """Return whether a key is that of the owner of a folder in which there is something else."""
    folder = key.rpartition("/")[0]
    return kind_of(key) is Kind.OWNER and any(
        other.startswith(f"{folder}/") and other != key for other in found
    )


def _news(root: Path, known: Marker) -> list[str]:
    """Return the keys of files that are not as they were when they were the bucket's."""
    nothing = ("", None)
    keys = synced.files_in(root)
    return [key for key in keys if known.files.get(key, nothing)[1] != file_state(root / key)]


def _put(root: Path, known: Marker, key: str, replaces: str | None = None) -> None:
    path = root / key
    state = file_state(path)
    etag = bucket.put(f"{known.url}/{key}", path.read_bytes(), replaces)
    known.files[key] = etag, state


def _push_features(root: Path, known: Marker, found: Found, key: str) -> None:
    """Put a feature file in place after its parts, and delete those that it no longer needs."""
    there, before = found.get(key), known.files.get(key)
    if (there.etag if there else None) != (before[0] if before else None):
        raise BehindError(f"{known.url}/{key}")
    _own(root, known, key.partition("/")[0])
    path, beginning = root / key, synced.parts_of(key)
    needed = {beginning + name for name in parted.names_of(path)}
    missing = sorted(needed - found.keys())
    if any(placeholders.is_one(root / one) or not (root / one).exists() for one in missing):
        path.unlink()  # nobody has rows of it any more: what is left of it lies in parts
        raise BehindError(f"{known.url}/{missing[0]}")
    bucket.each(lambda one: bucket.put(f"{known.url}/{one}", (root / one).read_bytes()), missing)
    _put(root, known, key, bucket.NEW if before is None else before[0])
    needless = [
        one
        for one in found
        if one.startswith(beginning) and one not in needed and not (root / one).exists()
    ]
    old_ns = time.time_ns() - int(IN_THE_MAKING_S * 1e9)
    mine = [
        one
        for one in needless
        if known.parts.get(one) in (OWN, PUBLISHED)
        or root / one in _uploaded
        or found[one].modified_ns < old_ns
    ]
    bucket.each(lambda one: bucket.delete(f"{known.url}/{one}"), mine)
    for one in mine:
        known.parts.pop(one, None)
    known.parts |= dict.fromkeys(needed, PUBLISHED)


def _own(root: Path, known: Marker, folder: str) -> None:
    """Say in the bucket whose a folder is, before anything is put into it."""
    key = f"{folder}/{OWNER_FILE}"
    if key in known.files:
        return
    try:
        _put(root, known, key, bucket.NEW)
    except BehindError:
        url = f"{known.url}/{folder}"
        if (there := bucket.listed(url).get(OWNER_FILE)) is None:
            raise
        data = bucket.get(f"{url}/{OWNER_FILE}", there.size, etag=there.etag)
        is_same = (root / key).read_bytes() == data
        (root / key).write_bytes(data)
        known.files[key] = there.etag, file_state(root / key)
        if not is_same:
            raise FolderTakenError(root / folder) from None


def _forget_heads(root: Path, known: Marker, found: Found, board: str) -> None:
    """Delete the files of heads that were there before, and are not in their new folder."""
    folder = board.rpartition("/")[0]
    for key in [one for one in known.files if one.startswith(f"{folder}/")]:
        if not (root / key).exists():
            if key in found:
                bucket.delete(f"{known.url}/{key}")
            del known.files[key]
