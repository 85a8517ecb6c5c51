"""Fine-tune a stitched model: the frozen prefix never runs again, the suffix learns from its cache.

The last layers of the backbone are unfrozen. What comes before them still gives the same numbers
for the same image, so its output is computed once and kept in the store like any features; only the
layers behind it train. They are the network's own, so that what they learn is in the whole model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import extraction, report
from featcache.core import progress
from featcache.core.checks import with_checked_arguments
from featcache.core.errors import SpecError
from featcache.extraction import options as extraction_options
from featcache.finetuning import (
    boundary,
    graph,
    outcome,
    plan,
    preview,
    resuming,
    saving,
    starting,
    unfreezing,
)
from featcache.finetuning.objective import Objective
from featcache.finetuning.plan import TrainingPlan
from featcache.finetuning.stages import Cut, TrainingRun, cut, train_stages
from featcache.finetuning.trainable import trainable_layers
from featcache.finetuning.training import History
from featcache.finetuning.training_images import TrainingImages, open_training_images
from featcache.models import card, stitching
from featcache.models.load import load_keras
from featcache.networks.weights import set_weights
from featcache.scoring import metrics
from featcache.store import layout

if TYPE_CHECKING:
    import keras


@with_checked_arguments
def finetune(
    model: str | os.PathLike[str],
    source: Any = None,
    *,
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    out: str | os.PathLike[str],
    unfreeze: int | str | None = None,
    unfreeze_from: str | None = None,
    unfreeze_blocks: int | None = None,
    stages: Sequence[int | str] | str | None = None,
    learning_rate: float = 1e-5,
    lr_decay: float = 1.0,
    schedule: str = "cosine",
    warmup: float = 0.1,
    epochs: int = 10,
    patience: int | None = 3,
    class_weight: str | None = None,
    label_smoothing: float = 0.0,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    views: int = 1,
    augment: str | Sequence[str] | None = None,
    end_to_end: bool = False,
    refit: bool = True,
    dtype: str = "float32",
    max_cache_gb: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] = extraction.DEFAULT_CACHE,
    runtime: str = "auto",
    device: str = "auto",
    show_progress: bool = True,
    dry_run: bool = False,
) -> outcome.Finetuning | preview.Preview:
    """Train the head and the last layers of the backbone; write the best epoch's model.

    Interrupted, the same call goes on after the last finished epoch.

    Parameters
    ----------
    model : a stitched .keras file.
    source : labelled images, as `open_source` takes them; None is where the model's features came
        from. Of a part that chooses or judges, images that taught the model are left out.
    root, target : of a manifest; its targets are those of the model, if no others are named.
    out : .keras file for the new model.
    unfreeze : number of backbone layers, counted from the end among those that hold weights to
        train, or "all"; 0 trains the head alone. None is 20, or all where there are fewer.
    unfreeze_from : name of the first layer to unfreeze, instead of a number.
    unfreeze_blocks : number of blocks, counted from the end, instead of layers. A block ends where
        branches of the network join; of a vision transformer it is one of its blocks.
    stages : several numbers, as (10, 30, "all"), one stage of training after the other.
    learning_rate : of Adam, at its highest.
    lr_decay : factor of the rate for each block further from the head.
    schedule : cosine (falls to 0 over the epochs of a stage) or constant.
    warmup : share of a stage's steps over which the rate rises from 0.
    epochs : of each stage, at most. The best on the validation images is kept, by accuracy
        (micro-F1 of labels, RMSE of targets) and then by loss, the state before training included.
    patience : epochs without a better one after which a stage ends; None never ends it early.
    class_weight : None, or "balanced".
    label_smoothing : Szegedy et al. 2016; for heads that give probabilities.
    dropout : share of the features that are dropped while training.
    weight_decay : of Adam, decoupled.
    views : activations kept of each image: the clean one, and augmented ones.
    augment : how, of flip, crop and color; None is all where there are views, or with `end_to_end`.
    end_to_end : train on the images, augmented anew in each epoch, instead of kept activations.
    refit : where the validation images were taken from the training part, train once more on all of
        it, for as many epochs as were best.
    dtype : float32 or float16, of the kept activations.
    max_cache_gb : raise rather than keep more than so many GB of activations.
    batch_size : images per step.
    seed : of the order of the images. The held-out part is the one the head was scored on.
    dry_run : only say what would be trained, from where, and what it takes.

    Returns
    -------
    Finetuning; Preview where it is a dry run.

    Raises
    ------
    SpecError
        When an option is out of range.
    SourceError
        When the images have other classes than the model.
    StitchError
        When the model cannot be loaded, its head cannot be trained by gradients, training diverges,
        or the whole model is not what was trained.
    StoreError
        When there is no room for the activations.
    """
    path, to = Path(model), Path(out)
    asked = plan.stages_of(unfreeze, unfreeze_from, unfreeze_blocks, stages)
    plans = TrainingPlan(
        stages=asked or (0,),
        learning_rate=learning_rate,
        lr_decay=lr_decay,
        schedule=schedule,
        warmup=warmup,
        epochs=epochs,
        patience=patience,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        dropout=dropout,
        weight_decay=weight_decay,
        views=views,
        augment=_augmentations(augment, views, end_to_end),
        dtype=dtype,
        end_to_end=end_to_end,
        refit=refit,
        batch_size=batch_size,
        seed=seed,
    )
    if to.resolve() == path.resolve():
        raise SpecError(f"out must be another file than the model itself, '{path}'.")
    stitching.check_out(to)
    outcome.check_page(to)
    described = card.read(path)
    plan.check_head(described.head, described.task, described.open_set is not None)
    plans.check_for(described.task, described.output, described.head)
    resources = boundary.Resources(
        path, layout.on_disk(cache_dir), max_cache_gb, device, runtime, show_progress
    )
    boundary.check_resources(resources)
    network = load_keras(path, described)
    backbone = graph.backbone_of(network)
    if asked is None:
        n_layers = len(trainable_layers(backbone))
        plans = replace(plans, stages=(min(plan.DEFAULT_UNFREEZE, n_layers),))
    for stage in plans.stages:
        unfreezing.chosen(backbone, stage)  # its error comes before the images are looked at
    data = open_training_images(described, source, root, target)
    progress.notes(data.images.samples.remarks, resources.show_progress)
    data = data.fresh(described, resources.cache_dir, resources.show_progress)
    ahead = preview.Preview(
        tuple(
            preview.stage_preview(network, stage, plans, len(data.images.samples))
            for stage in plans.stages
        ),
        *(len(rows) for rows in (data.train, data.validation, data.test)),
    )
    if dry_run:
        return ahead
    for stage_ahead in ahead.stages:
        progress.note(str(stage_ahead), show_progress)
    with resuming.kept(to, described, plans, data, progress.note) as folder:
        return _run(network, to, described, plans, data, resources, folder)


def _augmentations(augment: Any, views: int, end_to_end: bool) -> tuple[str, ...]:
    if isinstance(augment, str) and augment == "none":
        return ()
    # a new view in every epoch is more than one
    return extraction_options.augmentations(augment, 2 if end_to_end else views)


def _run(
    network: keras.Model,
    target: Path,
    described: card.Card,
    plans: TrainingPlan,
    data: TrainingImages,
    resources: boundary.Resources,
    folder: Path,
) -> outcome.Finetuning:
    original = network
    weights = original.get_weights()
    if described.finetuned is None:
        features = boundary.features_of(network, described, data, resources)
        data = data.without(set(np.flatnonzero(boundary.rows_in(features, data) < 0).tolist()))
        network = starting.with_head_of(network, described, features, data, data.train)
    elif described.finetuned.get("plan", {}).get("refit"):
        progress.note(
            "The model learnt from these validation images when it was fine-tuned, so it can "
            "hardly be beaten on them. Fine-tune the stitched model with --stages instead.",
            resources.show_progress,
        )
    objective = Objective.of(
        described.task,
        described.output,
        data.y[data.train],
        len(described.class_names),
        plans.class_weight,
        plans.label_smoothing,
    )
    run = TrainingRun(described, data, plans, resources, objective, folder)
    before = _score(cut(original, plans.stages[0], run), run)
    histories, some = train_stages(network, run, data.train, None, "fine-tuning")
    again: Sequence[History] = ()
    improved = any(history.best_epoch for history in histories)
    if not improved or plans.refit:
        set_weights(original, weights)
        network = original
    if improved and plans.refit:
        rows = np.sort(np.concatenate([data.train, data.validation]))
        epochs = [history.best_epoch for history in histories]
        again, some = train_stages(network, run, rows, epochs, "on all training images")
    parity = None
    whole = saving.whole(network)
    if improved:
        parity = saving.compared(whole, some, run)
    done = outcome.Finetuning(
        path=target,
        improved=improved,
        metric=objective.metric,
        before=before,
        after=_score(some, run) if improved else before,
        unfrozen=some.unfrozen,
        boundary=some.where,
        stages=tuple(histories),
        n_train=len(data.train),
        n_validation=len(data.validation),
        n_test=len(data.test),
        refit=tuple(again),
        parity=None if parity is None else asdict(parity),
    )
    stitching.save(whole, target, outcome.card_of(described, done, plans, data))
    report.write_training_page(
        outcome.page_path(target), outcome.page_of(described, done, plans, data)
    )
    return done


def _score(some: Cut, run: TrainingRun) -> dict[str, float]:
    """Return every metric of a network on the held-out part."""
    rows, about = run.data.test, run.described
    outputs = some.batches.outputs(some.suffix, rows)
    return metrics.score(about.task, run.data.y[rows], outputs, about.output)
