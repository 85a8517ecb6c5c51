"""Every network with a name, and how fast it was in the extractions of a cache folder."""

from __future__ import annotations

import json
import re

import pytest
from conftest import make_photos

import featcache as fc
from featcache import extraction
from featcache.core.errors import BackboneError
from featcache.extraction import speeds
from featcache.networks import hub, measures, registry
from featcache.networks.published import PUBLISHED


def test_every_name_is_described():
    found = {one.name: one for one in fc.backbones("nowhere")}
    assert set(found) == {*registry.CATALOGUE, *PUBLISHED}
    for one in found.values():
        assert one.parameters > 10**5
        assert one.family
        assert one.multiply_adds > 10**7
        assert one.images_per_second is None
    lite, resnet, dino = (
        found[name] for name in ("efficientnet-lite0", "resnet50", "dinov2-small")
    )
    assert (lite.source, lite.is_here, lite.features) == ("pip", True, 1280)
    assert (resnet.parameters, resnet.licence, resnet.source) == (23_587_712, "MIT", "Keras")
    assert (dino.parameters, dino.source) == (22_056_192, "hf:facebook/dinov2-small")
    assert found["dinov3-base"].asks_for_consent
    assert not found["dinov2-base"].asks_for_consent


@pytest.mark.slow
def test_what_was_counted_is_what_is_built():
    from featcache.networks import backbones

    model = backbones.build("mobilenet", "random", (224, 224))
    counted = measures.of("mobilenet")
    assert model.count_params() == counted.parameters
    assert model.output_shape[-1] == counted.features


def test_weights_that_keras_downloaded_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert not next(one for one in fc.backbones() if one.name == "vgg16").is_here
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / measures.of("vgg16").file).touch()
    assert next(one for one in fc.backbones() if one.name == "vgg16").is_here


def test_what_is_not_installed_is_not_here(monkeypatch):
    def missing():
        raise BackboneError("not installed")

    monkeypatch.setattr(hub, "_library", missing)
    assert not any(one.is_here for one in fc.backbones() if one.source.startswith("hf:"))


def test_how_fast_a_run_was_is_kept(tmp_path, monkeypatch, tiny_backbone):
    monkeypatch.setattr(speeds, "FEWEST", 5)
    pictures = make_photos(tmp_path / "pictures", 3)
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    done = extraction.run(pictures, tiny_backbone, **options)
    assert done.features.provenance[speeds.KEY] > 0
    found = speeds._speeds(tmp_path / "cache")
    assert found == {("tiny.keras", 32): done.features.provenance[speeds.KEY]}
    monkeypatch.setattr(speeds, "FEWEST", 500)
    again = extraction.run(pictures, tiny_backbone, pooling="max", **options)
    assert speeds.KEY not in again.features.provenance
    (tmp_path / "cache" / "pictures" / "damaged.h5").write_bytes(b"no HDF5")
    assert speeds._speeds(tmp_path / "cache") == found


def test_the_verb_lists_them(capsys, monkeypatch, tmp_path):
    from featcache.cli.options import app

    monkeypatch.chdir(tmp_path)
    for columns in ("160", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        app(["backbones"], standalone_mode=False)
        text = capsys.readouterr().out
        assert re.search(r"dinov3-small +(DINOv3 +)?21\.6 M", text)
        assert re.search(r"vgg16 .* from Keras", text)
        assert "asks for" in text
        assert "from the Hub" in text
    app(["backbones", "--json"], standalone_mode=False)
    (first, *_) = json.loads(capsys.readouterr().out)["backbones"]
    assert first["name"] == "efficientnet-lite0"
    with pytest.raises(fc.FeatcacheError):
        fc.backbones(3)
