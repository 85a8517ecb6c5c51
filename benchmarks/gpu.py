"""How near `extract` comes to what a GPU, and the decoding in front of it, can do.

    python benchmarks/gpu.py [--images 12000] [--large 50000] [--device auto] [--torch PYTHON]
                             [--json] [--write]

About 4 minutes on one GPU with 16 cores. Without a GPU it runs on the CPU with fewer and smaller
batches and says so. Goals on a GPU, from one run:

    mobilenet-v2 and resnet50, bfloat16: 1.9 times the tutorial, 0.90 of the graph that only decodes
    mobilenet-v2, float32: 1.8 times the tutorial
    a whole second process over 50,000 files: 0.85 of the steady rate, its first batch within 8 s
    predict: 0.95 of extract

The tutorial is `model.predict(image_dataset_from_directory(...))` in batches of 32, as written. A
first run of it or of `extract` has compiling in it; the second has not. "decode" is featcache's own
operations in one graph of `tf.data` and nothing else, "straight" is that graph's batches given to
the compiled network, and "resident" the network on a batch that lies on the device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import extract
import numpy as np
import page
import photos

from featcache.core.spec import MAX_PIXELS
from featcache.core.tensorflow import import_tensorflow
from featcache.data import image_ops, nvimagecodec, openers
from featcache.data.listing import list_images
from featcache.extraction.shards import networks_of
from featcache.networks import engines

RUNS = (("mobilenet-v2", "float32"), ("mobilenet-v2", "bfloat16"), ("resnet50", "bfloat16"))
ROUNDS = 2  # that count; the first of all does not
PARTS = 16  # of the photographs, each made by a process
COPIES = 4  # of each, told apart by their last bytes, which nobody decodes
RESIDENT_S = 1.0  # that the network alone is measured for


def _make_part(arguments: tuple[Path, int, int]) -> None:
    root, number, n = arguments
    photos.make(root / f"{number:02d}", n, seed=number)


def make_photos(root: Path, n: int) -> Path:
    """Write `n` different files in classes: COPIES of each photograph, which is cheap to make."""
    parts, per_part = root / "parts", -(-n // (PARTS * COPIES))
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.map(_make_part, [(parts, number, per_part) for number in range(PARTS)])
    made = sorted(parts.rglob("*.jpg"))
    for number in range(n):
        path = made[number % len(made)]
        to = root / "photos" / path.parent.name / f"{number:06d}.jpg"
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes() + number.to_bytes(4, "big"))
    return root / "photos"


def rate(run: Callable[[], Any], n: int) -> float:
    """Return images/s of one run."""
    started = time.perf_counter()
    run()
    return n / (time.perf_counter() - started)


def steady(run: Callable[[], Any], n: int) -> float:
    """Return the median images/s of some runs, after one that does not count."""
    run()
    return statistics.median(rate(run, n) for _ in range(ROUNDS))


class Graph:
    """Decoding alone, by the operations that `extract` uses, in one graph."""

    def __init__(self, root: Path, bench: extract.Bench, batch_size: int):
        self.paths = [os.fsencode(path) for path in openers.open_source(root).paths or ()]
        self.spec, self.batch_size = bench.resolved[0].spec, batch_size

    def batches(self, n_calls: int, decoder: str = "exact", device: str | None = None) -> Any:
        """Return a dataset of batches; with `device` they are brought there ahead."""
        tf, spec = import_tensorflow(), self.spec

        def load(path: Any) -> Any:
            method = image_ops.DCT[decoder]
            image = tf.io.decode_jpeg(tf.io.read_file(path), 3, dct_method=method)
            image = image_ops.resize(image, spec.geometry)
            image.set_shape((*spec.image_size, 3))
            return image

        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = tf.data.Dataset.from_tensor_slices(self.paths).map(load, n_calls)
        dataset = dataset.batch(self.batch_size).with_options(options)
        if device is None:
            return dataset.prefetch(4)
        return dataset.apply(tf.data.experimental.prefetch_to_device(device, 4))

    def through(self, batches: Any, compiled: engines.Compiled | None = None) -> Callable[[], None]:
        """Return what goes through all batches, and with `compiled` gives them to a network."""

        def run() -> None:
            keyed = ((None, batch) for batch in batches)
            if compiled is None:
                for _ in keyed:
                    pass
                return
            for _ in engines.in_order(keyed, compiled.start, compiled.ahead):
                pass

        return run


def network_of(bench: extract.Bench) -> engines.Compiled:
    """Return the network of a bench that has run."""
    ((plan, _),) = networks_of(bench.resolved, bench.machine)
    compiled = bench.executor.networks.of(plan).agreed
    assert compiled is not None
    return compiled


def resident(compiled: engines.Compiled, size: tuple[int, int], batch_size: int) -> float:
    """Return images/s of the network alone, on a batch that lies on its device."""
    tf = import_tensorflow()
    with tf.device(compiled.devices[0]):
        images = tf.random.uniform((batch_size, *size, 3), 0, 255)
    compiled(images)
    started = time.perf_counter()

    def batches() -> Iterator[tuple[None, Any]]:
        for number in itertools.count():
            if number >= 2 * compiled.ahead and time.perf_counter() - started > RESIDENT_S:
                return
            yield None, images

    keyed = engines.in_order(batches(), compiled.start, compiled.ahead)
    n = sum(len(outputs[0]) for _, outputs in keyed)
    return n / (time.perf_counter() - started)


def why_no_gpu_decodes(device: str) -> str | None:
    return nvimagecodec.missing() if engines.gpus(device) else "the network runs on the CPU"


def one(root: Path, cache: Path, name: str, precision: str, options: Any) -> dict[str, float]:
    """Return images/s of every way for one network."""
    n, size = options.images, options.batch_size
    bench = extract.Bench(root, cache, [name], precision, options.runtime, options.device, size)
    found = {"extract, first run": rate(bench.run, n), "extract": steady(bench.run, n)}
    compiled, graph = network_of(bench), Graph(root, bench, size)
    cores = os.cpu_count() or 1
    if not why_no_gpu_decodes(options.device):
        how = (precision, options.runtime, options.device, size, "gpu")
        found["extract, decoder gpu"] = steady(extract.Bench(root, cache, [name], *how).run, n)
    found["decode"] = steady(graph.through(graph.batches(cores)), n)
    found["decode, two calls a core"] = steady(graph.through(graph.batches(2 * cores)), n)
    found["decode, fast"] = steady(graph.through(graph.batches(cores, "fast")), n)
    found["straight"] = steady(graph.through(graph.batches(cores), compiled), n)
    if "GPU" in compiled.devices[0]:
        there = graph.batches(cores, device=compiled.devices[0])
        found["straight, brought ahead"] = steady(graph.through(there, compiled), n)
    found["resident"] = resident(compiled, graph.spec.image_size, size)
    if precision == "float32":
        tutorial = extract.tutorial(root, name, is_tuned=True)
        found["tutorial, first run"] = rate(tutorial, n)
        found["tutorial"] = statistics.median(rate(tutorial, n) for _ in range(ROUNDS))
        predict = extract.stitched(root, cache, name, options.device, options.runtime)
        found["predict"] = steady(predict, n)
    return found


def second_process(root: Path, cache: Path, n: int, options: Any) -> dict[str, float]:
    """Return what `featcache extract` takes in a second process, which finds what is compiled."""
    command = [sys.executable, "-m", "featcache", "extract", str(root), "--cache-dir", str(cache)]
    command += ["--backbone", "mobilenet-v2", "--weights", "random", "--device", options.device]
    command += ["--precision", options.precision, "--runtime", options.runtime, "--overwrite"]
    command += ["--batch-size", str(options.batch_size)]
    found = {}
    for which in ("first", "second"):
        started = time.perf_counter()
        # of the lines of progress the first comes with the first batch
        ran = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert ran.stderr is not None
        for line in ran.stderr:
            if re.match(r"Extracting: \d+ of", line):
                found.setdefault(f"{which}: s to the first batch", time.perf_counter() - started)
        if ran.wait():
            raise SystemExit(f"{' '.join(command)} failed")
        found[f"{which}: images/s"] = n / (time.perf_counter() - started)
    return found


def by_torch(python: str, root: Path, name: str, device: str) -> dict[str, float]:
    """Return images/s of torchvision, from a process of its own; nothing for what it lacks."""
    found = extract.torch_rates(python, root, name, 1, device)
    return {key: statistics.median(some) for key, some in found.items()}


def measured(root: Path, cache: Path, options: Any) -> dict[str, dict[str, float]]:
    """Return images/s by network and way."""
    samples = openers.open_source(root)
    read = rate(lambda: list_images(samples, MAX_PIXELS), len(samples))
    found: dict[str, dict[str, float]] = {"any": {"list, read and hash": read}}
    for name, precision in options.runs:
        print(f"{name} in {precision} ...", file=sys.stderr, flush=True)
        found[f"{name} {precision}"] = one(root, cache, name, precision, options)
    for name in sorted({name for name, _ in options.runs}) if options.torch else ():
        found[f"{name} {options.precision}"] |= by_torch(options.torch, root, name, options.device)
    return found


def text_of(result: dict[str, Any]) -> str:
    """Return the table, with what each rate is to the tutorial and to decoding in the same run."""
    tutorial = result["rates"].get("mobilenet-v2 float32", {}).get("tutorial", float("nan"))
    rows = []
    for network, rates in result["rates"].items():
        for way, found in rates.items():
            decode = rates.get("decode", float("nan"))
            over = [found / tutorial, found / decode]
            ratios = ["" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in over]
            rows.append((network, way, f"{found:,.0f}", *ratios))
    head = ("network", "what", "images/s", "over the tutorial", "over decode")
    by_gpu = [
        f"{rates['extract, decoder gpu'] / rates['extract']:.2f} for {network}"
        for network, rates in result["rates"].items()
        if "extract, decoder gpu" in rates
    ]
    said = ", ".join(by_gpu) or f"not measured, as {result['no gpu decoder']}"
    large = result["second process"]
    lines = [f"{name}: {value:,.1f}" for name, value in large.items()]
    whole = f"Whole processes over {result['large']:,} files: {'; '.join(lines)}."
    decoder = f"`--decoder gpu` over the default decoder: {said}."
    return "\n\n".join([result["machine"], result["what"], page.table(head, rows), decoder, whole])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="12,000 on a GPU")
    parser.add_argument("--large", type=int, help="files of the whole processes: 50,000 on a GPU")
    parser.add_argument("--batch-size", type=int, help="256 on a GPU")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has torch and torchvision")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="put the table in docs/performance.md")
    options = parser.parse_args()
    nvimagecodec.leave_memory()  # before anything uses the GPU
    gpus = engines.gpus(options.device)
    options.device = "gpu" if gpus else "cpu"
    options.images = options.images or (12_000 if gpus else 128)
    options.large = options.large or (50_000 if gpus else 256)
    options.batch_size = options.batch_size or (256 if gpus else 32)
    options.runtime = "tensorflow"  # which has GPUs; CPUs stand in for them
    options.runs = RUNS if gpus else RUNS[:1]
    options.precision = "bfloat16" if gpus else "float32"
    card = ", ".join(sorted({_name_of(gpu) for gpu in gpus})) if gpus else "no GPU: on the CPU"
    with tempfile.TemporaryDirectory() as folder:
        root, cache = make_photos(Path(folder, "some"), options.images), Path(folder, "cache")
        cache.mkdir()
        size_kb = np.mean([path.stat().st_size for path in root.rglob("*.jpg")]) / 1000
        rates = measured(root, cache, options)
        large = make_photos(Path(folder, "large"), options.large)
        result = {
            "machine": f"{page.machine()}; {card}.",
            "what": (
                f"{options.images:,} JPEG files of 500 x 375, {size_kb:.0f} KB on average, batches "
                f"of {options.batch_size}, TensorFlow; medians of {ROUNDS} runs after the first."
            ),
            "rates": rates,
            "no gpu decoder": why_no_gpu_decodes(options.device),
            "large": options.large,
            "second process": second_process(large, cache, options.large, options),
        }
    print(json.dumps(result) if options.json else text_of(result))
    if options.write:
        page.put("gpu" if gpus else "gpu on cpus", text_of(result))


def _name_of(gpu: str) -> str:
    tf = import_tensorflow()
    number = int(gpu.rpartition(":")[2])
    device = tf.config.list_physical_devices("GPU")[number]
    details: dict[str, Any] = tf.config.experimental.get_device_details(device)
    return str(details.get("device_name", "a GPU"))


if __name__ == "__main__":
    main()
