"""Models as `stitch` leaves them, of every task, made in a moment from the tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import CLASSES
from PIL import Image

from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.models import card, stitching
from featcache.networks import backbones

ACTIVATIONS = {"probabilities": "softmax", "scores": None, "values": None}


def make_model(
    path: Path,
    backbone: Path,
    *,
    task: str = "classification",
    output: str = "probabilities",
    names: tuple[str, ...] = CLASSES,
    pooling: str = "avg",
    **about: Any,
) -> Path:
    """Write a .keras with a head of random weights that tells images apart, and its card."""
    keras = import_keras()
    resolved = backbones.resolve(None, weights=str(backbone), pooling=pooling)
    bare = backbones.build(resolved.spec.backbone, resolved.weights, resolved.spec.image_size)
    extractor = backbones.frozen_extractor(bare, resolved.spec)
    activation = "sigmoid" if (task, output) == ("multi-label", "probabilities") else None
    activation = activation or ACTIVATIONS[output]
    head = keras.layers.Dense(len(names), activation, name=output)
    model = keras.Model(extractor.input, head(extractor.output))
    kernel = np.random.default_rng(1).standard_normal((extractor.output_shape[1], len(names)))
    head.set_weights([12 * (kernel - kernel.mean(axis=0)), np.zeros(len(names))])
    described = {
        "head": "logreg",
        "params": {},
        "source": "",
        "source_options": {},
        "seed": 0,
        "test_accuracy": None,
        "parity": {},
    }
    stitching.save(
        model,
        path,
        card.Card(
            class_names=names, output=output, task=task, spec=resolved.spec, **(described | about)
        ),
    )
    return path


def outputs_of(model: Path, paths: list[Path]) -> np.ndarray:
    """What plain Keras gives for image files, one by one."""
    keras, tf = import_keras(), import_tensorflow()
    loaded = keras.models.load_model(model, compile=False)
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    size = loaded.input_shape[1:3]
    rows = [loaded(tf.image.resize(one, size)[None], training=False).numpy() for one in pixels]
    return np.concatenate(rows)
