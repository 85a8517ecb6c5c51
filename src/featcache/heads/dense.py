"""The Keras head: one dense layer on standardised features, or hidden layers before it.

How it is trained is in `dense_training`.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.arrays import array
from featcache.core.checks import bad, check_bool, check_number, whole, whole_number
from featcache.core.errors import HeadError
from featcache.core.float32 import is_too_coarse
from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind, names_of
from featcache.core.tensorflow import import_keras
from featcache.heads.base import Head
from featcache.heads.dense_training import Schedule, Supervision, layers_of, trainer
from featcache.heads.training_rows import BLOCK, mean_and_scale, split_off

if TYPE_CHECKING:
    from typing_extensions import Self


_CLASSES = "classes.json"  # beside the parts of the .keras file


class Dense(Head):
    """Network trained with Adam, with early stopping on a part of the training rows.

    It ends in a softmax for classification, a sigmoid for several labels, and gives values for
    regression. The loss is the cross-entropy, or the squared error of standardised targets.
    To learn from another model (Hinton et al. 2015, "Distilling the knowledge in a neural
    network"), `y` may hold its probabilities, (n, n_outputs), in place of classes or labels.

    Parameters
    ----------
    hidden : units of each hidden layer; empty for a linear head.
    dropout : rate after each hidden layer, or before the only layer; in training in steps of 1/256.
    batch_norm : batch normalisation in each hidden layer.
    learning_rate : of Adam at its highest; it falls along a cosine to zero.
    epochs : at most so many passes over the training rows; of few rows up to five times as many.
    patience : stop after so many of these passes without a lower validation loss; the weights of
        the lowest are kept.
    batch_size : samples per step, fewer where there are few rows.
    validation_fraction : of the rows given to `fit`; used for early stopping only.
    task : classification, multi-label or regression.
    class_weight : None, or "balanced" to weigh classes, and both sides of a label, alike.
    seed : of initial weights, sample order, dropout and the validation part.
    """

    tasks = names_of(TargetKind.CLASS, TargetKind.LABELS, TargetKind.NUMBERS)
    suffix = ".keras"
    halves = True
    logits_layer = "logits"

    def __init__(
        self,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.5,
        batch_norm: bool = False,
        learning_rate: float = 2e-3,
        epochs: int = 30,
        patience: int = 10,
        batch_size: int = 256,
        validation_fraction: float = 0.1,
        task: str = DEFAULT_TASK,
        class_weight: str | None = None,
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
        self.task = task
        self.class_weight = class_weight
        self.seed = seed

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        """Return a linear head with much and with less dropout, then one hidden layer."""
        much, less, hidden = (0.8, 0.5, 0.7)
        if TASKS[task].kind is TargetKind.NUMBERS:
            much, less, hidden = (0.5, 0.1, 0.5)
        return (
            {"hidden": (), "dropout": much},
            {"hidden": (), "dropout": less},
            {"hidden": (256,), "dropout": hidden, "batch_norm": True},
        )

    @property
    def output(self) -> str:
        return TASKS[self.task].output

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        self.exact_ = False  # whether the last layer computes in float64
        self.n_features_in_ = X.shape[1]
        wanted = self._prepare(y)
        rng = np.random.default_rng(self.seed)
        strata = np.zeros(len(y), int)
        if TASKS[self.task].is_stratified:
            strata = wanted.y.argmax(axis=1) if wanted.are_soft else wanted.y
        fit_rows, val_rows = split_off(strata, self.validation_fraction, rng, groups)
        self.mean_, self.scale_ = mean_and_scale(X)
        training = trainer(
            *(X.shape[1], self.n_outputs_, tuple(self.hidden), self.batch_norm, self.task),
            wanted.are_soft,
        )
        standardised = np.subtract(X, self.mean_, dtype=np.float32)
        standardised /= self.scale_
        with training.lock:
            weights, self.n_epochs_, self.validation_loss_ = training.run(
                standardised, wanted, fit_rows, val_rows, self._schedule(), rng
            )
        if self.target_kind is TargetKind.NUMBERS:  # back to the targets' own units
            mean, scale = self.target_mean_, self.target_scale_
            weights[-2:] = [weights[-2] * scale, weights[-1] * scale + mean]
        self.weights_ = weights
        return self

    def check(self) -> None:
        super().check()
        for name in ("dropout", "validation_fraction"):
            must = "lie in 0 to 1, 1 excluded"
            check_number(name, getattr(self, name), must, lambda share: 0 <= share < 1)
        check_number(
            "learning_rate", self.learning_rate, "be a number above 0", lambda x: 0 < x < math.inf
        )
        for name in ("epochs", "patience", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        check_bool("batch_norm", self.batch_norm)
        if not isinstance(self.hidden, (list, tuple)) or not all(
            0 < (whole(one) or 0) < 2**31 for one in self.hidden
        ):
            raise bad("hidden", "be positive numbers of units", self.hidden)

    def _checked_targets(self, y: Any, n: int) -> np.ndarray:
        must = "be what this task learns, or probabilities, 0 to 1, in (n_samples, n_outputs)"
        found = array("y", y, must)
        are_soft = found.ndim == 2 and found.dtype.kind == "f"
        if not are_soft or self.target_kind is TargetKind.NUMBERS:
            return super()._checked_targets(found, n)
        if len(found) != n or not found.size or not ((found >= 0) & (found <= 1 + 1e-6)).all():
            raise bad("y", must, found, kind=HeadError)
        return found

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities (n, n_outputs)."""
        return self.outputs(X)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return self._given_by(self.model_, X)

    def logits(self, X: np.ndarray) -> np.ndarray:
        before = self.model_.get_layer(self.logits_layer).output
        return self._given_by(import_keras().Model(self.model_.inputs, before), X)

    def _given_by(self, model: Any, X: np.ndarray) -> np.ndarray:
        keras, X = import_keras(), self._features(X)
        outputs = np.empty((len(X), self.n_outputs_))
        for start in range(0, len(X), BLOCK):
            some = np.asarray(X[start : start + BLOCK], np.float32)
            values = model(keras.ops.convert_to_tensor(some))
            outputs[start : start + BLOCK] = keras.ops.convert_to_numpy(values)
        return outputs

    @functools.cached_property
    def model_(self) -> Any:
        """The head as a Keras model of features, (n, d) to (n, n_outputs)."""
        keras = import_keras()
        inputs = keras.Input((self.n_features_in_,), name="features")
        x = keras.layers.Normalization(
            mean=self.mean_, variance=self.scale_**2, name="standardised"
        )(inputs)
        layers = layers_of(
            self.n_outputs_,
            tuple(self.hidden),
            self.batch_norm,
            self.task,
            self.dropout,
            self.exact_,
        )
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, x, name="dense")
        values = iter(self.weights_)
        for layer in layers:
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
        if self.target_kind is TargetKind.CLASS:
            with zipfile.ZipFile(file, "a") as parts:  # Keras reads its own parts only
                parts.writestr(_CLASSES, json.dumps(self.classes_.tolist()))

    def restore(self, file: Path) -> Self:
        model = import_keras().models.load_model(file, compile=False)
        if model.layers[-1].name != self.output:
            raise HeadError(
                f"Head file '{file}' gives {model.layers[-1].name}; a head for {self.task} gives "
                f"{self.output}."
            )
        self.n_features_in_ = model.input_shape[1]
        self.n_outputs_ = model.output_shape[1]
        if self.target_kind is TargetKind.CLASS:
            with zipfile.ZipFile(file) as parts:
                self.classes_ = np.array(json.loads(parts.read(_CLASSES)), np.int64)
            if self.classes_.shape != (self.n_outputs_,):
                raise HeadError(f"Head file '{file}' does not say which class each output is.")
        self.__dict__["model_"] = model
        return self

    def __getstate__(self) -> dict[str, Any]:
        # a Keras model does not travel between processes well; it is made again from the arrays
        return {k: v for k, v in super().__getstate__().items() if k != "model_"}

    def _schedule(self) -> Schedule:
        return Schedule(
            batch_size=self.batch_size,
            epochs=self.epochs,
            patience=self.patience,
            learning_rate=self.learning_rate,
            dropout=self.dropout,
        )

    def _prepare(self, y: np.ndarray) -> Supervision:
        """Return what is to be learnt as the loss takes it."""
        balanced = self.class_weight == "balanced"
        if self.target_kind is TargetKind.CLASS:
            if y.ndim == 2:  # probabilities
                self.classes_, wanted = np.arange(y.shape[1]), y.astype(np.float32)
                share = np.maximum(y.mean(axis=0, dtype=np.float64), 0.5 / len(y))
            else:
                self.classes_, numbers = np.unique(y, return_inverse=True)
                wanted, share = numbers.astype(np.int32), np.bincount(numbers) / len(y)
            k = self.n_outputs_ = len(self.classes_)
            weights = 1 / (k * share) if balanced else np.ones(k)
            return Supervision.of(wanted, weights, np.log(share * weights))
        self.n_outputs_ = y.shape[1]
        y, weights = np.asarray(y, np.float64), np.ones((2, self.n_outputs_))
        if self.target_kind is TargetKind.NUMBERS:
            self.target_mean_, self.target_scale_ = mean_and_scale(y, np.float64)
            self.exact_ = bool(is_too_coarse(y).any())
            y = (y - self.target_mean_) / self.target_scale_
            return Supervision.of(y.astype(np.float32), weights, np.zeros(self.n_outputs_))
        least = 0.5 / len(y)  # half a row, where a label is always there, or never
        share = np.clip(np.stack([1 - y.mean(axis=0), y.mean(axis=0)]), least, 1 - least)
        if balanced:
            weights = np.where((share > least).all(axis=0), 0.5 / share, 1.0)
        odds = np.log(share[1] * weights[1]) - np.log(share[0] * weights[0])
        return Supervision.of(y.astype(np.float32), weights, odds)
