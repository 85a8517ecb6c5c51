"""Boxes on photographs with drawings pasted on: how good, how fast an epoch, the same everywhere?

    python benchmarks/detection.py [--images 2000] [--image-size 640] [--epochs 16] [--folder F]

The drawings of the held-out part are on no other image (`pasted`). Goals: average precision at half
overlap of at least 0.80 without classes, and a mean over 12 classes of at least 0.45; an epoch from
the cache at least 20 times as fast as training the same head end to end on images; the stitched
model's boxes those of the head within half a pixel; and the same from ONNX, run alone. With
--folder what was extracted and fitted is kept there and found again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import page
import pasted

import featcache as fc
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.detection import maps, stitching
from featcache.detection.training import Wanted, step_of
from featcache.models import judged_on
from featcache.models.card import read

LAYERS = ("block3b_add", "block5c_add", "block7a_project_bn")
GOALS = {"ap50": 0.80, "map50": 0.45}
TIMES_AS_FAST = 20
BATCHES = 6  # of training end to end that are timed, after one that traces
BATCH = 8  # images of those: the activations of 32 at 640 pixels take 16 GB


def end_to_end_s(fitted: fc.Detector, features: list[fc.Features], trains_all: bool) -> float:
    """Return the seconds of an epoch on images: decoding, the network, and the same head.

    Timed over some batches. With `trains_all` the backbone learns as well, else it only runs.
    """
    keras, tf = import_keras(), import_tensorflow()
    opened = maps.opened(features)
    extractor = stitching.stitching.extractor_of(*features)
    for layer in extractor.layers:
        layer.trainable = trains_all
    head = fitted.head
    model = keras.Model(extractor.inputs[0], head(extractor.outputs))
    optimizer = keras.optimizers.Adam(1e-5)
    optimizer.build(model.trainable_variables)
    step = step_of(model, optimizer)
    rows = maps.parts_of(features[0], fitted.settings.seed)["train"]
    images = judged_on.open_of_features(features[0])
    some = images.take(rows[: (BATCHES + 1) * BATCH])
    listing = some.listed()
    wanted = Wanted.of_maps(opened)
    took, last = [], time.monotonic()
    for places, batch in some.batches(listing, range(len(some)), batch_size=BATCH, failures={}):
        targets = wanted.of(rows[places], np.zeros(len(places), int))
        float(step(tf.cast(batch, tf.float32), targets))
        took.append(time.monotonic() - last)
        last = time.monotonic()
    return median(took[1:]) * (len(rows) / BATCH)


def measure(folder: Path, n: int, image_size: int, epochs: int) -> dict[str, Any]:
    """Return what was found, as `table` shows it."""
    manifest = folder / "pasted/boxes.jsonl"
    if not manifest.exists():
        pasted.make(manifest.parent, n)
    cache = folder / "cache"
    started = time.monotonic()
    features = fc.extract_all(
        manifest,
        layers=list(LAYERS),
        pooling="none",
        resize="letterbox",
        image_size=image_size,
        dtype="float16",
        cache_dir=cache,
    )
    extracting_s = time.monotonic() - started
    started = time.monotonic()
    fitted = fc.fit_detector(features, epochs=epochs, cache_dir=cache)
    fitting_s = time.monotonic() - started
    out = folder / "boxes.keras"
    fc.stitch_detector(fitted, out, overwrite=True)
    exported = fc.export_detector(out, overwrite=True)
    evaluated = fc.evaluate_detector(out)
    return {
        "fitted": fitted,
        "extracting_s": extracting_s,
        "fitting_s": fitting_s,
        "epoch_s": median(one.seconds for one in fitted.epochs),
        "all_s": end_to_end_s(fitted, features, True),
        "frozen_s": end_to_end_s(fitted, features, False),
        "parity": stitching.Parity(**read(out).parity),
        "exported": exported,
        "evaluated": evaluated,
    }


def table(found: dict[str, Any]) -> str:
    """Return the findings beside their goals, as Markdown."""
    fitted, epoch_s = found["fitted"], found["epoch_s"]
    lines = ["| what | found | goal |", "|---|---|---|"]
    for name, goal in GOALS.items():
        low, high = fitted.test.intervals[name]
        value = fitted.test.scores()[name]
        lines.append(f"| {name}, held out | {value:.3f} ({low:.3f} to {high:.3f}) | {goal:.2f} |")
    again = found["evaluated"].precision.map50
    took = [f"{found[name]:.0f} s" for name in ("extracting_s", "fitting_s")]
    lines += [
        f"| map, held out | {fitted.test.map:.3f} | |",
        f"| map50 of the .keras file on the same images | {again:.3f} | |",
        f"| an epoch from the cache | {epoch_s:.1f} s | |",
        f"| an epoch on images, backbone trained | {found['all_s']:.0f} s, "
        f"{found['all_s'] / epoch_s:.0f} times | {TIMES_AS_FAST} times |",
        f"| an epoch on images, backbone frozen | {found['frozen_s']:.0f} s, "
        f"{found['frozen_s'] / epoch_s:.0f} times | |",
        f"| extracting, fitting in all | {', '.join(took)} | |",
        f"| parity | {found['parity']} | half a pixel |",
        f"| ONNX alone | {found['exported'].n_same} of {found['exported'].n_boxes} boxes | all |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder, options.images, options.image_size, options.epochs)
    print(page.machine())
    print(table(found))
    print(found["fitted"])


if __name__ == "__main__":
    main()
