"""Files and folders that appear whole or not at all, and what processes left when they died.

Whatever is being made lies beside its target as NAME.TOKEN.PID.tmp until it is renamed. What nobody
here wrote is never removed, and what a symbolic link stands for is written, not the link replaced.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcache.core import disk, progress
from featcache.core.errors import DiskError
from featcache.core.escapes import ESCAPES

IsOurs = Callable[[Path], bool]  # of a path relative to a folder

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.(\d+)\.tmp(\.keras)?$")  # nobody else names files so
_STARTED = time.time()  # of this process, near enough


@contextmanager
def replacing(
    path: Path,
    *,
    ending: str = "",
    flush: bool = False,
    sweeps: bool = True,
    is_ours: IsOurs | None = None,
    size_bytes: int | None = None,
) -> Iterator[Path]:
    """Yield where to write what then takes the place of `path`, whole or not at all.

    An error inside leaves what was there before.

    Parameters
    ----------
    path : a file or a folder, which need not exist; its parent must. What it is a link to is
        replaced, not the link.
    ending, sweeps, size_bytes : see `temporary`.
    flush : have the file on the disk before it is renamed, and the new name right after.
    is_ours : see `put`.

    Raises
    ------
    DiskError
        When there is no room for it, or it may not be written.
    """
    path = real(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # who reads a pipe would wait on
        raise DiskError(
            f"'{path}' cannot be written: it is a pipe or device, and a file is put in its place. "
            f"Choose another place (--out)."
        )
    with temporary(path, ending=ending, sweeps=sweeps, size_bytes=size_bytes) as made:
        yield made
        if flush:
            with made.open("rb+") as file:
                os.fsync(file.fileno())
        put(made, path, is_ours)
        if flush:
            _sync_folder(path.parent)


@contextmanager
def temporary(
    path: Path, *, ending: str = "", sweeps: bool = True, size_bytes: int | None = None
) -> Iterator[Path]:
    """Yield a name beside `path` that is free; what lies there in the end is deleted.

    Parameters
    ----------
    ending : of `path`, which the name has as well, for writers that look at it: .keras.
    sweeps : first delete what dead processes left of the same name.
    size_bytes : that it takes at least, where this is known.

    Raises
    ------
    DiskError
        When there is no room for it, it may not be written, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise DiskError(
            f"'{path}' cannot be written: its folder does not exist. Make that, or choose another "
            f"place (--cache-dir, --out)."
        )
    stem = path.name.removesuffix(ending)
    if sweeps:
        sweep(path.parent, f"{stem}.")
    made = path.with_name(f"{stem}.{_token()}.{os.getpid()}.tmp{ending}")
    try:
        yield made
    except Exception as error:
        found = disk.cause(error, made)
        if found is None:
            raise
        remove(made)  # before it is said how much is free
        raise disk.failure(found, path, size_bytes) from error
    finally:
        remove(made)


def real(path: Path) -> Path:
    """Return what a symbolic link leads to, and any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def put(made: Path, path: Path, is_ours: IsOurs | None = None) -> None:
    """Rename a file or folder to `path`, where an earlier one may lie.

    Parameters
    ----------
    path : no link.
    is_ours : of a folder, whether a file in the earlier one, by its path relative to it, was
        written here; all others are moved into the new one. None is for folders that only we write.
    """
    if not (made.is_dir() and os.path.lexists(path)):
        made.replace(path)
        return
    # a folder does not replace another one; no `sweep` deletes what has this name
    before = path.with_name(f"{path.name}.before-{_token()}")
    try:
        path.replace(before)
        made.replace(path)
    except BaseException:
        if before.exists() and not path.exists():
            before.replace(path)
        raise
    if is_ours is None or _moved(before, path, is_ours):
        with temporary(path, sweeps=False) as gone:
            before.replace(gone)
    else:
        progress.note(f"Files of the same names as new ones are kept in '{before}'.")


def _moved(before: Path, path: Path, is_ours: IsOurs) -> bool:
    """Move what others wrote into a folder's successor; return whether all of it could be."""
    has_moved = True
    for folder, folders, files in os.walk(before):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        empty = [""] if not folders and not files else []
        for name in (*files, *links, *empty):
            one = Path(folder, name).relative_to(before)
            if is_ours(one):
                continue
            if os.path.lexists(path / one):
                has_moved &= not name
                continue
            (path / one).parent.mkdir(parents=True, exist_ok=True)
            (before / one).replace(path / one)
    return has_moved


def write_text(path: Path, text: str, errors: str = ESCAPES) -> None:
    """Write a small UTF-8 file in one rename; sweep up earlier attempts."""
    with replacing(path) as made:
        made.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: Path, values: Any) -> None:
    """Write plain JSON types as `write_text` does, for people too."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    # what UTF-8 has not becomes JSON's own escapes, so that a path is read as the same path
    write_text(path, text + "\n", errors="backslashreplace")


def plain(value: Any) -> Any:
    """Return nested values as JSON can hold them: lists for tuples, None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sweep(folder: Path, prefix: str = "") -> None:
    """Delete temporary files that a process left in `folder` when it died."""
    for path in left_behind(folder, prefix):
        remove(path)


def left_behind(folder: Path, prefix: str = "") -> list[Path]:
    """Return temporary files and folders in `folder` of processes that run no more."""
    return [path for path in temporaries(folder, prefix) if _is_of_the_dead(path)]


def temporaries(folder: Path, prefix: str = "") -> list[Path]:
    """Return temporary files and folders in `folder`, whoever made them."""
    found = folder.glob(f"{glob.escape(prefix)}*.tmp*")
    return [path for path in found if is_temporary(path)]


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder has the name of something in the making."""
    return _TEMPORARY.search(path.name) is not None


def _is_of_the_dead(path: Path) -> bool:
    match = _TEMPORARY.search(path.name)
    assert match is not None
    pid = int(match[1])
    if pid == os.getpid():  # in containers every process may have the same number
        try:
            return path.stat().st_mtime < _STARTED - 1
        except OSError:
            return False
    if os.name != "posix":
        return False  # asking would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _token() -> str:
    # threads share a process number, and so do processes in containers
    return secrets.token_hex(4)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):  # on a read-only disk to delete what is not there is an error, too
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
