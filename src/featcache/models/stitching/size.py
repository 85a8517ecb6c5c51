"""How large a stitched model is, in layers, parameters and multiplications."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featcache.core.tensorflow import import_keras
from featcache.models.stitching.building import features_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ModelSize:
    """What a model is made of; a parameter is one number in its weights."""

    backbone_layers: int  # as Keras counts them
    backbone_parameters: int
    head_parameters: int  # without what standardises the features, which nothing trains

    def __str__(self) -> str:
        return (
            f"backbone {self.backbone_layers:,} layers, {self.backbone_parameters:,} parameters; "
            f"head {self.head_parameters:,} parameters"
        )


def size_of(model: keras.Model) -> ModelSize:
    """Return the size of a stitched model.

    Raises
    ------
    StitchError
        When the model was not made by stitching.
    """
    keras = import_keras()
    features = features_of(model)
    (backbone, *_) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    head = keras.Model(features, model.outputs[0])
    return ModelSize(
        backbone_layers=len(backbone.layers),
        backbone_parameters=n_parameters(backbone.weights),
        head_parameters=n_parameters(
            weight
            for layer in leaves(head)
            if not isinstance(layer, keras.layers.Normalization)
            for weight in layer.weights
        ),
    )


def n_parameters(weights: Iterable[Any]) -> int:
    """Return how many numbers some weights hold; what is there twice counts once."""
    return sum(math.prod(one.shape) for one in {id(one): one for one in weights}.values())


def multiply_adds(model: keras.Model) -> int | None:
    """Return how often a model multiplies and adds for one image, in layers with a kernel.

    Convolutions and dense layers, which do nearly all of it: their kernel's size times the
    positions at which it is applied. None where a network in it takes images of any size: its
    layers do not say at how many positions.
    """
    total = 0
    for layer in leaves(model):
        kernels = [one for one in layer.weights if one.path.rsplit("/", 1)[-1].endswith("kernel")]
        if kernels:
            places = layer.output.shape[1:-1]
            if None in places:
                return None
            total += math.prod(places) * n_parameters(kernels)
    return total


def leaves(model: keras.Model) -> Iterator[Any]:
    """Yield the layers of a model, those of models nested in it too."""
    keras = import_keras()
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer
