"""Which layers of a backbone are trained, and making them so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.core.errors import SpecError
from featcache.core.tensorflow import import_keras
from featcache.core.text import counted
from featcache.finetuning.graph import backbone_of, blocks
from featcache.finetuning.plan import BLOCKS
from featcache.finetuning.trainable import trainable_layers, trainables

if TYPE_CHECKING:
    import keras


def chosen(backbone: keras.Model, unfreeze: int | str) -> tuple[str, ...]:
    """Return the names of the layers to unfreeze.

    Parameters
    ----------
    unfreeze : a number of layers, counted from the end among those that hold weights to train;
        "all"; "3 blocks", the last ones; or the name of the first layer: it and all after it.

    Raises
    ------
    SpecError
        When there are not so many, or there is no layer of that name.
    """
    layers = trainable_layers(backbone)
    names = tuple(layer.name for layer in layers)
    if unfreeze == "all":
        return names
    if isinstance(unfreeze, int):
        if unfreeze > len(names):
            raise SpecError(
                f"unfreeze is {unfreeze}, but {backbone.name} has {counted(len(names), 'layer')} "
                f"that hold weights."
            )
        return names[len(names) - unfreeze :]
    if found := re.fullmatch(BLOCKS, unfreeze):
        return _of_blocks(backbone, names, int(found[1]))
    every = [layer.name for layer in backbone.layers]
    if unfreeze not in every:
        near = difflib.get_close_matches(unfreeze, every, n=3)
        known = f"Nearest: {', '.join(near)}" if near else f"Its last: {', '.join(names[-3:])}"
        raise SpecError(f"{backbone.name} has no layer '{unfreeze}'. {known}.")
    after = set(every[every.index(unfreeze) :])
    return tuple(name for name in names if name in after)


def _of_blocks(backbone: keras.Model, names: tuple[str, ...], wanted: int) -> tuple[str, ...]:
    number = blocks(backbone)
    n_blocks = max(number[name] for name in names) if names else 0
    if wanted > n_blocks:
        raise SpecError(
            f"unfreeze_blocks is {wanted}, but {backbone.name} has {counted(n_blocks, 'block')}."
        )
    return tuple(name for name in names if number[name] <= wanted)


def thaw(network: keras.Model, names: Sequence[str]) -> None:
    """Make the head and these layers of the backbone trainable, and nothing else.

    Batch normalisation stays in inference mode. Keras hands the outer call's `training=True` down
    into nested models, also where they were called with `training=False`; only a layer whose
    `trainable` is False keeps to its moving statistics. So such a layer stays untrainable, and its
    scale and offset are made trainable as variables.
    """
    backbone = backbone_of(network)
    network.trainable = True  # or no variable in it would be
    for layer in network.layers:
        if layer is not backbone:
            _thaw(layer)
    backbone.trainable = True
    for layer in backbone.layers:
        layer.trainable = False
        if layer.name in names:
            _thaw(layer)


def _thaw(layer: Any) -> None:
    """Let a layer train, but not its statistics."""
    keras = import_keras()
    if isinstance(layer, keras.Model):
        layer.trainable = True
        for inner in layer.layers:
            _thaw(inner)
        return
    is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    layer.trainable = not is_batch_norm and not isinstance(layer, keras.layers.Normalization)
    if is_batch_norm:
        for variable in trainables(layer):
            variable.trainable = True
