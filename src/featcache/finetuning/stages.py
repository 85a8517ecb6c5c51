"""The stages of a fine-tuning, one after the other, on one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcache.finetuning import boundary, graph, training, unfreezing
from featcache.finetuning.batches import Batches
from featcache.finetuning.objective import Objective
from featcache.finetuning.plan import TrainingPlan, Unfreeze
from featcache.finetuning.training_images import TrainingImages
from featcache.models import card, stitching

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainingRun:
    """What every stage has in common."""

    described: card.Card
    data: TrainingImages
    plan: TrainingPlan
    resources: boundary.Resources
    objective: Objective
    folder: Path
    batches: dict[str, Batches] = field(default_factory=dict)  # by boundary: the one in use


@dataclass(frozen=True)
class Cut:
    """A network parted for one stage, and what its suffix learns from."""

    unfrozen: tuple[str, ...]
    where: str  # the boundary, for people
    suffix: keras.Model
    batches: Batches


@dataclass(frozen=True)
class Parting:
    """Where a stage parts a network."""

    unfrozen: tuple[str, ...]  # backbone layers, in the order of the graph
    at: graph.Point | None  # of the backbone; None where it is parted at the images or features
    where: str  # the same, for people
    parted: graph.Parted

    @property
    def is_kept(self) -> bool:
        """Whether it is parted behind something, so that activations can be kept."""
        return self.at is not None or not self.unfrozen


def parting(network: keras.Model, stage: Unfreeze, dropout: float = 0.0) -> Parting:
    """Return how a stage parts a network, whose weights both halves share."""
    backbone = graph.backbone_of(network)
    features = stitching.features_of(network)
    unfrozen = unfreezing.chosen(backbone, stage)
    if not unfrozen:
        parted = graph.part_at_features(network, features, dropout)
        return Parting(unfrozen, None, "the features", parted)
    at = graph.boundary(backbone, unfrozen)
    where = at.layer if at else "the images"
    return Parting(unfrozen, at, where, graph.part(network, at, features, dropout))


def cut(network: keras.Model, stage: Unfreeze, run: TrainingRun) -> Cut:
    """Part a network for a stage, and have the activations at its boundary."""
    made = parting(network, stage, run.plan.dropout)
    unfrozen, at, where, parted = made.unfrozen, made.at, made.where, made.parted
    shape = parted.suffix.input_shape[1:]
    if where not in run.batches:  # the prefix is the same whichever head the network has
        run.batches.clear()  # what is held in memory
        if run.plan.end_to_end or not made.is_kept:
            batches: Batches = boundary.live(
                parted.prefix, run.described, run.data, run.plan, run.resources
            )
        else:
            batches = boundary.cached(
                network, run.described, at, shape, run.data, run.plan, run.resources
            )
        run.batches[where] = batches
    # after the extraction, which freezes what it runs
    unfreezing.thaw(network, unfrozen)
    return Cut(unfrozen, where, parted.suffix, run.batches[where])


def train_stages(
    network: keras.Model,
    run: TrainingRun,
    rows: np.ndarray,
    epochs: Sequence[int] | None,
    name: str,
) -> tuple[list[training.History], Cut]:
    """Train every stage of the plan on rows of the source; the network's weights change.

    Parameters
    ----------
    epochs : of each stage; None is up to the plan's, judged by the validation images.
    name : of the run, for the folder in which it is kept.

    Returns
    -------
    The history of each stage, and the last stage's cut.
    """
    wanted = run.objective.to_train_on(run.data.y[rows])
    histories = []
    for number, unfreeze in enumerate(run.plan.stages):
        some = cut(network, unfreeze, run)
        several = len(run.plan.stages) > 1
        history = training.train(
            training.Stage(
                suffix=some.suffix,
                batches=some.batches,
                train=rows,
                wanted=wanted,
                judge=None if epochs else judge_of(some, run),
                objective=run.objective,
                rates=rates(network, run.plan.lr_decay),
                folder=run.folder / f"{name}-{number}",
                label=f"{name} {number + 1} of {len(run.plan.stages)}" if several else name,
                epochs=epochs[number] if epochs else run.plan.epochs,
            ),
            run.plan,
            run.resources.show_progress,
        )
        history.unfrozen, history.boundary = list(some.unfrozen), some.where
        histories.append(history)
    return histories, some


def judge_of(some: Cut, run: TrainingRun) -> training.Judge:
    """Return a function that says validation loss and metric of the weights as they are."""
    rows = run.data.validation

    def judge() -> tuple[float, float]:
        return run.objective.judge(run.data.y[rows], some.batches.outputs(some.suffix, rows))

    return judge


def rates(network: keras.Model, decay: float) -> dict[str, float]:
    """Return the factor of the learning rate for each variable: `decay` to the number of its block.

    The head is number 0, the last block of the backbone 1.
    """
    if decay == 1:
        return {}
    backbone = graph.backbone_of(network)
    block = graph.blocks(backbone)
    return {
        variable.path: decay ** block[layer.name]
        for layer in backbone.layers
        for variable in layer.variables
        if layer.name in block
    }
