"""What every executor offers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Protocol

from featcache.extraction.run import PartRows
from featcache.extraction.shards import Shard

# `run.run`: takes a shard, and optionally the networks of this process
Run = Callable[..., Iterator[PartRows]]


class Executor(Protocol):
    """Has shards done, wherever that is; nothing above it knows."""

    def map(self, run: Run, shards: Iterable[Shard]) -> Generator[PartRows, None, None]:
        """Yield the rows of every shard as they come, in any order between shards.

        When the caller closes it, no more is begun.
        """
