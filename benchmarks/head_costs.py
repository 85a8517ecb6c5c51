"""What comparing each head costs, beside what `heads/costs.py` says of it.

    python benchmarks/head_costs.py [--heads ridge,logreg] [--rows 1000,10000] [--features 1280]
        [--classes 10,1000]

CPU time of one thread, so that other work on the machine counts as little as it can. Each head is
alone; moments that heads share are computed for each.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from featcache import heads
from featcache.core.tasks import TASKS, TargetKind, first_of
from featcache.heads import costs
from featcache.heads.moments import SHARED, MomentsHead, are_few
from featcache.heads.training_rows import TrainingRows
from featcache.selection import fold_work
from featcache.selection.candidates import Candidate

N_FOLDS, N_PAIRS = 5, 10
N_FACTORS, SPREAD = 40, 0.55  # as in heads.py


def embeddings(n_rows: int, n_features: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features like pooled ones, (n, d), and as many of each class."""
    rng = np.random.default_rng(0)
    means = SPREAD * rng.standard_normal((n_classes, N_FACTORS))
    loadings = rng.standard_normal((N_FACTORS, n_features)) / np.sqrt(N_FACTORS)
    y = rng.permutation(np.arange(n_rows) % n_classes)
    factors = means[y] + rng.standard_normal((n_rows, N_FACTORS))
    noise = rng.standard_normal((n_rows, n_features))
    return np.maximum(factors @ loadings + noise, 0).astype(np.float32), y


def cpu_s(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def measured(name: str, n_rows: int, n_features: int, n_classes: int) -> float:
    """Return CPU seconds: moments, inner fits of the grid, and fits of one setting."""
    task = first_of(TargetKind.CLASS)
    X, y = embeddings(n_rows, n_features, n_classes)
    views, folds = X[:, None], np.empty(n_rows, np.int16)
    folds[np.argsort(y, kind="stable")] = np.arange(n_rows) % N_FOLDS
    kind = heads.CATALOGUE[name]
    candidate = Candidate(name, kind, kind.grid(task.name))
    total, known = 0.0, None
    few = are_few(n_rows * (N_FOLDS - 2) // N_FOLDS, n_features)
    if issubclass(kind, MomentsHead) and not few:
        known, about = {}, (task.name, n_classes)
        shift = TrainingRows(views, y, np.arange(n_rows)).near_mean()
        for shared, fold in itertools.product(SHARED, range(N_FOLDS)):
            started = time.process_time()
            known[shared, fold] = fold_work.fold_moments(
                views, y, folds, fold, shared, *about, shift
            )
            total += time.process_time() - started

    def job(settings: tuple[int, ...], without: tuple[int, ...]) -> fold_work.FitJob:
        return fold_work.FitJob(
            candidate, settings, without, task.name, task.default_metric, n_classes, known=known
        )

    every = tuple(range(len(candidate.settings)))
    if len(every) > 1:
        pair = job(every, (0, 1))
        total += N_PAIRS * cpu_s(lambda: fold_work.try_settings(views, y, folds, pair))
    one = job((len(every) // 2,), (0,))
    return total + (N_FOLDS + 1) * cpu_s(lambda: fold_work.predict_fold(views, y, folds, one))


def main() -> None:
    known = [name for name in heads.CATALOGUE if costs.seconds(name, TargetKind.CLASS, 1, 1, 1)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", default=",".join(known[1:]))
    parser.add_argument("--rows", default="1000,4000,10000")
    parser.add_argument("--features", default="320,1280")
    parser.add_argument("--classes", default="10,100,1000")
    asked = parser.parse_args()
    numbers = [map(int, text.split(",")) for text in (asked.rows, asked.features, asked.classes)]
    sizes = [size for size in itertools.product(*numbers) if size[0] >= 4 * size[2]]
    print("| head | rows | features | classes | measured | formula |\n|---|---|---|---|---|---|")
    for name, size in itertools.product(asked.heads.split(","), sizes):
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of solvers that stop early
            found = measured(name, *size)
        said = costs.cpu_s(name, TASKS["classification"].kind, *size)
        columns = " | ".join(f"{number:,}" for number in size)
        print(f"| {name} | {columns} | {found:.1f} s | {said:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
