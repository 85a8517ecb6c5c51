"""How fast images become features, against what a Keras tutorial does and what the machine can do.

    python benchmarks/extract.py [--backbones a,b] [--images N] [--rounds N] [--torch PYTHON]
                                 [--json] [--write]

Everything runs in one process tree, in turn, several rounds; medians count. Goals on two cores
without a GPU, as ratios to (a):

                        float32   bfloat16   share of the limit, float32
    efficientnet-lite0  1.8       2.8        0.85
    mobilenet-v2        1.9       3.3        0.85
    resnet50            1.35      2.4        0.90

(a) is `model.predict(image_dataset_from_directory(...))`, as written, and (a') the same without
tf.data's autotuning, whose end may wait for seconds (docs/decisions/threads.md). (b) and (c) are
featcache with its TensorFlow and OpenVINO runtimes: list, read, hash and decode the images, run the
backbone, write the parts. Building and compiling the models is left out for all. (d) is decoding
alone, (e) the OpenVINO backbone alone on decoded images; on shared cores the limit is
1 / (1/d + 1/e).

Further goals: the TensorFlow runtime 1.15 times (a); `predict` 0.95 of the rate of `extract`;
three backbones in one pass 1.25 times as fast as in three, where decoding is the larger part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import page
import photos

import featcache as fc
from featcache import extraction
from featcache.core.spec import MAX_PIXELS
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.data import loading, openers
from featcache.data.listing import list_images
from featcache.extraction.executors import Inline
from featcache.extraction.listing import unread
from featcache.extraction.output import OutputFile
from featcache.extraction.publish import Making, compute
from featcache.extraction.shards import Machine, networks_of
from featcache.models import stitching
from featcache.networks import backbones, engines
from featcache.networks.engines import openvino

BATCH_SIZE = 32
IN_MEMORY = 256  # images for the backbone alone
LARGE = (1600, 1200)  # photographs of which decoding is the larger part
SEVERAL = ("mobilenet-v2", "mobilenet-v3-large", "efficientnet-lite0")
TUTORIAL, UNTUNED = "a tutorial", "a' untuned"
TENSORFLOW, FLOAT32, BFLOAT16 = "b tensorflow", "c openvino", "c bfloat16"
DECODE, BACKBONE, BACKBONE16 = "d decode", "e backbone", "e bfloat16"
PREDICT = "predict"


class Bench:
    """featcache's own path for one or several backbones: from a folder to parts on disk."""

    def __init__(
        self,
        root: Path,
        cache: Path,
        names: list[str],
        precision: str,
        chosen: str,
        device: str = "cpu",
        batch_size: int | str = BATCH_SIZE,
        decoder: str = "exact",
    ):
        self.root, self.cache = root, cache
        self.resolved = [
            backbones.resolve(name, weights=weights_of(name), precision=precision, decoder=decoder)
            for name in names
        ]
        self.machine = Machine(batch_size, device, chosen)
        self.executor = Inline()  # keeps what is compiled and compared with Keras

    def run(self) -> None:
        """List, read, hash, decode, run the backbones, write parts."""
        samples = openers.open_source(self.root)
        listing = unread(samples, MAX_PIXELS)
        outputs = [
            OutputFile(self.cache / f"{one.spec.short_name}.h5", one, listing)
            for one in self.resolved
        ]
        missing = [np.ones((len(samples), 1), bool)] * len(outputs)
        compute(outputs, missing, Making(self.executor, self.machine, show_progress=False))
        for output in outputs:
            assert output.is_computed.all()
            output.parts.clear()


def weights_of(name: str) -> str:
    return "imagenet" if name == "efficientnet-lite0" else "random"


def tutorial(root: Path, name: str, is_tuned: bool) -> Callable[[], Any]:
    """What a Keras tutorial does, with the network's own preprocessing."""
    keras = import_keras()
    resolved = backbones.resolve(name, weights=weights_of(name))
    size = resolved.spec.image_size
    backbone = resolved.backbone or backbones.build(name, weights_of(name), size)
    model = backbones.frozen_extractor(backbone, resolved.spec)

    def run() -> None:
        dataset = keras.utils.image_dataset_from_directory(
            root, image_size=size, batch_size=BATCH_SIZE, shuffle=False, verbose=False
        )
        if not is_tuned:
            options = import_tensorflow().data.Options()
            options.autotune.enabled = False
            dataset = dataset.with_options(options)
        model.predict(dataset, verbose=0)

    return run


def decode(root: Path, name: str) -> Callable[[], Any]:
    """Decoding and resizing, and nothing else."""
    spec = backbones.resolve(name, weights=weights_of(name)).spec
    samples = openers.open_source(root)
    listing, rows = list_images(samples), range(len(samples))

    def run() -> None:
        for _ in loading.batches(listing, rows, specs=[spec], batch_size=BATCH_SIZE):
            pass

    return run


def backbone_alone(bench: Bench, n: int) -> Callable[[], Any]:
    """The compiled backbone on images that lie in memory, as many as there are files."""
    ((plan, _),) = networks_of(bench.resolved, bench.machine)
    network = bench.executor.networks.of(plan)
    compiled = network.agreed
    assert compiled is not None
    samples = openers.open_source(bench.root).limit(min(n, IN_MEMORY))
    listing, rows = list_images(samples), range(len(samples))
    some = [
        batch.clean
        for batch in loading.batches(listing, rows, specs=[network.spec], batch_size=BATCH_SIZE)
    ]
    n_batches = -(-n // BATCH_SIZE)

    def run() -> None:
        batches = ((number, some[number % len(some)]) for number in range(n_batches))
        for _ in engines.in_order(batches, compiled.start, compiled.ahead):
            pass

    return run


def stitched(
    root: Path, cache: Path, name: str, device: str = "cpu", chosen: str = "auto"
) -> Callable[[], Any]:
    """A stitched model that predicts the folder."""
    options = {"weights": weights_of(name), "cache_dir": cache, "show_progress": False}
    options |= {"device": device, "runtime": chosen}
    features = extraction.run(root, name, **options).features
    board = fc.fit_heads(features, ["logreg"], cv=3, jobs=1, report=False, show_progress=False)
    out = cache / f"{name}.keras"
    stitching.run(board.best, out, show_progress=False)
    model = fc.load(out, device, chosen, cache_dir=None)
    return lambda: model.predict(root, show_progress=False)


def rates(variants: dict[str, Callable[[], Any]], n: int, rounds: int) -> dict[str, list[float]]:
    """Return images/s of each round, the variants in turn, after one run that does not count."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if number:
                found[name].append(n / (time.perf_counter() - started))
    return found


def one_backbone(
    root: Path, cache: Path, name: str, n: int, rounds: int, torch: str | None
) -> dict[str, Any]:
    """Return median rates of every variant, and the ratios."""
    benches = {
        TENSORFLOW: Bench(root, cache, [name], "float32", "tensorflow"),
        FLOAT32: Bench(root, cache, [name], "float32", "openvino"),
    }
    alone = {FLOAT32: BACKBONE}
    if openvino.can_compute("bfloat16"):
        benches[BFLOAT16] = Bench(root, cache, [name], "bfloat16", "openvino")
        alone[BFLOAT16] = BACKBONE16
    for bench in benches.values():
        bench.run()
    variants = {
        TUTORIAL: tutorial(root, name, is_tuned=True),
        UNTUNED: tutorial(root, name, is_tuned=False),
        **{key: bench.run for key, bench in benches.items()},
        DECODE: decode(root, name),
        **{key: backbone_alone(benches[bench], n) for bench, key in alone.items()},
        PREDICT: stitched(root, cache, name),
    }
    found = rates(variants, n, rounds)
    if torch is not None:
        found |= torch_rates(torch, root, name, rounds)
    median = {key: statistics.median(some) for key, some in found.items()}
    limit = {bench: 1 / (1 / median[DECODE] + 1 / median[key]) for bench, key in alone.items()}
    return {
        "backbone": name,
        "rates": median,
        "every_round": found,
        "over_tutorial": {key: rate / median[TUTORIAL] for key, rate in median.items()},
        "over_untuned": {key: rate / median[UNTUNED] for key, rate in median.items()},
        "limit": limit,
        "share": {key: median[key] / limit[key] for key in limit},
        "predict_to_extract": median[PREDICT] / median[FLOAT32],
    }


def torch_rates(
    python: str, root: Path, name: str, rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Return rates of torchvision, from a process of its own; nothing for what it lacks."""
    child = Path(__file__).with_name("extract_torch.py")
    command = [python, str(child), str(root), name, str(rounds), device]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        print(f"torch: {ran.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return {}
    found: dict[str, list[float]] = json.loads(ran.stdout)
    return found


def several_backbones(root: Path, cache: Path, n: int, rounds: int) -> dict[str, Any]:
    """Return seconds of three backbones in one pass and in three, over large photographs."""
    names = list(SEVERAL)
    together = Bench(root, cache, names, "float32", "openvino")
    alone = [Bench(root, cache, [name], "float32", "openvino") for name in names]

    def one_after_the_other() -> None:
        for bench in alone:
            bench.run()

    variants = {
        "one pass": together.run,
        "three passes": one_after_the_other,
        DECODE: decode(root, names[0]),
    }
    found = rates(variants, n, rounds)
    seconds = {key: n / statistics.median(some) for key, some in found.items()}
    return {
        "backbones": names,
        "seconds": seconds,
        "ratio": seconds["three passes"] / seconds["one pass"],
        "decoding_share": 3 * seconds[DECODE] / seconds["three passes"],
    }


def text_of(result: dict[str, Any]) -> str:
    rows = []
    for one in result["backbones"]:
        for key, rate in one["rates"].items():
            spread = one["every_round"][key]
            share = one["share"].get(key)
            rows.append(
                (
                    one["backbone"],
                    key,
                    f"{rate:.1f}",
                    f"{min(spread):.1f} to {max(spread):.1f}",
                    f"{one['over_tutorial'][key]:.2f}",
                    f"{one['over_untuned'][key]:.2f}",
                    "" if share is None else f"{share:.2f} of {one['limit'][key]:.1f}",
                )
            )
    head = ("backbone", "what", "images/s", "rounds", "over (a)", "over (a')", "share of the limit")
    parts = [result["machine"], result["what"], page.table(head, rows)]
    lines = [
        f"{one['backbone']}: predict at {one['predict_to_extract']:.2f} of the rate of extract."
        for one in result["backbones"]
    ]
    parts.append("  \n".join(lines))
    if some := result["several"]:
        parts.append(
            f"{', '.join(some['backbones'])} on {some['images']} photographs of "
            f"{LARGE[0]} x {LARGE[1]}: {some['seconds']['one pass']:.2f} s in one pass, "
            f"{some['seconds']['three passes']:.2f} s in three, {some['ratio']:.2f} times as fast; "
            f"decoding is {100 * some['decoding_share']:.0f} % of the three passes."
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", default="efficientnet-lite0,mobilenet-v2,resnet50")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has torch and torchvision")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="put the table in docs/performance.md")
    options = parser.parse_args()
    names = options.backbones.split(",")
    with tempfile.TemporaryDirectory() as folder:
        root = photos.make(Path(folder, "photos"), options.images)
        large = photos.make(Path(folder, "large"), options.images // 4, LARGE)
        size_kb = np.mean([path.stat().st_size for path in root.rglob("*.jpg")]) / 1000
        cache = Path(folder, "cache")
        cache.mkdir()
        result: dict[str, Any] = {
            "machine": page.machine(),
            "what": (
                f"{options.images} JPEG files of 500 x 375, {size_kb:.0f} KB on average; medians "
                f"of {options.rounds} rounds."
            ),
            "backbones": [
                one_backbone(root, cache, name, options.images, options.rounds, options.torch)
                for name in names
            ],
            "several": several_backbones(large, cache, options.images // 4, options.rounds)
            | {"images": options.images // 4},
        }
    print(json.dumps(result) if options.json else text_of(result))
    if options.write:
        page.put("extract", text_of(result))


if __name__ == "__main__":
    main()
