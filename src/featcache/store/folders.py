"""Where things lie below the cache folder: a folder a source, and what is newest in it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import h5py

from featcache.errors import HeadError, StoreError
from featcache.spec import ExtractionSpec

OWNER_FILE = "source.json"


def source_folder(cache_dir: Path, name: str, origin: str) -> Path:
    """Return the folder of a source below the cache folder; it need not exist yet.

    It bears the source's name; a second source of the same name gets a suffix.

    Raises
    ------
    StoreError
        When that one, too, belongs to another source.
    """
    digest = hashlib.blake2b(os.fsencode(origin), digest_size=3).hexdigest()
    for folder in (cache_dir / name, cache_dir / f"{name}-{digest}"):
        if owner(folder) in (origin, None):
            sweep(folder)
            return folder
    raise StoreError(f"Cache folder '{folder}' belongs to another source. Use another --cache-dir.")


def claim(folder: Path, origin: str) -> None:
    """Make a source's folder if need be, and write down whose it is."""
    if folder.is_dir() and owner(folder) == origin:
        return
    prepare(folder.parent)
    folder.mkdir(exist_ok=True)
    write_text(folder / OWNER_FILE, json.dumps({"origin": origin}))


def write_text(path: Path, text: str) -> None:
    """Write a small file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def prepare(cache_dir: Path) -> None:
    """Make the cache folder, which keeps itself out of git."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    ignore = cache_dir / ".gitignore"
    if not ignore.exists():
        write_text(ignore, "*\n")


def owner(folder: Path) -> str | None:
    """Return the origin of the source that a folder belongs to; None for a folder of nobody."""
    try:
        return str(json.loads((folder / OWNER_FILE).read_text())["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
        and not _is_running(int(match[1]))
    ]


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # asking would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def of_fingerprint(cache_dir: Path, spec: ExtractionSpec) -> list[Path]:
    """Return the feature files anywhere in the cache folder that have this spec.

    Only that is asked: a file whose text is damaged can still lend its rows.
    """
    paths = sorted(cache_dir.glob(f"*/{glob.escape(spec.short_name)}*.h5"))
    return [path for path in paths if has_fingerprint(path, spec.fingerprint)]


def has_fingerprint(path: Path, fingerprint: str) -> bool:
    """Return whether an HDF5 file can be read and was made with this spec."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = file.attrs["fingerprint"]
            return bool((found.decode() if isinstance(found, bytes) else found) == fingerprint)
    except (OSError, KeyError, RuntimeError):
        return False


def newest_features(cache_dir: Path) -> Path:
    """Return the feature file written last.

    Raises
    ------
    StoreError
        When the cache folder has none.
    """
    found = [path for path in cache_dir.glob("*/*.h5") if path.is_file()]
    if not found:
        raise StoreError(
            f"There is no feature file in '{cache_dir}'. Run `featcache extract` first."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def newest_heads(cache_dir: Path) -> Path:
    """Return the folder of heads written last.

    Raises
    ------
    HeadError
        When the cache folder has none.
    """
    found = list(cache_dir.glob("*/*.heads/leaderboard.json"))
    if not found:
        raise HeadError(f"There are no heads in '{cache_dir}'. Run `featcache fit-heads` first.")
    return max(found, key=lambda path: path.stat().st_mtime).parent
