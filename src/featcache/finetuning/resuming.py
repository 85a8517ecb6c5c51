"""The folder in which a run keeps what it needs to go on after an interruption.

It lies beside the model that is to be written and is deleted when that is there, but for files of
others in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featcache.core import atomic, disk, locks
from featcache.core.errors import StitchError
from featcache.finetuning.plan import TrainingPlan
from featcache.finetuning.training import BACKUP, HISTORY, WHOLE
from featcache.finetuning.training_images import TrainingImages
from featcache.models import card

REQUEST, LOCK = "request.json", "lock"
_STAGE = r"[a-z -]+-\d+"  # folder of a stage of training
_OURS = re.compile(rf"{REQUEST}|{_STAGE}(/{BACKUP}(/.*)?|/{HISTORY}|/best-\d+\.npz)?")


@contextmanager
def kept(
    target: Path,
    described: card.Card,
    plan: TrainingPlan,
    data: TrainingImages,
    say: Callable[[str], None],
) -> Iterator[Path]:
    """Yield the folder of a run; one that an interrupted run of the same request left goes on.

    Raises
    ------
    StitchError
        When another process trains for the same file.
    DiskError
        When there is no room for it, or it may not be written.
    """
    folder = target.with_name(f".{target.stem}.training")
    with disk.writing(target.parent):
        folder.mkdir(exist_ok=True)

    def busy() -> None:
        raise StitchError(
            f"Another process is fine-tuning into '{target}'. Wait for it, or give another --out."
        )

    goes_on = True
    try:
        with locks.locked(folder / LOCK, busy):
            try:
                _begin(folder, _request(described, plan, data), say)
                with disk.writing(folder):
                    yield folder
                _clear(folder)
            finally:
                goes_on = _has_epochs(folder)
                if not goes_on:
                    _clear(folder)
    finally:
        if not goes_on:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # somebody's file lies there
                folder.rmdir()


def _begin(folder: Path, asked: str, say: Callable[[str], None]) -> None:
    """Go on with what lies in the folder where it is of the same request, or empty it."""
    found = _read(folder / REQUEST) if _has_epochs(folder) else None
    if found == asked:
        say(f"Going on with the training that was interrupted ('{folder}').")
        return
    if found is not None:
        say("The training that was interrupted here was another one; starting afresh.")
    _clear(folder)
    atomic.write_text(folder / REQUEST, asked)


def _has_epochs(folder: Path) -> bool:
    """Return whether an epoch is there to go on after."""
    return any(folder.glob(f"*/{BACKUP}/{WHOLE}"))


def _request(described: card.Card, plan: TrainingPlan, data: TrainingImages) -> str:
    """Return everything that decides what training gives, as text."""
    images = hashlib.blake2b(digest_size=16)
    for rows in (data.train, data.validation, data.test):
        images.update(data.listing.digests[rows].tobytes())
        images.update(data.y[rows].tobytes())
    values = {
        "model": described.model_digest,
        "images": images.hexdigest(),
        "plan": plan.to_dict(),
    }
    return json.dumps(values, sort_keys=True)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _clear(folder: Path) -> None:
    """Delete everything of ours but the lock."""
    for inner, folders, files in os.walk(folder, topdown=False):
        for path in (Path(inner, name) for name in (*files, *folders)):
            is_ours = _OURS.fullmatch(path.relative_to(folder).as_posix()) is not None
            if path.is_dir() and is_ours:
                with suppress(OSError):  # somebody's file lies there
                    path.rmdir()
            elif is_ours or atomic.is_temporary(path):
                path.unlink()
