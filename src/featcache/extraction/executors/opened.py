"""From how an extraction is asked to be run to the executor that does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from featcache.core.running import Running
from featcache.extraction.executors import dask, ray
from featcache.extraction.executors.base import Executor
from featcache.extraction.executors.futures import Futures
from featcache.extraction.executors.inline import Inline


def opened(running: Running) -> AbstractContextManager[Executor]:
    """Return a context with the executor that is asked for.

    Raises
    ------
    EngineError
        When its package is not installed, or it does not answer.
    """
    if running.engine == "dask":
        return dask.opened(running.scheduler)
    if running.engine == "ray":
        return ray.opened(running.address or ray.AUTO)
    return _here(running)


@contextmanager
def _here(running: Running) -> Iterator[Executor]:
    yield Inline() if running.executor is None else Futures(running.executor)
