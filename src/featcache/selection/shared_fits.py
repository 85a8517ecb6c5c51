"""Heads on more rows than memory: fits in passes over the file that all folds and settings share.

In memory, each process has copies of the rows of the fit that it makes. Where these do not fit,
heads that can learn from blocks of rows are fitted here, all those that a step of the comparison
asks for at once; the calls that then go to the processes have their fitted heads with them.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from featcache import heads
from featcache.core import memory
from featcache.core.progress import Advance
from featcache.selection import parallel
from featcache.selection.fold_work import FitJob, Fits, messages_of, rows_of
from featcache.selection.folds import FoldedData
from featcache.selection.parallel import Call, RunCalls

MEMORY_SHARE = 0.5  # of the machine's that copies of the rows may take
COPY_BYTES = 12  # of a number: as float32, and preprocessed in two ways


def where_needed(run: RunCalls, data: FoldedData, jobs: int, advance: Advance) -> RunCalls:
    """Return a `run` that first fits heads that can learn in passes, as many as share them.

    Or the one that was given, where the rows fit into memory.
    """
    if not _are_many(data):
        return run

    def run_shared(calls: Iterable[Call]) -> Iterator[tuple[Any, Any]]:
        return run(_fitted(list(calls), parallel.threads(jobs), advance))

    return run_shared


def _are_many(data: FoldedData) -> bool:
    """Return whether the rows are more than fits in memory, one on each core, can copy.

    It goes by the machine, not by what is free nor by how many processes are asked for: these do
    not change the numbers.
    """
    copies = [
        len(data.train) * views[0].size * (views.dtype.itemsize + COPY_BYTES)
        for views in data.views
    ]
    return bool(max(copies) * (os.cpu_count() or 1) > MEMORY_SHARE * memory.total_memory())


def _fitted(calls: list[Call], threads: int, advance: Advance) -> list[Call]:
    """Return the calls, those of heads that learn in passes with what was fitted."""
    alike: dict[Any, list[int]] = {}
    for place, call in enumerate(calls):
        job = call.arguments[-1]
        if isinstance(job, FitJob) and job.candidate.kind.passes:
            # what ships is on its own: how long its fit takes is shown
            key = (job.candidate.name, id(call.arguments[0]), bool(job.without))
            alike.setdefault(key, []).append(place)
    done = list(calls)
    for places in alike.values():
        some = [calls[place] for place in places]
        for place, call, fits in zip(places, some, _fits(some, threads, advance), strict=True):
            *others, job = call.arguments
            done[place] = replace(call, arguments=(*others, replace(job, fitted=fits)))
    return done


def _fits(calls: list[Call], threads: int, advance: Advance) -> list[Fits]:
    from threadpoolctl import threadpool_limits

    name = calls[0].arguments[-1].candidate.name
    asked: list[tuple[heads.Head, heads.TrainingRows]] = []
    made: list[dict[int, heads.Head]] = []
    known: dict[Any, heads.TrainingRows] = {}
    for call in calls:
        views, y, folds, job = call.arguments
        key = (id(folds), job.without, job.at_most)
        if key not in known:
            known[key] = rows_of(views, y, folds, job)
        its = {
            number: job.candidate.kind(**job.candidate.settings[number]) for number in job.settings
        }
        made.append(its)
        asked += [(head, known[key]) for head in its.values()]
    started = time.perf_counter()
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kind = calls[0].arguments[-1].candidate.kind
        kind.fit_in_passes(asked, threads, lambda text: advance(0, f"{name}: {text}"))
    seconds = time.perf_counter() - started
    return [Fits(its, seconds, messages_of(caught)) for its in made]
