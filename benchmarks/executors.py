"""Extraction by Dask and by Ray beside inline: the same bytes, what an engine costs, and kills.

    python benchmarks/executors.py [--images 2000] [--rounds 3] [--kills 30]

Goals: the published arrays are those of `inline`, byte for byte; an engine costs at most 5 % an
image with a backbone of 5 ms; whatever is killed (a worker, all workers, the scheduler, the
process that was asked), the finished file is identical, and at most one shard a killed worker is
computed twice. Dask has two processes and Ray two nodes, on this machine: so what is compared is a
run in which each has built its network already, and the speed of two processes beside one is part
of it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import photos
from PIL import Image
from scaling import make_backbone, make_images

from featcache import extraction
from featcache.data import examples
from featcache.extraction.executors import futures

COLUMNS = ("ids", "digests", "labels", "stamps")
BACKBONE = {"backbone": "mobilenet-v2", "weights": "random", "image_size": 128}  # of about 5 ms
KILL_IMAGES, KILL_SHARD = 1500, 50
LOG = "FEATCACHE_SHARD_LOG"
# for a worker of Dask: notes which shard it begins, so that what is done twice can be counted
PRELOAD = f"""
import os
from featcache.extraction.executors import worker
def noted(packed, caller, do=worker.do):
    import pickle
    _, shard = pickle.loads(packed)
    with open(os.environ["{LOG}"], "a") as log:
        log.write(f"{{shard.rows[0]}}\\n")
    return do(packed, caller)
if worker.do.__name__ == "do":  # Dask may run this more than once
    worker.do = noted
"""


def odd_files(root: Path) -> None:
    """Add what TensorFlow does not decode, what cannot be read, and copies."""
    rng = np.random.default_rng(1)
    folder = root / "odd"
    folder.mkdir(parents=True)
    for number in range(40):
        pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
        image = Image.fromarray(pixels)
        image.convert("P").save(folder / f"{number:02d} palette.gif")
        image.convert("CMYK").save(folder / f"{number:02d} cmyk.jpg")
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        image.save(folder / f"{number:02d} turned.jpg", exif=exif)
        deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        deep.save(folder / f"{number:02d} deep.png")
        (folder / f"{number:02d} broken.jpg").write_bytes(b"\xff\xd8 no image %d" % number)
    for number, path in enumerate(sorted(root.glob("class */*.jpg"))[:40]):
        shutil.copyfile(path, folder / f"copy {number}.jpg")


def told(features: Any) -> str:
    """Return a digest of all that a file has but its provenance."""
    total = hashlib.blake2b(digest_size=16)
    for array in (features.X, *(getattr(features, name) for name in COLUMNS)):
        total.update(np.asarray(array).tobytes())
    total.update(repr([(one.id, one.reason) for one in features.failures]).encode())
    return total.hexdigest()


@contextmanager
def dask_pool() -> Iterator[dict[str, Any]]:
    """Yield the options of a Dask cluster of two processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield {"engine": "dask", "scheduler": cluster.scheduler_address}


@contextmanager
def ray_pool() -> Iterator[dict[str, Any]]:
    """Yield the options of a Ray cluster of two nodes."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    # stays connected, as else Ray ends the workers with each run, and their networks
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield {"engine": "ray", "address": cluster.address}
    ray.shutdown()
    cluster.shutdown()


def compare(tmp: Path, n_images: int, rounds: int) -> None:
    """Print whether arrays are the same, and images/s beside inline."""
    root = photos.make(tmp / "photos", n_images - 240)
    odd_files(root)
    sources = {"clip art": examples.CLIPART, f"{n_images} files": root}
    options = {"overwrite": True, "show_progress": False, **BACKBONE}

    def ran(source: Path, name: str, **more: Any) -> extraction.Extraction:
        return extraction.run(source, cache_dir=tmp / name, **options, **more)

    expected = {what: told(ran(source, "inline").features) for what, source in sources.items()}
    for name, pool in (("dask", dask_pool), ("ray", ray_pool)):
        with pool() as more:
            for what, source in sources.items():
                same = told(ran(source, name, **more).features) == expected[what]
                print(f"{name}, {what}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
            ratios = []
            for number in range(rounds):
                runs = [("inline", {}), (name, more)]
                took = {
                    one: ran(root, one, **how).computing_s
                    for one, how in (runs if number % 2 else runs[::-1])
                }
                ratios.append(took[name] / took["inline"])
            each = " ".join(f"{one:.3f}" for one in ratios)
            print(
                f"{name}: {1000 * took['inline'] / n_images:.1f} ms an image inline, "
                f"{1000 * took[name] / n_images:.1f} here; of inline {each}, "
                f"median {statistics.median(ratios):.3f}",
                flush=True,
            )


class Dask:
    """A scheduler and two workers as processes of their own, to be killed."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "shards.log"
        self.log.touch()
        (folder / "noted.py").write_text(PRELOAD)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.mend()

    def mend(self) -> None:
        """Start what is not there."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            for worker in self.workers:  # of a scheduler that is gone
                worker.kill()
            port = self.address.rpartition(":")[2]
            self.scheduler = self._started("scheduler", "--port", port, "--no-dashboard")
            time.sleep(2)
        self.workers = [one for one in self.workers if one.poll() is None]
        while len(self.workers) < 2:
            more = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60")
            preload = ("--preload", str(self.folder / "noted.py"))
            self.workers.append(self._started("worker", self.address, *more, *preload))

    def _started(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "dask.log").open("ab")
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments],
            stdout=log, stderr=log, cwd=self.folder, env={**os.environ, LOG: str(self.log)},
        )  # fmt: skip

    def close(self) -> None:
        """End all."""
        for one in (*self.workers, self.scheduler):
            if one is not None:
                one.kill()
                one.wait()


def drive(root: str, cache: str, scheduler: str) -> None:
    """Be the process that is asked."""
    futures.TASK_IMAGES = KILL_SHARD
    extraction.run(
        root, cache_dir=cache, engine="dask", scheduler=scheduler,
        weights=str(Path(cache).parent / "tiny.keras"), show_progress=False,
    )  # fmt: skip


def kills(tmp: Path, n_kills: int) -> None:
    """Kill at random until `n_kills` were survived; print what became of it."""
    root, rng = tmp / "small", random.Random(0)
    make_images(root, 0, KILL_IMAGES, None)
    (tmp / "cache").mkdir(exist_ok=True)
    make_backbone(tmp / "tiny.keras")
    weights = str(tmp / "tiny.keras")
    whole = extraction.run(root, cache_dir=tmp / "whole", weights=weights, show_progress=False)
    expected = told(whole.features)
    n_killed = n_workers_killed = n_again = n_runs = 0
    done: dict[str, int] = {}
    while n_killed < n_kills:
        folder = Path(tempfile.mkdtemp(dir=tmp))
        cluster, cache = Dask(folder), tmp / "cache" / folder.name
        cache = folder / "cache"
        shutil.copyfile(weights, folder / "tiny.keras")
        for _ in range(50):
            command = [sys.executable, __file__, "--drive", str(root), str(cache), cluster.address]
            errors = folder / "errors"
            with errors.open("ab") as file:
                asked = subprocess.Popen(command, stderr=file)
            until = time.monotonic() + rng.uniform(4, 14)
            while asked.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if asked.poll() is None and n_killed < n_kills:
                what = rng.choice(["a worker", "all workers", "the scheduler", "the one asked"])
                n_killed += 1
                done[what] = done.get(what, 0) + 1
                print(f"killed {what}", flush=True)
                dying = {
                    "a worker": cluster.workers[:1],
                    "all workers": cluster.workers,
                    "the scheduler": [cluster.scheduler],
                    "the one asked": [asked],
                }[what]
                # what is in work is lost with a worker, and with who would take it
                n_workers_killed += 1 if what == "a worker" else 2
                for one in dying:
                    assert one is not None
                    with suppress(ProcessLookupError):
                        os.kill(one.pid, signal.SIGKILL)
                    one.wait()
                cluster.mend()
            if asked.wait(timeout=240) == 0:
                break
        n_runs += 1
        (made,) = cache.glob("*/*.h5")
        from featcache.store import Features

        begun = cluster.log.read_text().split()
        n_again += len(begun) - len(set(begun))
        n_shards = -(-KILL_IMAGES // KILL_SHARD)
        print(
            f"run {n_runs}: {'identical' if told(Features(made)) == expected else 'ANOTHER FILE'}, "
            f"{n_shards} shards, begun {len(begun)} times",
            flush=True,
        )
        cluster.close()
    what = ", ".join(f"{name} {n}" for name, n in sorted(done.items()))
    print(
        f"{n_killed} kills ({what}) in {n_runs} runs: {n_again} shards begun again, "
        f"{n_again / max(1, n_workers_killed):.2f} for each worker that was lost with its shard"
    )


def main() -> None:
    """Print what both parts found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.rounds:
            compare(Path(folder), options.images, options.rounds)
        if options.kills:
            kills(Path(folder), options.kills)


if __name__ == "__main__":
    main()
