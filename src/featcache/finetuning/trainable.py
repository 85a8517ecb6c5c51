"""What of a layer training changes: weights, and never statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcache.core.tensorflow import import_keras

if TYPE_CHECKING:
    import keras


def trainable_layers(backbone: keras.Model) -> list[Any]:
    """Return the layers that have something to train, in the order of the graph."""
    return [layer for layer in backbone.layers if any(True for _ in trainables(layer))]


def trainables(layer: Any) -> Any:
    """Yield the variables of a layer that training changes."""
    keras = import_keras()
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from trainables(inner)
    elif isinstance(layer, keras.layers.BatchNormalization):
        yield from (variable for variable in (layer.gamma, layer.beta) if variable is not None)
    elif not isinstance(layer, keras.layers.Normalization):
        state = layer.trainable
        layer.trainable = True
        yield from list(layer.trainable_variables)
        layer.trainable = state
