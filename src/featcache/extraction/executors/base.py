"""What every executor offers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

from featcache.extraction.run import PartRows
from featcache.extraction.shards import Shard

# `run.run`: takes a shard, and optionally the networks of this process
Run = Callable[..., Iterator[PartRows]]


class Executor(Protocol):
    """Has shards done, wherever that is; nothing above it knows."""

    name: str  # for provenance

    def map(self, run: Run, shards: Sequence[Shard]) -> Generator[PartRows, None, None]:
        """Yield the rows of every shard as they come, in any order between shards.

        It may part shards further. When the caller closes it, no more is begun.
        """

    @property
    def remark(self) -> str:
        """What a progress bar says besides; empty for what the work waits for."""
