"""Shards on any `concurrent.futures.Executor`: a pool of processes, Dask's, loky's, MPI's.

The engine hands tasks out and starts them anew on another worker when one dies. Here they are made
small, kept in flight in a number that suits the workers, and gathered.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from featcache.core import progress
from featcache.core.errors import EngineError, one_line
from featcache.core.text import counted
from featcache.extraction.executors import worker
from featcache.extraction.executors.base import Run
from featcache.extraction.run import PartRows
from featcache.extraction.shards import Shard

# Images of a task: 2.5 s of a backbone that takes 5 ms, beside which sending it costs little. A
# multiple of every usual batch, so that batches are of the images of which they are inline.
TASK_IMAGES = 512
_AHEAD = 2  # tasks for each worker: one is computed while the next one waits there
_TRIES = 4  # Dask's and Ray's own: the first, and three others when workers die
_GONE = (concurrent.futures.BrokenExecutor, concurrent.futures.CancelledError)
_LOOK_S = 5.0  # how often to see how many workers there are
_USUAL_WORKERS = 32  # of an executor that does not say


class Futures:
    """An executor of ours made of one of the standard library's kind.

    Parameters
    ----------
    executor : its `submit` takes a function and arguments that can be pickled.
    name : for provenance and messages.
    n_workers : gives how many there are now; None asks the executor.
    dead : what the engine raises for a task when too many workers have died with it.
    """

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        name: str = "",
        n_workers: Callable[[], int] | None = None,
        dead: tuple[type[BaseException], ...] = (),
    ):
        self.name = name or type(executor).__name__
        self._executor, self._dead = executor, dead
        self._n_workers = n_workers or (lambda: getattr(executor, "_max_workers", 0) or 0)
        self._counts = n_workers is not None
        self._n_left = 0

    @property
    def remark(self) -> str:
        """How many workers there are and what is left to do."""
        return f"{counted(self._n_workers(), 'worker')}, {counted(self._n_left, 'shard')} left"

    def map(self, run: Run, shards: Sequence[Shard]) -> Generator[PartRows, None, None]:
        """Yield the rows of each task when it is done.

        Raises
        ------
        EngineError
            When workers died with a task too often, after all others are done; or when there is
            no engine any more.
        """
        if shards and self._counts and not self._n_workers():
            progress.note(f"{self.name} has no workers yet; waiting for some (Ctrl-C to stop).")
        size = self._task_images(sum(map(len, shards)))
        self._n_left = sum(math.ceil(len(shard) / size) for shard in shards)
        tasks = itertools.chain.from_iterable(shard.pieces(size) for shard in shards)
        versions = worker.versions()
        waiting: dict[concurrent.futures.Future[list[PartRows]], Shard] = {}
        lost: list[tuple[Shard, BaseException]] = []
        try:
            while True:
                at_most = _AHEAD * (self._n_workers() or _USUAL_WORKERS)
                for task in itertools.islice(tasks, max(0, at_most - len(waiting))):
                    waiting[self._submitted(run, task, versions)] = task
                if not waiting:
                    break
                for done in _first(waiting):
                    task = waiting.pop(done)
                    self._n_left -= 1
                    try:
                        parts = done.result()
                    except self._dead as error:
                        lost.append((task, error))
                    except _GONE as error:
                        raise self._gone(error) from error
                    except ModuleNotFoundError as error:
                        raise EngineError(
                            f"A worker of {self.name} cannot run featcache: {one_line(error)}. "
                            f"Install the same version there."
                        ) from error
                    else:
                        yield from parts[:-1]
                        yield from (replace(last, is_whole=True) for last in parts[-1:])
        finally:
            for future in waiting:
                future.cancel()
        if lost:
            raise _named(lost)

    def _task_images(self, n_images: int) -> int:
        """Return how many images a task has: fewer where else some workers would have none."""
        share = math.ceil(n_images / max(1, self._n_workers()))
        return max(1, min(TASK_IMAGES, share))

    def _submitted(
        self, run: Run, task: Shard, versions: dict[str, str]
    ) -> concurrent.futures.Future[list[PartRows]]:
        packed = worker.packed(run, task)
        try:
            return self._executor.submit(worker.do, packed, versions)
        # a broken pool, one that was shut down
        except (RuntimeError, OSError) as error:
            raise self._gone(error) from error

    def _gone(self, error: BaseException) -> EngineError:
        why = one_line(error, 200).rstrip(".") or type(error).__name__
        return EngineError(
            f"{self.name} is gone ({why}). Finished images are kept; start it anew and run the "
            f"same command again."
        )


def _first(
    waiting: dict[concurrent.futures.Future[list[PartRows]], Shard],
) -> Iterator[concurrent.futures.Future[list[PartRows]]]:
    """Yield what is done by now, and last what failed: that may end the run.

    The wait ends now and then, as workers may come and go.
    """
    done, _ = concurrent.futures.wait(
        waiting, timeout=_LOOK_S, return_when=concurrent.futures.FIRST_COMPLETED
    )
    yield from sorted(done, key=lambda one: one.cancelled() or one.exception() is not None)


def _named(lost: list[tuple[Shard, BaseException]]) -> EngineError:
    task, error = lost[0]
    ids = task.listing.source.ids
    n_images = sum(len(one) for one, _ in lost)
    more = f" and {counted(len(lost) - 1, 'other shard')}" if len(lost) > 1 else ""
    return EngineError(
        f"Workers died {_TRIES} times with the images '{ids[0]}' to '{ids[-1]}'{more} "
        f"({one_line(error, 200).rstrip('.')}). The rest is computed and kept; {n_images} are "
        f"left. Look at the workers' logs, memory above all, and run the same command again."
    )
