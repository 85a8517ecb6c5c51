"""The activations at the boundary, computed once and kept in the same store as features."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import extraction, store
from featcache.core import progress
from featcache.core.checks import check_number
from featcache.core.errors import SourceError, StoreError
from featcache.core.memory import free_memory
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.core.text import counted
from featcache.finetuning import graph
from featcache.finetuning.batches import Cached, Live
from featcache.finetuning.plan import TrainingPlan
from featcache.finetuning.training_images import TrainingImages
from featcache.models import card
from featcache.models.load import load_keras
from featcache.networks import backbones, engines, weights

if TYPE_CHECKING:
    import keras

MEMORY_SHARE = 0.5  # of what is free now, for activations held in memory
GB = 1e9


@dataclass(frozen=True)
class Resources:
    """Where and how activations are computed and kept; none of it changes the numbers."""

    model: Path  # whose backbone is run
    cache_dir: Path
    max_cache_gb: float | None
    device: str
    runtime: str
    show_progress: bool


def check_resources(resources: Resources) -> None:
    """Raise SpecError where this machine has not what is asked for."""
    engines.check_options(resources.runtime, resources.device, "float32")
    engines.gpus(resources.device)
    if resources.max_cache_gb is not None:
        check_number(
            "max_cache_gb",
            resources.max_cache_gb,
            "be a number above 0",
            lambda x: 0 < x < math.inf,
        )


def features_of(
    network: keras.Model, described: card.Card, data: TrainingImages, resources: Resources
) -> store.Features:
    """Return the features that the head was fitted on, from the cache as a rule."""
    resolved = backbones.Resolved(
        described.spec, _weights_origin(described), graph.backbone_of(network)
    )
    return _extract(data, resolved, resources)


def cached(
    network: keras.Model,
    described: card.Card,
    at: graph.Point | None,
    shape: tuple[int, ...],
    data: TrainingImages,
    plan: TrainingPlan,
    resources: Resources,
) -> Cached:
    """Return batches of the activations at a boundary, after computing those that are missing.

    Parameters
    ----------
    at : None is the features themselves.
    shape : of an activation.

    Raises
    ------
    StoreError
        When they would need more room than there is, or than `max_cache_gb`.
    SourceError
        When an activation does not fit into the dtype.
    """
    spec = replace(described.spec, views=plan.views, augment=plan.augment)
    if at is not None:
        whole = "tokens" if len(shape) == 2 else "none"  # nothing is pooled
        spec = replace(spec, layer=at.layer, pooling=whole, dtype=plan.dtype)
    backbone = graph.backbone_of(network)
    model = ""
    if changed := described.changed_layers:
        spec = replace(spec, weights=_identity(backbone, at and at.tensor, changed, described))
        model = os.path.abspath(resources.model) if spec.weights != described.spec.weights else ""
    n = len(data.images.samples)
    size = store.size_of(n, shape, spec.dtype, plan.views)
    where = at.layer if at else "the features"
    what = f"The activations at {where}, {' x '.join(map(str, shape))} {spec.dtype}"
    if at is not None:
        times = f" in {plan.views} views" if plan.views > 1 else ""
        progress.note(
            f"{what}, of {counted(n, 'image')}{times}: {size / GB:.3g} GB on the disk at most.",
            resources.show_progress,
        )
    if at is not None and not store.of_spec(resources.cache_dir, spec):
        limit = None if resources.max_cache_gb is None else int(resources.max_cache_gb * GB)
        store.check_room(resources.cache_dir, size, limit, f"{what} of {counted(n, 'image')}", spec)
    resolved = backbones.Resolved(spec, _weights_origin(described), backbone, model)
    features = _extract(data, resolved, resources)
    row_of = rows_in(features, data)
    used = np.concatenate([data.train, data.validation, data.test])
    lost = used[row_of[used] < 0].tolist()
    if lost:
        reasons = {failure.id: failure.reason for failure in features.failures}
        first = data.images.samples.ids[lost[0]]
        raise SourceError(
            f"{counted(len(lost), 'image has', 'images have')} no activations at {where}; the "
            f"first, '{first}': {reasons.get(first, 'it changed meanwhile')}. Give --dtype "
            f"float32, or remove them."
        )
    return Cached(features, row_of, plan.batch_size, plan.seed, int(free_memory() * MEMORY_SHARE))


def network_of(features: store.Features) -> backbones.Resolved:
    """Return the network of activations that a fine-tuned model's backbone gave.

    Raises
    ------
    StoreError, StitchError
        When the model is gone, cannot be loaded, or is another one by now.
    """
    spec, path = features.spec, Path(features.provenance["model"])
    if not path.is_file():
        raise StoreError(
            f"'{features.path}' is of the model '{path}', which is gone. Put it back and verify "
            f"again, or delete the file: `featcache finetune` computes it anew."
        )
    described = card.read(path)
    backbone = graph.backbone_of(load_keras(path, described))
    names = {layer.name for layer in backbone.layers}
    end = backbone.get_layer(spec.layer).output if spec.layer in names else None
    identity = _identity(backbone, end, described.changed_layers, described)
    if identity != spec.weights:
        raise StoreError(
            f"'{features.path}' is of the model '{path}', which is another one by now. Put that "
            f"back and verify again, or delete the file: `featcache finetune` computes it anew."
        )
    return backbones.Resolved(spec, _weights_origin(described), backbone, str(path))


def live(
    prefix: keras.Model,
    described: card.Card,
    data: TrainingImages,
    plan: TrainingPlan,
    resources: Resources,
) -> Live:
    """Return batches of activations that the prefix computes from the images as they are needed."""
    shape = prefix.output_shape[1:]
    if any(layer.weights for layer in prefix.layers):
        compiled = engines.compile_frozen(
            prefix, runtime=resources.runtime, device=resources.device, say=progress.note
        )
        is_checked = False

        def run(batch: np.ndarray) -> np.ndarray:
            nonlocal compiled, is_checked
            if not is_checked:
                compiled, _ = engines.agree(compiled, prefix, batch, "float32", progress.note)
                is_checked = True
            return compiled(batch)[0]
    else:
        function = import_tensorflow().function(lambda batch: prefix(batch, training=False))

        def run(batch: np.ndarray) -> np.ndarray:
            return np.asarray(function(batch))

    return Live(
        data.images.augmented(plan.augment if plan.end_to_end else ()),
        data.listing,
        run,
        shape,
        plan.batch_size,
        plan.seed,
    )


def rows_in(features: store.Features, data: TrainingImages) -> np.ndarray:
    """Return (n,) int: the row in a feature file of each row of the source, or -1."""
    place = {id_: row for row, id_ in enumerate(features.ids)}
    found = np.array([place.get(id_, -1) for id_ in data.images.samples.ids], int)
    there = np.flatnonzero(found >= 0)
    same = (features.digests[found[there]] == data.listing.digests[there]).all(axis=1)
    found[there[~same]] = -1
    return found


def _extract(
    data: TrainingImages, resolved: backbones.Resolved, resources: Resources
) -> store.Features:
    return extraction.extract_network(
        data.images.samples,
        resolved,
        cache_dir=resources.cache_dir,
        runtime=resources.runtime,
        device=resources.device,
        show_progress=resources.show_progress,
        max_pixels=data.images.max_pixels,
    ).features


def _identity(
    backbone: keras.Model, end: Any, changed: tuple[str, ...], described: card.Card
) -> str:
    """Return what tells the weights before a tensor from those of the pretrained backbone.

    `end` None is the backbone's output.
    """
    before = import_keras().Model(backbone.inputs[0], backbone.outputs[0] if end is None else end)
    if not {layer.name for layer in before.layers} & set(changed):
        return described.spec.weights
    return weights.digest_of(before)


def _weights_origin(described: card.Card) -> str:
    return str((described.provenance or {}).get("weights", ""))
