"""A cache folder in a bucket: a local folder stands for it, which all else here works on.

`pulled` makes the folder like the bucket, `push` puts into the bucket what is new here. Parts are
only told of and read when they are needed, see `placeholders`; they are uploaded as they are made,
so that a feature file is put in place when all its parts are there. See
docs/decisions/object-storage.md.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from featcache.core import atomic, disk, locks
from featcache.core.errors import SpecError, StoreError
from featcache.core.text import file_name
from featcache.data import urls
from featcache.store import bucket, marker, parted, placeholders, synced
from featcache.store.bucket import BehindError, Object
from featcache.store.hdf5 import file_state
from featcache.store.layout import LOCK_FOLDER, BusyError, locked, prepare
from featcache.store.marker import OWN, PUBLISHED, SEEN, Marker
from featcache.store.synced import Kind, kind_of

ATTEMPTS = 3
_LONGEST = 120  # bytes of a working copy's name

Found = dict[str, Object]


def pulled(where: str | os.PathLike[str], afresh: bool = False) -> Path:
    """Return a path as it is, and for a URL the path that stands for it here, like the bucket now.

    Parameters
    ----------
    where : of a cache folder, or of a feature file or a folder of heads in one.
    afresh : read again what is here already.

    Raises
    ------
    SpecError
        When it is a URL of another storage than S3, or of nothing in a cache folder.
    StoreError
        When there is no such file or folder of heads.
    SourceError, StorageError
        When it cannot be had.
    """
    if (url := urls.as_url(os.fspath(where))) is None:
        return Path(where)
    url = url.rstrip("/")
    if urls.scheme_of(url).extra != "s3":
        raise SpecError(
            f"'{urls.shown(url)}' cannot be a cache folder: of object storage that can only be "
            f"s3://BUCKET/FOLDER. Use one of these, or a folder."
        )
    cache, below = _split(url)
    root = _root_of(cache)
    _pull(root, cache, below, afresh)
    path = root / below
    if below and not path.exists():
        what, verb = ("Heads", "fit-heads") if below.endswith(synced.HEADS) else ("File", "extract")
        raise StoreError(f"{what} '{url}' does not exist. Run `featcache {verb}` first.")
    return path


def root_of(path: Path) -> Path | None:
    """Return the working copy that a path lies in, or is; None where it lies in none."""
    path = path.absolute()
    near = (path, *path.parents[:3])  # ROOT/SOURCE/NAME.heads/FILE
    return next((one for one in near if marker.url_of(one) is not None), None)


def refresh(path: Path) -> None:
    """Make a working copy, or what it has of a feature file, like the bucket; else do nothing."""
    path = path.absolute()
    if (root := root_of(path)) is not None and (url := marker.url_of(root)) is not None:
        _pull(root, url, "" if path == root else path.relative_to(root).as_posix(), False)


def syncing(root: Path) -> AbstractContextManager[None]:
    """Hold the lock of a working copy's marker."""
    prepare(root)
    folder = root / LOCK_FOLDER
    folder.mkdir(exist_ok=True)
    return locks.locked(folder / "bucket.lock", lambda: None)


@contextmanager
def changing(root: Path, url: str) -> Iterator[Marker]:
    """Yield what is known of a bucket, kept afterwards; nobody else here changes it meanwhile."""
    with syncing(root):
        known = marker.load(root, url)
        try:
            yield known
        finally:
            known.save(root)


def _split(url: str) -> tuple[str, str]:
    """Return the URL of a cache folder, and the key of a file or folder of heads in it or ""."""
    if not url.endswith((".h5", synced.HEADS)):
        return url, ""
    scheme, slashes, path = url.partition("://")
    *cache, folder, name = ["", *path.split("/")]
    if not any(cache):
        raise SpecError(f"'{url}' lies in no cache folder; s3://BUCKET/FOLDER/SOURCE/NAME is one.")
    return f"{scheme}{slashes}{'/'.join(cache[1:])}", f"{folder}/{name}"


def _root_of(url: str) -> Path:
    """Return the folder that stands for a cache folder in a bucket."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    said = file_name(re.sub(r"[^\w.-]+", "-", url.partition("://")[2]), _LONGEST)
    # buckets of other servers may be called the same
    digest = hashlib.blake2b(f"{bucket.endpoint_of(url)} {url}".encode(), digest_size=4)
    return home / "featcache" / f"{said}-{digest.hexdigest()}"


def _pull(root: Path, url: str, below: str, afresh: bool) -> None:
    for attempt in range(ATTEMPTS):
        with disk.writing(root, "set XDG_CACHE_HOME to a folder on another disk"):
            root.mkdir(parents=True, exist_ok=True)
        try:
            with changing(root, url) as known:
                _take_over(root, known, below, afresh)
            return
        except BehindError:  # written anew between the listing and the read
            if attempt + 1 == ATTEMPTS:
                raise


def _take_over(root: Path, known: Marker, below: str, afresh: bool) -> None:
    """Make what lies below a key, "" for all, like the bucket; what is new here stays."""
    folder, _, name = below.partition("/")

    # heads may be of several feature files of a folder
    stem = f"{folder}/{name.rpartition('.')[0]}." if name.endswith(".h5") else ""

    def is_asked(key: str) -> bool:
        return key.startswith(stem) or kind_of(key) is Kind.OWNER

    prefix = f"{folder}/" if below else ""
    listed = bucket.listed(f"{known.url}/{folder}" if below else known.url)
    every = synced.ours({prefix + key: one for key, one in listed.items()})
    found = {key: one for key, one in every.items() if is_asked(key)}
    ours = [key for key in (*known.files, *known.parts) if key.startswith(prefix) and is_asked(key)]
    parts = {key: one for key, one in found.items() if kind_of(key) is Kind.PART}
    for key, one in parts.items():
        _told_of(root / key, one, known, key, afresh)
    files = synced.in_order(found.keys() - parts.keys())
    news = [key for key in files if not _is_here(root, known, key, found[key], afresh)]
    for first in (False, True):  # a feature file is put in place after the rest
        some = [key for key in news if (kind_of(key) is Kind.FEATURES) is first]
        bucket.each(lambda key: _downloaded(root, known, key, found[key]), some)
    for key in reversed(synced.in_order([key for key in ours if key not in found])):
        _gone(root, known, key)


def _is_here(root: Path, known: Marker, key: str, found: Object, afresh: bool) -> bool:
    """Return whether a file is that of the bucket, or one made of that and not pushed yet."""
    etag, before = known.files.get(key, ("", None))
    state = file_state(root / key)
    return etag == found.etag and state is not None and not (afresh and state == before)


def _told_of(path: Path, found: Object, known: Marker, key: str, afresh: bool) -> None:
    """Have a part here, as a placeholder where its bytes are not."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        placeholders.make(path, found.size, found.modified_ns)
        known.parts.setdefault(key, SEEN)
        return
    is_other = path.stat().st_size != found.size
    if afresh or (is_other and placeholders.is_one(path)):
        placeholders.make(path, found.size, found.modified_ns)
    if key not in known.parts:  # who died after it was uploaded did not say so
        known.parts[key] = SEEN if placeholders.is_one(path) else OWN


def _downloaded(root: Path, known: Marker, key: str, found: Object) -> None:
    """Put an object in place; a feature file that is being made here stays, see `push`."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(BusyError), _mine(path):
        with atomic.replacing(path, sweeps=False, size_bytes=found.size) as made:
            bucket.download(f"{known.url}/{key}", found, made)
            os.utime(made, ns=(found.modified_ns, found.modified_ns))
        known.files[key] = found.etag, file_state(path)
        for name in parted.names_of(path) if kind_of(key) is Kind.FEATURES else ():
            known.parts[f"{synced.parts_of(key)}{name}"] = PUBLISHED


def _mine(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of a feature file, and none of another; raise BusyError where it is held."""
    if kind_of(f"{path.parent.name}/{path.name}") is not Kind.FEATURES:
        return nullcontext()
    return locked(path, False, lambda message: None)


def _gone(root: Path, known: Marker, key: str) -> None:
    """Delete here what was deleted in the bucket, if it is what lay there."""
    path = root / key
    if key in known.parts:
        path.unlink(missing_ok=True)
    elif file_state(path) == known.files[key][1]:
        with suppress(BusyError), _mine(path):
            path.unlink(missing_ok=True)
    known.parts.pop(key, None)
    known.files.pop(key, None)
    for folder in path.relative_to(root).parents[:-1]:
        with suppress(OSError):  # not empty
            (root / folder).rmdir()
