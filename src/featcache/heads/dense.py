"""The Keras head: a softmax layer on standardised features, or hidden layers before it.

Training runs in one compiled graph an epoch, over features that are in memory; a graph is traced
once for each shape and serves every fold and setting that shares it. All randomness (initial
weights, order of the samples, dropout) comes from the head's seed, never from global state.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import quiet
from featcache.errors import HeadError, SpecError
from featcache.heads.contract import PROBABILITIES, Head

if TYPE_CHECKING:
    from typing_extensions import Self

_CHECK_EPOCHS = 5  # epochs a compiled call; the validation loss is looked at after each call


class Dense(Head):
    """Softmax classifier trained with Adam, with early stopping on a part of the training rows.

    Parameters
    ----------
    hidden : units of each hidden layer; empty for a linear head.
    dropout : rate after each hidden layer, or before the softmax of a linear head.
    batch_norm : batch normalisation in each hidden layer.
    learning_rate : of Adam.
    epochs : at most so many passes over the training rows.
    patience : stop after so many epochs without a lower validation loss, keep the best weights.
    batch_size : samples a step.
    validation_fraction : of the rows given to `fit`, stratified; used for early stopping only.
    seed : of initial weights, sample order, dropout and the validation part.
    """

    output = PROBABILITIES
    parity_layer = PROBABILITIES
    suffix = ".keras"
    grid = (
        {"hidden": (), "dropout": 0.5},
        {"hidden": (), "dropout": 0.9},
        {"hidden": (256,), "dropout": 0.5, "batch_norm": True},
    )

    def __init__(
        self,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.5,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        epochs: int = 200,
        patience: int = 20,
        batch_size: int = 128,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ):
        self.hidden = hidden
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        self._check()
        X = np.asarray(X, np.float64)
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.n_features_in_ = X.shape[1]
        if len(self.classes_) < 2 or not np.array_equal(self.classes_, range(len(self.classes_))):
            raise HeadError(
                f"Dense needs samples of each of the classes 0 to n_classes - 1, two or more; got "
                f"{self.classes_.tolist()}."
            )
        self.mean_ = X.mean(axis=0).astype(np.float32)
        deviation = X.std(axis=0)
        self.scale_ = np.where(deviation > 1e-12, deviation, 1.0).astype(np.float32)

        rng = np.random.default_rng(self.seed)
        fit_rows, val_rows = _stratified(targets, self.validation_fraction, rng, groups)
        standardised = ((X - self.mean_) / self.scale_).astype(np.float32)
        trainer = _trainer(
            X.shape[1], len(self.classes_), tuple(self.hidden), self.dropout, self.batch_norm
        )
        self.weights_, self.n_epochs_, self.validation_loss_ = trainer.run(
            (standardised[fit_rows], targets[fit_rows]),
            (standardised[val_rows], targets[val_rows]),
            self,
            rng,
        )
        return self

    def _check(self) -> None:
        if not 0 <= self.dropout < 1:
            raise SpecError(f"dropout must lie in 0 to 1, 1 excluded; got {self.dropout}.")
        if any(units < 1 for units in self.hidden):
            raise SpecError(f"hidden must be positive numbers of units; got {self.hidden}.")

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, n_classes)."""
        keras = quiet.keras()
        outputs = self.model_(keras.ops.convert_to_tensor(np.asarray(X, np.float32)))
        return np.asarray(keras.ops.convert_to_numpy(outputs), np.float64)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X)

    @functools.cached_property
    def model_(self) -> Any:
        """The head as a Keras model of features, (n, d) to (n, n_classes)."""
        keras = quiet.keras()
        inputs = keras.Input((self.n_features_in_,), name="features")
        x = keras.layers.Normalization(
            mean=self.mean_, variance=self.scale_**2, name="standardised"
        )(inputs)
        layers = _layers(len(self.classes_), tuple(self.hidden), self.dropout, self.batch_norm, 0)
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, x, name="dense")
        weighted = [layer for layer in layers if layer.weights]
        values = iter(self.weights_)
        for layer in weighted:
            layer.set_weights([next(values) for _ in layer.weights])
        return model

    def to_keras_layers(self, features: Any) -> Any:
        x = features
        for layer in self.model_.layers[1:]:
            twin = type(layer).from_config(layer.get_config())
            x = twin(x)
            twin.set_weights(layer.get_weights())
        return x

    def save(self, file: Path) -> None:
        self.model_.save(file)

    def restore(self, file: Path) -> Self:
        model = quiet.keras().models.load_model(file, compile=False)
        self.n_features_in_ = model.input_shape[1]
        self.classes_ = np.arange(model.output_shape[1])
        self.__dict__["model_"] = model
        return self

    def __getstate__(self) -> dict[str, Any]:
        # a Keras model does not travel between processes well; it is made again from the arrays
        return {k: v for k, v in super().__getstate__().items() if k != "model_"}


def _layers(
    n_classes: int, hidden: tuple[int, ...], dropout: float, batch_norm: bool, seed: int
) -> list[Any]:
    """Return the layers behind the standardisation, unbuilt."""
    layers = quiet.keras().layers
    stack: list[Any] = []
    for number, units in enumerate(hidden, start=1):
        stack.append(layers.Dense(units, use_bias=not batch_norm, name=f"hidden_{number}"))
        if batch_norm:
            stack.append(layers.BatchNormalization(momentum=0.9, name=f"hidden_{number}_bn"))
        stack.append(layers.ReLU(name=f"hidden_{number}_relu"))
        if dropout:
            stack.append(layers.Dropout(dropout, seed=seed, name=f"hidden_{number}_dropout"))
    if dropout and not hidden:
        stack.append(layers.Dropout(dropout, seed=seed, name="dropout"))
    stack.append(layers.Dense(n_classes, name="logits"))
    stack.append(layers.Softmax(name=PROBABILITIES))
    return stack


@dataclass
class _Trainer:
    """A network with its compiled epochs; `run` sets everything back before it trains."""

    network: Any
    dropouts: list[Any]
    optimizer: Any
    epochs: Any
    loss: Any

    def run(
        self,
        fit_part: tuple[np.ndarray, np.ndarray],
        val_part: tuple[np.ndarray, np.ndarray],
        head: Dense,
        rng: np.random.Generator,
    ) -> tuple[list[np.ndarray], int, float]:
        """Return the best weights, after how many epochs they came, and their validation loss."""
        tf = quiet.tensorflow()
        self._reset(head, rng)
        X, y = (tf.constant(part) for part in fit_part)
        X_val, y_val = (tf.constant(part) for part in val_part)
        n, size = len(fit_part[1]), min(head.batch_size, len(fit_part[1]))
        best, best_loss, best_epoch = self.network.get_weights(), np.inf, 0
        for epoch in range(_CHECK_EPOCHS, head.epochs + _CHECK_EPOCHS, _CHECK_EPOCHS):
            order = np.concatenate(
                [rng.permutation(n)[: n - n % size] for _ in range(_CHECK_EPOCHS)]
            )
            self.epochs(X, y, tf.constant(order.reshape(-1, size)))
            loss = float(self.loss(X_val, y_val))
            if loss < best_loss:
                best, best_loss, best_epoch = self.network.get_weights(), loss, epoch
            elif epoch - best_epoch >= head.patience or not np.isfinite(loss):
                break
        if not np.isfinite(best_loss):
            raise HeadError(
                f"The dense head diverged: its loss is not finite with learning_rate "
                f"{head.learning_rate}. Lower the learning rate."
            )
        return best, best_epoch, best_loss

    def _reset(self, head: Dense, rng: np.random.Generator) -> None:
        for variable in self.network.weights:
            variable.assign(_initial(variable, rng))
        for variable in self.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        self.optimizer.learning_rate.assign(head.learning_rate)
        for dropout in self.dropouts:
            dropout.seed_generator.state.assign([head.seed & 0x7FFFFFFF, 0])


@functools.lru_cache(maxsize=8)
def _trainer(
    n_features: int, n_classes: int, hidden: tuple[int, ...], dropout: float, batch_norm: bool
) -> _Trainer:
    tf, keras = quiet.tensorflow(), quiet.keras()
    layers = _layers(n_classes, hidden, dropout, batch_norm, seed=0)[:-1]
    network = keras.Sequential([keras.Input((n_features,)), *layers])
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def epochs(X: Any, y: Any, order: Any) -> None:
        for rows in order:
            with tf.GradientTape() as tape:
                logits = network(tf.gather(X, rows), training=True)
                loss = cross_entropy(tf.gather(y, rows), logits)
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(gradients, network.trainable_variables)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def loss(X: Any, y: Any) -> Any:
        return cross_entropy(y, network(X, training=False))

    dropouts = [layer for layer in layers if isinstance(layer, keras.layers.Dropout)]
    return _Trainer(network, dropouts, optimizer, epochs, loss)


def _initial(variable: Any, rng: np.random.Generator) -> np.ndarray:
    """Glorot-uniform kernels (Glorot and Bengio 2010); ones and zeros as Keras starts the rest."""
    shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
    if name == "kernel":
        limit = np.sqrt(6 / sum(shape))
        return rng.uniform(-limit, limit, shape).astype(np.float32)
    return np.full(shape, 1.0 if name in ("gamma", "moving_variance") else 0.0, np.float32)


def _stratified(
    targets: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (fit rows, validation rows); every class keeps a row to fit on.

    Rows of one group, which have one target, stay together.
    """
    if groups is not None:
        _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
        _, val_groups = _stratified(targets[first], fraction, rng)
        is_val = np.isin(group_of, val_groups)
        if is_val.all():
            return np.arange(len(targets)), np.arange(len(targets))
        return np.flatnonzero(~is_val), np.flatnonzero(is_val)
    is_val = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == target))
        is_val[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    if not is_val.any():  # one sample a class: then only the training loss can say when to stop
        return np.flatnonzero(~is_val), np.flatnonzero(~is_val)
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def limit_threads() -> None:
    """Let TensorFlow use one thread; for a worker process, before TensorFlow is imported there."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
