"""Fine-tuning from the cached boundary against `model.fit` on images already decoded in memory.

    python benchmarks/finetune.py [--images 256] [--epochs 3] [--write]

The same layers train, from the same weights, on the same batches in the same order. Goals on two
cores: mobilenet-v2's last block at least 6 times as fast an epoch, resnet50's 5 times, the last
third of either 3 times; the loss after three epochs equal within 1e-3; and the trained suffix, put
back, predicts what the network trained end to end does, within 1e-3. Random weights with the batch
statistics of these images, so that activations and gradients are of the size that they have in a
trained network. Ratios are of one run on one machine.

Adam divides by the size of a gradient, so training magnifies rounding. How much is measured too:
the suffix is trained once more from activations that are changed in their last bit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import page

from featcache import extraction
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.finetuning import graph, training, unfreezing
from featcache.finetuning.batches import Cached
from featcache.finetuning.objective import Objective
from featcache.finetuning.plan import TrainingPlan
from featcache.networks import backbones, registry

N_CLASSES = 10
SEED = 0
LAST_BIT = 2**-23  # of a float32
# backbone, part, the boundary, and how many times as fast an epoch is to be
CASES = (
    ("mobilenet-v2", "last block", "block_15_add", 6.0),
    ("mobilenet-v2", "last third", "block_12_add", 3.0),
    ("resnet50", "last block", "conv5_block2_out", 5.0),
    ("resnet50", "last third", "conv4_block6_out", 3.0),
)


def network_of(name: str, images: np.ndarray) -> tuple[Any, Any]:
    """Return a stitched network with a softmax head, and the spec of its backbone."""
    keras = import_keras()
    keras.utils.set_random_seed(SEED)
    side = registry.find(name).image_size
    spec = ExtractionSpec(
        backbone=name,
        weights="random",
        image_size=(side, side),
        preprocessing=registry.find(name).preprocessing,
    )
    backbone = backbones.build(name, "random", spec.image_size)
    extractor = backbones.frozen_extractor(backbone, spec)
    normalise(backbone, extractor, images)
    x = keras.layers.LayerNormalization(name="standardised")(extractor.output)
    head = keras.layers.Dense(N_CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(extractor.inputs[0], head, name=name), spec


def normalise(backbone: Any, extractor: Any, images: np.ndarray) -> None:
    """Give batch normalisation the statistics of these images."""
    norms = [layer for layer in backbone.layers if hasattr(layer, "moving_mean")]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum, layer.trainable = 0.0, True
    extractor(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum, layer.trainable = momentum, False


class Rounded(Cached):
    """Activations that differ in their last bit."""

    def _activations(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        exact = super()._activations(rows, views)
        signs = np.random.default_rng(SEED).choice((-1, 0, 1), exact.shape)
        return (exact * (1 + LAST_BIT * signs)).astype(np.float32)


def run(
    case: tuple[str, str, str, float], n_images: int, n_epochs: int, rate: float, n_timed: int
) -> dict[str, Any]:
    """Train one case both ways and return what was measured."""
    name, part, where, goal = case
    rng = np.random.default_rng(SEED)
    side = registry.find(name).image_size
    pixels = rng.integers(0, 256, (n_images, side, side, 3), np.uint8)
    network, spec = network_of(name, pixels[:64].astype(np.float32))
    backbone = graph.backbone_of(network)
    at = next(point for point in graph.points(backbone) if point.layer == where)
    unfrozen = graph.after(backbone, at)
    y = rng.integers(0, N_CLASSES, n_images)
    rows = np.arange(n_images)
    plan = TrainingPlan(
        stages=(len(unfrozen),),
        learning_rate=rate,
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
    unfreezing.thaw(network, unfrozen)
    network.compile(training.optimizer(plan, 1, [1.0] * 10_000), objective.loss, jit_compile=False)
    images, plain_losses = pixels.astype(np.float32), []
    for epoch in range(n_epochs):
        order = np.random.default_rng((SEED, epoch)).permutation(n_images)
        history = network.fit(images[order], wanted[order], batch_size=32, shuffle=False, verbose=0)
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
        features_at = network.get_layer("standardised").input
        parted = graph.part(network, at, features_at)
        unfreezing.thaw(network, unfrozen)
        batches = Cached(features, row_of, plan.batch_size, SEED, 1 << 40)
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
        network.set_weights(weights)
        rounded = Rounded(features, row_of, plan.batch_size, SEED, 1 << 40)
        training.train(replace(stage, batches=rounded, folder=Path(folder, "rounded")), plan, False)
        other = predictions(network, images)
        dataset = batches.dataset(rows, wanted)
        plain, cached = alternate(
            lambda: network.fit(images, wanted, batch_size=32, shuffle=False, verbose=0),
            lambda: parted.suffix.fit(dataset, shuffle=False, verbose=0),
            n_timed,
        )
    ratios = plain / cached
    return {
        "backbone": name,
        "part": part,
        "boundary": where,
        "map": " x ".join(map(str, features.shape[1:])),
        "unfrozen": len(unfrozen),
        "plain_s": float(np.median(plain)),
        "cached_s": float(np.median(cached)),
        "ratio": float(np.median(ratios)),
        "least": float(ratios.min()),
        "most": float(ratios.max()),
        "ratio_of_fastest": float(plain.min() / cached.min()),
        "goal": goal,
        "loss_plain": plain_losses[-1],
        "loss_cached": history.training_loss[-1],
        "loss_difference": abs(plain_losses[-1] - history.training_loss[-1]),
        "prediction_difference": float(np.abs(reference - back).max()),
        "rounding_difference": float(np.abs(other - back).max()),
        "loss_first": plain_losses[0],
        "extract_s": extract_s,
    }


def alternate(
    one: Callable[[], Any], other: Callable[[], Any], n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds (n,) of two kinds of epoch that take turns, so that both meet the same."""
    one(), other()  # not counted: they trace the graphs
    seconds = np.empty((n, 2))
    for turn in range(n):
        for column, epoch in enumerate((one, other)):
            started = time.monotonic()
            epoch()
            seconds[turn, column] = time.monotonic() - started
    return seconds[:, 0], seconds[:, 1]


def predictions(network: Any, images: np.ndarray) -> np.ndarray:
    """Return the network's outputs in inference mode."""
    run = import_tensorflow().function(lambda batch: network(batch, training=False))
    return np.concatenate([np.asarray(run(images[i : i + 32])) for i in range(0, len(images), 32)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--timed", type=int, default=7, help="epochs of each kind")
    parser.add_argument("--rate", type=float, default=1e-5, help="customary for fine-tuning")
    parser.add_argument("--only", help="a backbone")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    options = parser.parse_args()
    found = []
    for case in CASES:
        if options.only in (None, case[0]):
            found.append(run(case, options.images, options.epochs, options.rate, options.timed))
            print(json.dumps(found[-1]), flush=True)
    head = ("backbone", "trains", "boundary", "map", "`fit`", "cached", "ratio")
    head += ("of the fastest", "goal")
    head += ("loss differs", "predictions differ", "by rounding")
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
                f"**{one['ratio']:.1f}** ({one['least']:.1f} to {one['most']:.1f})",
                f"{one['ratio_of_fastest']:.1f}",
                f"{one['goal']:.0f}",
                f"{one['loss_difference']:.0e}",
                f"{one['prediction_difference']:.0e}",
                f"{one['rounding_difference']:.0e}",
            )
            for one in found
        ],
    )
    about = (
        f"{options.images} images, batches of 32, Adam at {options.rate}; medians of "
        f"{options.timed} epochs of each kind in turns."
    )
    text = f"{table}\n\n{about} {page.machine()}."
    print(text)
    if options.write:
        page.put("finetune", text)


if __name__ == "__main__":
    main()
