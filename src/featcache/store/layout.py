"""Where things lie below the cache folder: a folder per source, the locks, and what is newest."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import h5py

from featcache.core import disk, locks
from featcache.core.atomic import write_text
from featcache.core.errors import DiskError, HeadError, SpecError, StoreError
from featcache.core.spec import ExtractionSpec
from featcache.core.text import file_name
from featcache.data import urls
from featcache.store import hdf5, parted
from featcache.store.strings import read_attribute, write_attribute

OWNER_FILE = "source.json"
LOCK_FOLDER = ".locks"
INDEX = ".index"  # ending of the index for searching a feature file
STAMP_FOLDER = ".stamps"
LONGEST_FOLDER = 240  # bytes of its name
CLEAN_FINGERPRINT = "clean_fingerprint"  # where there are views: of the spec without them


def source_folder(cache_dir: Path, name: str, origin: str) -> Path:
    """Return the folder of a source below the cache folder; it need not exist yet.

    It bears the source's name; a second source of the same name gets a suffix.

    Raises
    ------
    StoreError
        When that one, too, belongs to another source.
    """
    digest = hashlib.blake2b(os.fsencode(origin), digest_size=3).hexdigest()
    for named in (name, f"{name}-{digest}"):
        folder = cache_dir / file_name(named, LONGEST_FOLDER)
        # where the cache folder is the one beside the images, theirs is no place for features
        if owner(folder) in (origin, None) and os.path.realpath(folder) != origin:
            return folder
    raise StoreError(f"Cache folder '{folder}' belongs to another source. Use another --cache-dir.")


class FolderTakenError(StoreError):
    """A folder that was free belongs to another source of the same name by now."""

    def __init__(self, folder: Path):
        super().__init__(f"Cache folder '{folder}' belongs to another source by now. Run again.")


def claim(folder: Path, origin: str) -> None:
    """Make a source's folder if need be, and write down whose it is.

    Raises
    ------
    FolderTakenError
        When it was free when `source_folder` named it, and is another source's by now.
    """
    if folder.is_dir() and owner(folder) == origin:
        return
    with _owners(folder.parent):
        if owner(folder) not in (origin, None):
            raise FolderTakenError(folder)
        with disk.writing(folder):
            folder.mkdir(exist_ok=True)
        write_text(folder / OWNER_FILE, json.dumps({"origin": origin}))


@contextmanager
def claimed(folder: Path, origin: str) -> Iterator[None]:
    """Claim a source's folder, and leave none where nothing was put into it."""
    claim(folder, origin)
    try:
        yield
    finally:
        release(folder)


def release(folder: Path) -> None:
    """Remove a source's folder if there is nothing in it but whose it is."""
    with suppress(OSError), _owners(folder.parent):  # it is gone, or cannot be written
        if [path.name for path in folder.iterdir()] == [OWNER_FILE]:
            (folder / OWNER_FILE).unlink()
            folder.rmdir()


def _owners(cache_dir: Path) -> AbstractContextManager[None]:
    """Hold the lock of whose the folders are."""
    return locks.locked(_lock_folder(cache_dir) / "owners.lock", lambda: None)


def prepare(cache_dir: Path) -> None:
    """Make the cache folder, which keeps itself out of git.

    Raises
    ------
    SpecError
        When it is a URL, which is no folder here.
    """
    on_disk(cache_dir)
    with disk.writing(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
    ignore = cache_dir / ".gitignore"
    if not ignore.exists():
        write_text(ignore, "*\n")


def on_disk(cache_dir: str | os.PathLike[str]) -> Path:
    """Return a cache folder's path; raise SpecError where it is a URL."""
    if (url := urls.as_url(os.fspath(cache_dir))) is not None:
        raise SpecError(
            f"'{urls.shown(url)}' cannot be the cache folder of a demo, of Embedder or of "
            f"fine-tuning, which need one on a disk. Use a folder."
        )
    return Path(cache_dir)


def stand_in(path: Path, cache_dir: Path) -> Path:
    """Return where in a cache folder that lies which cannot lie at `path`, beside its features."""
    name = path.absolute().parent.name
    return source_folder(cache_dir, name, _whose(path.parent)) / path.name


def place_for(path: Path, cache_dir: Path) -> Path:
    """Return `path` where it may be written, or its `stand_in`, in whose folder it may.

    Raises
    ------
    DiskError
        When neither may be written.
    """
    if disk.is_writable(path.parent):
        return path
    place = stand_in(path, cache_dir)
    if not disk.is_writable(place.parent):
        raise DiskError(
            f"Neither '{path.parent}' nor the cache folder '{cache_dir}' may be written to. Give "
            f"the path of what is to be read, and a --cache-dir that may be written to."
        )
    claim(place.parent, _whose(path.parent))
    return place


def _whose(folder: Path) -> str:
    return owner(folder) or os.path.abspath(folder)


class BusyError(StoreError):
    """Another process makes a feature file."""


def locked(path: Path, wait: bool, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold the lock of a feature file: one writer at a time; readers never wait.

    Parameters
    ----------
    path : the feature file, CACHE/SOURCE/NAME.h5.
    wait : wait for another process instead of raising.
    say : told, once, that there is a wait.

    Raises
    ------
    BusyError
        When another process holds it and `wait` is False.
    DiskError
        When the cache folder may not be written to.
    """

    def busy() -> None:
        if not wait:
            raise BusyError(
                f"Another process is extracting into '{path}'. Run again when it is done, or "
                f"without --no-wait."
            )
        say(f"Another process is extracting into '{path}'; waiting for it (Ctrl-C to stop).")

    folder = _lock_folder(path.parent.parent)
    return locks.locked(folder / f"{file_name(f'{path.parent.name}-{path.name}')}.lock", busy)


def _lock_folder(cache_dir: Path) -> Path:
    folder = cache_dir / LOCK_FOLDER
    with disk.writing(cache_dir):
        prepare(cache_dir)
        folder.mkdir(exist_ok=True)
    return folder


def owner(folder: Path) -> str | None:
    """Return the origin of the source that a folder belongs to; None for a folder of nobody."""
    try:
        return str(json.loads((folder / OWNER_FILE).read_text())["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_spec(cache_dir: Path, spec: ExtractionSpec) -> list[Path]:
    """Return the files anywhere in the cache folder that have published rows of this spec.

    Only the fingerprint is asked: a file whose text is damaged can still lend its rows. Files with
    views and files of clean images alone lend each other theirs.
    """
    backbone = spec.short_name.rpartition("-")[0]  # as files are called, which shortens long names
    paths = sorted(cache_dir.glob(f"*/{glob.escape(backbone)}-*.h5"))
    found = (path for path in paths if has_rows_of(path, spec))
    return [lender for path in found for lender in parted.lenders(path)]


def has_rows_of(path: Path, spec: ExtractionSpec) -> bool:
    """Return whether an HDF5 file can be read and has rows of this spec, of whichever views."""
    try:
        with hdf5.reading(path, peeks=True) as file:
            name = CLEAN_FINGERPRINT if CLEAN_FINGERPRINT in file.attrs else "fingerprint"
            return read_attribute(file, name) == spec.clean.fingerprint
    except (OSError, KeyError, RuntimeError, ValueError):
        return False


def mark_clean(file: h5py.File, spec: ExtractionSpec) -> None:
    """Say in a file with views to which clean images they belong; `has_rows_of` reads it."""
    if spec.clean != spec:
        write_attribute(file, CLEAN_FINGERPRINT, spec.clean.fingerprint)


EMBEDDER = "memory:/embedder"  # origin of `Embedder`'s rows: no collection's name has a slash


def newest_features(cache_dir: Path, with_maps: bool = False) -> Path:
    """Return the feature file written last.

    Parameters
    ----------
    with_maps : it may hold maps instead of vectors.

    Raises
    ------
    StoreError
        When the cache folder has none.
    """
    found = [
        path
        for path in cache_dir.glob("*/*.h5")
        # the rows that an Embedder keeps have no labels and are nobody's collection
        if path.is_file() and owner(path.parent) != EMBEDDER
    ]
    # nor are the maps at a boundary, which fine-tuning keeps; boxes are learnt from maps
    found = [path for path in found if with_maps or not _has_maps(path) or _has_boxes(path)]
    if not found:
        raise StoreError(
            f"There is no feature file in '{cache_dir}'. Run `featcache extract` first."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _has_maps(path: Path) -> bool:
    """Return whether a feature file holds maps instead of vectors."""
    try:
        with hdf5.reading(path) as file:
            return len(parted.rows_of(file).shape) > 2
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError):
        return False  # who opens it says what is wrong with it


def _has_boxes(path: Path) -> bool:
    try:
        with hdf5.reading(path) as file:
            return "boxes" in file
    except (OSError, KeyError, RuntimeError, ValueError):
        return False


def newest_heads(cache_dir: Path) -> Path:
    """Return the folder of heads written last.

    Raises
    ------
    HeadError
        When the cache folder has none.
    """
    boards = ("leaderboard.json", "detector.json")  # of classes and targets, and of boxes
    found = [path for name in boards for path in cache_dir.glob(f"*/*.heads/{name}")]
    if not found:
        raise HeadError(f"There are no heads in '{cache_dir}'. Run `featcache fit-heads` first.")
    return max(found, key=lambda path: path.stat().st_mtime).parent
