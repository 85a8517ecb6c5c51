"""Where networks are parted, in which blocks, and what is unfrozen."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.core.errors import SpecError, StitchError
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_keras
from featcache.finetuning import graph, unfreezing
from featcache.finetuning.trainable import trainable_layers
from featcache.networks import backbones
from featcache.networks.registry import find


def network_of(backbone, side, preprocessing="included"):
    keras = import_keras()
    spec = ExtractionSpec(
        backbone="b", weights="w", image_size=(side, side), preprocessing=preprocessing
    )
    extractor = backbones.frozen_extractor(backbone, spec)
    outputs = keras.layers.Dense(3, activation="softmax", name="probabilities")(extractor.output)
    return keras.Model(extractor.inputs[0], outputs, name="whole"), extractor.output


@pytest.fixture(scope="module")
def branched():
    """A network with a residual branch, a gate, dropout, and a layer that is called twice."""
    keras = import_keras()
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv_1")(inputs)
    twice = layers.ReLU(name="twice")
    x = twice(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv_2")(x)
    y = layers.BatchNormalization(name="bn_2")(y)
    gate = layers.Dense(4, activation="sigmoid", name="gate")(y)
    y = layers.Multiply(name="gated")([y, gate])
    x = layers.Add(name="joined")([x, y])
    x = twice(x)
    x = layers.Conv2D(5, 3, strides=2, name="conv_3")(x)
    x = layers.Dropout(0.2, name="dropped")(x)
    x = layers.Conv2D(6, 1, name="conv_4")(x)
    return keras.Model(inputs, x, name="branched")


def test_points_are_where_one_tensor_carries_everything(branched):
    names = [point.layer for point in graph.points(branched)]
    # within the branch there are two tensors; a layer called twice cannot be tapped by its name
    assert names == ["conv_1", "joined", "conv_3", "dropped", "conv_4"]
    assert [point.layer for point in graph.points(branched) if point.joins] == ["joined"]


@pytest.mark.parametrize(
    ("unfreeze", "unfrozen", "boundary"),
    [
        (1, ("conv_4",), "dropped"),
        (2, ("conv_3", "conv_4"), "joined"),
        (3, ("gate", "conv_3", "conv_4"), "conv_1"),
        ("all", ("conv_1", "conv_2", "bn_2", "gate", "conv_3", "conv_4"), None),
        ("dropped", ("conv_4",), "dropped"),
        ("bn_2", ("bn_2", "gate", "conv_3", "conv_4"), "conv_1"),
        ("1 block", ("conv_3", "conv_4"), "joined"),
        ("2 blocks", ("conv_1", "conv_2", "bn_2", "gate", "conv_3", "conv_4"), None),
    ],
)
def test_the_boundary_is_the_last_point_before_what_is_unfrozen(
    branched, unfreeze, unfrozen, boundary
):
    names = unfreezing.chosen(branched, unfreeze)
    assert names == unfrozen
    at = graph.boundary(branched, names)
    # `dropped` itself holds no weights: unfreezing from it unfreezes what comes after
    assert (at.layer if at else None) == boundary


def test_blocks_end_where_branches_join(branched):
    block = graph.blocks(branched)
    assert {name: block[name] for name in ("conv_1", "conv_2", "gate", "joined")} == dict.fromkeys(
        ("conv_1", "conv_2", "gate", "joined"), 2
    )
    assert block["conv_3"] == block["conv_4"] == 1


def check_blocks(backbone, n_blocks):
    """They are numbered from the last layer to the first."""
    block = graph.blocks(backbone)
    layers = trainable_layers(backbone)
    numbers = [block[layer.name] for layer in layers]
    assert numbers == sorted(numbers, reverse=True)
    assert (numbers[-1], numbers[0]) == (1, n_blocks)


@pytest.mark.slow
def test_blocks_of_a_network_of_our_own():
    check_blocks(backbones.build("efficientnet-lite0", "random", (64, 64)), 10)


@pytest.mark.parametrize("unfreeze", [1, 2, 4, "all"])
def test_both_halves_give_what_the_whole_gives(branched, unfreeze):
    network, features = network_of(branched, 16)
    backbone = graph.backbone_of(network)
    at = graph.boundary(backbone, unfreezing.chosen(backbone, unfreeze))
    parted = graph.part(network, at, features, dropout=0.5)
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype(np.float32)
    got = parted.suffix(parted.prefix(pixels, training=False), training=False)
    np.testing.assert_allclose(got, network(pixels), rtol=1e-5, atol=1e-6)


def test_what_a_half_learns_the_whole_has_learnt(branched):
    network, features = network_of(branched, 16)
    parted = graph.part(network, graph.points(branched)[-2], features)
    (kernel,) = (v for v in parted.suffix.weights if v.path.startswith("conv_4/kernel"))
    pixels = np.ones((1, 16, 16, 3), np.float32)
    before = np.asarray(network(pixels))
    kept = kernel.numpy()
    kernel.assign(kernel + 1.0)
    assert not np.allclose(network(pixels), before)
    kernel.assign(kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_blocks"),
    [("mobilenet-v2", 11), ("resnet50", 16), ("efficientnet-b0", 10), ("vgg16", 5)],
)
def test_real_networks_are_parted_exactly(name, n_blocks):
    entry = find(name)
    backbone = backbones.build(name, "random", (64, 64))
    check_blocks(backbone, n_blocks)
    network, features = network_of(backbone, 64, entry.preprocessing)
    names = unfreezing.chosen(backbone, 6)
    at = graph.boundary(backbone, names)
    parted = graph.part(network, at, features)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    got = parted.suffix(parted.prefix(pixels, training=False), training=False)
    np.testing.assert_allclose(got, network(pixels, training=False), rtol=1e-4, atol=1e-6)
    unfreezing.thaw(network, names)
    # what trains lies in the suffix, all of it
    assert {v.path for v in parted.suffix.trainable_variables} == {
        v.path for v in network.trainable_variables
    }


def test_thawing_leaves_statistics_and_what_is_not_named(branched):
    network, _ = network_of(branched, 16)
    unfreezing.thaw(network, ("bn_2", "conv_4"))
    names = {"/".join(v.path.split("/")[-2:]) for v in network.trainable_variables}
    parts = ("conv_4/kernel", "conv_4/bias", "probabilities/kernel", "probabilities/bias")
    assert names == {"bn_2/gamma", "bn_2/beta", *parts}


def test_a_backbone_nested_in_a_backbone_trains_but_for_its_statistics():
    keras = import_keras()
    inner_in = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 1, name="inner_conv")(inner_in)
    inner = keras.Model(inner_in, keras.layers.BatchNormalization(name="inner_bn")(x), name="inner")
    inputs = keras.Input((8, 8, 3))
    x = inner(keras.layers.Conv2D(4, 1, name="outer_conv")(inputs))
    backbone = keras.Model(inputs, x, name="outer")
    network, _ = network_of(backbone, 8)
    assert unfreezing.chosen(graph.backbone_of(network), 1) == ("inner",)
    unfreezing.thaw(network, ("inner",))
    assert len(network.trainable_variables) == 2 + 2 + 2  # head, convolution, scale and offset
    batch = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(network(batch, training=True), network(batch), rtol=1e-6)


def test_a_sequential_backbone():
    keras = import_keras()
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 1, name="first"),
            keras.layers.Conv2D(4, 1, name="second"),
        ],
        name="stacked",
    )
    network, features = network_of(backbone, 8)
    backbone = graph.backbone_of(network)
    at = graph.boundary(backbone, unfreezing.chosen(backbone, 1))
    assert at.layer == "first"
    parted = graph.part(network, at, features)
    pixels = np.ones((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(parted.suffix(parted.prefix(pixels)), network(pixels), rtol=1e-6)


def test_no_such_layers(branched):
    with pytest.raises(SpecError, match="unfreeze is 7, but branched has 6 layers that hold"):
        unfreezing.chosen(branched, 7)
    with pytest.raises(SpecError, match="unfreeze_blocks is 3, but branched has 2 blocks"):
        unfreezing.chosen(branched, "3 blocks")
    with pytest.raises(SpecError, match=r"branched has no layer 'conv_9'\. Nearest: conv_"):
        unfreezing.chosen(branched, "conv_9")


def test_a_model_that_was_not_stitched():
    keras = import_keras()
    inputs = keras.Input((4,))
    with pytest.raises(StitchError, match="has no backbone nested in it"):
        graph.backbone_of(keras.Model(inputs, keras.layers.Dense(2)(inputs), name="plain"))
