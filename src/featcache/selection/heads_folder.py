"""The folder that a comparison is saved in: its place, who writes there, what in it is ours."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from featcache import store
from featcache.core import atomic, disk, locks, progress
from featcache.core.errors import SpecError
from featcache.core.tasks import TASKS
from featcache.heads.catalogue import CATALOGUE, ONE_CLASS_CATALOGUE
from featcache.scoring import leaderboard
from featcache.scoring.leaderboard import Leaderboard
from featcache.selection.dataset import Dataset

_ALWAYS = (
    leaderboard.BOARD_FILE,
    leaderboard.CSV_FILE,
    leaderboard.OPEN_SET_FILE,
    leaderboard.OUT_OF_FOLD_FILE,
    leaderboard.REPORT_FILE,
)
_NAMES = "|".join({**CATALOGUE, **ONE_CLASS_CATALOGUE})
_OF_A_HEAD = re.compile(rf"(\d+-)?({_NAMES})\.(skops|keras|npz)")


def beside(dataset: Dataset, cache_dir: Path) -> Path:
    """Return the folder of a comparison on a dataset, where the caller names none."""
    first = dataset.sets[0]
    if dataset.path is None:
        return cache_dir / f"arrays-{first.content[:8]}" / "arrays.heads"
    task = dataset.annotations.task
    # what else heads learn from a file lies apart from what it says itself
    ending = f".{task}.heads" if TASKS[task].is_one_class else ".heads"
    if len(dataset.sets) == 1:
        return dataset.path.with_suffix(ending)
    contents = "".join(sorted(one.content for one in dataset.sets))
    digest = hashlib.blake2b(contents.encode(), digest_size=4).hexdigest()
    return dataset.path.with_name(f"{len(dataset.sets)}-files-{digest}{ending}")


def known(place: Path, cache_dir: Path, request: dict[str, Any]) -> Leaderboard | None:
    """Return the saved comparison of the same request, if it is whole.

    Where a place may not be written to, that may lie in the cache folder instead.
    """
    places = [place]
    if not disk.is_writable(place.parent):
        places.append(store.stand_in(place, cache_dir))
    found = (leaderboard.load_if_same(one, request) for one in places)
    return next((board for board in found if board is not None), None)


def ready(folder: Path, dataset: Dataset, cache_dir: Path) -> Path:
    """Return where heads are saved that belong beside their features.

    Raises
    ------
    DiskError
        When it may not be written there, nor in the cache folder instead.
    """
    if dataset.path is None:
        with disk.writing(cache_dir):
            store.prepare(cache_dir)
    else:
        folder = store.place_for(folder, cache_dir)
    return folder


def checked(folder: Path) -> Path:
    """Return the folder; raise SpecError where its place is taken by something else than heads."""
    folder = Path(os.path.abspath(folder)) if folder.name in ("", ".", "..") else folder
    place = atomic.real(folder)
    if not place.exists():
        return folder
    others = [place.name]
    if place.is_dir():
        is_ours = own_files(place)
        others = sorted(path.name for path in place.iterdir() if not is_ours(Path(path.name)))
        if not others or leaderboard.is_folder(place):
            return folder
    raise SpecError(
        f"'{folder}' is not a folder of heads ({', '.join(others[:3])}), so none are saved there. "
        f"Name one that does not exist, or move what is there."
    )


def own_files(folder: Path) -> Callable[[Path], bool]:
    """Return what says of a path below a folder of heads, relative to it, whether it is ours."""
    folder = atomic.real(folder)
    try:
        saved = json.loads((folder / leaderboard.BOARD_FILE).read_text(encoding="utf-8"))
        names = {str(result["file"]) for result in saved["results"]}
    except (OSError, ValueError, KeyError, TypeError):  # nothing says which heads were saved
        return lambda path: str(path) in _ALWAYS or bool(_OF_A_HEAD.fullmatch(str(path)))
    return lambda path: str(path) in names.union(_ALWAYS)


def add_report(board: Leaderboard, show_progress: bool) -> None:
    """Write the report of a saved comparison, or say where it may not be written."""
    if disk.is_writable(board.folder):
        from featcache.report import write_report

        write_report(board)
    else:
        progress.note(
            f"'{board.folder}' has no report and may not be written to; `featcache report --out` "
            f"makes one elsewhere.",
            show_progress,
        )


def alone(folder: Path, show_progress: bool) -> AbstractContextManager[None]:
    """Wait for another process that fits heads into the same folder, and keep others waiting."""

    def busy() -> None:
        progress.note(f"Another process fits heads into '{folder}'; waiting for it.", show_progress)

    with disk.writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return locks.locked(folder.with_name(f".{folder.name}.lock"), busy)
