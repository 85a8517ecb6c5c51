"""Heads on more rows than memory: peak memory, seconds and accuracy of a nested comparison.

    python benchmarks/heads_out_of_core.py [--rows 1000000] [--features 1280] [--memory-gb 4]

A made-up feature file in float16, of classes that overlap and features that go together, as those
of a network do. `logreg`, `ridge` and `centroid` are compared in a process of its own; beside it
stands what scikit-learn's logistic regression reaches that is fitted to a sample of the rows.
Goal: peak memory does not grow with the number of features times rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from heads_memory import make as make_file
from heads_memory import peak_of
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from featcache import store
from featcache.heads import CATALOGUE, TrainingRows
from featcache.heads.preprocessing import make

OVERLAP, N_FACTORS = 0.06, 32
CHILD = """
import json, sys, time
from featcache.core import memory
import featcache as fc
path, heads, jobs, total = sys.argv[1:]
if float(total):
    memory.total_memory = lambda: int(float(total) * 1e9)
started = time.perf_counter()
board = fc.fit_heads(path, heads.split(","), jobs=int(jobs))
print(board, file=sys.stderr)
seconds = time.perf_counter() - started
(one,) = [one for one in board.results if one.head == "logreg"]
print(json.dumps({"seconds": seconds, "params": one.params, "accuracy": one.mean,
                  "held_out": board.best.result.test["accuracy"], "best": board.best.result.name}))
"""


def beside_scikit_learn(path: Path, C: float, kind: str, sample: int) -> str:
    """Return what fits to the same sample reach on the held-out part, in memory and in passes.

    The penalty is as strong beside the mean loss as it is with all rows.
    """
    features = store.Features(path)
    rng = np.random.default_rng(0)
    train, test = features.rows("train"), features.rows("test")
    some = np.sort(rng.choice(train, min(sample, len(train)), replace=False))
    X, y = features.read_rows(some), features.labels[some]
    C *= len(train) / len(some)
    model = make_pipeline(make(kind, *X.shape), LogisticRegression(C=C, max_iter=2000))
    started = time.perf_counter()
    model.fit(X.astype(np.float32), y)
    theirs = time.perf_counter() - started
    head = CATALOGUE["logreg"](C=C, preprocessing=kind)
    started = time.perf_counter()
    with threadpool_limits(1):
        head.fit_in_passes([(head, TrainingRows.of(X, y))], os.cpu_count() or 1)
    ours = time.perf_counter() - started
    right, apart = np.zeros(2), 0.0
    for rows in np.array_split(test, max(1, len(test) // 20_000)):
        X = features.read_rows(rows).astype(np.float32)
        both = [model.predict_proba(X), head.predict_proba(X)]
        right += [float((one.argmax(axis=1) == features.labels[rows]).sum()) for one in both]
        apart = max(apart, float(np.abs(both[0] - both[1]).max()))
    accuracies = right / len(test)
    return (
        f"fitted to {len(some):,} rows with the same setting, on the held-out part: scikit-learn "
        f"{accuracies[0]:.4f} ({theirs:.0f} s), in passes {accuracies[1]:.4f} ({ours:.0f} s); "
        f"no probability differs by more than {apart:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--heads", default="logreg,ridge,centroid")
    parser.add_argument("--sample", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=-1)
    parser.add_argument("--memory-gb", type=float, default=0, help="as if there were no more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = (options.rows, options.features)
        path = make_file(Path(folder), *shape, "float16", OVERLAP, N_FACTORS)
        words = [str(path), options.heads, str(options.jobs), str(options.memory_gb)]
        process = subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE)
        peak = peak_of(process)
        assert process.stdout is not None
        found = json.loads(process.stdout.read())
        size = options.rows * options.features * 2
        params = {name: found["params"][name] for name in ("C", "preprocessing")}
        print(
            f"{options.rows:,} x {options.features:,} float16, {size / 1e6:,.0f} MB: peak "
            f"{peak / 1e6:,.0f} MB, {found['seconds']:,.0f} s, {found['best']} is the best\n"
            f"logreg {params}: accuracy {found['accuracy']:.4f} out of fold; the best on "
            f"the held-out part {found['held_out']:.4f}"
        )
        print(beside_scikit_learn(path, params["C"], params["preprocessing"], options.sample))


if __name__ == "__main__":
    main()
