"""Where a network parts into a frozen prefix and a trained suffix, and into blocks.

A single-tensor point is a place in the graph where one tensor carries everything forward. The
boundary is the last one at or before the first unfrozen layer. Nothing is trained here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featcache.core.errors import StitchError
from featcache.core.tensorflow import import_keras
from featcache.finetuning.trainable import trainable_layers
from featcache.networks.taps import grid_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Point:
    """A single-tensor point: the output of a layer of the backbone."""

    layer: str
    position: int  # of the layer in the order of the graph
    tensor: Any  # KerasTensor
    joins: bool  # it comes out of a layer in which branches end


def backbone_of(network: keras.Model) -> keras.Model:
    """Return the backbone nested in a stitched model.

    Raises
    ------
    StitchError
        When there is none: the model was not made by stitching.
    """
    keras = import_keras()
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            return layer
    raise StitchError(f"Model '{network.name}' has no backbone nested in it; stitch one.")


def points(backbone: keras.Model) -> list[Point]:
    """Return the single-tensor points of a backbone, in the order of its graph.

    In any topological order the layers on which such a tensor depends all come before it, and those
    that depend on it after; so it is where one tensor is still needed, and no other.
    """
    graph = _Graph.of(backbone)
    uses = Counter(id(tensor) for node in graph.nodes for tensor in node.input_tensors)
    uses[id(graph.output)] += 1
    calls = Counter(node.operation.name for node in graph.nodes)
    known = {layer.name for layer in backbone.layers}
    multiply = import_keras().layers.Multiply  # a gate within a block, as in squeeze-and-excitation
    needed: set[int] = set()
    found = []
    for position, node in enumerate(graph.nodes):
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                needed.discard(id(tensor))
        # what nothing takes, as the rest of something split, is not needed
        needed.update(id(tensor) for tensor in node.outputs if uses[id(tensor)])
        name = node.operation.name
        # a layer called twice, or an operation that is no layer, cannot be tapped by its name
        if len(needed) == 1 and node.input_tensors and name in known and calls[name] == 1:
            joins = len(node.input_tensors) > 1 and not isinstance(node.operation, multiply)
            found.append(Point(name, position, node.outputs[0], joins))
    return found


def boundary(backbone: keras.Model, unfrozen: Sequence[str]) -> Point | None:
    """Return the last single-tensor point before the first unfrozen layer.

    None is the images, also where nothing but scaling and padding comes before.
    """
    positions = _Graph.of(backbone).positions
    first = min(positions[name] for name in unfrozen)
    before = [point for point in points(backbone) if point.position < first]
    if before and min(_weighted(backbone)) <= before[-1].position:
        return before[-1]
    return None


def after(backbone: keras.Model, at: Point) -> tuple[str, ...]:
    """Return the names of the layers behind a point that have something to train."""
    positions = _Graph.of(backbone).positions
    return tuple(
        layer.name for layer in trainable_layers(backbone) if positions[layer.name] > at.position
    )


def blocks(backbone: keras.Model) -> dict[str, int]:
    """Return for each layer the number of its block, 1 is the last.

    A block ends where branches join in a single tensor, or, in a network without branches, where
    it pools. Those of a vision transformer are its own. The last one has the normalisation after
    it, which alone is no block.
    """
    if grid_of(backbone) is not None:
        return _numbered(backbone, _ends_of_transformer(backbone))
    pooling = (import_keras().layers.MaxPooling2D, import_keras().layers.AveragePooling2D)
    some = points(backbone)
    ends = [point.position for point in some if point.joins] or [
        point.position for point in some if isinstance(backbone.get_layer(point.layer), pooling)
    ]
    return _numbered(backbone, ends)


def _ends_of_transformer(backbone: keras.Model) -> list[int]:
    """Return where the blocks of a vision transformer end, but for the last one."""
    found = [one.position for one in points(backbone) if re.fullmatch(r"block_\d+", one.layer)]
    return found[:-1]


def _numbered(backbone: keras.Model, ends: list[int]) -> dict[str, int]:
    positions = _Graph.of(backbone).positions
    norm = import_keras().layers.LayerNormalization
    some = [one for one in trainable_layers(backbone) if not isinstance(one, norm)]
    ends = [end for end in ends if any(end < positions[one.name] for one in some)]
    return {
        name: 1 + sum(1 for end in ends if end >= position) for name, position in positions.items()
    }


@dataclass(frozen=True)
class Parted:
    """A stitched model in two, sharing its layers: what one half learns, the whole has learnt."""

    prefix: keras.Model  # images (n, height, width, 3), 0 to 255, to the boundary
    suffix: keras.Model  # the boundary to the outputs (n, n_outputs)


def part(network: keras.Model, at: Point | None, features: Any, dropout: float = 0.0) -> Parted:
    """Return a stitched model parted at a point of its backbone.

    Parameters
    ----------
    at : None parts it before the backbone, after the preprocessing of the images.
    features : KerasTensor of the features in `network`.
    dropout : share of the features that the suffix drops while it trains; the network has none.
    """
    keras = import_keras()
    backbone = backbone_of(network)
    (call,) = (node for node in _Graph.of(network).nodes if node.operation is backbone)
    before = keras.Model(network.inputs[0], call.input_tensors[0])
    start = backbone.inputs[0] if at is None else at.tensor
    inputs = keras.Input(start.shape[1:], name="boundary")
    x = keras.Model(start, backbone.outputs[0])(inputs)
    if features is not call.outputs[0]:
        x = keras.Model(call.outputs[0], features)(x)
    suffix = keras.Model(inputs, _head(network, features, dropout)(x), name=network.name)
    if at is None:
        return Parted(before, suffix)
    outputs = keras.Model(backbone.inputs[0], at.tensor)(before.output)
    return Parted(keras.Model(before.inputs[0], outputs), suffix)


def part_at_features(network: keras.Model, features: Any, dropout: float = 0.0) -> Parted:
    """Return a stitched model parted between the features and the head."""
    keras = import_keras()
    inputs = keras.Input(features.shape[1:], name="boundary")
    suffix = keras.Model(inputs, _head(network, features, dropout)(inputs), name=network.name)
    return Parted(keras.Model(network.inputs[0], features), suffix)


def _head(network: keras.Model, features: Any, dropout: float) -> Any:
    keras = import_keras()
    head = keras.Model(features, network.outputs[0])
    if not dropout:
        return head
    return lambda x: head(keras.layers.Dropout(dropout, seed=0, name="dropped_features")(x))


@dataclass(frozen=True)
class _Graph:
    """The calls of layers in a functional model, in topological order."""

    nodes: list[Any]
    output: Any

    @classmethod
    def of(cls, model: keras.Model) -> _Graph:
        try:
            # over the same layers; a Sequential model becomes a functional one
            model = import_keras().Model(model.inputs[0], model.outputs[0])
            by_depth = model._nodes_by_depth
        except (AttributeError, ValueError, IndexError, TypeError) as error:
            raise StitchError(
                f"{model.name} is no graph of layers that could be parted; a functional or "
                f"Sequential Keras model is expected."
            ) from error
        depths = sorted(by_depth, reverse=True)
        return cls([node for depth in depths for node in by_depth[depth]], model.outputs[0])

    @property
    def positions(self) -> dict[str, int]:
        """Where each layer is called first."""
        found: dict[str, int] = {}
        for position, node in enumerate(self.nodes):
            found.setdefault(node.operation.name, position)
        return found


def _weighted(backbone: keras.Model) -> list[int]:
    positions = _Graph.of(backbone).positions
    return [positions[layer.name] for layer in trainable_layers(backbone)]
