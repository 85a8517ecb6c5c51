"""ConvNeXt against what transformers and timm compute: see make_reference_backbones.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photos

import featcache as fc
from featcache import extraction
from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.finetuning import graph
from featcache.networks import backbones, engines
from featcache.networks.engines import tensorflow
from featcache.networks.providers import convnext_network, described
from featcache.networks.providers import folder as folders
from featcache.networks.providers.convnext_families import architecture_of

pytest.importorskip("safetensors")
REFERENCE = Path(__file__).parent / "reference"
FAMILIES = sorted(path.name for path in REFERENCE.glob("*convnext*"))
SIZES = ("32x32", "64x32", "37x66")


def built(folder, size=(32, 32)):
    return folders.PROVIDER.build("x", str(folder / "model.safetensors"), size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_maps_and_what_is_taken_of_them_are_those_of_the_authors(family, size):
    expected = np.load(REFERENCE / family / "reference.npz")
    model = built(REFERENCE / family, tuple(map(int, size.split("x"))))
    found = dict(zip(("map", "pooled"), model(expected[f"{size} images"]), strict=True))
    for name, array in found.items():
        wanted = expected[f"{size} {name}"]
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=1e-5 * scale)


@pytest.fixture
def folder(tmp_path):
    """A copy of the network that has most, to be changed."""
    return shutil.copytree(REFERENCE / "convnextv2", tmp_path / "my convnext")


@pytest.fixture
def pictures(tmp_path):
    return make_photos(tmp_path / "pictures", 5)


def pixels(size=(32, 32)):
    return np.random.default_rng(1).uniform(0, 255, (2, *size, 3)).astype(np.float32)


def extractor(folder, model, **options):
    spec = backbones.resolve(str(folder), image_size=32, **options).spec
    return spec, backbones.frozen_extractor(model, spec)


def test_what_is_taken_is_the_normalised_mean_and_other_poolings_are_of_the_map():
    model = built(REFERENCE / "convnext", (64, 64))
    spec = backbones.resolve(str(REFERENCE / "convnext"), image_size=64).spec
    assert spec.pooling == "avg"
    images = pixels((64, 64))
    expected = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    whole, pooled = map(np.asarray, model(expected.astype(np.float32)))
    wanted = {
        "avg": pooled,
        "none": whole,
        "max": whole.max(axis=(1, 2)),
        "flatten": whole.reshape(2, -1),
    }
    for pooling, array in wanted.items():
        spec = backbones.resolve(str(REFERENCE / "convnext"), image_size=64, pooling=pooling).spec
        found = np.asarray(backbones.frozen_extractor(model, spec)(images))
        assert found.shape == array.shape
        np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-4)
    for pooling in ("cls", "cls+avg", "attention"):
        spec = backbones.resolve(str(REFERENCE / "convnext"), image_size=64, pooling=pooling).spec
        with pytest.raises(SpecError, match=r"is of vision transformers; convnext gives a map"):
            backbones.frozen_extractor(model, spec)


def test_the_end_of_a_block_is_tapped():
    model = built(REFERENCE / "convnextv2")
    _, network = extractor(REFERENCE / "convnextv2", model, layer="stage_1_block_1")
    assert network.output_shape == (None, 12)
    block = import_keras().Model(model.inputs[0], model.get_layer("stage_1_block_1").output)
    images = (pixels() / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    wanted = np.asarray(block(images.astype(np.float32))).mean(axis=(1, 2))
    np.testing.assert_allclose(network(pixels()), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["convnextv2", "dinov3-convnext"])
def test_lower_precision_is_close(family, precision):
    _, model = extractor(REFERENCE / family, built(REFERENCE / family))
    lower = np.asarray(tensorflow.in_precision(model, precision)(pixels()), np.float32)
    assert engines.Closeness.of([lower], [np.asarray(model(pixels()))]).cosine > 0.999


def test_response_normalisation_does_not_overflow_and_has_slopes_everywhere():
    tf, keras = pytest.importorskip("tensorflow"), import_keras()
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, convnext_network._response_normalised("grn", inputs))
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[..., 0] = 300.0  # its squares are more than float16 holds; another channel is dead
    with tf.GradientTape() as tape:
        watched = tf.constant(x)
        tape.watch(watched)
        total = tf.reduce_sum(model(watched))
    assert np.isfinite(tape.gradient(total, watched)).all()
    half = keras.Input((4, 4, 3), dtype="float16")
    model = keras.Model(half, convnext_network._response_normalised("grn", half))
    assert np.isfinite(np.asarray(model(x), np.float32)).all()


REAL = {
    "convnext-tiny": ({"model_type": "convnext"}, 27_820_128),
    "convnextv2-atto": (
        {
            "model_type": "convnextv2",
            "hidden_sizes": [40, 80, 160, 320],
            "depths": [2, 2, 6, 2],
        },
        3_387_400,
    ),
    "dinov3-convnext-tiny": ({"model_type": "dinov3_convnext"}, 27_820_128),
    "timm-convnext-base": ({"architecture": "convnext_base.fb_in22k"}, 87_566_464),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_configurations_have_the_published_number_of_parameters(name, tmp_path):
    config, published = REAL[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    of = architecture_of(described.config_of(tmp_path), tmp_path)
    counted = convnext_network.network(of, (64, 64)).count_params()
    # LayerScale and what response normalisation adds are in other weights
    each = [depth * width for depth, width in zip(of.depths, of.widths, strict=True)]
    counted += sum(each) * of.has_scale + 4 * sum(each) * of.family.has_grn
    counted -= 2 * of.widths[-1] * of.family.norm_of_map  # there twice
    assert counted == published


def damaged(folder, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


GRN = "encoder.stages.1.layers.1.grn.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layernorm.bias"), "has no tensor 'norm.bias'"),
        (lambda t: t.pop(GRN), r"has no tensor 'stages\.1\.blocks\.1\.grn\.weight'"),
        (
            lambda t: t.update({GRN: np.zeros(48, np.float32)}),
            rf"Tensor '{GRN}' of '.*' has the shape \(48,\); its config.json asks for \(1, 1",
        ),
        (
            lambda t: t.update({"encoder.stages.4.x": np.zeros(5, np.float32)}),
            r"has 1 tensor\(s\) that a network of its .* no use for: encoder.stages.4.x",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    damaged(folder, change)
    with pytest.raises(BackboneError, match=message):
        built(folder)


def test_configs_and_sizes_that_do_not_fit_are_one_line(folder):
    with pytest.raises(SpecError, match="images of 24 x 40 pixels: each side needs 32"):
        built(folder, (24, 40))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"depths": [1, 2]}))
    with pytest.raises(BackboneError, match="convnextv2: 4 hidden_sizes do not go with 2 depths"):
        backbones.resolve(str(folder))
    for change, message in (
        ({"hidden_sizes": "8"}, "hidden_sizes must be a list of whole numbers; got '8'"),
        ({"depths": [1, 2, 0, 1]}, "depths must be a whole number, 1 or more; got 0"),
        ({"patch_size": 0}, "patch_size must be a whole number, 1 or more; got 0"),
        ({"hidden_act": "mish"}, "hidden_act must be one of gelu, .*; got 'mish'"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(BackboneError, match=f"is no config of a convnextv2: {message}"):
            backbones.resolve(str(folder))


def test_images_have_the_size_and_the_crop_that_the_original_takes(folder):
    path = folder / "preprocessor_config.json"
    says = json.loads(path.read_text())
    for more, size, remark in (
        ({}, (224, 224), ""),
        ({"size": 224, "crop_pct": 0.875, "resample": 2}, (224, 224), "resized to 256 pixels"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384), ""),
        (
            {"size": {"shortest_edge": 224}, "image_processor_type": "ConvNextImageProcessor"},
            (224, 224),
            "the middle 224 x 224 of an image, resized to 256 pixels",
        ),
    ):
        path.write_text(json.dumps(says | more))
        resolved = backbones.resolve(str(folder))
        if "image_processor_type" in more:
            says_nothing = says | more | {"crop_pct": None}  # as published folders have it
            path.write_text(json.dumps(says_nothing))
            assert backbones.resolve(str(folder)) == resolved
        assert resolved.spec.image_size == size
        assert len(resolved.remarks) == bool(remark)
        assert remark in "".join(resolved.remarks)
        is_told = "image_processor_type" in more  # what nobody says is what transformers takes
        assert resolved.spec.resize == ("bicubic" if is_told else "antialias")


def test_its_last_block_has_the_normalisation_after_it():
    whole = built(REFERENCE / "convnext")
    model = import_keras().Model(whole.inputs[0], whole.outputs[1])
    number = graph.blocks(model)
    assert {number[name] for name in ("norm", "stage_3_block_0_fc2", "stage_3_down")} == {1}
    assert number["stage_2_block_0_fc2"] == 2
    assert max(number.values()) == 5


@pytest.mark.slow
def test_features_are_stitched_and_fine_tuned(folder, pictures, tmp_path, eager_steps):
    settings = {"cache_dir": tmp_path / "cache", "show_progress": False}
    features = extraction.run(pictures, str(folder), image_size=32, **settings).features
    assert features.shape == (15, 20)
    quiet = {"report": False, "show_progress": False}
    board = fc.fit_heads(features, ["logreg"], cv=3, jobs=1, **quiet)
    fc.stitch(board.best, tmp_path / "model.keras", show_progress=False)
    settings |= {"unfreeze_blocks": 2, "epochs": 1}
    done = fc.finetune(tmp_path / "model.keras", out=tmp_path / "tuned.keras", **settings)
    assert done.after["accuracy"] >= 0
    model = import_keras().saving.load_model(tmp_path / "model.keras")
    assert {type(layer).__module__.split(".")[0] for layer in model._flatten_layers()} == {"keras"}
    found = np.asarray(fc.load(tmp_path / "model.keras").keras_model(pixels(), training=False))
    np.testing.assert_array_equal(model(pixels(), training=False), found)
    assert (tmp_path / "model.keras").stat().st_size < 600_000  # weights are no text in it
