"""What in a cache folder can go: leftovers that nothing needs, and old files where asked for.

Unfinished parts are no leftovers, since the next run goes on from them; age and size reach them
too. Heads and models are results and stay, and so does whatever was not written by featcache.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.core import atomic
from featcache.core.errors import StoreError
from featcache.networks.engines import MODEL_FILES, MODELS_FOLDER, PROGRAM_FILES
from featcache.store import hdf5
from featcache.store.features import KIND
from featcache.store.index import Rows
from featcache.store.layout import INDEX, STAMP_FOLDER, locked, release
from featcache.store.parted import PARTS, bytes_of, lenders, names_of, part_files
from featcache.store.stamps import SUFFIX, path_of
from featcache.store.strings import read_attribute
from featcache.store.synced import FEATURES

MODELS_OF_WEIGHTS = f"{MODELS_FOLDER}/*/"  # the converted models of each network
MODELS = f"{MODELS_OF_WEIGHTS}*/"


@dataclass(frozen=True)
class Removable:
    """What can go, and why."""

    path: Path  # a file, or the folder of a converted model
    why: str
    size_bytes: int
    target: Path | None  # the feature file whose lock guards it; others need none


def removable(
    cache_dir: Path, older_than_s: float | None = None, max_bytes: int | None = None
) -> list[Removable]:
    """Return what can go from a cache folder; nothing is touched.

    Parameters
    ----------
    older_than_s : also feature files, parts, converted models and compiled programs that were
        written longer ago, in seconds.
    max_bytes : also the oldest of those until the others take no more than this.
    """
    found = list(_leftovers(cache_dir))
    known = {one.path for one in found}
    kept = [path for path in cache_dir.glob("*/*.h5") if path.is_file() and _is_ours(path)]
    for folder in cache_dir.glob(f"*/*.h5{PARTS}/"):
        needed = _needed(folder)
        kept += [part for part in part_files(folder) if part.name not in needed]
    kept += [path for path in cache_dir.glob(MODELS) if (path / MODEL_FILES[0]).is_file()]
    kept += cache_dir.glob(f"{MODELS_FOLDER}/{PROGRAM_FILES}")
    kept = [path for path in kept if path not in known]
    kept.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    total, now = 0, time.time()
    for path in kept:  # from the newest on
        total += _size(path)
        age_s = now - path.stat().st_mtime
        if older_than_s is not None and age_s > older_than_s:
            found.append(_removable(path, f"written {age_s / 86400:.1f} days ago"))
        elif max_bytes is not None and total > max_bytes:
            found.append(_removable(path, "over the size limit, and older than the others"))
    return sorted(found, key=lambda one: one.path)


def remove(some: Sequence[Removable]) -> list[Removable]:
    """Delete files, and folders that are empty then; return those that went.

    What another process is working on stays.
    """
    by_target: dict[Path | None, list[Removable]] = {}
    for one in some:
        by_target.setdefault(one.target, []).append(one)
    gone = by_target.pop(None, [])
    for one in gone:
        if one.path.is_dir() and not atomic.is_temporary(one.path):  # a converted model
            for name in MODEL_FILES:
                (one.path / name).unlink(missing_ok=True)
            _remove_if_empty(one.path)
        else:
            atomic.remove(one.path)
        inside = [folder.name for folder in one.path.parents[:3]]
        for own in {MODELS_FOLDER, STAMP_FOLDER}.intersection(inside):
            _remove_if_empty(*one.path.parents[: inside.index(own) + 1])
    for target, mine in by_target.items():
        assert target is not None
        try:
            with locked(target, False, lambda message: None):
                for one in mine:
                    needed = names_of(one.path)
                    one.path.unlink(missing_ok=True)
                    for name in needed:
                        (target.with_name(target.name + PARTS) / name).unlink(missing_ok=True)
        except StoreError:
            continue  # its lock is held
        gone += mine
        _remove_if_empty(target.with_name(target.name + PARTS))
        if not target.is_file():
            stamps = path_of(target)
            stamps.unlink(missing_ok=True)
            _remove_if_empty(stamps.parent, stamps.parent.parent)
        release(target.parent)
    return gone


def _leftovers(cache_dir: Path) -> Iterator[Removable]:
    for folder in (cache_dir, *cache_dir.glob("*/"), *cache_dir.glob(f"*/*{PARTS}/")):
        for path in atomic.left_behind(folder):
            yield _removable(path, "left by a process that died")
    for pattern in (MODELS_OF_WEIGHTS, f"{STAMP_FOLDER}/*/"):
        for folder in cache_dir.glob(pattern):
            for path in atomic.left_behind(folder):
                yield _removable(path, "left by a process that died")
    for path in cache_dir.glob(f"{STAMP_FOLDER}/*/*{SUFFIX}"):
        if not (cache_dir / path.parent.name / f"{path.stem}.h5").is_file():
            yield _removable(path, "stamps for a feature file that is gone")
    for path in cache_dir.glob(f"*/*{INDEX}"):
        if FEATURES.fullmatch(f"{path.stem}.h5") and not path.with_suffix(".h5").is_file():
            yield _removable(path, "an index of a feature file that is gone")
    for folder in cache_dir.glob(f"*/*.h5{PARTS}/"):
        target = _target_of(folder)
        assert target is not None
        published = Rows(lenders(target) if target.is_file() else [])
        needed = _needed(folder)
        for path in part_files(folder):
            if path.name in needed:
                continue
            try:
                with hdf5.reading(path, peeks=True) as file:
                    digests, fingerprint = file["digests"][:], read_attribute(file, "fingerprint")
            except (OSError, KeyError, RuntimeError, ValueError):
                yield _removable(path, "a part that cannot be read")
                continue
            if f"-{fingerprint[:8]}" not in target.name:
                yield _removable(path, "a part of another spec")
            elif np.all(published.find(digests) >= 0):
                yield _removable(path, "a part whose rows are all in the feature file")


def _removable(path: Path, why: str) -> Removable:
    return Removable(path, why, _size(path), _target_of(path))


def _needed(folder: Path) -> frozenset[str]:
    """Return the parts in a folder that are those of a published file, and go with it."""
    target = _target_of(folder)
    return frozenset() if target is None else names_of(target)


def _size(path: Path) -> int:
    """Return the bytes of a file with its parts, or of the files in a folder."""
    if not path.is_dir():
        return bytes_of(path)
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def _is_ours(path: Path) -> bool:
    """Return whether an HDF5 file is a feature file; of one that cannot be read the name says so.

    A cache folder may be anybody's folder.
    """
    try:
        with hdf5.reading(path) as file:
            return "kind" in file.attrs and read_attribute(file, "kind") == KIND
    except (OSError, KeyError, RuntimeError, ValueError):
        return FEATURES.fullmatch(path.name) is not None


def _target_of(path: Path) -> Path | None:
    """Return the feature file that a file is, or that it or a folder of parts is made for."""
    made = path.parent if path.parent.name.endswith(PARTS) else path
    name, suffix, _ = made.name.partition(".h5")  # NAME.h5, NAME.h5.parts or NAME.h5.….tmp
    return made.with_name(name + suffix) if suffix else None


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
