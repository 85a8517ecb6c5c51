"""Training of the dense head: compiled once, in large batches, from features in memory.

A graph is traced once for each shape and serves every fold and setting that shares it. All
randomness (initial weights, order of the samples, dropout) comes from the head's seed, never from
global state.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tasks import LINEAR, SIGMOID, SOFTMAX, TASKS
from featcache.core.tensorflow import import_keras, import_tensorflow

# of a training with few rows: batches of fewer, or fewer steps, did worse on 430 images
_MIN_BATCH, _MIN_STEPS = 128, 800
_BETA_1, _BETA_2 = 0.9, 0.999  # of Adam


@dataclass(frozen=True)
class Supervision:
    """What is to be learnt, for the loss."""

    y: np.ndarray  # (n,) int32 classes or (n, k) float32
    weights: np.ndarray  # of the classes (k,), or of a label that is absent and one there (2, k)
    bias: np.ndarray  # (k,) of the last layer to start from: the best without any features

    @classmethod
    def of(cls, y: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> Supervision:
        return cls(y, weights.astype(np.float32), bias.astype(np.float32))

    @property
    def are_soft(self) -> bool:
        """Whether every output has its own value in each row."""
        return self.y.ndim == 2


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and with how much dropout a network is trained; see `Dense`."""

    batch_size: int
    epochs: int
    patience: int
    learning_rate: float
    dropout: float


def layers_of(
    n_outputs: int,
    hidden: tuple[int, ...],
    batch_norm: bool,
    task: str,
    dropout: float,
    exact: bool = False,
) -> list[Any]:
    """Return the layers behind the standardisation, unbuilt; if `exact`, values are of float64."""
    layers = import_keras().layers
    stack: list[Any] = []
    for number, units in enumerate(hidden, start=1):
        stack.append(layers.Dense(units, use_bias=not batch_norm, name=f"hidden_{number}"))
        if batch_norm:
            stack.append(layers.BatchNormalization(momentum=0.9, name=f"hidden_{number}_bn"))
        stack.append(layers.ReLU(name=f"hidden_{number}_relu"))
        if dropout:
            stack.append(layers.Dropout(dropout, name=f"hidden_{number}_dropout"))
    if dropout and not hidden:
        stack.append(layers.Dropout(dropout, name="dropout"))
    activation, output = TASKS[task].activation, TASKS[task].output
    if activation == LINEAR:
        dtype = "float64" if exact else None
        return [*stack, layers.Dense(n_outputs, name=output, dtype=dtype)]
    last = layers.Softmax if activation == SOFTMAX else layers.Activation
    options = {} if activation == SOFTMAX else {"activation": activation}
    return [*stack, layers.Dense(n_outputs, name="logits"), last(name=output, **options)]


@dataclass
class Trainer:
    """A network with its compiled steps; `run` sets everything back before it trains.

    Heads of one shape have the same, so whoever runs it holds its lock.
    """

    weights: list[Any]
    moments: list[Any]  # of Adam
    steps: Callable[..., None]
    loss: Callable[..., Any]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self,
        X: np.ndarray,
        wanted: Supervision,
        fit_rows: np.ndarray,
        val_rows: np.ndarray,
        schedule: Schedule,
        rng: np.random.Generator,
    ) -> tuple[list[np.ndarray], int, float]:
        """Return the best weights, after how many epochs they came, and their validation loss."""
        tf = import_tensorflow()
        for variable in self.weights:
            variable.assign(_initial(variable, rng))
        # a random last layer would stay in every direction in which no training row differs
        kernel, bias = self.weights[-2:]
        kernel.assign(np.zeros(kernel.shape, np.float32))
        bias.assign(wanted.bias)
        for variable in self.moments:
            variable.assign(np.zeros(variable.shape, np.float32))
        # few rows make smaller batches and more epochs, so that there are steps enough
        size = min(schedule.batch_size, max(_MIN_BATCH, len(fit_rows) // 8), len(fit_rows))
        a_epoch = len(fit_rows) // size
        n_epochs = max(schedule.epochs, min(_MIN_STEPS // a_epoch, 5 * schedule.epochs))
        patience = schedule.patience * n_epochs / schedule.epochs
        rates = _learning_rates(schedule.learning_rate, n_epochs * a_epoch)
        seeds = rng.integers(-(2**31), 2**31, (n_epochs * a_epoch, 2), np.int32)
        data = tf.constant(X), tf.constant(wanted.y), tf.constant(wanted.weights)
        val = tf.constant(val_rows)
        check = max(1, n_epochs // 20)  # epochs between two looks at the validation loss
        best, best_loss, best_epoch = [], np.inf, 0
        for epoch in range(0, n_epochs, check):
            order = np.concatenate(
                [
                    rng.permutation(fit_rows)[: a_epoch * size].reshape(-1, size)
                    for _ in range(min(check, n_epochs - epoch))
                ]
            )
            part = slice(epoch * a_epoch, epoch * a_epoch + len(order))
            self.steps(*data, order, rates[part], seeds[part], schedule.dropout * 256)
            loss = float(self.loss(*data, val))
            done = epoch + len(order) // a_epoch
            if loss < best_loss:
                best = [variable.numpy() for variable in self.weights]
                best_loss, best_epoch = loss, done
            elif done - best_epoch >= patience or not np.isfinite(loss):
                break
        if not np.isfinite(best_loss):
            raise HeadError(
                f"The dense head diverged: its loss is not finite with learning_rate "
                f"{schedule.learning_rate}. Lower the learning rate."
            )
        return best, best_epoch, best_loss


def _learning_rates(peak: float, n_steps: int) -> np.ndarray:
    """Return (n_steps,) rates: up in a tenth of the steps, then along a cosine to zero.

    With Adam's correction for the first steps (Kingma and Ba 2015, end of section 2).
    """
    step = np.arange(1, n_steps + 1)
    warm = max(1, n_steps // 10)
    falling = 0.5 * (1 + np.cos(np.pi * (step - warm) / (n_steps - warm + 1)))
    rate = peak * np.where(step < warm, step / warm, falling)
    corrected = rate * np.sqrt(1 - _BETA_2**step) / (1 - _BETA_1**step)
    return np.asarray(corrected, np.float32)


@functools.lru_cache(maxsize=8)
def trainer(
    n_features: int,
    n_outputs: int,
    hidden: tuple[int, ...],
    batch_norm: bool,
    task: str,
    soft: bool,
) -> Trainer:
    tf = import_tensorflow()
    layers = layers_of(n_outputs, hidden, batch_norm, task, dropout=0)
    activation = TASKS[task].activation
    layers = layers if activation == LINEAR else layers[:-1]  # the losses want what is before it
    shape: tuple[int | None, ...] = (None, n_features)
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
    trainable = [variable.value for layer in layers for variable in layer.trainable_variables]
    first = [tf.Variable(tf.zeros_like(variable)) for variable in trainable]
    second = [tf.Variable(tf.zeros_like(variable)) for variable in trainable]

    def loss_of(x: Any, y: Any, weights: Any, training: bool, threshold: Any, seed: Any) -> Any:
        if training and not hidden:
            x = _drop(x, threshold, seed)
        for number, layer in enumerate(layers):
            x = layer(x, training=training) if batch_norm else layer(x)
            if training and layer.name.endswith("_relu"):
                x = _drop(x, threshold, seed + number)
        if activation == SOFTMAX and soft:
            losses = tf.nn.softmax_cross_entropy_with_logits(y, x)
            return tf.reduce_mean(losses * tf.reduce_sum(y * weights, axis=1))
        if activation == SOFTMAX:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)
            return tf.reduce_mean(losses * tf.gather(weights, y))
        if activation == SIGMOID:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(y, x)
            return tf.reduce_mean(losses * (weights[0] + y * (weights[1] - weights[0])))
        return tf.reduce_mean(tf.square(x - y))

    data = [
        tf.TensorSpec((None, n_features), tf.float32),
        tf.TensorSpec([None] * (1 + soft), tf.float32 if soft else tf.int32),
        tf.TensorSpec([None] * (1 if activation == SOFTMAX else 2), tf.float32),
    ]

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            *data,
            tf.TensorSpec((None, None), tf.int64),
            tf.TensorSpec((None,), tf.float32),
            tf.TensorSpec((None, 2), tf.int32),
            tf.TensorSpec((), tf.float32),
        ]
    )
    def steps(
        X: Any, y: Any, weights: Any, order: Any, rates: Any, seeds: Any, threshold: Any
    ) -> None:
        for step in tf.range(tf.shape(order)[0]):
            rows = order[step]
            with tf.GradientTape() as tape:
                value = loss_of(
                    tf.gather(X, rows), tf.gather(y, rows), weights, True, threshold, seeds[step]
                )
            gradients = tape.gradient(value, trainable)
            for variable, m, v, gradient in zip(trainable, first, second, gradients):  # noqa: B905
                # one kernel in place of a dozen; its own correction is off, it is in the rates
                tf.raw_ops.ResourceApplyAdam(
                    var=variable.handle,
                    m=m.handle,
                    v=v.handle,
                    beta1_power=0.0,
                    beta2_power=0.0,
                    lr=rates[step],
                    beta1=_BETA_1,
                    beta2=_BETA_2,
                    epsilon=1e-7,
                    grad=gradient,
                )

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[*data, tf.TensorSpec((None,), tf.int64)]
    )
    def loss(X: Any, y: Any, weights: Any, rows: Any) -> Any:
        return loss_of(tf.gather(X, rows), tf.gather(y, rows), weights, False, None, None)

    weights = [variable for layer in layers for variable in layer.weights]
    return Trainer(weights, [*first, *second], steps, loss)


def _drop(x: Any, threshold: Any, seed: Any) -> Any:
    """Set each value to zero with probability threshold / 256, and scale the others up."""
    tf = import_tensorflow()
    shape = tf.shape(x)
    # a byte per value: a quarter of the random numbers that a float per value would take
    words = tf.random.stateless_uniform(
        (shape[0], (shape[1] + 3) // 4), seed, None, None, tf.uint32, alg="philox"
    )
    drawn = tf.reshape(tf.bitcast(words, tf.uint8), (shape[0], -1))[:, : shape[1]]
    kept = tf.cast(drawn, tf.float32) >= tf.round(threshold)
    return tf.where(kept, x * (256.0 / (256.0 - tf.round(threshold))), 0.0)


def _initial(variable: Any, rng: np.random.Generator) -> np.ndarray:
    """Glorot-uniform kernels (Glorot and Bengio 2010); ones and zeros as Keras starts the rest."""
    shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
    if name == "kernel":
        limit = np.sqrt(6 / sum(shape))
        return rng.uniform(-limit, limit, shape).astype(np.float32)
    return np.full(shape, 1.0 if name in ("gamma", "moving_variance") else 0.0, np.float32)


def limit_threads() -> None:
    """Let TensorFlow use one thread; for a worker process, before TensorFlow is imported there."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
