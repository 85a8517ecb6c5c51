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
from featcache.core.running import DASK, RAY
from featcache.extraction.executors import dask, ray
from featcache.heads.dense_training import limit_threads

BACKENDS = ("loky", DASK, RAY)


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


@dataclass(frozen=True)
class Backend:
    """Whose processes: joblib's name of them, and where a cluster is."""

    name: str = "loky"
    scheduler: str | None = None  # of Dask
    address: str | None = None  # of Ray


def check(jobs: object, backend: Backend) -> int:
    """Return the number of processes; raise SpecError where it or the backend is wrong."""
    check_choice("backend", backend.name, BACKENDS)
    for option, value, name in (
        ("scheduler", backend.scheduler, DASK),
        ("address", backend.address, RAY),
    ):
        if value is not None and backend.name != name:
            raise SpecError(
                f"{option} is of {name}, and backend is {backend.name}. Say --backend {name}."
            )
    if not (number := whole(jobs)):
        raise bad("jobs", "be a number of processes, or -1 for one per core", jobs)
    return number


def threads(jobs: int) -> int:
    """Return how many threads do here what `jobs` processes would."""
    import joblib

    return int(joblib.effective_n_jobs(jobs))


@contextmanager
def processes(jobs: int, backend: Backend) -> Iterator[RunCalls]:
    """Yield a function that runs calls and yields (key, result) as they finish.

    Parameters
    ----------
    jobs : processes; -1 is one per core, or whatever a cluster has.

    Raises
    ------
    SpecError
        When the backend is unknown.
    EngineError
        When its package is not installed, or its cluster does not answer.
    """
    import joblib

    number = check(jobs, backend)
    caller = Caller(os.getpid(), has_own_workers=backend.name == "loky")
    with (
        _cluster(backend, number) as options,
        joblib.parallel_config(backend.name, n_jobs=number, **options),
    ):

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
def _cluster(backend: Backend, jobs: int) -> Iterator[dict[str, Any]]:
    """Yield what joblib is to know of the backend."""
    if backend.name == DASK:
        # one thread per process, as everywhere
        workers = {"n_workers": jobs, "threads_per_worker": 1} if jobs > 0 else {}
        with dask.client(backend.scheduler, **workers) as client:
            yield {"client": client}
    elif backend.name == RAY:
        with ray.connected(backend.address):
            from ray.util.joblib import register_ray

            register_ray()
            yield {}
    else:
        yield {"inner_max_num_threads": 1}
