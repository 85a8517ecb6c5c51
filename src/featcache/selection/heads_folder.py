"""The folder that a comparison is saved in: its place, and who may write there."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from featcache import store
from featcache.core import locks, progress
from featcache.core.errors import SpecError
from featcache.scoring import leaderboard
from featcache.selection.dataset import Dataset


def beside(dataset: Dataset) -> Path:
    """Return the folder of a comparison on a dataset, where the caller names none."""
    first = dataset.sets[0]
    if dataset.path is None:
        store.prepare(Path("cache"))
        return Path("cache", f"arrays-{first.content[:8]}", "arrays.heads")
    if len(dataset.sets) == 1:
        return dataset.path.with_suffix(".heads")
    contents = "".join(sorted(one.content for one in dataset.sets))
    digest = hashlib.blake2b(contents.encode(), digest_size=4).hexdigest()
    return dataset.path.with_name(f"{len(dataset.sets)}-files-{digest}.heads")


def checked(folder: Path) -> Path:
    """Return the folder; raise SpecError where its place is taken by something else than heads."""
    folder = Path(os.path.abspath(folder)) if folder.name in ("", ".", "..") else folder
    if not folder.exists() and not folder.is_symlink():
        return folder
    foreign = [folder.name]
    if folder.is_dir() and not folder.is_symlink():
        foreign = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
        if not foreign and (leaderboard.is_folder(folder) or not any(folder.iterdir())):
            return folder
    raise SpecError(
        f"'{folder}' is not a folder of heads ({', '.join(foreign[:3]) or 'no leaderboard.json'}), "
        f"and would be replaced. Name one that does not exist."
    )


def _is_ours(path: Path) -> bool:
    known = ("leaderboard.json", "leaderboard.csv", "out_of_fold.npz", "report.html")
    return path.is_file() and (path.name in known or path.suffix in (".skops", ".keras"))


def alone(folder: Path, show_progress: bool) -> AbstractContextManager[None]:
    """Wait for another process that fits heads into the same folder, and keep others waiting."""

    def busy() -> None:
        progress.note(f"Another process fits heads into '{folder}'; waiting for it.", show_progress)

    return locks.locked(folder.with_name(f".{folder.name}.lock"), busy)
