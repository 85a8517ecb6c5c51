"""Pieces of work that can be done anywhere: images of a listing, and the networks they go through.

A shard says everything that computing it needs, and can be pickled; it knows no file that the rows
are for. See `run.run` for what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.spec import ExtractionSpec
from featcache.data.listing import Listing
from featcache.extraction.listing import first_of_each

if TYPE_CHECKING:
    import keras

    from featcache.networks import backbones


@dataclass(frozen=True)
class Machine:
    """How to compute; none of it changes the numbers beyond rounding."""

    batch_size: int | str | None = None  # auto measures; None does so on GPUs
    device: str = "auto"
    runtime: str = "auto"
    models: Path | None = None  # folder of converted models
    # that will be computed, where that is known; a network that is there serves any number
    n_images: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class NetworkPlan:
    """One forward pass with an output for each spec: they differ in layer and pooling alone."""

    specs: tuple[ExtractionSpec, ...]
    weights: str  # imagenet, random or a path: where the weights come from
    machine: Machine
    backbone: keras.Model | None = field(default=None, compare=False, repr=False)  # if it is there


@dataclass(frozen=True)
class Pass:
    """A network with what it is to give for the images of a shard."""

    network: NetworkPlan
    places: tuple[int, ...]  # among the views of the shard: those that the network runs on
    files: tuple[int, ...]  # for each output the number of the feature file that wants it
    missing: tuple[np.ndarray, ...]  # for each output (n, n_views) bool: what its file lacks


@dataclass(frozen=True)
class Shard:
    """Images, what is made of each, and the networks they go through; nothing changes in it."""

    listing: Listing  # of these images alone
    rows: np.ndarray  # (n,) int64: which they are in the listing of the whole run
    views: tuple[int, ...]  # made of each image
    passes: tuple[Pass, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def pieces(self, size: int) -> Iterator[Shard]:
        """Yield shards of `size` images, the last one of fewer."""
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            some = np.arange(start, min(start + size, len(self)))
            passes = tuple(
                replace(one, missing=tuple(each[some] for each in one.missing))
                for one in self.passes
            )
            yield Shard(self.listing.take(some), self.rows[some], self.views, passes)


def networks_of(
    every: Sequence[backbones.Resolved], machine: Machine
) -> list[tuple[NetworkPlan, tuple[int, ...]]]:
    """Return each forward pass with the numbers of the files it serves.

    Files that differ in the layer alone share one.
    """
    by_pass: dict[tuple[Any, ...], list[int]] = {}
    for number, one in enumerate(every):
        spec = one.spec
        key = (spec.backbone, spec.weights, spec.preprocessing, spec.geometry, spec.precision)
        by_pass.setdefault(key, []).append(number)
    return [
        (
            NetworkPlan(
                specs=tuple(every[number].spec for number in numbers),
                weights=every[numbers[0]].weights,
                machine=machine,
                backbone=every[numbers[0]].backbone,
            ),
            tuple(numbers),
        )
        for numbers in by_pass.values()
    ]


def shards_of(
    listing: Listing,
    networks: Sequence[tuple[NetworkPlan, tuple[int, ...]]],
    missing: Sequence[np.ndarray],
) -> Iterator[Shard]:
    """Yield shards that compute what is missing, (n, views) bool for each file.

    The images of a shard need the same views from the same networks, so that each is read and
    decoded once for all that is made of it. Of copies only the first is computed.
    """
    for group in _decoded_at_once(networks):
        need = np.stack(
            [np.any([missing[file] for file in files], axis=0) for _, files in group], axis=1
        )  # (n, n_networks, n_views)
        rows = np.flatnonzero(need.any(axis=(1, 2)))
        if listing.is_read:  # else whoever reads them finds copies
            rows = first_of_each(listing.digests, rows)
        if not len(rows):
            continue
        patterns, which = np.unique(need[rows], axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            mine = rows[which.ravel() == number]
            views = np.flatnonzero(pattern.any(axis=0))
            passes = [
                Pass(
                    network=network,
                    places=tuple(np.flatnonzero(wanted[views]).tolist()),
                    files=files,
                    missing=tuple(missing[file][np.ix_(mine, views)] for file in files),
                )
                for (network, files), wanted in zip(group, pattern, strict=True)
                if wanted.any()
            ]
            some = listing if len(mine) == len(listing) else listing.take(mine)
            yield Shard(some, mine, tuple(views.tolist()), tuple(passes))


def _decoded_at_once(
    networks: Sequence[tuple[NetworkPlan, tuple[int, ...]]],
) -> list[list[tuple[NetworkPlan, tuple[int, ...]]]]:
    """Part networks by what can be decoded at once: a scaled image is for one geometry."""
    by_geometry: dict[Any, list[tuple[NetworkPlan, tuple[int, ...]]]] = {}
    for network, files in networks:
        spec = network.specs[0]
        geometry = spec.geometry if spec.decode_scale else None
        by_geometry.setdefault(geometry, []).append((network, files))
    return list(by_geometry.values())
