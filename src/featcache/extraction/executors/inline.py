"""In this process, one shard after the other, each network built once."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from featcache.extraction.executors.base import Run
from featcache.extraction.networks import Networks
from featcache.extraction.run import PartRows
from featcache.extraction.shards import Shard


class Inline:
    """The default executor."""

    name = "inline"
    remark = ""

    def __init__(self) -> None:
        self.networks = Networks()

    def map(self, run: Run, shards: Sequence[Shard]) -> Generator[PartRows, None, None]:
        """Yield the rows of the shards in order, each as it is computed."""
        for shard in shards:
            yield from run(shard, self.networks)
