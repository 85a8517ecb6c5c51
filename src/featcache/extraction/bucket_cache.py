"""Extraction into a cache folder in a bucket, which other machines write to at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from featcache.core import progress
from featcache.core.errors import SpecError
from featcache.core.running import Running
from featcache.store import bucket, uploading, working_copy

ATTEMPTS = 3

Made = TypeVar("Made")


def used(asked: Running, make: Callable[[Running], Made]) -> Made:
    """Return what `make` makes in the cache folder that is asked for.

    One in a bucket is told by a folder here. Where another machine publishes the same file
    meanwhile all is looked at again, images included: what either has computed is found.

    Raises
    ------
    SpecError
        When rows are to be assembled, which stay in parts there.
    BehindError
        When other machines were quicker each time; what was computed is kept.
    """
    cache = working_copy.pulled(asked.cache_dir)
    if working_copy.root_of(cache) is None:
        return make(asked)
    if asked.assemble_up_to:
        raise SpecError(
            "assemble_up_to is given, and the cache folder lies in a bucket, where rows stay in "
            "parts. Leave out --assemble-up-to."
        )
    running = replace(asked, cache_dir=cache, assemble_up_to=0.0)
    for _ in range(ATTEMPTS - 1):
        try:
            return _pushed(running, make)
        except bucket.BehindError:
            progress.note("Another machine wrote there; looking again.", asked.show_progress)
            working_copy.refresh(cache)
    return _pushed(running, make)


def _pushed(running: Running, make: Callable[[Running], Made]) -> Made:
    made = make(running)
    uploading.push(running.cache)  # what an earlier run could not
    return made
