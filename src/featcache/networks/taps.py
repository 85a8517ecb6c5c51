"""What is taken from a network: the output of a layer, and the pooling that makes it a vector."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.core.errors import SpecError
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_keras
from featcache.networks.gram import gram

if TYPE_CHECKING:
    import keras

GRAM = "gram"
_NUMBERS = re.compile(r"(last)?\d+")  # of blocks of a vision transformer, as --layer has them
JOINED = "+"  # between the names of layers that are taken side by side
PATCHES = "patches"  # of a vision transformer, the layer whose output has the grid of patches

_POOLING: dict[str, Callable[[Any, str], Any]] = {
    "none": lambda layers, name: lambda x: x,
    "avg": lambda layers, name: layers.GlobalAveragePooling2D(name=name),
    "max": lambda layers, name: layers.GlobalMaxPooling2D(name=name),
    "flatten": lambda layers, name: layers.Flatten(name=name),
    GRAM: lambda layers, name: lambda x: gram(x, name),
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
        return _output(backbone, spec)
    if grid_of(backbone) is not None and _NUMBERS.fullmatch(name):
        return _of_blocks(backbone, spec)
    names = [layer.name for layer in backbone.layers]
    if name not in names and JOINED in name:
        return _side_by_side(backbone, spec)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[-3:]
        raise SpecError(f"{spec.backbone} has no layer '{name}'. Nearest: {', '.join(near)}.")
    output = backbone.get_layer(name).output
    if isinstance(output, (list, tuple)):
        raise SpecError(f"Layer '{name}' of {spec.backbone} gives several tensors; tap another.")
    return output


def _side_by_side(backbone: keras.Model, spec: ExtractionSpec) -> Any:
    """Return the outputs of several layers as one, their channels side by side.

    Maps are resized, bilinearly, to the height and width of the largest, as in PatchCore.
    """
    taps = [tapped(backbone, replace(spec, layer=one)) for one in str(spec.layer).split(JOINED)]
    layers = import_keras().layers
    if spec.pooling == GRAM and all(len(tap.shape) == 4 for tap in taps):
        # a matrix for each layer, none between them
        taps = [gram(tap, f"gram_{number}") for number, tap in enumerate(taps)]
    if all(len(tap.shape) == 4 for tap in taps):
        height, width = (max(tap.shape[axis] for tap in taps) for axis in (1, 2))
        taps = [
            tap
            if tap.shape[1:3] == (height, width)
            else layers.Resizing(height, width, name=f"as_large_{number}")(tap)
            for number, tap in enumerate(taps)
        ]
    elif len({tuple(tap.shape[1:-1]) for tap in taps}) > 1:
        shapes = ", ".join(str(tap.shape[1:]) for tap in taps)
        raise SpecError(f"The layers '{spec.layer}' do not fit side by side: {shapes}.")
    return layers.Concatenate(name="layers")(taps)


def _output(backbone: keras.Model, spec: ExtractionSpec) -> Any:
    """Return a network's output, or the one that its pooling takes where its authors pool too."""
    outputs = backbone.outputs
    if len(outputs) == 1:
        return outputs[0]
    tokens, pooled = outputs
    if len(tokens.shape) == 4:  # a map, of which the mean is normalised
        return pooled if spec.pooling == "avg" else tokens
    is_of_attention = any(layer.name == "pooling_attention" for layer in backbone.layers)
    if spec.pooling == ("attention" if is_of_attention else "cls"):
        return pooled
    _check_normalised_alike(backbone, spec)
    return tokens


def _normalises_all(backbone: keras.Model) -> bool:
    """Return whether the last normalisation is of all tokens, and not of the class token alone."""
    return bool(backbone.get_layer("norm").output.shape[1] > 1)


def _check_normalised_alike(backbone: keras.Model, spec: ExtractionSpec) -> None:
    if spec.pooling == "cls+avg" and not _normalises_all(backbone):
        raise SpecError(
            f"{spec.backbone} normalises its class token and not its patches, so they are not of "
            f"one kind. Use cls or avg."
        )


def _of_blocks(backbone: keras.Model, spec: ExtractionSpec) -> Any:
    """Return tokens as they would be if the network ended after a block, of several side by side.

    So does the linear protocol of DINOv2. Blocks are counted from 0, as in the weights' names.
    """
    layer = str(spec.layer)
    names = {one.name for one in backbone.layers}
    depth = next(number for number in itertools.count() if f"block_{number}" not in names)
    last = int(layer.removeprefix("last"))
    numbers = range(depth - last, depth) if layer.startswith("last") else range(last, last + 1)
    if not len(numbers) or numbers[0] < 0 or numbers[-1] >= depth:
        raise SpecError(
            f"{spec.backbone} has blocks 0 to {depth - 1}, and layer is '{layer}'. Give one of "
            f"these numbers, or last1 to last{depth}."
        )
    _check_normalised_alike(backbone, spec)
    ends = [backbone.get_layer(f"block_{number}").output for number in numbers]
    if spec.pooling == "cls" or _normalises_all(backbone):
        ends = [backbone.get_layer("norm")(end) for end in ends]
    return ends[0] if len(ends) == 1 else import_keras().layers.Concatenate(name="blocks")(ends)


def grid_of(backbone: keras.Model) -> tuple[int, int] | None:
    """Return height and width of a vision transformer's patches; None of other networks."""
    for layer in backbone.layers:
        # also a layer of somebody else's network may have this name
        if layer.name == PATCHES and len(getattr(layer.output, "shape", ())) == 4:
            _, height, width, _ = layer.output.shape
            return height, width
    return None


def pooled(
    x: Any, spec: ExtractionSpec, suffix: str = "", grid: tuple[int, int] | None = None
) -> Any:
    """Return a tapped map or sequence of tokens as the spec pools it, or a vector as it is.

    Parameters
    ----------
    grid : of patches, where tokens are theirs; those before them belong to no place in the image.

    Raises
    ------
    SpecError
        When it is none of them, or does not have what the pooling takes.
    """
    if len(x.shape) == 2:
        return x
    if len(x.shape) == 3 and grid is not None:
        return _of_tokens(x, spec, suffix, grid)
    if len(x.shape) == 4:
        if spec.pooling not in _POOLING:
            raise SpecError(
                f"pooling {spec.pooling} is of vision transformers; {spec.backbone} gives a map. "
                f"Use {', '.join(_POOLING)}."
            )
        return _POOLING[spec.pooling](import_keras().layers, f"pooling{suffix}")(x)
    raise SpecError(
        f"{f'Layer {spec.layer!r}' if spec.layer else 'The output'} of {spec.backbone} gives "
        f"{len(x.shape)} dimensions; a vector or a map of height, width and channels is "
        f"expected. Tap another layer with --layer."
    )


def _of_tokens(x: Any, spec: ExtractionSpec, suffix: str, grid: tuple[int, int]) -> Any:
    """Pool tokens (n, tokens, d). The mean, the maximum and the map are of the patches alone."""
    keras = import_keras()
    layers, (height, width) = keras.layers, grid
    name, n_tokens, d = f"pooling{suffix}", x.shape[1], x.shape[2]
    n_before = n_tokens - height * width
    if spec.pooling == "attention":
        raise SpecError(
            f"{spec.backbone} pools by no attention{' there' if spec.layer else ''}. Use cls, avg, "
            f"max or none."
        )
    if spec.pooling == "tokens":
        return x
    if "cls" in spec.pooling and not n_before:
        raise SpecError(f"{spec.backbone} has no class token. Use attention, avg, max or none.")
    first = layers.Cropping1D((0, n_tokens - 1), name=f"class_token{suffix}")(x)
    if spec.pooling == "cls":
        return layers.Flatten(name=name)(first)
    patches = layers.Cropping1D((n_before, 0), name=f"patches{suffix}")(x)
    grid_of_patches = layers.Reshape((height, width, d), name=f"grid{suffix}")(patches)
    if spec.pooling in _POOLING:
        return _POOLING[spec.pooling](layers, name)(grid_of_patches)
    # of several blocks the mean is that of the last, as in DINOv2's linear protocol
    several = re.fullmatch(r"last(\d+)", spec.layer or "")
    if several and int(several[1]) > 1:
        before = d - d // int(several[1])
        grid_of_patches = keras.ops.split(grid_of_patches, [before], axis=-1)[1]
    both = [
        layers.Flatten(name=f"class{suffix}")(first),
        _POOLING["avg"](layers, f"mean{suffix}")(grid_of_patches),
    ]
    return layers.Concatenate(name=name)(both)
