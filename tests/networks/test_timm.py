"""Folders of timm; that their networks give timm's numbers is in test_vit and test_convnext."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featcache.core.errors import BackboneError
from featcache.networks import backbones
from featcache.networks.providers import described, timm, vit_families
from featcache.networks.providers import folder as folders

pytest.importorskip("safetensors")
REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(REFERENCE / "timm-dinov2-registers", tmp_path / "timm's")


def changed(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_images_are_those_that_timm_takes(folder):
    resolved = backbones.resolve(str(folder))
    assert resolved.spec.image_size == (518, 518)
    assert (resolved.spec.pooling, resolved.spec.resize) == ("cls", "bicubic")
    statistics = "0.485 0.456 0.406 0.229 0.224 0.225"
    assert resolved.spec.preprocessing.startswith(f"mean-std {statistics} of ")
    assert "resized to 518 pixels on the shorter side" in resolved.remarks[0]
    changed(folder, lambda c: c["pretrained_cfg"].update(input_size=[3, 224, 192], crop_pct=0.9))
    resolved = backbones.resolve(str(folder))
    assert resolved.spec.image_size == (224, 192)
    assert "the middle 224 x 192 of an image, resized to 213 pixels" in resolved.remarks[0]
    changed(folder, lambda c: c["pretrained_cfg"].update(crop_mode="squash"))
    (remark,) = backbones.resolve(str(folder), crop="center").remarks  # no crop here does that
    assert "the middle 224 x 192 of an image stretched to 248 x 213 pixels" in remark
    changed(folder, lambda c: c["pretrained_cfg"].update(crop_pct=1.0))
    assert not backbones.resolve(str(folder)).remarks


def test_what_identifies_a_network_is_not_what_is_said_of_it(folder):
    before = backbones.resolve(str(folder)).spec
    changed(folder, lambda c: c["pretrained_cfg"].update(license="other", url="https://other"))
    changed(folder, lambda c: c.update(label_names=["a", "b", "c"]))
    assert backbones.resolve(str(folder)).spec == before
    changed(folder, lambda c: c["pretrained_cfg"].update(mean=[0, 0, 0]))
    assert backbones.resolve(str(folder)).spec.weights == before.weights
    assert backbones.resolve(str(folder)).spec != before
    changed(folder, lambda c: c["model_args"].update(num_heads=4))
    assert backbones.resolve(str(folder)).spec.weights != before.weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnet50.a1_in1k"}, "timm's architecture resnet50; known are vit_SIZE"),
        ({"architecture": "vit_giant_patch14_224"}, "architecture vit_giant_patch14_224; known"),
        ({"architecture": "convnext_tiny_hnf"}, "architecture convnext_tiny_hnf; known"),
        (
            {"model_args": {"act_layer": "relu"}},
            "changes vit_small_patch14_reg4_dinov2 by act_layer = 'relu', which is not known",
        ),
        ({"global_pool": "avg"}, "pools by avg; known is token, the class token"),
        ({"model_args": 3}, "model_args must be an object, got 3"),
        ({"model_args": {"embed_dim": "wide"}}, "is no config of vit_small_patch14_reg4_dinov2"),
        ({"pretrained_cfg": {"input_size": 3}}, "input_size must be three numbers; got 3"),
        ({"pretrained_cfg": {"input_size": [3, -1, 24]}}, "input_size must be a whole number, 1"),
        ({"pretrained_cfg": {"crop_pct": "all"}}, "crop_pct must be a finite number above 0; got"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "config.json' does not say how images are prepared"),
    ],
)
def test_what_is_not_known_is_one_line(folder, change, message):
    changed(folder, lambda config: config.update(change))
    with pytest.raises(BackboneError, match=message):
        backbones.resolve(str(folder))


def test_a_tensor_of_another_shape_is_named_as_it_is_in_the_file(folder):
    changed(folder, lambda config: config["model_args"].update(embed_dim=32))
    with pytest.raises(BackboneError, match=r"Tensor '.*' of '.*' has the shape .* asks for"):
        folders.PROVIDER.build("x", str(folder / "model.safetensors"), (24, 24))


REAL = {
    "vit_tiny_patch16_224.augreg_in21k": (192, 12, 3, 768, (16, 16), 0, False),
    "deit_small_patch16_224": (384, 12, 6, 1536, (16, 16), 0, False),
    "vit_large_patch14_dinov2.lvd142m": (1024, 24, 16, 4096, (14, 14), 0, False),
    "vit_giant_patch14_reg4_dinov2.lvd142m": (1536, 40, 24, 4096, (14, 14), 4, True),
}


@pytest.mark.parametrize("architecture", REAL)
def test_names_are_the_sizes_that_were_published(architecture, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    of = vit_families.architecture_of(described.config_of(tmp_path), tmp_path)
    found = (of.width, of.depth, of.n_heads, of.mlp_width, of.patch, of.n_registers, of.is_gated)
    assert found == REAL[architecture]


def test_queries_keys_and_values_are_parted():
    whole = np.arange(12).reshape(6, 2)
    found = dict(timm.parts("blocks.0.attn.qkv.weight", whole))
    assert list(found) == [f"blocks.0.attn.{one}.weight" for one in "qkv"]
    np.testing.assert_array_equal(np.concatenate(list(found.values())), whole)
    assert list(timm.parts("head.weight", whole)) == [("head.weight", whole)]
