"""From what is missing to published files; here alone it is decided what a failure means."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.core.errors import SourceError, StoreError
from featcache.data.listing import Listing
from featcache.extraction import speeds
from featcache.extraction.executors import Executor, Inline
from featcache.extraction.output import OutputFile
from featcache.extraction.run import PartRows, run
from featcache.extraction.shards import Machine, networks_of, shards_of
from featcache.store.part_writer import PartWriter

MAX_ATTEMPTS = 10


@dataclass
class Costs:
    """What an extraction took, with what was computed for files that others published first."""

    started: float = field(default_factory=time.monotonic)
    n_computed: Counter[Path] = field(default_factory=Counter)  # images, by feature file
    seconds: float = 0.0  # with images on their way; building and checking networks is not in it
    waited_s: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "backbone": 0.0})

    def add(self, part: PartRows) -> None:
        """Count what rows took."""
        for what, seconds in part.spent_s.items():
            if what in self.waited_s:
                self.waited_s[what] += seconds
            else:
                self.seconds -= seconds

    @property
    def bound_by(self) -> str:
        """Say which part of the pipeline the others wait for."""
        decoding, backbone = self.waited_s["decoding"], self.waited_s["backbone"]
        share = decoding / (decoding + backbone) if decoding + backbone > 0 else 0.0
        return f"bound by {'decoding' if share > 0.5 else 'the backbone'}"


@dataclass(frozen=True)
class Making:
    """How files are made from what is missing."""

    executor: Executor
    machine: Machine
    stop: bool = False  # at the first failure
    show_progress: bool = True
    costs: Costs = field(default_factory=Costs)

    @property
    def is_here(self) -> bool:
        """Whether this process computes, so that its speed is this machine's."""
        return isinstance(self.executor, Inline)


def stop_at_failure(failures: Iterable[tuple[str, str]]) -> None:
    """Raise SourceError for the first of failures (id, reason), if there is one."""
    for id_, reason in failures:
        raise SourceError(
            f"Image '{id_}' cannot be used: {reason}. Mend or remove it and run again, or go on "
            f"without it (--on-error skip)."
        )


def make(
    outputs: Sequence[OutputFile], how: Making, cache: Path | None, passed_by: Iterable[Path] = ()
) -> dict[Path, store.Features]:
    """Compute what no file has, and publish every output; their locks are held.

    `cache` is the folder whose files may lend rows, but for those `passed_by`; None uses this run's
    parts alone.
    """
    files: dict[Path, store.Features] = {}
    # each lender may turn out damaged, and then its rows are computed
    n_lenders = sum(len(store.of_spec(cache, one.spec)) for one in outputs) if cache else 0
    at_most = MAX_ATTEMPTS + 2 * n_lenders
    attempts = store.Attempts(at_most, passed_by)
    for _ in attempts:
        todo = [one for one in outputs if one.path not in files]
        if not todo:
            return files
        rows = {one.path: one.rows(cache, attempts) for one in todo}
        nothing = np.zeros((len(outputs[0].listing), outputs[0].spec.views), bool)
        missing = [one.missing(rows[one.path]) if one in todo else nothing for one in outputs]
        if any(some.any() for some in missing):
            compute(outputs, missing, how)
            continue
        # one that has no row at all ends the run, after the others are safe
        todo.sort(key=OutputFile.has_nothing)
        with attempts:
            for one in todo:
                files[one.path] = one.publish(rows[one.path])
    paths = ", ".join(f"'{one.path}'" for one in outputs if one.path not in files)
    raise StoreError(
        f"Rows for {paths} disappeared {at_most} times. Does another program write there? "
        f"Run the same command again, or use another --cache-dir."
    )


def _stop_if_asked(outputs: Sequence[OutputFile], how: Making) -> None:
    if how.stop:
        for output in outputs:
            stop_at_failure(output.named_failures())


def compute(outputs: Sequence[OutputFile], missing: Sequence[np.ndarray], how: Making) -> None:
    """Compute what is missing, (n, views) bool for each output, into its parts.

    Whatever ends this early, finished rows are kept.

    Raises
    ------
    DiskError
        When there is no room for them, as soon as their size is known.
    """
    started = time.monotonic()
    n_missing = int(np.any(missing, axis=0).sum())
    machine = replace(how.machine, n_images=n_missing)
    networks = networks_of([one.resolved for one in outputs], machine)
    shards = list(shards_of(outputs[0].listing, networks, missing))
    n_images = sum(len(shard) for shard in shards)
    roomy: set[int] = set()  # files for which there is room
    looked: list[tuple[np.ndarray, Listing]] = []
    with (
        ExitStack() as stack,
        progress.bar("Extracting", n_images, "images", how.show_progress) as advance,
    ):
        writers = [stack.enter_context(PartWriter(one.parts)) for one in outputs]
        parts = stack.enter_context(closing(how.executor.map(run, shards)))
        for part in parts:
            output = outputs[part.file]
            if part.file not in roomy and len(part.features):  # its rows are of this size
                output.demand_room(missing[part.file], part.features)
                roomy.add(part.file)
            writers[part.file].add(part.keys, part.features)
            output.is_computed[part.rows] = True
            output.failed.update(part.failures)
            output.dark.update(part.dark)
            output.ran = part.ran or output.ran
            if part.looked is not None:
                looked.append(part.looked)
            if part.is_whole:
                for writer in writers:
                    writer.flush()
            how.costs.add(part)
            if part.n_images:  # every file has its rows of this batch
                advance(part.n_images, how.executor.remark or how.costs.bound_by)
                _stop_if_asked(outputs, how)
    if looked:
        listing = outputs[0].listing.filled(looked)
        for output in outputs:
            output.learn(listing)
    _stop_if_asked(outputs, how)
    how.costs.seconds += time.monotonic() - started
    if not how.is_here:
        for output in outputs:
            output.ran = {**output.ran, "executor": how.executor.name}
    elif len(outputs) == 1:  # else it is nobody's alone
        outputs[0].ran = {**outputs[0].ran, **speeds.noted(n_images, how.costs.seconds)}
    for output in outputs:
        output.fail_copies()
