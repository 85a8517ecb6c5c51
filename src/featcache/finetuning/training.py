"""Train a suffix with Keras: rates, schedule, the best epoch, and going on after an interruption.

Everything that a run needs to go on lies in one folder: the optimiser and the weights by Keras's
`BackupAndRestore`, the history and the best weights beside them.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import atomic, progress
from featcache.core.errors import StitchError
from featcache.core.tensorflow import import_keras
from featcache.finetuning.batches import Batches
from featcache.finetuning.objective import Objective
from featcache.finetuning.plan import TrainingPlan

if TYPE_CHECKING:
    import keras

HISTORY, BACKUP = "history.json", "backup"
LATEST, WHOLE = "latest.weights.h5", "whole.weights.h5"  # what Keras writes; when it is written


@dataclass
class History:
    """What a stage of training gave, epoch by epoch; number 0 of the lists is before training."""

    validation_loss: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)  # from epoch 1 on: it has one less
    seconds: list[float] = field(default_factory=list)  # of each epoch, validation apart
    bests: list[int] = field(default_factory=list)  # epochs that were better than all before
    is_done: bool = False
    unfrozen: list[str] = field(default_factory=list)  # layers of the backbone
    boundary: str = ""  # where the suffix began, for people

    @classmethod
    def read(cls, folder: Path) -> History | None:
        """Return what an earlier run wrote, or None."""
        try:
            return cls(**json.loads((folder / HISTORY).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Keep it for a run that goes on from here."""
        atomic.write_text(folder / HISTORY, json.dumps(asdict(self)))

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept; 0 is before training."""
        return self.bests[-1] if self.bests else 0

    @property
    def n_epochs(self) -> int:
        """Number of epochs trained."""
        return len(self.training_loss)

    def cut(self, n_epochs: int) -> None:
        """Forget epochs that are trained again."""
        del self.validation_loss[n_epochs + 1 :], self.validation_metric[n_epochs + 1 :]
        del self.training_loss[n_epochs:], self.seconds[n_epochs:]
        self.bests = [epoch for epoch in self.bests if epoch <= n_epochs]


Judge = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Stage:
    """A stage of training: a suffix, and what it learns from and is judged by."""

    suffix: keras.Model
    batches: Batches
    train: np.ndarray  # rows
    wanted: np.ndarray  # (n_train, 2, n_outputs)
    judge: Judge | None  # validation loss and metric of the weights as they are; None: all count
    objective: Objective
    rates: Mapping[str, float]  # path of a variable -> factor of the learning rate
    folder: Path  # where what an interruption needs is kept
    label: str
    epochs: int  # at most; the schedule ends there


def train(stage: Stage, plan: TrainingPlan, show_progress: bool) -> History:
    """Train a suffix and leave the weights of its best epoch in it.

    The best epoch is that of the best validation metric, of the lowest validation loss where
    several have it; where none is better than before training, the weights stay as they were.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    suffix = stage.suffix
    history = History.read(stage.folder)
    if history is None:
        shutil.rmtree(stage.folder / BACKUP, ignore_errors=True)
        history = History()
        if stage.judge:
            loss, metric = stage.judge()
            history = History([loss], [metric])
        history.write(stage.folder)
    if not history.is_done and not _is_over(stage, history, plan):
        before = [variable.numpy() for variable in suffix.trainable_variables]
        _fit(stage, plan, history, show_progress)
        if history.best_epoch == 0:
            _assign(suffix, before)
    history.is_done = True
    history.write(stage.folder)
    if history.best_epoch:
        with np.load(_best(stage.folder, history.best_epoch), allow_pickle=False) as saved:
            _assign(suffix, [saved[f"a{i}"] for i in range(len(suffix.trainable_variables))])
    return history


def _fit(stage: Stage, plan: TrainingPlan, history: History, show_progress: bool) -> None:
    keras = import_keras()
    suffix, n_train = stage.suffix, len(stage.train)
    steps = math.ceil(n_train / plan.batch_size)
    suffix.compile(
        optimizer(
            plan,
            steps * stage.epochs,
            [stage.rates.get(variable.path, 1.0) for variable in suffix.trainable_variables],
        ),
        stage.objective.loss,
        # XLA, Keras's default, makes depthwise convolutions on a CPU many times slower
        jit_compile=False,
    )
    # made inside the first step, its variables would have Keras trace the step twice
    suffix.optimizer.build(suffix.trainable_variables)
    started = 0.0

    def begin(epoch: int, logs: Any = None) -> None:
        nonlocal started
        if epoch != history.n_epochs:
            history.cut(epoch)
        stage.batches.epoch = epoch
        _seed(suffix, plan.seed, epoch)
        started = time.monotonic()

    def end(epoch: int, logs: Any = None) -> None:
        history.seconds.append(time.monotonic() - started)
        history.training_loss.append(float((logs or {})["loss"]))
        if not math.isfinite(history.training_loss[-1]):
            raise StitchError(
                f"Training diverged in epoch {epoch + 1}: its loss is "
                f"{history.training_loss[-1]}. Lower --learning-rate ({plan.learning_rate}); "
                f"nothing was written."
            )
        if _judged_best(stage, history, show_progress):
            # the best before stays: were there no backup of this epoch, it would count again
            for old in history.bests[:-1]:
                _best(stage.folder, old).unlink(missing_ok=True)
            history.bests.append(epoch + 1)
            _keep(suffix, _best(stage.folder, epoch + 1))
        history.write(stage.folder)
        if _is_over(stage, history, plan):
            suffix.stop_training = True

    def go_on(logs: Any = None) -> None:
        """The optimiser's steps tell the epoch, also where a kill came between two files."""
        suffix._initial_epoch = int(suffix.optimizer.iterations.numpy()) // steps

    folder = _ready(stage.folder / BACKUP)
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end),
        keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False),
        keras.callbacks.LambdaCallback(
            on_train_begin=go_on,
            on_epoch_end=lambda epoch, logs=None: (folder / LATEST).replace(folder / WHOLE),
        ),
    ]
    dataset = stage.batches.dataset(stage.train, stage.wanted)
    label = f"{stage.label}: training"
    with progress.bar(label, stage.epochs * steps, "steps", show_progress) as advance:
        advance(history.n_epochs * steps)
        callbacks.append(
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs=None: advance(1))
        )
        suffix.fit(dataset, epochs=stage.epochs, shuffle=False, verbose=0, callbacks=callbacks)


def _judged_best(stage: Stage, history: History, show_progress: bool) -> bool:
    """Judge the weights after an epoch; return whether they are the best so far."""
    if stage.judge is None:
        return True
    loss, metric = stage.judge()
    place = history.best_epoch
    best = (history.validation_loss[place], history.validation_metric[place])
    first = history.validation_metric[0]
    history.validation_loss.append(loss)
    history.validation_metric.append(metric)
    progress.note(
        f"{stage.label}, epoch {history.n_epochs} of {stage.epochs}: validation loss {loss:.4f} "
        f"(before {history.validation_loss[0]:.4f}), {stage.objective.metric} {metric:.3f} "
        f"(before {first:.3f})",
        show_progress,
    )
    return stage.objective.is_better((loss, metric), best)


def _seed(layer: Any, seed: int, epoch: int) -> None:
    """Let what an epoch drops hang on its number alone: Keras saves no state of random numbers."""
    for number, inner in enumerate(layer._flatten_layers()):
        generator = getattr(inner, "seed_generator", None)
        if generator is not None:
            generator.state.assign([(seed + 7919 * number) % 2**32, epoch << 16])


def optimizer(plan: TrainingPlan, n_steps: int, factors: Sequence[float]) -> Any:
    """Return Adam whose rate rises, falls along a cosine, and is scaled for each variable.

    Loshchilov and Hutter 2019, "Decoupled weight decay regularization"; discriminative rates as in
    Howard and Ruder 2018, "Universal language model fine-tuning". Without weight decay it is Adam.
    """
    keras = import_keras()

    class Discriminative(keras.optimizers.Adam):  # type: ignore[misc,name-defined]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # a variable of TensorFlow's, which has no path
            factor = factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    rate: Any = plan.learning_rate
    n_warm = round(plan.warmup * n_steps)
    if plan.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if n_warm else rate,
            max(1, n_steps - n_warm),
            warmup_target=rate if n_warm else None,
            warmup_steps=n_warm,
        )
    elif n_warm:
        rate = keras.optimizers.schedules.PolynomialDecay(0.0, n_warm, rate)
    return Discriminative(rate, weight_decay=plan.weight_decay or None)


def _is_over(stage: Stage, history: History, plan: TrainingPlan) -> bool:
    if history.n_epochs >= stage.epochs:
        return True
    return plan.patience is not None and history.n_epochs - history.best_epoch >= plan.patience


def _best(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch}.npz"


def _keep(suffix: keras.Model, path: Path) -> None:
    """Write the trained weights; they appear whole or not at all."""
    arrays = {f"a{i}": v.numpy() for i, v in enumerate(suffix.trainable_variables)}
    with atomic.replacing(path) as made, made.open("wb") as file:
        np.savez(file, **arrays)


def _assign(suffix: keras.Model, arrays: list[np.ndarray]) -> None:
    for variable, array in zip(suffix.trainable_variables, arrays, strict=True):
        variable.assign(array)


def _ready(backup: Path) -> Path:
    """Leave for Keras the last weights that were written to their end; a kill may have cut others.

    Its metadata goes: `go_on` knows the epoch from the weights themselves.
    """
    for name in (LATEST, "training_metadata.json"):
        (backup / name).unlink(missing_ok=True)
    if (backup / WHOLE).exists():
        shutil.copyfile(backup / WHOLE, backup / LATEST)
    return backup
