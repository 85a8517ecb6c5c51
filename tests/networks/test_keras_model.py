"""Models given from Python: what identifies them, and what happens when they are needed again."""

from __future__ import annotations

import gc

import h5py
import numpy as np
import pytest

import featcache as fc
from featcache import extraction
from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.extraction.repair import repair
from featcache.networks import backbones
from featcache.networks.providers import keras_model

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3)).astype(np.float32)


def network(*, name="mine", strides=2, activation="relu", named=True, kernel=0.1, side=24):
    """Two convolutions; without `named` Keras numbers the layers as it goes."""
    keras = import_keras()
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, strides, activation=activation, name="first" if named else None)(x)
    x = layers.Conv2D(4, 3, padding="same", name="second" if named else None)(x)
    x = layers.Dropout(0.5)(x)
    model = keras.Model(inputs, x, name=name)
    model.set_weights([np.full(w.shape, kernel, np.float32) for w in model.get_weights()])
    return model


def weights_of(model, **options):
    return backbones.resolve(model, **options).spec.weights


def test_the_spec_of_a_model():
    resolved = backbones.resolve(network(name="my net, größe"))
    assert resolved.spec.backbone == "my_net_gr_e"
    assert resolved.spec.image_size == (24, 24)
    assert resolved.spec.preprocessing == "included"
    assert resolved.weights == "a Keras model given from Python"


def test_features_are_what_the_model_gives():
    model = network()
    resolved = backbones.resolve(model)
    features = backbones.frozen_extractor(resolved.backbone, resolved.spec)(PIXELS)
    expected = model(PIXELS, training=False).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_a_model_of_any_size_takes_its_size_from_the_option():
    assert backbones.resolve(network(side=None)).spec.image_size == (224, 224)
    resolved = backbones.resolve(network(side=None), image_size=24)
    assert backbones.frozen_extractor(resolved.backbone, resolved.spec)(PIXELS).shape == (2, 4)


def test_the_model_of_the_user_stays_as_it_is():
    model = network()
    resolved = backbones.resolve(model)
    extractor = backbones.frozen_extractor(resolved.backbone, resolved.spec)
    before = extractor(PIXELS).numpy()
    assert len(model.trainable_variables) == 4
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(extractor(PIXELS), before)


@pytest.mark.parametrize("named", [True, False])
def test_the_same_network_made_twice_is_the_same(named):
    assert (
        backbones.resolve(network(named=named)).spec == backbones.resolve(network(named=named)).spec
    )


def test_a_name_that_keras_numbers_is_no_name():
    assert backbones.resolve(network(name=None)).spec == backbones.resolve(network(name=None)).spec


def test_freezing_and_compiling_make_no_other_network():
    model = network()
    before = weights_of(model)
    model.trainable = False
    model.compile("adam", "mse")
    assert weights_of(model) == before


@pytest.mark.parametrize(
    "other", [{"kernel": 0.2}, {"strides": 1}, {"activation": "tanh"}, {"side": 32}]
)
def test_weights_and_architecture_are_part_of_the_identity(other):
    assert weights_of(network(**other)) != weights_of(network())


def test_layers_that_change_their_places_make_another_network():
    keras = import_keras()

    def of(*layers):
        model = keras.Sequential([keras.Input((24, 24, 3)), *layers])
        return weights_of(model)

    assert of(keras.layers.ReLU(), keras.layers.MaxPooling2D()) != of(
        keras.layers.MaxPooling2D(), keras.layers.ReLU()
    )


def test_wiring_is_part_of_the_identity():
    keras = import_keras()

    def of(swapped):
        inputs = keras.Input((24, 24, 3))
        a = keras.layers.Rescaling(2.0)(inputs)
        b = keras.layers.Rescaling(3.0)(inputs)
        return weights_of(
            keras.Model(inputs, keras.layers.Subtract()([b, a] if swapped else [a, b]))
        )

    assert of(False) == of(False)
    assert of(False) != of(True)


def test_a_tap_by_a_number_of_keras_is_told_by_its_place():
    """`conv2d_9` may be the first layer of one network and the second of an equal one."""
    first, again = network(named=False), network(named=False)
    taps = [
        next(layer.name for layer in model.layers[place:] if "conv2d" in layer.name)
        for model, place in ((first, 0), (first, 3), (again, 0))
    ]
    assert len(set(taps)) == 3
    one, other, same = (
        weights_of(model, layer=tap) for model, tap in zip((first, first, again), taps, strict=True)
    )
    assert one != other
    assert one == same
    by_name = network()
    assert weights_of(by_name, layer="first") == weights_of(by_name, layer="second")


def test_it_is_found_again_while_it_is_there():
    model = network()
    resolved = backbones.resolve(model, pooling="max")
    backbone, options = backbones.options_of(resolved.spec, resolved.weights)
    assert backbone is model
    assert backbones.resolve(backbone, **options).spec == resolved.spec


def test_when_it_is_gone_it_says_what_to_do():
    resolved = backbones.resolve(network(kernel=0.7))
    gc.collect()
    message = (
        r"^Backbone 'mine' was given from Python; save it with model\.save\('mine\.keras'\) and "
        r"extract with --weights mine\.keras\.$"
    )
    with pytest.raises(BackboneError, match=message):
        backbones.options_of(resolved.spec, resolved.weights)
    with pytest.raises(BackboneError, match=message):
        backbones.build(resolved.spec.backbone, resolved.weights, (24, 24))


def test_stitching_and_repair_need_the_model_or_a_file(tmp_path, photos):
    model = network()
    extracted = extraction.extract_network(
        photos, backbones.resolve(model), cache_dir=tmp_path / "cache", show_progress=False
    )
    features = extracted.features
    assert features.provenance["weights"] == keras_model.ORIGIN
    board = fc.fit_heads(features, "centroid", jobs=1, report=False, show_progress=False)
    assert fc.stitch(board.best).input_shape == (None, 24, 24, 3)
    with h5py.File(features.path, "r") as file:  # a byte of a feature
        place = file["features"].id.get_chunk_info(0).byte_offset
    damaged = bytearray(features.path.read_bytes())
    damaged[place] ^= 1
    features.path.write_bytes(damaged)
    _, n_computed = repair(features.path, show_progress=False)
    assert n_computed == 21
    features.path.write_bytes(damaged)
    del model, extracted
    gc.collect()
    for needs_it in (
        lambda: fc.stitch(board.best),
        lambda: repair(features.path, show_progress=False),
    ):
        with pytest.raises(BackboneError, match=r"'mine' was given from Python; save it with"):
            needs_it()
    assert features.path.read_bytes() == damaged


def test_what_is_no_model():
    with pytest.raises(SpecError, match="backbone must be a name or a Keras model; got 7"):
        backbones.resolve(7)
    with pytest.raises(SpecError, match="brings its own weights; leave weights 'random' out"):
        backbones.resolve(network(), weights="random")


def test_models_that_cannot_be_backbones():
    keras = import_keras()
    grey = keras.Input((16, 16, 1))
    with pytest.raises(BackboneError, match=r"1 channel\(s\); 3 \(RGB\)"):
        backbones.resolve(keras.Model(grey, keras.layers.ReLU()(grey)))
    vector = keras.Input((16,))
    with pytest.raises(BackboneError, match="is no network of images"):
        backbones.resolve(keras.Model(vector, keras.layers.Dense(2)(vector)))
    with pytest.raises(BackboneError, match="is no network of images"):
        backbones.resolve(keras.Sequential([keras.layers.ReLU()]))
    colour = keras.Input((16, 16, 3))
    with pytest.raises(BackboneError, match="1 inputs and 2 outputs"):
        backbones.resolve(keras.Model(colour, [colour, keras.layers.ReLU()(colour)]))


def test_code_of_ones_own_is_refused():
    """Its name is in the description, what it does is not: a change of it would be a wrong hit."""
    keras = import_keras()

    def doubled(x):
        return 2 * x

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    inputs = keras.Input((16, 16, 3))
    for layer, named in (
        (Doubled(), "Doubled"),
        (keras.layers.Lambda(lambda x: 2 * x, output_shape=(16, 16, 3)), "a lambda"),
        (keras.layers.Lambda(doubled, output_shape=(16, 16, 3)), "a function"),
    ):
        with pytest.raises(BackboneError, match=f"code of its own in it, .*{named}"):
            backbones.resolve(keras.Model(inputs, layer(inputs)))
    model = Subclassed()
    model(np.zeros((1, 16, 16, 3), np.float32))
    with pytest.raises(BackboneError, match=r"is no network of images|code of its own"):
        backbones.resolve(model)


def test_a_network_of_keras_applications_is_one():
    keras = import_keras()
    options = {"weights": None, "include_top": False, "input_shape": (32, 32, 3), "alpha": 0.35}
    model = keras.applications.MobileNetV2(**options)
    twin = keras.applications.MobileNetV2(**options)
    twin.set_weights(model.get_weights())
    first, second = backbones.resolve(model).spec, backbones.resolve(twin).spec
    assert first == second
    assert first.backbone == "mobilenetv2_0.35_32"


@pytest.mark.parametrize("module", ["__main__", "a_module_of_mine"])
def test_a_layer_of_a_script_is_as_foreign_as_one_of_a_module(module):
    keras = import_keras()
    own = type("Mine", (keras.layers.Layer,), {"call": lambda self, x: x, "__module__": module})
    model = keras.Sequential([keras.Input((16, 16, 3)), own(), keras.layers.Conv2D(2, 3)])
    with pytest.raises(BackboneError, match="has code of its own in it, Mine"):
        backbones.resolve(model)
