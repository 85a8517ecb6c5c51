"""Unfreeze the last layers of a stitched model's backbone and train them on the images.

Batch normalisation stays in inference mode. Keras passes the outer call's `training=True` down
into nested models, also where they were called with `training=False`; only a layer whose
`trainable` is False keeps to its moving statistics. So a batch-norm layer stays untrainable as a
layer, and its scale and offset are made trainable as variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache import card, images, predict, progress, quiet, runtime, sources, splits, stitching
from featcache.errors import SourceError, SpecError, StitchError
from featcache.heads import CATALOGUE, PROBABILITIES

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Finetuning:
    """What fine-tuning did."""

    unfrozen: tuple[str, ...]  # backbone layers, in the order of the graph
    best_epoch: int  # 0: no epoch lowered the validation loss, so the weights are the old ones
    validation_loss: tuple[float, ...]  # before training, then after each epoch
    accuracy_before: float  # on the held-out part
    accuracy_after: float
    n_train: int
    n_validation: int
    n_test: int

    @property
    def improved(self) -> bool:
        """Whether an epoch lowered the validation loss."""
        return self.best_epoch > 0


def finetune(
    model: str | os.PathLike[str],
    source: Any = None,
    *,
    out: str | os.PathLike[str],
    unfreeze: int = 20,
    learning_rate: float = 1e-5,
    epochs: int = 5,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "auto",
    show_progress: bool = True,
) -> Finetuning:
    """Train the head and the last layers of the backbone; write the best epoch's model.

    Parameters
    ----------
    model : a stitched .keras file.
    source : labelled images, as `open_source` takes them; None is where the model's features came
        from.
    out : .keras file for the new model.
    unfreeze : number of backbone layers, counted from the end among those that hold weights;
        0 trains the head alone.
    learning_rate : of Adam.
    epochs : passes over the training part. The best by validation loss is kept, the state before
        training included.
    seed : of the order of the images. The held-out part is the one the head was scored on.

    Raises
    ------
    SpecError
        When an option is out of range.
    SourceError
        When the images have other classes than the model.
    StitchError
        When the model cannot be loaded, or its head cannot be trained by gradients.
    """
    for name, value, least in (
        ("unfreeze", unfreeze, 0),
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise SpecError(f"{name} must be {least} or more; got {value}.")
    if not 0 < learning_rate < 1:
        raise SpecError(f"learning_rate must lie between 0 and 1; got {learning_rate}.")
    splits.check_seed(seed)
    path, out = Path(model), Path(out)
    if out.resolve() == path.resolve():
        raise SpecError(f"out must be another file than the model itself, '{path}'.")
    stitching.check_out(out)
    described = card.read(path)
    if described.head in CATALOGUE and not CATALOGUE[described.head].has_gradients:
        raise StitchError(
            f"The votes of {described.head} have no gradient, so it cannot be fine-tuned. "
            f"Stitch another head: `featcache stitch HEADS --head logreg`."
        )
    runtime.gpus(device)  # its error comes before anything is loaded
    data = _Data(described, source, batch_size, seed)
    network = predict.load_keras(path, described)
    unfrozen = _unfreeze(network, unfreeze)
    optimizer = quiet.keras().optimizers.Adam(learning_rate)
    # XLA, Keras's default, makes depthwise convolutions on a CPU many times slower
    network.compile(optimizer, _loss(described), jit_compile=False)

    _, accuracy_before = _evaluate(network, data, data.test)
    losses = [_evaluate(network, data, data.validation)[0]]
    best, best_epoch = network.get_weights(), 0
    rng = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        label = f"Epoch {epoch} of {epochs}"
        with progress.bar(label, len(data.train), "images", show_progress) as advance:
            for batch, labels in data.batches(rng.permutation(data.train)):
                network.train_on_batch(batch, labels)
                advance(len(labels))
        losses.append(_evaluate(network, data, data.validation)[0])
        progress.note(
            f"epoch {epoch}: validation loss {losses[-1]:.4f} (before {losses[0]:.4f})",
            show_progress,
        )
        if losses[-1] < min(losses[:-1]):
            best, best_epoch = network.get_weights(), epoch
    network.set_weights(best)
    _, accuracy_after = _evaluate(network, data, data.test)
    done = Finetuning(
        unfrozen=unfrozen,
        best_epoch=best_epoch,
        validation_loss=tuple(losses),
        accuracy_before=accuracy_before,
        accuracy_after=accuracy_after,
        n_train=len(data.train),
        n_validation=len(data.validation),
        n_test=len(data.test),
    )
    options = {"unfreeze": unfreeze, "learning_rate": learning_rate, "epochs": epochs, "seed": seed}
    _save(network, data, out, replace(
        described,
        test_accuracy=accuracy_after,
        finetuned=options | asdict(done),
    ))  # fmt: skip
    return done


class _Data:
    """The labelled images of a source in three parts, as the head knew them."""

    def __init__(
        self,
        described: card.Card,
        source: Any,
        batch_size: int,
        seed: int,
    ):
        self.samples = sources.reopen(asdict(described), source)
        if self.samples.class_names != described.class_names:
            ours, theirs = set(described.class_names), set(self.samples.class_names)
            odd = ", ".join(sorted(ours ^ theirs)[:5])
            raise SourceError(
                f"'{self.samples.origin}' and the model do not have the same classes; "
                f"only one of them has: {odd}."
            )
        self.spec, self.batch_size = described.spec, batch_size
        self.scanned = sources.scan(self.samples, images.plain_orientation)
        self.failures = dict(self.scanned.unreadable)
        digests = self.scanned.digests
        part = splits.parts(self.samples.annotations, digests, described.seed)
        readable = np.ones(len(self.samples), bool)
        readable[list(self.failures)] = False
        train = np.flatnonzero(part["train"] & readable)
        validation = np.flatnonzero(part["val"] & readable)
        if not len(validation):
            # another salt than the held-out part's, else the same images would always come first
            about = self.samples.annotations.take(train)
            is_val = splits.held_out(
                about.strata, digests[train], described.seed + 1, groups=about.groups
            )
            validation, train = train[is_val], train[~is_val]
        self.train, self.validation = train, validation
        self.test = np.flatnonzero(part["test"] & readable)
        if not (len(train) and len(validation) and len(self.test)):
            raise SourceError(
                f"'{self.samples.origin}' has {len(train)} training, {len(validation)} validation "
                f"and {len(self.test)} test images; each part needs at least one."
            )

    def batches(self, rows: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield (images, labels) of these rows."""
        for numbers, batch in images.batches(
            self.samples,
            self.scanned,
            rows.tolist(),
            spec=self.spec,
            batch_size=self.batch_size,
            failures=self.failures,
        ):
            yield batch, self.samples.labels[numbers]


def _unfreeze(network: keras.Model, n: int) -> tuple[str, ...]:
    """Make the backbone's last `n` weight-bearing layers trainable; return their names."""
    keras = quiet.keras()
    for layer in network.layers:
        _thaw(layer)  # the head
    backbone = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    weighted = [layer for layer in backbone.layers if layer.weights]
    if n > len(weighted):
        raise SpecError(
            f"unfreeze is {n}, but {backbone.name} has {len(weighted)} layers that hold weights."
        )
    # the model itself must be trainable for any variable in it to be
    backbone.trainable = True
    for layer in backbone.layers:
        layer.trainable = False
    for layer in weighted[len(weighted) - n :]:
        _thaw(layer)
    return tuple(layer.name for layer in weighted[len(weighted) - n :])


def _thaw(layer: Any) -> None:
    keras = quiet.keras()
    is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    layer.trainable = not is_batch_norm and not isinstance(layer, keras.layers.Normalization)
    if is_batch_norm:
        for variable in (layer.gamma, layer.beta):
            if variable is not None:
                variable.trainable = True


def _loss(described: card.Card) -> Any:
    """Return the loss the head itself minimises: cross-entropy, or squared hinge for an SVM."""
    keras = quiet.keras()
    if described.output == PROBABILITIES:
        return keras.losses.SparseCategoricalCrossentropy()
    n_classes = len(described.class_names)

    def squared_hinge(labels: Any, scores: Any) -> Any:
        labels = keras.ops.reshape(labels, (-1,))
        signs = 2.0 * keras.ops.one_hot(keras.ops.cast(labels, "int32"), n_classes) - 1.0
        return keras.ops.mean(keras.ops.square(keras.ops.relu(1.0 - signs * scores)), axis=-1)

    return squared_hinge


def _evaluate(network: keras.Model, data: _Data, rows: np.ndarray) -> tuple[float, float]:
    """Return mean loss and accuracy over rows, in inference mode."""
    keras = quiet.keras()
    loss, right, n = 0.0, 0, 0
    for batch, labels in data.batches(rows):
        outputs = network.predict_on_batch(batch)
        value = network.compute_loss(y=keras.ops.convert_to_tensor(labels), y_pred=outputs)
        loss += float(value) * len(labels)
        right += int((outputs.argmax(axis=1) == labels).sum())
        n += len(labels)
    if not n:
        raise SourceError(f"None of the {len(rows)} images of a part could be read.")
    return loss / n, right / n


def _save(network: keras.Model, data: _Data, out: Path, described: card.Card) -> None:
    """Freeze, save, and check that the file gives what the trained model gives."""
    # another model object on the same layers: without the optimiser, and without our loss, which
    # plain Keras could not load
    network = quiet.keras().Model(network.inputs[0], network.output, name=network.name)
    network.trainable = False
    batch, _ = next(data.batches(data.test))
    expected = np.asarray(network(batch, training=False))
    stitching.save(network, out, described)
    got = np.asarray(predict.load_keras(out, card.read(out))(batch, training=False))
    difference = float(np.abs(expected - got).max())
    if difference > stitching.TOLERANCE["float32"]:
        out.unlink()
        card.path_of(out).unlink()
        raise StitchError(
            f"The saved model differs from the trained one by {difference:.1e}; nothing was kept."
        )
