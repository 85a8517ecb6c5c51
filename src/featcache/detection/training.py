"""Training of the head on cached maps: an epoch is a pass over the file, and no network runs.

All randomness (initial weights, order, views, dropout) comes from the settings' seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.detection import losses
from featcache.detection.maps import Maps
from featcache.detection.network import CENTRES, CLASSES, CORNERS, grid_of, head
from featcache.detection.settings import Settings
from featcache.detection.targets import Targets, targets

if TYPE_CHECKING:
    import keras

_WARM = 0.1  # of the steps, in which the learning rate rises
_LONGEST_GRADIENT = 10.0
_MOMENTS_OF = 512  # images, at most, that means and variances are taken of
LOOKS = 6  # at the validation part, spread over the epochs


@dataclass(frozen=True)
class Epoch:
    """What an epoch cost."""

    loss: float  # of an image's boxes, mean over the steps
    seconds: float


@dataclass(frozen=True)
class Trained:
    """How a training went."""

    epochs: list[Epoch]
    val_scores: dict[int, float]  # by epoch, counted from 1
    best_epoch: int


def untrained(maps: Maps, rows: np.ndarray, settings: Settings) -> keras.Model:
    """Return a head that standardises maps by those of training rows, and knows nothing else."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOMENTS_OF)).astype(int)]
    moments, n_classes = maps.moments(some), len(maps.class_names)
    return head(maps.shapes, moments, n_classes, maps.spec.image_size, settings)


def train(
    model: keras.Model,
    maps: Maps,
    rows: np.ndarray,
    settings: Settings,
    judge: Callable[[], float],
    advance: Callable[[int], None] = lambda n: None,
) -> Trained:
    """Train a head on rows of maps; it has the best weights in the end.

    Parameters
    ----------
    judge : says how good the head is on images that choose; the best of `LOOKS` looks is kept.
    advance : told how many epochs are done since last time.

    Raises
    ------
    HeadError
        When the loss is not finite any more.
    """
    keras, tf = import_keras(), import_tensorflow()
    rng = np.random.default_rng(settings.seed)
    wanted = Wanted.of_maps(maps)
    size = min(settings.batch_size, len(rows))
    n_steps = max(1, len(rows) // size)
    total = settings.epochs * n_steps
    rates = tf.constant(_rates(settings.learning_rate, total))
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    optimizer.build(model.trainable_variables)
    step = step_of(model, optimizer)
    looks = set(np.linspace(settings.epochs / LOOKS, settings.epochs, LOOKS).round().astype(int))
    best: list[np.ndarray] = []
    epochs: list[Epoch] = []
    scores: dict[int, float] = {}
    for number in range(1, settings.epochs + 1):
        started = time.monotonic()
        order = rng.permutation(rows)[: n_steps * size].reshape(n_steps, size)
        lost = 0.0
        for at, batch in enumerate(order, (number - 1) * n_steps):
            views = rng.integers(0, maps.spec.views, len(batch))
            optimizer.learning_rate.assign(rates[at])
            lost += float(step(maps.read(batch, views), wanted.of(batch, views)))
        epochs.append(Epoch(lost / n_steps, time.monotonic() - started))
        if not np.isfinite(lost):
            raise HeadError(
                f"The head diverged in epoch {number}: its loss is not finite with learning_rate "
                f"{settings.learning_rate}. Lower the learning rate."
            )
        if number in looks:
            scores[number] = judge()
            if scores[number] >= max(scores.values()):
                best = [weight.numpy() for weight in model.weights]
        advance(1)
    for weight, value in zip(model.weights, best, strict=True):
        weight.assign(value)
    best_epoch = max(number for number, score in scores.items() if score == max(scores.values()))
    return Trained(epochs, scores, best_epoch)


@dataclass
class Wanted:
    """Targets of images, made when they are first wanted."""

    maps: Maps
    grid: tuple[int, int]

    @classmethod
    def of_maps(cls, maps: Maps) -> Wanted:
        """Return those on the grid of the head for these maps."""
        return cls(maps, grid_of(maps.shapes, maps.spec.image_size))

    def __post_init__(self) -> None:
        self._known: dict[tuple[int, bool], Targets] = {}

    def of(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the columns of `Targets` for a batch."""
        every = [
            self._of(row, view) for row, view in zip(rows.tolist(), views.tolist(), strict=True)
        ]
        return tuple(np.stack(column) for column in zip(*every, strict=True))

    def _of(self, row: int, view: int) -> Targets:
        key = row, bool(self.maps.is_mirrored[row, view])
        if key not in self._known:
            drawn = self.maps.drawn_on(row, view)
            self._known[key] = targets(*drawn, self.grid, self.maps.spec.image_size)
        return self._known[key]


def step_of(model: keras.Model, optimizer: Any) -> Callable[..., Any]:
    """Return a step of training: of inputs and `Wanted.of` them, it learns and gives the loss."""
    tf = import_tensorflow()

    def step(maps: Any, wanted: Any) -> Any:
        centres, corners, classes, weights, counted = wanted
        with tf.GradientTape() as tape:
            said = model(maps, training=True)
            n_boxes = tf.maximum(tf.reduce_sum(weights), 1.0)
            cost = (
                losses.focal(said[CENTRES], centres, counted)
                + losses.BOX_WEIGHT * losses.boxes(said[CORNERS], corners, weights)
                + losses.classes(said[CLASSES], classes, weights)
            ) / n_boxes
        gradients = tape.gradient(cost, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, _LONGEST_GRADIENT)
        optimizer.apply(gradients, model.trainable_variables)
        return cost

    traced: Callable[..., Any] = tf.function(step, reduce_retracing=True)
    return traced


def _rates(peak: float, n_steps: int) -> np.ndarray:
    """Return (n_steps,) rates: up in the first tenth, then along a cosine to zero."""
    step = np.arange(1, n_steps + 1)
    warm = max(1.0, n_steps * _WARM)
    falling = 0.5 * (1 + np.cos(np.pi * (step - warm) / max(n_steps - warm, 1)))
    return (peak * np.where(step < warm, step / warm, falling)).astype(np.float32)
