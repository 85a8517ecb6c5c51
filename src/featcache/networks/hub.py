"""Folders of weights from the Hugging Face Hub, by `hf:owner/name` or `hf:owner/name@revision`.

`huggingface_hub` downloads, resumes and keeps them; HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are its
own. What is recorded has the commit, so that a branch that moves on changes nothing unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from featcache.core import progress
from featcache.core.errors import BackboneError, SpecError
from featcache.networks import checkpoint
from featcache.networks.providers.base import short

_FILES = (  # of a repository, what a network is made of
    checkpoint.CONFIG,
    checkpoint.PREPROCESSOR,
    checkpoint.WEIGHTS,
    checkpoint.INDEX,
    "model-*.safetensors",
)
_NAME = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def folder_of(name: str) -> Path:
    """Return the folder of a name, downloaded unless it is on this machine already.

    A commit that is there is not asked for again.

    Raises
    ------
    SpecError
        When it is no such name.
    BackboneError
        When it cannot be had.
    """
    repository, revision = _parted(name)
    hub = _library()
    before = _kept(hub, repository, revision)
    if before is not None and before.name == revision:
        return before
    if before is None:
        progress.note(f"Looking for {repository} on the Hugging Face Hub.")
    folder = _current(hub, repository, revision, quietly=before is not None)
    if before is not None and folder != before:
        progress.note(
            f"{repository} has changed on the Hugging Face Hub; its new weights are used."
        )
    if not checkpoint.is_whole(folder):
        raise BackboneError(
            f"'{repository}' on the Hugging Face Hub has not both {checkpoint.CONFIG} and "
            f"{checkpoint.WEIGHTS}, and others are not read: they can run code. A conversion may "
            f"have been proposed there; then hf:{repository}@refs/pr/NUMBER has it."
        )
    return folder


def pinned(name: str, folder: Path) -> str:
    """Return the name of exactly what lies in a folder that `folder_of` gave."""
    repository, _ = _parted(name)
    return f"{checkpoint.HUB}{repository}@{folder.name}"


def own_name(folder: Path) -> str:
    """Return a folder's name, and of one that was downloaded the name on the Hub."""
    if folder.parent.name != "snapshots":
        return folder.name
    return folder.parent.parent.name.rpartition("--")[2]


def is_here(name: str) -> bool:
    """Return whether what a name stands for is on this machine, as far as it was looked for."""
    try:
        return _kept(_library(), *_parted(name)) is not None
    except BackboneError:
        return False


def _parted(name: str) -> tuple[str, str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise SpecError(
            f"'{name}' names nothing on the Hugging Face Hub; expected hf:owner/name, as "
            f"hf:facebook/dinov2-small, or hf:owner/name@revision."
        )
    return found[1], found[2] or "main"


def _library() -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise BackboneError(
            "Names on the Hugging Face Hub need huggingface_hub: pip install 'featcache[hub]'"
        ) from error
    return huggingface_hub


def _kept(hub: Any, repository: str, revision: str) -> Path | None:
    """Return the whole folder that was a revision when it was looked for last, if there is one."""
    try:
        folder = _snapshot(hub, repository, revision, local_files_only=True)
    except (FileNotFoundError, ValueError):
        return None
    return folder if checkpoint.is_whole(folder) else None


def _snapshot(hub: Any, repository: str, revision: str, **more: Any) -> Path:
    return Path(
        hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES), **more)
    )


def _current(hub: Any, repository: str, revision: str, *, quietly: bool) -> Path:
    """Return the folder of a revision as it is now, or as it was where the Hub cannot be asked."""
    errors = hub.errors
    try:
        with _without_bars(hub) if quietly else nullcontext():
            return _snapshot(hub, repository, revision)
    except errors.GatedRepoError as error:
        raise BackboneError(
            f"'{repository}' asks for consent to its licence: give it on its page on the Hugging "
            f"Face Hub, then log in (hf auth login) or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BackboneError(
            f"'{repository}' on the Hugging Face Hub has no revision '{revision}'. Give a branch, "
            f"a tag or a commit that it has, or leave '@{revision}' out."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BackboneError(
            f"The Hugging Face Hub shows no '{repository}'. Mend the name or, if it is private, "
            f"log in (hf auth login) or set HF_TOKEN."
        ) from error
    except FileNotFoundError as error:  # neither there nor here
        why = (
            "HF_HUB_OFFLINE is set"
            if hub.constants.HF_HUB_OFFLINE
            else short(error.__cause__ or error)
        )
        raise BackboneError(
            f"'{repository}' is not on this machine, and the Hugging Face Hub cannot be asked "
            f"({why}). Go online, or give the folder of its files."
        ) from error
    except Exception as error:  # whatever its HTTP client raises
        raise BackboneError(
            f"'{repository}' could not be had from the Hugging Face Hub: {short(error)}. Run the "
            f"same command again; what was downloaded is kept."
        ) from error


@contextmanager
def _without_bars(hub: Any) -> Iterator[None]:
    """Have the library draw no progress where all that it does is to look."""
    was_quiet = hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not was_quiet:
            hub.utils.enable_progress_bars()
