"""Rows that are nowhere yet: images through the backbones into parts.

An image is read and decoded once for all that is made of it: several backbones at their own sizes,
several layers of one forward pass, several views. Decoding, the backbones and the writing of parts
overlap.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from featcache.core import progress
from featcache.core.errors import SourceError
from featcache.core.spec import ExtractionSpec
from featcache.data import loading
from featcache.extraction.inventory import first_of_each
from featcache.extraction.networks import Network, Settings
from featcache.extraction.targets import Target
from featcache.networks import engines
from featcache.store.part_writer import Keeper

ON_ERROR = ("skip", "stop")


def stop_at_failure(failures: Iterable[tuple[str, str]]) -> None:
    """Raise SourceError for the first of failures (id, reason), if there is one."""
    for id_, reason in failures:
        raise SourceError(
            f"Image '{id_}' cannot be used: {reason}. Mend or remove it and run again, or go on "
            f"without it (--on-error skip)."
        )


@dataclass
class Pass:
    """Rows that need the same views from the same networks."""

    rows: np.ndarray
    views: tuple[int, ...]  # made of each image
    needed: list[tuple[Network, list[int]]]  # places in `views` that a network gets


@dataclass
class Work:
    """Running backbones over the rows of one source into the parts of several targets."""

    targets: list[Target]
    settings: Settings
    waited_s: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "backbone": 0.0})
    seconds: float = 0.0  # with images on their way; building and checking networks is not in it

    @cached_property
    def networks(self) -> list[Network]:
        """The forward passes: targets that differ in the layer alone share one."""
        by_pass: dict[tuple[Any, ...], list[Target]] = {}
        for target in self.targets:
            spec = target.spec
            key = (spec.backbone, spec.weights, spec.image_size, spec.precision)
            by_pass.setdefault(key, []).append(target)
        return [Network(some, self.settings) for some in by_pass.values()]

    def build(self) -> None:
        """Build the backbones now, so that their errors come before anything is touched."""
        for network in self.networks:
            _ = network.compiled

    def compute(self, missing: Sequence[np.ndarray]) -> None:
        """Compute what is missing, (n, views) bool for each target.

        Whatever ends this early, finished rows are kept.
        """
        started = time.monotonic()
        wanted = {id(target): mask for target, mask in zip(self.targets, missing, strict=True)}
        passes = [some for group in self._groups() for some in self._passes(group, wanted)]
        n_images = sum(len(one.rows) for one in passes)
        with (
            ExitStack() as stack,
            progress.bar("Extracting", n_images, "images", self.settings.show_progress) as advance,
        ):
            keepers = {id(t): stack.enter_context(Keeper(t.parts)) for t in self.targets}
            for one in passes:
                for numbers, outputs in self._run(one):
                    for (network, places), arrays in zip(one.needed, outputs, strict=True):
                        views = [one.views[place] for place in places]
                        for target, array in zip(network.targets, arrays, strict=True):
                            mine = wanted[id(target)][numbers][:, views]
                            self._keep(target, keepers[id(target)], numbers, views, mine, array)
                    advance(len(numbers), self._bound_by())
                    self._stop_if_asked()
        self.seconds += time.monotonic() - started
        self._stop_if_asked()

    def _groups(self) -> Iterator[list[Network]]:
        """Part the networks by what can be decoded at once: a scaled image is for one size."""
        by_size: dict[Any, list[Network]] = {}
        for network in self.networks:
            size = network.spec.image_size if network.spec.decode_scale else None
            by_size.setdefault(size, []).append(network)
        yield from by_size.values()

    def _passes(self, networks: list[Network], wanted: dict[int, np.ndarray]) -> Iterator[Pass]:
        need = np.stack(
            [np.any([wanted[id(t)] for t in network.targets], axis=0) for network in networks],
            axis=1,
        )  # (n, n_networks, n_views)
        rows = first_of_each(
            self.targets[0].found.scanned.digests, np.flatnonzero(need.any(axis=(1, 2)))
        )
        if not len(rows):
            return
        patterns, which = np.unique(need[rows], axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            made = np.flatnonzero(pattern.any(axis=0)).tolist()
            needed = [
                (network, [made.index(view) for view in np.flatnonzero(views).tolist()])
                for network, views in zip(networks, pattern, strict=True)
                if views.any()
            ]
            yield Pass(rows[which.ravel() == number], tuple(made), needed)

    def _run(self, one: Pass) -> Iterator[tuple[np.ndarray, list[list[np.ndarray]]]]:
        """Yield row numbers with, for each network and target, embeddings (b, v, d)."""
        found = self.targets[0].found
        failures: dict[int, str] = {}
        stacks = loading.stacks(
            found.samples,
            found.scanned,
            one.rows.tolist(),
            specs=[network.spec for network, _ in one.needed],
            view_numbers=one.views,
            batch_size=self.settings.batch_size,
            failures=failures,
            max_pixels=found.max_pixels,
        )

        batches = self._timed(stacks)
        before = time.monotonic()
        first = next(batches, None)
        self.waited_s["backbone"] += time.monotonic() - before
        if first is None:  # nothing could be decoded, so no backbone is needed
            self._fail(one, failures)
            return
        for (network, places), stack in zip(one.needed, first[1], strict=True):
            self._make_ready(network, stack[:, places[0]])

        def start(made: tuple[np.ndarray, ...]) -> Callable[[], list[list[np.ndarray]]]:
            finish = []
            for (network, places), stack in zip(one.needed, made, strict=True):
                mine = stack if len(places) == stack.shape[1] else stack[:, places]
                finish.append(network.start(mine))
            return lambda: [done() for done in finish]

        ahead = max(network.compiled.ahead for network, _ in one.needed)
        done = engines.in_order(itertools.chain([first], batches), start, ahead)
        before, n_failed = time.monotonic(), 0
        for numbers, outputs in done:
            self.waited_s["backbone"] += time.monotonic() - before
            if len(failures) > n_failed:
                n_failed = len(failures)
                self._fail(one, failures)
            yield numbers, outputs
            before = time.monotonic()
        self.waited_s["backbone"] += time.monotonic() - before
        self._fail(one, failures)

    def _make_ready(self, network: Network, images: np.ndarray) -> None:
        """Build, compile and check a network before its first batch; `seconds` leaves that out."""
        if network.agreed is None:
            before = time.monotonic()
            network.check(images)
            self.seconds -= time.monotonic() - before

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass batches on; what is waited for them is decoding, not the backbone."""
        while True:
            before = time.monotonic()
            batch = next(batches, None)
            waited = time.monotonic() - before
            self.waited_s["decoding"] += waited
            self.waited_s["backbone"] -= waited  # which is timed around it
            if batch is None:
                return
            yield batch

    def _bound_by(self) -> str:
        """Say which part of the pipeline the others wait for."""
        decoding, backbone = self.waited_s["decoding"], self.waited_s["backbone"]
        share = decoding / (decoding + backbone) if decoding + backbone > 0 else 0.0
        return f"bound by {'decoding' if share > 0.5 else 'the backbone'}"

    def _fail(self, one: Pass, failures: dict[int, str]) -> None:
        for network, _ in one.needed:
            for target in network.targets:
                target.found.failed.update(failures)

    def _keep(
        self,
        target: Target,
        keeper: Keeper,
        numbers: np.ndarray,
        views: list[int],
        mine: np.ndarray,
        array: np.ndarray,
    ) -> None:
        embeddings = _as_stored(array, target.spec)
        good = self._usable(target, numbers, embeddings)
        some = [good & mine[:, place] for place in range(len(views))]
        keys = [target.keys(numbers[rows], view) for rows, view in zip(some, views, strict=True)]
        rows = [embeddings[rows, place] for place, rows in enumerate(some)]
        keeper.add(np.concatenate(keys), np.concatenate(rows))
        target.computed.update(numbers[good & mine.any(axis=1)].tolist())

    def _usable(self, target: Target, numbers: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Return which rows of a batch may be kept; the others become failures."""
        found = target.found
        good: np.ndarray = np.isfinite(embeddings).all(axis=tuple(range(1, embeddings.ndim)))
        for place, row in enumerate(numbers.tolist()):
            if not good[place]:
                found.failed[row] = f"its features are not finite in {embeddings.dtype}"
            elif not self._is_unchanged(target, row):
                # its digest is of other bytes than its pixels; the next run looks at it afresh
                found.failed[row] = "it changed while it was read"
                found.scanned.digests[row] = 0
                good[place] = False
        return good

    def _is_unchanged(self, target: Target, row: int) -> bool:
        try:
            return target.found.samples.stamp(row) == target.found.scanned.stamp(row)
        except OSError:
            return False

    def _stop_if_asked(self) -> None:
        if self.settings.stop:
            for target in self.targets:
                stop_at_failure(target.found.named_failures())


def _as_stored(embeddings: np.ndarray, spec: ExtractionSpec) -> np.ndarray:
    """Convert to the stored dtype, in NumPy: HDF5's own conversion is many times slower."""
    with np.errstate(over="ignore"):
        return np.asarray(embeddings.astype(spec.dtype))
