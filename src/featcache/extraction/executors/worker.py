"""What a worker of an engine does: shards, one at a time, with the networks of its process.

A worker shares nothing with who has it work but what it is sent. So before it computes it makes
sure that it has the same versions, and that names and paths mean the same weights to it.
"""

from __future__ import annotations

import functools
import os
import pickle
import platform
import threading
from collections.abc import Mapping
from dataclasses import replace

from featcache.core.errors import EngineError, FeatcacheError
from featcache.core.versions import version
from featcache.extraction.executors.base import Run
from featcache.extraction.networks import Networks
from featcache.extraction.run import PartRows
from featcache.extraction.shards import NetworkPlan, Shard
from featcache.networks import backbones, engines

_MUST_AGREE = ("featcache", "keras")  # on what a spec means, and on what the layers compute
_one_at_a_time = threading.Lock()  # a network uses every core, or the whole GPU


def versions() -> dict[str, str]:
    """Return the versions that a worker must share with who has it work."""
    return {package: version(package) for package in _MUST_AGREE}


def packed(run: Run, shard: Shard) -> bytes:
    """Return a shard and what runs it, as it is sent.

    It is pickled here rather than by the engine, so that a worker compares versions before it
    meets a class that another version has not.

    Raises
    ------
    EngineError
        When its images, or its network, are in this process alone.
    """
    if any(backbones.is_of_this_process(one.network.weights) for one in shard.passes):
        raise EngineError(
            "The backbone is a Keras model of this process, which workers do not have. Save it "
            "where they can read it, and give its path (backbone='model.keras')."
        )
    passes = tuple(
        replace(one, network=replace(one.network, backbone=None)) for one in shard.passes
    )
    try:
        return pickle.dumps((run, replace(shard, passes=passes)), pickle.HIGHEST_PROTOCOL)
    # as pickle has it, of whatever the images are made of
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise EngineError(
            f"The images of '{shard.listing.source.origin}' are in this process alone "
            f"({error}), and workers cannot have them. Use files, or --engine inline."
        ) from error


def do(packed: bytes, caller: Mapping[str, str]) -> list[PartRows]:
    """Return the rows of a shard; `caller` is what `versions` gave there.

    Raises
    ------
    EngineError
        When this worker has other versions, or other weights under the same name.
    """
    mine = versions()
    for package, theirs in caller.items():
        if mine.get(package) != theirs:
            raise EngineError(
                f"Worker '{_here()}' has {package} {mine.get(package)}, and this process has "
                f"{theirs}. Install the same version on both."
            )
    with _one_at_a_time:
        run, shard = pickle.loads(packed)
        for one in shard.passes:
            _prepare(one.network)
        parts = list(run(shard, _networks()))
    # what several workers spent on building their networks overlaps
    return [replace(one, spent_s=_without_preparing(one.spent_s)) for one in parts]


@functools.cache
def _networks() -> Networks:
    return Networks()


@functools.lru_cache(maxsize=64)
def _prepare(plan: NetworkPlan) -> None:
    """Make sure that this worker has the very network that is asked for."""
    if plan.machine.models is not None:
        engines.keep_programs(plan.machine.models, plan.machine.device)
    name, options = backbones.options_of(plan.specs[0], plan.weights)
    try:
        here = backbones.resolve(name, **options)
    except FeatcacheError as error:
        raise EngineError(f"Worker '{_here()}' cannot have the backbone: {error}") from error
    if here.spec != plan.specs[0]:
        what = "; ".join(here.spec.differences(plan.specs[0]))
        raise EngineError(
            f"Worker '{_here()}' has another backbone under the name '{plan.weights}': {what}. "
            f"Copy the weights of this machine there."
        )


def _without_preparing(spent_s: Mapping[str, float]) -> dict[str, float]:
    return {what: seconds for what, seconds in spent_s.items() if what != "preparing"}


def _here() -> str:
    return f"{platform.node()}, process {os.getpid()}"
