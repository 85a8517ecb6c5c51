"""Who does the shards: here, one after the other, or an engine on many machines."""

from featcache.extraction.executors.base import Executor, Run
from featcache.extraction.executors.inline import Inline
from featcache.extraction.executors.opened import opened

__all__ = ["Executor", "Inline", "Run", "opened"]
