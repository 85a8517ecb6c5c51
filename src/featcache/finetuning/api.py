"""Fine-tune a stitched model: the frozen prefix never runs again, the suffix learns from its cache.

The last layers of the backbone are unfrozen. What comes before them still gives the same numbers
for the same image, so its output is computed once and kept in the store like any features; only the
layers behind it train. They are the network's own, so that what they learn is in the whole model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import extraction, report
from featcache.core import progress
from featcache.core.checks import bad
from featcache.core.errors import SpecError
from featcache.data import splits
from featcache.extraction import requested
from featcache.finetuning import boundary, graph, plan, resuming, running, saving, starting
from featcache.finetuning.data import Data, open_data
from featcache.finetuning.objective import Objective
from featcache.finetuning.plan import Plan
from featcache.finetuning.training import History
from featcache.models import card, stitching
from featcache.models.load import load_keras
from featcache.networks import engines
from featcache.scoring import metrics

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Finetuning:
    """What fine-tuning did."""

    path: Path  # of the new model; where nothing improved it is the old one
    improved: bool  # on the validation images: a better metric, or the same and a lower loss
    metric: str
    before: dict[str, float]  # every metric of the model as it came, on the held-out part
    after: dict[str, float]  # of the model that was written
    unfrozen: tuple[str, ...]  # backbone layers of the last stage, in the order of the graph
    boundary: str  # where the last stage began to train
    stages: tuple[History, ...]
    n_train: int
    n_validation: int
    n_test: int
    refit: tuple[History, ...]  # of the second training, on the validation images as well
    parity: dict[str, Any] | None  # of the whole model with the suffix that was trained

    @property
    def best_epochs(self) -> tuple[int, ...]:
        """The epoch that was kept of each stage; 0: none was better."""
        return tuple(history.best_epoch for history in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self) | {"path": str(self.path), "best_epochs": list(self.best_epochs)}


def finetune(
    model: str | os.PathLike[str],
    source: Any = None,
    *,
    root: str | os.PathLike[str] | None = None,
    target: str | None = None,
    out: str | os.PathLike[str],
    unfreeze: int | str | None = None,
    unfreeze_from: str | None = None,
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
) -> Finetuning:
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
    stages : several numbers, as (10, 30, "all"), one stage of training after the other.
    learning_rate : of Adam, at its highest.
    lr_decay : factor of the rate for each block further from the head; a block ends where branches
        of the network join.
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
    batch_size : images a step.
    seed : of the order of the images. The held-out part is the one the head was scored on.

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
    asked = plan.stages_of(unfreeze, unfreeze_from, stages)
    plans = Plan(
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
        augment=() if augment == "none" else _augmentations(augment, views, end_to_end),
        dtype=dtype,
        end_to_end=end_to_end,
        refit=refit,
        batch_size=batch_size,
        seed=seed,
    )
    if to.resolve() == path.resolve():
        raise SpecError(f"out must be another file than the model itself, '{path}'.")
    stitching.check_out(to)
    _check_page(to)
    described = card.read(path)
    plan.check_head(described.head)
    plans.check_for(described.task, described.output, described.head)
    machine = boundary.Machine(Path(cache_dir), max_cache_gb, device, runtime, show_progress)
    check_machine(machine)
    network = load_keras(path, described)
    backbone = graph.backbone_of(network)
    if asked is None:
        n_layers = len(graph.trainable_layers(backbone))
        plans = replace(plans, stages=(min(plan.DEFAULT_UNFREEZE, n_layers),))
    for stage in plans.stages:
        graph.chosen(backbone, stage)  # its error comes before the images are looked at
    data = open_data(described, source, root, target)
    data = data.fresh(described, machine.cache_dir, machine.show_progress)
    with resuming.kept(to, described, plans, data, progress.note) as folder:
        return _run(network, to, described, plans, data, machine, folder)


def _augmentations(augment: Any, views: int, end_to_end: bool) -> tuple[str, ...]:
    # a new view in every epoch is more than one
    return requested.augmentations(augment, 2 if end_to_end else views)


def check_machine(machine: boundary.Machine) -> None:
    """Raise SpecError where this machine has not what is asked for."""
    engines.check_options(machine.runtime, machine.device, "float32")
    engines.gpus(machine.device)
    limit = machine.max_cache_gb
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise bad("max_cache_gb", "be a number above 0", limit)


def _run(
    network: keras.Model,
    target: Path,
    described: card.Card,
    plans: Plan,
    data: Data,
    machine: boundary.Machine,
    folder: Path,
) -> Finetuning:
    original = network
    weights = original.get_weights()
    if described.finetuned is None:
        features = boundary.features_of(network, described, data, machine)
        data = data.without(set(np.flatnonzero(boundary.rows_in(features, data) < 0).tolist()))
        network = starting.with_head_of(network, described, features, data, data.train)
    elif described.finetuned.get("plan", {}).get("refit"):
        progress.note(
            "The model learnt from these validation images when it was fine-tuned, so it can "
            "hardly be beaten on them. Fine-tune the stitched model with --stages instead.",
            machine.show_progress,
        )
    objective = Objective.of(
        described.task,
        described.output,
        data.y[data.train],
        len(described.class_names),
        plans.class_weight,
        plans.label_smoothing,
    )
    job = running.Job(described, data, plans, machine, objective, folder)
    before = _score(running.cut(original, plans.stages[0], job), job)
    histories, some = running.train_stages(network, job, data.train, None, "fine-tuning")
    again: Sequence[History] = ()
    improved = any(history.best_epoch for history in histories)
    if not improved or plans.refit:
        original.set_weights(weights)
        network = original
    if improved and plans.refit:
        rows = np.sort(np.concatenate([data.train, data.validation]))
        epochs = [history.best_epoch for history in histories]
        again, some = running.train_stages(network, job, rows, epochs, "on all training images")
    parity = None
    whole = saving.whole(network)
    if improved:
        parity = saving.compared(whole, some, job)
    done = Finetuning(
        path=target,
        improved=improved,
        metric=objective.metric,
        before=before,
        after=_score(some, job) if improved else before,
        unfrozen=some.unfrozen,
        boundary=some.where,
        stages=tuple(histories),
        n_train=len(data.train),
        n_validation=len(data.validation),
        n_test=len(data.test),
        refit=tuple(again),
        parity=None if parity is None else asdict(parity),
    )
    stitching.save(whole, target, _card(described, done, plans, data))
    report.write_training_page(page_path(target), _page(described, done, plans, data))
    return done


def page_path(model: Path) -> Path:
    """Return where the page of a fine-tuned model lies."""
    return model.with_suffix(".html")


def _check_page(target: Path) -> None:
    page = page_path(target)
    if page.exists() and "Made by featcache" not in page.read_text("utf-8", "replace"):
        raise SpecError(
            f"The training curves would overwrite '{page}', which is no such page. Choose another "
            f"--out."
        )


def _page(described: card.Card, done: Finetuning, plans: Plan, data: Data) -> dict[str, Any]:
    """Return what the page of the training curves shows."""
    stages = [asdict(history) | {"best_epoch": history.best_epoch} for history in done.stages]
    return done.to_dict() | {
        "model": done.path.name,
        "source": data.images.samples.origin,
        "head": described.head,
        "backbone": described.spec.backbone,
        "task": described.task,
        "plan": plans.to_dict(),
        "versions": card.versions(),
        "stages": stages,
    }


def _score(some: running.Cut, job: running.Job) -> dict[str, float]:
    """Return every metric of a network on the held-out part."""
    rows, about = job.data.test, job.described
    outputs = some.batches.outputs(some.suffix, rows)
    return metrics.score(about.task, job.data.y[rows], outputs, about.output)


def _card(described: card.Card, done: Finetuning, plans: Plan, data: Data) -> card.Card:
    """Return the card of what was trained; of a model that stayed as it was, its own."""
    if not done.improved:
        return described
    changed = {*described.changed_layers, *done.unfrozen}
    before = {"source": described.source, "taught": (described.provenance or {}).get("taught")}
    now = {"source": data.images.samples.origin, "taught": splits.taught(data.learnt)}
    earlier = (described.finetuned or {}).get("earlier", [])
    about = done.to_dict() | {
        "plan": plans.to_dict(),
        "changed": sorted(changed),
        "earlier": earlier if before == now else [*earlier, before],  # what taught the model first
    }
    del about["path"]
    return replace(
        described,
        # what is held out from now on is a part of these images
        source=now["source"],
        provenance=(described.provenance or {}) | {"taught": now["taught"]},
        source_options=dict(data.images.samples.options),
        test_accuracy=done.after.get("accuracy"),
        test=done.after,
        parity=done.parity or described.parity,
        finetuned=about,
    )
