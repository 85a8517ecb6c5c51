"""What is taken from a network: the output of a layer, and the pooling that makes it a vector."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featcache.core.errors import SpecError
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_keras

if TYPE_CHECKING:
    import keras

_POOLING: dict[str, Callable[[Any, str], Any]] = {
    "none": lambda layers, name: lambda x: x,
    "avg": lambda layers, name: layers.GlobalAveragePooling2D(name=name),
    "max": lambda layers, name: layers.GlobalMaxPooling2D(name=name),
    "flatten": lambda layers, name: layers.Flatten(name=name),
}


def tapped(backbone: keras.Model, spec: ExtractionSpec) -> Any:
    """Return the Keras tensor that a spec takes from a network.

    Raises
    ------
    SpecError
        When the network has no such layer, with the nearest names, or the layer several outputs.
    """
    name = spec.layer
    if name is None:
        return backbone.output
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[-3:]
        raise SpecError(f"{spec.backbone} has no layer '{name}'. Nearest: {', '.join(near)}.")
    output = backbone.get_layer(name).output
    if isinstance(output, (list, tuple)):
        raise SpecError(f"Layer '{name}' of {spec.backbone} gives several tensors; tap another.")
    return output


def pooled(x: Any, spec: ExtractionSpec, suffix: str = "") -> Any:
    """Return a tapped map as the spec pools it, or a vector as it is.

    Raises
    ------
    SpecError
        When it is neither.
    """
    if len(x.shape) == 4:
        return _POOLING[spec.pooling](import_keras().layers, f"pooling{suffix}")(x)
    if len(x.shape) != 2:
        raise SpecError(
            f"{f'Layer {spec.layer!r}' if spec.layer else 'The output'} of {spec.backbone} gives "
            f"{len(x.shape)} dimensions; a vector or a map of height, width and channels is "
            f"expected. Tap another layer with --layer."
        )
    return x
