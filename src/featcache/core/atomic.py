"""Small files that appear whole or not at all, and what processes left when they died."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_STARTED = time.time()  # of this process, near enough


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file in one rename; sweep up earlier attempts."""
    sweep(path.parent, f"{path.name}.")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
