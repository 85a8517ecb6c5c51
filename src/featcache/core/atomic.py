"""Files and folders that appear whole or not at all, and what processes left when they died.

Whatever is being made lies beside its target as NAME.TOKEN.PID.tmp, or NAME.PID.tmp from earlier
versions, until it is renamed.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STARTED = time.time()  # of this process, near enough


@contextmanager
def replacing(
    path: Path, *, ending: str = "", flush: bool = False, sweeps: bool = True
) -> Iterator[Path]:
    """Yield where to write what then takes the place of `path`, whole or not at all.

    An error inside leaves what was there before.

    Parameters
    ----------
    path : a file or a folder, which need not exist; its parent must.
    ending, sweeps : see `temporary`.
    flush : have the file on the disk before it is renamed, and the new name right after.
    """
    with temporary(path, ending=ending, sweeps=sweeps) as made:
        yield made
        if flush:
            with made.open("rb+") as file:
                os.fsync(file.fileno())
        put(made, path)
        if flush:
            _sync_folder(path.parent)


@contextmanager
def temporary(path: Path, *, ending: str = "", sweeps: bool = True) -> Iterator[Path]:
    """Yield a name beside `path` that is free; what lies there in the end is deleted.

    Parameters
    ----------
    ending : of `path`, which the name has as well, for writers that look at it: .keras.
    sweeps : first delete what dead processes left of the same name.
    """
    stem = path.name.removesuffix(ending)
    if sweeps:
        sweep(path.parent, f"{stem}.")
    # threads share a process number, and so do processes in containers
    token = secrets.token_hex(4)
    made = path.with_name(f"{stem}.{token}.{os.getpid()}.tmp{ending}")
    try:
        yield made
    finally:
        _remove(made)


def put(made: Path, path: Path) -> None:
    """Rename a file or folder to `path`, where an earlier one may lie."""
    if made.is_dir() and os.path.lexists(path):
        with temporary(path, sweeps=False) as before:
            path.replace(before)  # a folder does not replace another one
            try:
                made.replace(path)
            except OSError:
                before.replace(path)
                raise
    else:
        made.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file in one rename; sweep up earlier attempts."""
    with replacing(path) as made:
        made.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write plain JSON types as `write_text` does, for people too."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


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
        _remove(path)


def left_behind(folder: Path, prefix: str = "") -> list[Path]:
    """Return temporary files and folders in `folder` of processes that run no more."""
    return [
        path
        for path in folder.glob(f"{glob.escape(prefix)}*.tmp*")
        if (match := re.search(r"\.(\d+)\.tmp(\.keras)?$", path.name))
        and _is_of_the_dead(path, int(match[1]))
    ]


def _is_of_the_dead(path: Path, pid: int) -> bool:
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
