"""Layers put together: the backbone of a feature file and a fitted head, as one Keras model.

Nothing is checked on images here, and nothing is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcache import heads, store
from featcache.core.errors import StitchError
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.base import HEAT_MAP
from featcache.networks import backbones
from featcache.networks.weights import MEMO_NAME

if TYPE_CHECKING:
    import keras

_POOLING = "pooling"  # name of the layer in `backbones.frozen_extractor`


def build(head: heads.Head, name: str, features: store.Features) -> keras.Model:
    """Return the network that made a feature file, continued with a head.

    Raises
    ------
    StitchError
        When the weights of the backbone are no longer those of the features.
    """
    keras = import_keras()
    extractor = extractor_of(features)
    given = tuple(extractor.output_shape[1:])
    if given != features.shape[1:]:
        raise StitchError(
            f"The backbone gives features of {_by(given)}, '{features.path}' has "
            f"{_by(features.shape[1:])}."
        )
    outputs = head.to_keras_layers(extractor.output)
    if isinstance(outputs, list):  # beside scores a heat map, as large as the map of features
        enlarge = keras.layers.Resizing(*features.spec.image_size, name=HEAT_MAP)
        outputs = [outputs[0], enlarge(outputs[1])]
    backbone = features.spec.backbone
    return keras.Model(extractor.input, outputs, name=f"{word(backbone)}_{word(name)}")


def extractor_of(features: store.Features, *others: store.Features) -> keras.Model:
    """Return the network that made a feature file, from images to features.

    `others` are of the same network and images, of other layers: each is an output more.

    Raises
    ------
    StitchError
        When the weights of the backbone are no longer those of the features.
    """
    spec = features.spec
    memo = features.path.parent.parent / MEMO_NAME
    origin = features.provenance["weights"]
    backbone_name, options = backbones.options_of(spec, origin)
    resolved = backbones.resolve(backbone_name, memo=memo if memo.exists() else None, **options)
    if resolved.spec.fingerprint != spec.fingerprint:
        raise StitchError(
            f"The backbone's weights are not those of the features: '{features.path}' has "
            f"fingerprint {spec.fingerprint}, {spec.backbone} with {origin} now gives "
            f"{resolved.spec.fingerprint}. Put the weights back, or extract and fit heads again."
        )
    backbone = resolved.backbone or backbones.build(
        spec.backbone, resolved.weights, spec.image_size
    )
    return backbones.frozen_extractor(backbone, spec, *(one.spec for one in others))


def features_of(model: keras.Model) -> Any:
    """Return the Keras tensor of features, (n, …), in a stitched model, also a reloaded one.

    It is what the pooling gives, or the nested backbone where nothing is pooled.

    Raises
    ------
    StitchError
        When the model was not made by stitching.
    """
    keras = import_keras()
    ahead = [model.outputs[0]]
    while ahead:  # back through the graph of this very model: layers may be shared with others
        tensor = ahead.pop()
        operation, node, _ = tensor._keras_history
        if operation.name == _POOLING or isinstance(operation, keras.Model):
            return tensor
        ahead.extend(operation._inbound_nodes[node].input_tensors)
    raise StitchError(
        f"Model '{model.name}' has neither a pooling layer nor a backbone nested in it, so it was "
        f"not made by `featcache stitch`. Stitch one."
    )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def word(name: str) -> str:
    """Return a name as Keras takes it."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
