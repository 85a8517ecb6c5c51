"""Fine-tuning from the cached boundary against `model.fit` on images already decoded in memory.

    python benchmarks/finetune.py [--images 256] [--epochs 3] [--write]

The same layers train, from the same weights, on the same batches in the same order. Goals on two
cores: mobilenet-v2's last block at least 6 times as fast an epoch, resnet50's 5 times, the last
third of either 3 times; the loss after three epochs equal within 1e-3; and the trained suffix, put
back, predicts what the network trained end to end does, within 1e-3. Random weights: what a network
computes does not change how long it takes. Ratios are of one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import page

from featcache import backbones, extraction, quiet
from featcache.catalogue import CATALOGUE
from featcache.finetuning import graph, training
from featcache.finetuning.batches import Cached
from featcache.finetuning.objective import Objective
from featcache.finetuning.plan import Plan
from featcache.spec import ExtractionSpec

N_CLASSES = 10
SEED = 0
# backbone, part, the boundary, and how many times as fast an epoch is to be
CASES = (
    ("mobilenet-v2", "last block", "block_15_add", 6.0),
    ("mobilenet-v2", "last third", "block_12_add", 3.0),
    ("resnet50", "last block", "conv5_block2_out", 5.0),
    ("resnet50", "last third", "conv4_block6_out", 3.0),
)


def network_of(name: str) -> tuple[Any, Any]:
    """Return a stitched network with a softmax head, and its tensor of features."""
    keras = quiet.keras()
    keras.utils.set_random_seed(SEED)
    side = CATALOGUE[name].image_size
    spec = ExtractionSpec(
        backbone=name,
        weights="random",
        image_size=(side, side),
        preprocessing=CATALOGUE[name].preprocessing,
    )
    backbone = backbones.build(name, "random", spec.image_size)
    extractor = backbones.frozen_extractor(backbone, spec)
    # activations of a random network are large; a head that standardises keeps the loss sane
    x = keras.layers.LayerNormalization(name="standardised")(extractor.output)
    head = keras.layers.Dense(N_CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(extractor.inputs[0], head, name=name), spec


def run(case: tuple[str, str, str, float], n_images: int, n_epochs: int) -> dict[str, Any]:
    """Train one case both ways and return what was measured."""
    name, part, where, goal = case
    network, spec = network_of(name)
    backbone = graph.backbone_of(network)
    at = next(point for point in graph.points(backbone) if point.layer == where)
    unfrozen = graph.after(backbone, at)
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 256, (n_images, *spec.image_size, 3), np.uint8)
    y = rng.integers(0, N_CLASSES, n_images)
    rows = np.arange(n_images)
    plan = Plan(
        stages=(len(unfrozen),),
        learning_rate=1e-4,
        lr_decay=1.0,
        schedule="constant",
        warmup=0.0,
        epochs=n_epochs,
        patience=None,
        class_weight=None,
        label_smoothing=0.0,
        dropout=0.0,
        weight_decay=0.0,
        views=1,
        augment=(),
        dtype="float32",
        end_to_end=False,
        refit=False,
        batch_size=32,
        seed=SEED,
    )
    objective = Objective.of("classification", "probabilities", y, N_CLASSES, None, 0.0)
    wanted = objective.to_train_on(y)
    weights = network.get_weights()

    # end to end, the obvious way: the whole model on images that lie in memory, decoded
    graph.thaw(network, unfrozen)
    network.compile(training.optimizer(plan, 1, [1.0] * 10_000), objective.loss, jit_compile=False)
    images, plain_losses, plain_s = pixels.astype(np.float32), [], []
    for epoch in range(n_epochs):
        order = np.random.default_rng((SEED, epoch)).permutation(n_images)
        x, targets = images[order], wanted[order]  # not timed: who shuffles in `fit` pays for it
        started = time.monotonic()
        history = network.fit(x, targets, batch_size=32, shuffle=False, verbose=0)
        plain_s.append(time.monotonic() - started)
        plain_losses.append(history.history["loss"][0])
    reference = predictions(network, images)

    # from the boundary: the prefix runs once, outside the epochs
    network.set_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        spec_at = ExtractionSpec(
            **(spec.__dict__ | {"layer": where, "pooling": "none", "weights": "random"})
        )
        started = time.monotonic()
        features = extraction.extract_network(
            pixels,
            backbones.Resolved(spec_at, "random", backbone),
            cache_dir=Path(folder, "cache"),
            show_progress=False,
        ).features
        extract_s = time.monotonic() - started
        row_of = np.arange(n_images)  # ids of given images are numbers of one width
        batches = Cached(features, row_of, plan.batch_size, SEED, 1 << 40)
        features_at = network.get_layer("standardised").input
        parted = graph.part(network, at, features_at)
        graph.thaw(network, unfrozen)
        stage = training.Stage(
            suffix=parted.suffix,
            batches=batches,
            train=rows,
            wanted=wanted,
            judge=None,
            objective=objective,
            rates={},
            folder=Path(folder, "run"),
            label="benchmark",
            epochs=n_epochs,
        )
        history = training.train(stage, plan, False)
    back = predictions(network, images)
    first = 1 if n_epochs > 1 else 0  # the first epoch traces the graph
    plain, cached = (float(np.min(s[first:])) for s in (plain_s, history.seconds))
    return {
        "backbone": name,
        "part": part,
        "boundary": where,
        "map": " x ".join(map(str, features.shape[1:])),
        "unfrozen": len(unfrozen),
        "plain_s": plain,
        "cached_s": cached,
        "ratio": plain / cached,
        "goal": goal,
        "loss_plain": plain_losses[-1],
        "loss_cached": history.training_loss[-1],
        "loss_difference": abs(plain_losses[-1] - history.training_loss[-1]),
        "prediction_difference": float(np.abs(reference - back).max()),
        "extract_s": extract_s,
    }


def predictions(network: Any, images: np.ndarray) -> np.ndarray:
    """Return the network's outputs in inference mode."""
    run = quiet.tensorflow().function(lambda batch: network(batch, training=False))
    return np.concatenate([np.asarray(run(images[i : i + 32])) for i in range(0, len(images), 32)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", help="a backbone")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    options = parser.parse_args()
    found = []
    for case in CASES:
        if options.only in (None, case[0]):
            found.append(run(case, options.images, options.epochs))
            print(json.dumps(found[-1]), flush=True)
    head = ("backbone", "trains", "boundary", "map", "`fit`", "cached", "ratio", "goal")
    head += ("loss differs", "predictions differ")
    table = page.table(
        head,
        [
            (
                one["backbone"],
                f"{one['part']} ({one['unfrozen']} layers)",
                one["boundary"],
                one["map"],
                f"{one['plain_s']:.2f} s",
                f"{one['cached_s']:.2f} s",
                f"**{one['ratio']:.1f}**",
                f"{one['goal']:.0f}",
                f"{one['loss_difference']:.0e}",
                f"{one['prediction_difference']:.0e}",
            )
            for one in found
        ],
    )
    about = f"{options.images} images, batches of 32, Adam; the fastest epoch but the first."
    text = f"{table}\n\n{about} {page.machine()}."
    print(text)
    if options.write:
        page.put("finetune", text)


if __name__ == "__main__":
    main()
