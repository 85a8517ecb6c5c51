"""Ray: a task takes one GPU where there are some, else all cores of the smallest node."""

from __future__ import annotations

import concurrent.futures
import functools
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from featcache.core.errors import EngineError, one_line
from featcache.extraction.executors.base import Executor
from featcache.extraction.executors.futures import Futures

ANSWERS_WITHIN_S = 10
AUTO = "auto"
NAME = "Ray"


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster; left as it was if it was connected before.

    Without an address it is that of RAY_ADDRESS, else a new cluster here.

    Raises
    ------
    EngineError
        When Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError("Ray is not installed. Run `pip install 'featcache[ray]'`.") from error
    is_mine = not ray.is_initialized()
    if is_mine:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        # nobody there, another version there, no address
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"No Ray cluster answers at '{address}' ({one_line(error, 200).rstrip('.')}). "
                f"Start one (`ray start --head`), or give its --address."
            ) from error
    try:
        yield ray
    finally:
        if is_mine:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError where nobody listens at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN_S).close()


@contextmanager
def opened(address: str) -> Iterator[Executor]:
    """Yield an executor on Ray's nodes."""
    with connected(address) as ray:
        dead = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError,
        )
        tasks = _Tasks(ray)
        try:
            yield Futures(tasks, NAME, tasks.n_workers, dead)
        finally:
            tasks.shutdown(wait=False, cancel_futures=True)


class _Tasks(concurrent.futures.Executor):
    """Ray's tasks as the standard library's futures; Ray starts each anew up to three times."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._refs: list[Any] = []
        self._needs = self._needed()

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **options: Any
    ) -> concurrent.futures.Future[Any]:
        """Have a function called on a node."""
        task = self._ray.remote(max_retries=3, **self._needs)(function)
        ref = task.remote(*args, **options)
        self._refs = [*(one for one in self._refs if not self._is_done(one)), ref]
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        ref.future().add_done_callback(functools.partial(_pass_on, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Have nothing more begun."""
        for ref in self._refs if cancel_futures else ():
            with suppress(Exception):  # done, or the cluster is gone
                self._ray.cancel(ref)

    def n_workers(self) -> int:
        """Return how many tasks the nodes that are there can do at once."""
        kind = "GPU" if "num_gpus" in self._needs else "CPU"
        each = self._needs.get("num_gpus") or self._needs["num_cpus"]
        return int(sum(node.get(kind, 0) // each for node in self._nodes()))

    def _needed(self) -> dict[str, float]:
        nodes = self._nodes()
        gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
        if gpus:
            return {"num_gpus": 1, "num_cpus": min(node["CPU"] // node["GPU"] for node in gpus)}
        # the network uses every core of a node; in as many processes it would be there as often
        return {"num_cpus": min((node["CPU"] for node in nodes if node.get("CPU")), default=1)}

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _is_done(self, ref: Any) -> bool:
        done, _ = self._ray.wait([ref], timeout=0)
        return bool(done)


def _pass_on(to: concurrent.futures.Future[Any], done: concurrent.futures.Future[Any]) -> None:
    """Hand on a result, or what went wrong itself instead of Ray's account of it."""
    if not to.set_running_or_notify_cancel():
        return
    error = done.exception()
    if error is None:
        to.set_result(done.result())
    else:
        to.set_exception(getattr(error, "cause", None) or error)
