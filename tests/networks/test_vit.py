"""Vision transformers against what transformers computes: see make_reference_backbones.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photos

import featcache as fc
from featcache import extraction
from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.data.decoding import decode
from featcache.networks import backbones, engines, interpolation, registry
from featcache.networks.engines import tensorflow
from featcache.networks.providers import folder as folders
from featcache.networks.providers import vit_families, vit_network
from featcache.networks.providers.vit_families import architecture_of
from featcache.store.part_writer import PartWriter

pytest.importorskip("safetensors")
REFERENCE = Path(__file__).parent / "reference"
FAMILIES = sorted(one.name for one in REFERENCE.iterdir() if "convnext" not in one.name)
SIZES = ("24x24", "40x32", "16x24")


def built(folder, size=(24, 24)):
    return folders.PROVIDER.build("x", str(folder / "model.safetensors"), size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_what_is_taken_of_them_are_those_of_transformers(family, size):
    expected = np.load(REFERENCE / family / "reference.npz")
    model = built(REFERENCE / family, tuple(map(int, size.split("x"))))
    tokens, pooled = model(expected[f"{size} images"], training=False)
    for name, found in (("tokens", tokens), ("pooled", pooled)):
        wanted = expected[f"{size} {name}"]
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * scale)


@pytest.fixture
def folder(tmp_path):
    """A copy of the smallest DINOv2, to be changed."""
    return shutil.copytree(REFERENCE / "dinov2-registers", tmp_path / "my dino")


@pytest.fixture
def pictures(tmp_path):
    return make_photos(tmp_path / "pictures", 5)


def extract(source, tmp_path, folder, **options):
    settings = {"cache_dir": tmp_path / "cache", "batch_size": 4, "show_progress": False}
    return extraction.run(source, str(folder), **(settings | options))


@pytest.mark.parametrize("runtime", ["tensorflow", "openvino"])
def test_features_are_those_of_the_network_on_normalised_pixels(
    folder, pictures, tmp_path, runtime
):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    features = extract(pictures, tmp_path, folder, runtime=runtime).features
    assert (features.spec.backbone, features.spec.pooling) == ("my_dino", "cls")
    model, keras = built(folder), import_keras()
    pixels = [decode((pictures / id_).read_bytes()).astype(np.float32) for id_ in features.ids]
    shaped = [keras.ops.image.resize(one, (24, 24), antialias=True) for one in pixels]
    images = (np.stack(shaped) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    _, pooled = model(images.astype(np.float32), training=False)
    np.testing.assert_allclose(features.X, pooled, rtol=1e-3, atol=1e-4)


def test_every_pooling_is_what_it_says(folder, pictures, tmp_path, tiny_backbone):
    """All in one network, which is compiled as extraction compiles one for each."""
    poolings = ("cls", "avg", "cls+avg", "max", "none", "flatten")
    specs = [backbones.resolve(str(folder), pooling=pooling).spec for pooling in poolings]
    assert [spec.pooling for spec in specs] == list(poolings)
    images = np.random.default_rng(1).uniform(0, 255, (5, 24, 24, 3)).astype(np.float32)
    compiled = engines.compile_frozen(backbones.frozen_extractor(built(folder), *specs))
    found = dict(zip(poolings, compiled(images), strict=True))
    n = len(images)
    assert found["none"].shape == (n, 3, 3, 16)  # of the patches: no class token, no registers
    patches = found["none"].reshape(n, 9, 16)
    np.testing.assert_allclose(found["avg"], patches.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["max"], patches.max(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["flatten"], patches.reshape(n, -1), rtol=1e-5, atol=1e-6)
    both = np.concatenate([found["cls"], found["avg"]], axis=1)
    np.testing.assert_allclose(found["cls+avg"], both, rtol=1e-5, atol=1e-6)
    with pytest.raises(SpecError, match="my_dino pools by no attention"):
        extract(pictures, tmp_path, folder, pooling="attention")
    with pytest.raises(SpecError, match="siglip has no class token"):
        extract(pictures, tmp_path, REFERENCE / "siglip", pooling="cls")
    with pytest.raises(SpecError, match="clip normalises its class token and not its patches"):
        extract(pictures, tmp_path, REFERENCE / "clip", pooling="cls+avg")
    with pytest.raises(SpecError, match=r"pooling cls is of vision transformers; tiny\.keras"):
        fc.extract(pictures, pooling="cls", weights=str(tiny_backbone), cache_dir=tmp_path)


def test_a_layer_of_it_is_tapped(folder, pictures, tmp_path):
    tapped = extract(pictures, tmp_path, folder, layer="block_0", pooling="avg").features
    assert tapped.shape == (15, 16)
    assert tapped.fingerprint != extract(pictures, tmp_path, folder).features.fingerprint


def test_what_a_network_is_and_not_where_it_lies_identifies_it(folder, pictures, tmp_path):
    first = extract(pictures, tmp_path, folder).features
    config = json.loads((folder / "config.json").read_text())
    told = config | {"_name_or_path": "other", "transformers_version": "9"}
    (folder / "config.json").write_text(json.dumps(told))
    assert extract(pictures, tmp_path, folder).hit
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    other = extract(pictures, tmp_path, folder).features
    assert other.spec.weights != first.spec.weights
    (folder / "config.json").write_text(json.dumps(config))
    statistics = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    assert extract(pictures, tmp_path, folder).features.fingerprint != first.fingerprint


def test_renamed_images_are_found_and_a_copy_elsewhere_lends_its_rows(folder, pictures, tmp_path):
    extract(pictures, tmp_path, folder)
    for path in sorted(pictures.rglob("*.jpg"))[:4]:
        path.rename(path.with_name(f"was {path.name}"))
    twin = shutil.copytree(folder, tmp_path / "twin" / folder.name)
    assert extract(pictures, tmp_path, twin).n_computed == 0


def test_a_run_that_was_stopped_goes_on(folder, pictures, tmp_path, monkeypatch):
    whole = extract(pictures, tmp_path / "whole", folder).features
    add, n_added = PartWriter.add, []

    def stopped(writer, keys, features):
        n_added.append(len(keys))
        add(writer, keys, features)
        if len(n_added) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract(pictures, tmp_path, folder)
    done = extract(pictures, tmp_path, folder)
    assert done.n_computed == len(whole) - sum(n_added)
    np.testing.assert_array_equal(done.features.ids, whole.ids)
    np.testing.assert_allclose(done.features.X, whole.X, rtol=1e-4, atol=1e-5)


def test_several_at_once_each_with_its_own_pooling_and_preprocessing(pictures, tmp_path):
    names = [str(REFERENCE / family) for family in ("vit", "siglip")]
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    one, other = fc.extract_all(pictures, names, **options)
    assert (one.spec.pooling, other.spec.pooling) == ("cls", "attention")
    for name, together in zip(names, (one, other), strict=True):
        alone = extract(pictures, tmp_path / "alone", name).features
        np.testing.assert_allclose(together.X, alone.X, rtol=1e-4, atol=1e-5)


def test_folders_of_the_same_weights_with_other_preprocessing_share_no_pass(
    folder, pictures, tmp_path
):
    twin = shutil.copytree(folder, tmp_path / "twin" / folder.name)
    statistics = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (twin / "preprocessor_config.json").write_text(json.dumps(statistics))
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    one, other = fc.extract_all(pictures, [str(folder), str(twin)], **options)
    alone = extract(pictures, tmp_path / "alone", twin).features
    np.testing.assert_allclose(other.X, alone.X, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(one.X) - np.asarray(other.X)).max() > 0.1


PLAIN = """
import sys
for name in ("featcache", "transformers", "safetensors", "sklearn"):
    sys.modules[name] = None
import keras, numpy as np
images = np.load(sys.argv[1])
for path in sys.argv[2:]:
    np.save(path + ".npy", keras.saving.load_model(path)(images, training=False))
"""


def test_stitched_models_load_in_plain_keras(pictures, tmp_path):
    paths, expected = [], []
    images = np.random.default_rng(0).uniform(0, 255, (2, 24, 24, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    for family in ("dinov2-registers", "dinov3", "siglip", "clip"):
        features = extract(pictures, tmp_path, REFERENCE / family).features
        options = {"cv": 3, "jobs": 1, "report": False, "show_progress": False}
        board = fc.fit_heads(features, ["ridge"], **options)
        paths.append(str(tmp_path / f"{family}.keras"))
        fc.stitch(board.best, paths[-1], show_progress=False)
        expected.append(np.asarray(fc.load(paths[-1]).keras_model(images, training=False)))
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "images.npy"), *paths]
    subprocess.run(command, check=True, capture_output=True)
    for path, wanted in zip(paths, expected, strict=True):
        np.testing.assert_allclose(np.load(f"{path}.npy"), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["dinov2-registers", "dinov3"])
def test_its_last_block_is_fine_tuned_from_cached_tokens(family, pictures, tmp_path, request):
    if family == "dinov3":  # the steps of the other are compiled
        request.getfixturevalue("eager_steps")
    folder = REFERENCE / family
    features = extract(pictures, tmp_path, folder).features
    options = {"report": False, "show_progress": False}
    board = fc.fit_heads(features, ["logreg"], cv=3, jobs=1, **options)
    fc.stitch(board.best, tmp_path / "model.keras", show_progress=False)
    settings = {"cache_dir": tmp_path / "cache", "show_progress": False, "epochs": 1}
    done = fc.finetune(
        tmp_path / "model.keras", out=tmp_path / "tuned.keras", unfreeze_blocks=1, **settings
    )
    every = [fc.Features(path) for path in (tmp_path / "cache").rglob("*.h5")]
    assert done.stages[0].boundary == "block_0"
    unfrozen = done.stages[0].unfrozen
    assert unfrozen[-1] == "norm"
    assert {name[:8] for name in unfrozen[:-1]} == {"block_1_"}
    (boundary,) = (one for one in every if one.spec.pooling == "tokens")
    assert boundary.shape[1:] == (13, 16)  # class token, registers and patches
    assert done.after["accuracy"] >= 0


REAL = {
    "dinov2": ({"hidden_size": 384, "num_attention_heads": 6, "image_size": 518}, 22_056_576),
    "dinov3_vit": ({"num_register_tokens": 4}, 21_596_544),
    "vit": ({}, 85_798_656),
    "deit": ({}, 85_800_192),
    "siglip_vision_model": ({}, 92_884_224),
    "siglip2_vision_model": ({"num_patches": 256}, 92_930_304),
    "clip_vision_model": ({}, 87_456_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REAL)
def test_real_configurations_have_the_published_number_of_parameters(kind, monkeypatch):
    keras = import_keras()
    # most of the time goes into drawing some ninety million numbers
    monkeypatch.setattr(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
    )
    config, published = REAL[kind]
    of = architecture_of({"model_type": kind} | config, Path())
    model = vit_network.network(of, of.image_size)
    counted = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    n_tokens, d = model.get_layer("positions").output.shape[1:]
    # tokens and positions, one where they meet, are no trainable weights here, nor is the probe
    n_special = int(of.family.has_class) + of.family.n_distilled
    counted += d * (vit_network.n_prefix(of) if of.family.is_rotary else n_tokens + n_special)
    counted += d * of.has_head
    counted += 2 * of.depth * d * of.family.has_scale  # in other weights
    counted -= of.depth * d * len(of.without_bias)  # zeros
    counted += d * kind.startswith("dino")  # what masks patches in training
    assert counted == published


def test_positions_are_interpolated_as_torch_does():
    grid = np.arange(12, dtype=np.float32).reshape(3, 4, 1) ** 1.5
    np.testing.assert_array_equal(interpolation.bicubic(grid, (3, 4)), grid)
    assert interpolation.bicubic(grid, (5, 7)).shape == (5, 7, 1)
    flat = np.ones((5, 5, 2), np.float32)
    for kind in ("bicubic", "bicubic_antialias", "bilinear_antialias"):
        found = getattr(interpolation, kind)(flat, (3, 9))
        np.testing.assert_allclose(found, 1, rtol=1e-6)


def damaged(folder, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layernorm.bias"), "has no tensor 'norm.bias'"),
        (
            lambda t: t.pop("embeddings.patch_embeddings.projection.bias"),
            "has no tensor 'patches.bias'",
        ),
        (
            lambda t: t.update({"layernorm.bias": np.zeros(5, np.float32)}),
            r"Tensor 'layernorm.bias' of '.*' has the shape \(5,\); its config.json asks for \(16",
        ),
        (
            lambda t: t.update({"adapter.weight": np.zeros(5, np.float32)}),
            r"has 1 tensor\(s\) that a network of its config.json has no use for: adapter.weight",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    damaged(folder, change)
    with pytest.raises(BackboneError, match=message):
        built(folder)


def test_folders_that_are_none_are_one_line(folder, tmp_path):
    (folder / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(BackboneError, match="a network of the kind swin; known are clip, clip_vi"):
        backbones.resolve(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(BackboneError, match=r"config.json' cannot be read"):
        backbones.resolve(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 10}))
    with pytest.raises(BackboneError, match="is no config of a vit: 12 heads do not part 10"):
        backbones.resolve(str(folder))
    (folder / "model.safetensors").write_bytes(b"\x05")
    (folder / "config.json").write_bytes((REFERENCE / "vit" / "config.json").read_bytes())
    with pytest.raises(BackboneError, match="is no whole safetensors file"):
        built(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"Its pytorch_model.bin is not read: it can run code"):
        backbones.resolve(str(folder))
    with pytest.raises(SpecError, match="brings its own weights; leave 'random' out"):
        backbones.resolve(str(REFERENCE / "vit"), weights="random")
    with pytest.raises(SpecError, match="images of 4 x 24 pixels: its patches have 8 x 8"):
        built(REFERENCE / "vit", (4, 24))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "16"}, "hidden_size must be a whole number, 1 or more; got '16'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number, 1 or more"),
        ({"patch_size": -8}, "patch_size must be a whole number, 1 or more; got -8"),
        ({"patch_size": [8, 8, 8]}, "patch_size must be one number, or height and width"),
        ({"image_size": None}, "image_size must be a whole number, 1 or more; got None"),
        ({"num_register_tokens": -1}, "num_register_tokens must be a whole number, 0 or more"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a finite number above 0; got '4'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps must be a finite number above 0; got -1"),
        ({"hidden_act": "mish"}, "hidden_act must be one of gelu, .*; got 'mish'"),
    ],
)
def test_a_config_is_no_network_where_a_number_is_none(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BackboneError, match=f"is no config of a dinov2_with_registers: {message}"):
        backbones.resolve(str(folder))


SIZES_ARE = "must be pixels: one number, a height and a width, or a shortest_edge"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "24"}, f"size {SIZES_ARE}; got '24'"),
        ({"size": {"height": 24}}, f"size {SIZES_ARE}"),
        ({"size": {"longest_edge": 24}}, f"size {SIZES_ARE}"),
        ({"do_center_crop": True, "crop_size": 0}, f"crop_size {SIZES_ARE}; got 0"),
        ({"resample": "bicubic"}, "resample must be a number as Pillow has them, 3 for bicubic"),
        ({"resample": [3]}, "resample must be a number as Pillow has them"),
        ({"size": 24, "crop_pct": "all"}, "crop_pct must be a finite number above 0; got 'all'"),
        ({"image_mean": [0.5]}, "image_mean must be three numbers, of red, green and blue; got"),
        ({"image_mean": None}, "image_mean must be three numbers"),  # it differs among families
        ({"image_mean": [0.5, 0.5, float("nan")]}, "image_mean must be finite numbers; got nan"),
        ({"image_std": [1, 1, 0]}, "image_std must be a finite number above 0; got 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor must be a finite number above 0"),
    ],
)
def test_what_is_said_of_images_is_understood_or_an_error(folder, change, message):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BackboneError, match=r"config.json' does not say how images are prepared: "):
        backbones.resolve(str(folder))
    with pytest.raises(BackboneError, match=message):
        backbones.resolve(str(folder))


def test_weights_in_parts_and_in_bfloat16(folder):
    import ml_dtypes
    from safetensors.numpy import load_file, save_file

    whole = built(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _, weights, _ = backbones.named(str(folder), "imagenet")
    parted = folders.PROVIDER.build("x", weights, (24, 24))
    for one, other in zip(whole.get_weights(), parted.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    before = backbones.resolve(str(folder)).spec.weights
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    save_file({name: half[name] for name in parts["a.safetensors"]}, folder / "a.safetensors")
    assert backbones.resolve(str(folder)).spec.weights != before
    rounded = folders.PROVIDER.build("x", weights, (24, 24))
    assert rounded.get_weights()[0].dtype == np.float32


def test_compiled_it_gives_what_keras_gives(folder):
    spec = backbones.resolve(str(folder)).spec
    model = backbones.frozen_extractor(built(folder), spec)
    compiled = engines.compile_frozen(model, device="cpu")
    images = np.random.default_rng(1).uniform(0, 255, (5, 24, 24, 3)).astype(np.float32)
    found, closeness = engines.agree(compiled, model, images, "float32", pytest.fail)
    assert closeness.holds
    assert found is compiled
    assert len(vit_families.FAMILIES) >= 6


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_keeps_positions(folder, precision):
    model = backbones.frozen_extractor(built(folder), backbones.resolve(str(folder)).spec)
    images = np.random.default_rng(1).uniform(0, 255, (2, 24, 24, 3)).astype(np.float32)
    lower = np.asarray(tensorflow.in_precision(model, precision)(images), np.float32)
    found = engines.Closeness.of([lower], [np.asarray(model(images))])
    assert found.cosine > 0.999


def test_images_have_the_size_that_the_original_takes(folder):
    assert backbones.resolve(str(folder)).spec.image_size == (24, 24)  # of its positions
    path = folder / "preprocessor_config.json"
    says = json.loads(path.read_text())
    for size, crop, expected in (
        ({"height": 40, "width": 32}, None, (40, 32)),
        ({"shortest_edge": 36}, {"height": 32, "width": 32}, (32, 32)),
        (36, 32, (32, 32)),
    ):
        more = {"size": size} | ({"do_center_crop": True, "crop_size": crop} if crop else {})
        path.write_text(json.dumps(says | more))
        resolved = backbones.resolve(str(folder))
        assert resolved.spec.image_size == expected
        assert len(resolved.remarks) == bool(crop)
    for number, method in ((2, "antialias"), (3, "bicubic"), (0, "antialias")):
        path.write_text(json.dumps(says | {"resample": number}))
        resolved = backbones.resolve(str(folder))
        assert resolved.spec.resize == method
        assert len(resolved.remarks) == (number == 0)
    assert backbones.resolve(str(folder), resize="bilinear").spec.resize == "bilinear"
    for more, remark in (
        (
            {"size": 32, "crop_size": 24, "image_processor_type": "DeiTImageProcessor"},
            "the middle 24 x 24 of an image stretched to 32 x 32 pixels; here all of it is",
        ),
        ({"size": 32, "crop_size": 24, "do_resize": False}, "takes images as large as they are"),
    ):
        path.write_text(json.dumps(says | {"do_center_crop": True} | more))
        resolved = backbones.resolve(str(folder), crop="center")
        assert resolved.spec.image_size == (24, 24)
        assert [remark in one for one in resolved.remarks] == [True]
    path.write_text(json.dumps(says | {"do_center_crop": True, "resample": None}))
    resolved = backbones.resolve(str(folder))  # transformers' own where nothing is said
    assert (resolved.spec.image_size, resolved.spec.resize) == ((224, 224), "antialias")
    path.unlink()
    with pytest.raises(BackboneError, match=r"has no preprocessor_config.json, which says what"):
        backbones.resolve(str(folder))


def test_what_the_original_cuts_off_is_said_where_images_are_computed(
    folder, pictures, tmp_path, capsys, cli
):
    path = folder / "preprocessor_config.json"
    says = {"do_center_crop": True, "crop_size": 24, "size": 30}
    path.write_text(json.dumps(json.loads(path.read_text()) | says))
    remark = (
        "Note: my dino: the original takes the middle 24 x 24 of an image, resized to 30 pixels on "
        "the shorter side; here all of it is stretched to the size, unless you say "
        "--crop center.\n"
    )
    # a path from Python, too
    assert extraction.run(pictures, folder, cache_dir=tmp_path / "cache").n_computed == 15
    assert remark in capsys.readouterr().err
    assert extraction.run(pictures, folder, cache_dir=tmp_path / "cache").hit
    assert "original" not in capsys.readouterr().err
    cropped = extraction.run(pictures, folder, crop="center", cache_dir=tmp_path / "cache")
    assert cropped.features.spec.crop == "center 0.8"
    assert "original" not in capsys.readouterr().err
    assert "24 x 24, antialias, crop center 0.8" in cli("info", cropped.features.path).stdout


def test_a_folder_may_have_any_name(folder, pictures, cli, tmp_path):
    for name in ("a,b", "x.keras"):
        shutil.copytree(folder, tmp_path / name)
        assert cli("extract", pictures, "--backbone", name).returncode == 0
    told = b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()  # as some editors begin
    (folder / "config.json").write_bytes(told)
    assert built(folder).name == "x_backbone"  # of what errors and summaries say


def test_a_folder_and_another_network_are_not_mixed_up(folder, cli):
    weights = folder / "model.safetensors"
    with pytest.raises(SpecError, match=r"are those of my_dino, and the backbone is mobilenet-v2"):
        backbones.resolve("mobilenet-v2", weights=weights)
    with pytest.raises(SpecError, match="my dino' is a folder: give it as the backbone"):
        backbones.resolve(weights=folder)
    with pytest.raises(SpecError, match=r"is a file, and no \.keras backbone"):
        backbones.resolve(str(weights))
    embedder = fc.Embedder(folder, image_size=16, cache_dir=folder.parent / "cache")
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert embedder.fit_transform(images).shape == (2, 16)
    by_weights = fc.Embedder(weights=weights, image_size=16, cache_dir=folder.parent / "cache")
    np.testing.assert_array_equal(by_weights.fit_transform(images), embedder.transform(images))


def test_bfloat16_is_read_where_nobody_told_numpy_of_it(folder):
    import ml_dtypes
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    half = {name: one.astype(ml_dtypes.bfloat16) for name, one in load_file(path).items()}
    save_file(half, path)
    code = (
        "import sys; from pathlib import Path; from featcache.networks import checkpoint\n"
        "found = checkpoint.Tensors(Path(sys.argv[1]), [], '^$')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(found.take('layernorm.weight', (16,)).dtype)"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert ran.stdout.strip() == "float32", ran.stderr


def test_a_layer_of_another_network_may_be_called_patches():
    keras = import_keras()
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    rows = keras.layers.Reshape((36, 4), name="patches")(x)
    model = keras.Model(inputs, keras.layers.Reshape((6, 6, 4), name="map")(rows))
    resolved = backbones.resolve(model)
    assert backbones.frozen_extractor(resolved.backbone, resolved.spec).output_shape == (None, 4)


@pytest.mark.parametrize("family", ["dinov2-registers", "dinov3", "vit", "clip", "siglip"])
def test_a_number_is_the_end_after_a_block(family):
    images = np.random.default_rng(1).uniform(0, 255, (2, 24, 24, 3)).astype(np.float32)
    model = built(REFERENCE / family)

    def taken(layer, pooling):
        spec = backbones.resolve(str(REFERENCE / family), layer=layer, pooling=pooling).spec
        return np.asarray(backbones.frozen_extractor(model, spec)(images))

    for pooling in ("avg", "none") if family == "siglip" else ("cls", "avg", "none"):
        end = taken(None, pooling)
        np.testing.assert_allclose(taken("1", pooling), end, rtol=1e-5, atol=1e-6)
        assert np.abs(taken("0", pooling) - end).max() > 0.1
        both = np.concatenate([taken("0", pooling), taken("1", pooling)], axis=-1)
        np.testing.assert_allclose(taken("last2", pooling), both, rtol=1e-5, atol=1e-6)
        if family not in ("siglip", "clip"):  # DINOv2's linear protocol
            one, other = taken("0", "cls"), taken("1", "cls+avg")
            both = np.concatenate([one, other], axis=-1)
            np.testing.assert_allclose(taken("last2", "cls+avg"), both, rtol=1e-5, atol=1e-6)
    for layer in ("2", "last0", "last3"):
        with pytest.raises(SpecError, match=rf"has blocks 0 to 1, and layer is '{layer}'. Give"):
            taken(layer, "avg")


def test_a_number_is_normalised_as_the_end_is():
    model = built(REFERENCE / "dinov2")
    spec = backbones.resolve(str(REFERENCE / "dinov2"), layer="0").spec
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 24, 24, 3)).astype(np.float32)
    keras = import_keras()
    block = keras.Model(model.inputs[0], model.get_layer("block_0").output)
    rows = model.get_layer("norm")(block(registry.preprocessing(spec.preprocessing)(pixels)))
    found = backbones.frozen_extractor(model, spec)(pixels)
    np.testing.assert_allclose(found, rows[:, 0], rtol=1e-5, atol=1e-5)


def test_what_was_taken_of_blocks_is_stitched(pictures, tmp_path):
    features = extract(pictures, tmp_path, REFERENCE / "dinov2", layer="last2").features
    assert features.shape == (15, 32)
    keras = import_keras()
    _, weights, _ = backbones.named(str(REFERENCE / "dinov2"), "imagenet")
    network = backbones.frozen_extractor(
        backbones.build("dinov2", weights, (24, 24)), features.spec
    )
    network.save(tmp_path / "blocks.keras")
    again = keras.models.load_model(tmp_path / "blocks.keras")
    images = np.random.default_rng(1).uniform(0, 255, (2, 24, 24, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(images), network(images))
    # cut out of a model it is what it was
    cut = backbones.frozen_extractor(again.get_layer(network.layers[2].name), features.spec)
    np.testing.assert_allclose(cut(images), network(images), rtol=1e-5, atol=1e-6)
