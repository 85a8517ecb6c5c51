"""How much memory comparing heads takes on a file that is large, against the size of its matrix.

    python benchmarks/heads_memory.py [--rows 1000000] [--features 512] [--jobs 2]

Goal: all processes together stay under 1.3 times the matrix, the interpreter and its libraries
included. What several processes map is counted once (proportional set size).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featcache import store
from featcache.core.labels import Annotations
from featcache.core.spec import ExtractionSpec

N_CLASSES = 10
PART = 50_000  # rows made at a time
CHILD = """
import sys, time
import featcache as fc
started = time.perf_counter()
board = fc.fit_heads(sys.argv[1], jobs=int(sys.argv[2]), report=False, show_progress=False)
print(board)
print(f"{time.perf_counter() - started:.1f} s; left out: {', '.join(board.left_out) or 'none'}")
"""


def make(
    folder: Path,
    n_rows: int,
    n_features: int,
    dtype: str = "float32",
    apart: float = 0.1,
    n_factors: int = 0,
) -> Path:
    """Write a feature file of so many rows, never holding more than a part of it.

    Classes lie `apart` in each feature; so many factors make features go together.
    """
    spec = ExtractionSpec("made-up", "0" * 32, (8, 8), "none", pooling="avg", dtype=dtype)
    path = folder / "made-up" / "made-up.h5"
    parts = store.Parts(path, spec, "x")
    numbers = range(n_rows)
    joined = b"".join(hashlib.blake2b(b"%d" % n, digest_size=16).digest() for n in numbers)
    digests = np.frombuffer(joined, np.uint8).reshape(n_rows, 16)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES, n_rows)
    centres = apart * rng.standard_normal((N_CLASSES, n_features), np.float32)
    factors = rng.standard_normal((n_factors, n_features), np.float32) if n_factors else None
    for start in range(0, n_rows, PART):
        some = slice(start, start + PART)
        noise = rng.standard_normal((len(labels[some]), n_features), np.float32)
        if factors is not None:
            noise += rng.standard_normal((len(noise), n_factors), np.float32) @ factors
        parts.write(digests[some], (centres[labels[some]] + noise).astype(dtype))
    about = Annotations(labels, tuple("abcdefghij"))
    table = store.Metadata(
        tuple(f"{n:08d}.jpg" for n in numbers), digests, about, (), np.full((n_rows, 2), -1)
    )
    return store.publish(path, spec, table, store.Rows(parts.paths()), {"source": "x"}).path


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process and its children; shared pages are shared out."""
    every, total = [pid, *children(pid)], 0
    for one in every:  # still, so that no page is seen in two of them in full
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGSTOP)
    try:
        for one in every:
            with contextlib.suppress(OSError):  # it ended meanwhile
                text = Path(f"/proc/{one}/smaps_rollup").read_text()
                total += 1024 * int(text.split("Pss:")[1].split()[0])
    finally:
        for one in every:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)
    return total


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


def peak_of(process: subprocess.Popen[bytes]) -> int:
    """Return bytes that a process and its children took at most; exit where it failed."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, proportional_bytes(process.pid))
        time.sleep(0.5)
    if process.returncode:
        sys.exit(process.returncode)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder), options.rows, options.features)
        command = [sys.executable, "-c", CHILD, str(path), str(options.jobs)]
        process = subprocess.Popen(command)
        peak = peak_of(process)
    size = options.rows * options.features * 4
    print(f"peak {peak / 1e6:,.0f} MB of a matrix of {size / 1e6:,.0f} MB: {peak / size:.2f} times")


if __name__ == "__main__":
    main()
