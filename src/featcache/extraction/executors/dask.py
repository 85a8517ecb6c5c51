"""Dask: a scheduler somewhere, or a new cluster of processes here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featcache.core.errors import EngineError, one_line
from featcache.extraction.executors.base import Executor
from featcache.extraction.executors.futures import Futures

ANSWERS_WITHIN_S = 10
NAME = "Dask"


@contextmanager
def client(scheduler: str | None, **workers: Any) -> Iterator[Any]:
    """Yield a client of Dask, and close it if it was made here.

    Parameters
    ----------
    scheduler : its address, tcp://HOST:8786. None is the current client's, else that which
        DASK_SCHEDULER_ADDRESS names, else a new cluster of processes here.
    workers : of a new cluster, as `distributed.LocalCluster` takes them.

    Raises
    ------
    EngineError
        When Dask is not installed, or no scheduler answers within 10 s.
    """
    try:
        import dask
        from distributed import Client, get_client
    except ImportError as error:
        raise EngineError("Dask is not installed. Run `pip install 'featcache[dask]'`.") from error
    if scheduler is None:
        try:
            found = get_client()
        except ValueError:
            scheduler = dask.config.get("scheduler-address", None)
        else:
            yield found
            return
    try:
        if scheduler is None:
            made = Client(dashboard_address=":0", **workers)
        else:
            made = Client(scheduler, timeout=ANSWERS_WITHIN_S, set_as_default=False)
    # no address, nobody there, somebody else there: Dask has an error of every kind for it
    except Exception as error:
        raise EngineError(
            f"No Dask scheduler answers at '{scheduler}' ({one_line(error, 200).rstrip('.')}). "
            f"Start one (`dask scheduler`), and give its address as it says it: tcp://HOST:8786."
        ) from error
    with made:
        yield made


@contextmanager
def opened(scheduler: str | None) -> Iterator[Executor]:
    """Yield an executor on Dask's workers; with GPUs as a resource, each task takes one."""
    with client(scheduler, threads_per_worker=1) as found:
        from distributed.scheduler import KilledWorker

        has_gpus = any(
            "GPU" in one["resources"]
            for one in found.scheduler_info(n_workers=-1)["workers"].values()
        )
        options = {"resources": {"GPU": 1}} if has_gpus else {}
        # not pure: the same call twice is two calls, on images that may have changed
        executor = found.get_executor(pure=False, **options)
        try:
            yield Futures(executor, NAME, lambda: len(found.nthreads()), (KilledWorker,))
        finally:
            executor.shutdown(wait=False)
