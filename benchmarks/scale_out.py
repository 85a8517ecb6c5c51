"""What a million images cost the process that is asked: with a stand-in for images and network.

    python benchmarks/scale_out.py [--images 1000000] [--features 1280]

Goals: at most 300 MB and 100 bytes an image; 10,000 images/s scheduled, gathered, published; then
`info` and a first batch of rows within 2 s each. Nothing is read, decoded or computed: workers,
two processes of a pool, give random rows of float16 for the shards they are sent. All else is as
ever: listing, shards, pickling, parts, the file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scaling import make_backbone

N_CLASSES = 1000
READS = """
import sys, time
started = time.perf_counter()
from featcache import store
features = store.Features(sys.argv[1])
opened = time.perf_counter()
rows = features.read_rows(range(0, len(features), max(1, len(features) // 64)))
print(opened - started, time.perf_counter() - opened, len(rows))
"""


@dataclass(frozen=True)
class NoImages:
    """Contents of which nobody asks anything."""

    n: int
    is_concurrent = is_encoded = True
    is_far = False
    dtype = "uint8"

    def take(self, rows: np.ndarray) -> NoImages:
        """Return as many as are asked for."""
        return NoImages(len(rows))

    def stamp(self, row: int) -> None:
        """There is none."""


def rows_of(packed: bytes, caller: dict[str, str], n_features: int) -> list[Any]:
    """Return random rows for a shard, as a worker would."""
    from featcache.extraction.run import PartRows

    _, shard = pickle.loads(packed)
    features = np.random.default_rng(int(shard.rows[0])).random((len(shard), n_features), "f4")
    keys = shard.listing.digests
    return [PartRows(0, len(shard), shard.rows, np.asarray(keys), features.astype(np.float16))]


class Standin(ProcessPoolExecutor):
    """A pool that takes what a worker is to do for another thing to do."""

    n_features = 0

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Any:
        """Have random rows made."""
        return super().submit(rows_of, *args, self.n_features, **options)


def peak_bytes() -> int:
    """Return what this process took at most; `getrusage` counts who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def coordinate(folder: Path, n: int, n_features: int) -> dict[str, Any]:
    """Extract, in this process as the one that is asked; return what it took."""
    from featcache import extraction
    from featcache.core.labels import Annotations
    from featcache.data.sources import Source

    rng = np.random.default_rng(0)
    labels = np.arange(n) % N_CLASSES
    source = Source(
        name="made up",
        origin="memory:made-up",
        ids=tuple(f"class {row % N_CLASSES:03d}/image {row:08d}.jpg" for row in range(n)),
        contents=NoImages(n),
        annotations=Annotations(labels, tuple(f"class {one:03d}" for one in range(N_CLASSES))),
        digests=rng.integers(0, 256, (n, 16), np.uint8),
    )
    before = peak_bytes()
    Standin.n_features = n_features
    started = time.monotonic()
    with Standin(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        done = extraction.run(
            source, weights=str(folder / "tiny.keras"), cache_dir=folder / "cache",
            dtype="float16", executor=pool, show_progress=False,
        )  # fmt: skip
    return {
        "path": str(done.features.path),
        "seconds": time.monotonic() - started,
        "computing_s": done.computing_s,
        "source_bytes": before,
        "peak_bytes": peak_bytes(),
        "file_bytes": done.features.path.stat().st_size,
    }


def main() -> None:
    """Print the figures beside their goals."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--coordinate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    n = options.images
    if options.coordinate:
        print(json.dumps(coordinate(Path(options.coordinate), n, options.features)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_backbone(Path(folder) / "tiny.keras")
        command = [
            sys.executable,
            __file__,
            "--images",
            str(n),
            "--features",
            str(options.features),
        ]
        done = subprocess.run(
            [*command, "--coordinate", folder], stdout=subprocess.PIPE, text=True, check=True
        )
        took = json.loads(done.stdout.splitlines()[-1])
        allowed = 300e6 + 100 * n
        print(f"{n:,} images of {options.features} features, float16; the network is a stand-in")
        print(f"{n / took['seconds']:,.0f} images/s in all (goal 10,000), {took['seconds']:.1f} s")
        print(
            f"peak {took['peak_bytes'] / 1e6:,.0f} MB (goal {allowed / 1e6:,.0f}); "
            f"{took['source_bytes'] / 1e6:,.0f} MB of it were there with the list of images"
        )
        parts = list(Path(took["path"] + ".parts").iterdir())
        size = sum(one.stat().st_size for one in parts)
        print(
            f"{len(parts):,} parts of {size / 1e6:,.0f} MB in all, and a file of "
            f"{took['file_bytes'] / 1e6:.0f} MB"
        )
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "featcache", "info", took["path"]],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            info_s = time.perf_counter() - started
            read = subprocess.run(
                [sys.executable, "-c", READS, took["path"]],
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            opened, first, count = map(float, read.stdout.split())
            print(
                f"info {info_s:.2f} s (goal 2); opened {opened:.2f} s after Python started, and "
                f"{count:.0f} rows from all over it in {first:.2f} s"
            )


if __name__ == "__main__":
    main()
