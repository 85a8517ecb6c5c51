"""Calls in processes of one thread each, on any joblib backend.

The numbers do not depend on how many processes share the work, because every fit has one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from featcache.core import process
from featcache.core.checks import bad, check_choice, whole
from featcache.core.errors import SpecError
from featcache.heads.dense_training import limit_threads

BACKENDS = ("loky", "dask", "ray")


@dataclass(frozen=True)
class Call:
    """A call whose result comes back with the key it belongs to, in any order."""

    key: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Caller:
    """What a worker has to know of who has it work."""

    pid: int
    has_own_workers: bool  # see `process.is_own`; those of a cluster may do something else, too


RunCalls = Callable[[Iterable[Call]], Iterator[tuple[Any, Any]]]


def check(jobs: object, backend: object) -> int:
    """Return the number of processes; raise SpecError where it or the backend is wrong."""
    check_choice("backend", backend, BACKENDS)
    if not (number := whole(jobs)):
        raise bad("jobs", "be a number of processes, or -1 for one per core", jobs)
    return number


@contextmanager
def processes(jobs: int, backend: str = "loky") -> Iterator[RunCalls]:
    """Yield a function that runs calls and yields (key, result) as they finish.

    Parameters
    ----------
    jobs : processes; -1 is one per core, or whatever a cluster has.
    backend : loky; dask, whose client is the current one or a new local cluster
        (DASK_SCHEDULER_ADDRESS names another); or ray.

    Raises
    ------
    SpecError
        When the backend is unknown or its package is not installed.
    """
    import joblib

    number = check(jobs, backend)
    options = {"inner_max_num_threads": 1} if backend == "loky" else {}
    caller = Caller(os.getpid(), has_own_workers=backend == "loky")
    with _cluster(backend, number), joblib.parallel_config(backend, n_jobs=number, **options):

        def run(calls: Iterable[Call]) -> Iterator[tuple[Any, Any]]:
            # arrays are arguments of their own, not inside others: so Dask sends each once
            tasks = (
                joblib.delayed(_one_thread)(caller, call.key, call.function, *call.arguments)
                for call in calls
            )
            found: Iterator[tuple[Any, Any]] = joblib.Parallel(return_as="generator_unordered")(
                tasks
            )
            return found

        yield run


def _one_thread(
    caller: Caller, key: Any, function: Callable[..., Any], *arguments: Any
) -> tuple[Any, Any]:
    from joblib.externals.loky import process_executor
    from threadpoolctl import threadpool_limits

    is_worker = os.getpid() != caller.pid
    if is_worker:  # it would last for all that the caller does afterwards
        limit_threads()
        # loky takes mapped features, and TensorFlow, for a leak and restarts the process
        process_executor._USE_PSUTIL = False
    own = process.owned() if is_worker and caller.has_own_workers else nullcontext()
    with threadpool_limits(1), own:
        return key, function(*arguments)


@contextmanager
def _cluster(backend: str, jobs: int) -> Iterator[None]:
    if backend == "dask":
        try:
            from distributed import Client, get_client
        except ImportError as error:
            raise _missing("dask", "dask") from error
        try:
            get_client()
        except ValueError:
            # one thread per process, as everywhere
            workers = {"n_workers": jobs, "threads_per_worker": 1} if jobs > 0 else {}
            with Client(dashboard_address=None, **workers):
                yield
            return
    if backend == "ray":
        try:
            from ray.util.joblib import register_ray
        except ImportError as error:
            raise _missing("ray", "ray") from error
        register_ray()
    yield


def _missing(backend: str, extra: str) -> SpecError:
    return SpecError(
        f"The backend {backend} is not installed. Run `pip install 'featcache[{extra}]'`."
    )
