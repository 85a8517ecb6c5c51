"""Names on the Hugging Face Hub, against a server on this machine that answers as it does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photos
from fake_hub import REPOSITORY, Hub, serving

import featcache as fc
from featcache import extraction
from featcache.core.errors import BackboneError, SpecError
from featcache.networks import backbones, checkpoint, hub, registry
from featcache.networks.published import PUBLISHED

constants = pytest.importorskip("huggingface_hub.constants")
pytest.importorskip("safetensors")
REFERENCE = Path(__file__).parent / "reference" / "dinov2-registers"
NAME = f"hf:{REPOSITORY}"


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    """A repository on a server, and nothing of it on this machine."""
    served = Hub(shutil.copytree(REFERENCE, tmp_path / "served"))
    (served.folder / "reference.npz").unlink()
    (served.folder / "pytorch_model.bin").write_bytes(b"could run code")
    with serving(served) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


def n_files_asked(served):
    return sum("/resolve/" in one and one.startswith("GET") for one in served.asked)


def test_it_is_downloaded_once_and_its_commit_recorded(on_hub, tmp_path, capsys):
    pictures = make_photos(tmp_path / "pictures", 4)
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    first = extraction.run(pictures, NAME, **options).features
    assert "Looking for people/tiny-dino on the Hugging Face Hub." in capsys.readouterr().err
    assert n_files_asked(on_hub) == 3  # two descriptions and the weights
    assert not any("pytorch_model" in one for one in on_hub.asked)
    assert first.spec.backbone == "tiny-dino"
    assert first.provenance["weights"] == f"{NAME}@{on_hub.commit}"

    folder = shutil.copytree(REFERENCE, tmp_path / "tiny-dino")
    assert extraction.run(pictures, str(folder), **options).hit  # what it is, not where

    on_hub.asked.clear()
    again = extraction.run(pictures, NAME, **options)
    assert again.hit
    assert n_files_asked(on_hub) == 0
    assert "Looking" not in capsys.readouterr().err
    on_hub.asked.clear()
    assert extraction.run(pictures, f"{NAME}@{on_hub.commit}", **options).hit
    assert on_hub.asked == []  # a commit never changes


def test_what_was_downloaded_is_used_where_the_hub_cannot_be_asked(on_hub, monkeypatch):
    before = backbones.resolve(NAME).spec
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    on_hub.asked.clear()
    assert backbones.resolve(NAME).spec == before
    assert on_hub.asked == []
    with pytest.raises(BackboneError, match=r"'people/other' is not on .* \(HF_HUB_OFFLINE is set"):
        backbones.resolve("hf:people/other")


def test_a_branch_that_moved_on_is_another_network(on_hub, capsys):
    before = backbones.resolve(NAME)
    config = (on_hub.folder / "config.json").read_text()
    (on_hub.folder / "config.json").write_text(config.replace("1e-06", "0.01"))
    on_hub.commit = "2" * 40
    capsys.readouterr()
    after = backbones.resolve(NAME)
    assert "people/tiny-dino has changed on the Hugging Face Hub" in capsys.readouterr().err
    assert after.weights == f"{NAME}@{'2' * 40}"
    assert after.spec.weights != before.spec.weights
    # what was extracted is stitched with what it was extracted by
    assert backbones.resolve("tiny-dino", weights=before.weights).spec == before.spec


def test_a_download_that_was_cut_off_goes_on(on_hub):
    on_hub.cut_after = 5000
    with pytest.raises(BackboneError, match="what was downloaded is kept"):
        backbones.resolve(NAME)
    assert not hub.is_here(NAME)
    on_hub.cut_after = None
    backbones.resolve(NAME)
    assert hub.is_here(NAME)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((403, "GatedRepo"), "'people/tiny-dino' asks for consent to its licence: give it on its"),
        ((404, "RepoNotFound"), "The Hugging Face Hub shows no 'people/tiny-dino'. Mend the name"),
        (
            (500, ""),
            "'people/tiny-dino' is not on this machine, and the Hugging Face Hub cannot be",
        ),
    ],
)
def test_what_is_refused_is_one_line_with_a_cure(on_hub, status, message):
    on_hub.status = status
    with pytest.raises(BackboneError, match=message) as caught:
        backbones.resolve(NAME)
    assert "\n" not in str(caught.value)


def test_revisions_and_files_that_are_not_there_are_named(on_hub):
    with pytest.raises(
        BackboneError, match=r"has no revision 'v9'. Give a branch, a tag or a comm"
    ):
        backbones.resolve(f"{NAME}@v9")
    (on_hub.folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"has not both config.json and model.safetensors, and"):
        backbones.resolve(NAME)
    assert not any("pytorch_model" in one for one in on_hub.asked)
    for name in ("hf:", "hf:dinov2", "hf:a/b/c", "hf:../x/y", "hf:a/b@"):
        with pytest.raises(SpecError, match="names nothing on the Hugging Face Hub; expected hf:"):
            backbones.resolve(name)
    with pytest.raises(SpecError, match="brings its own weights; leave 'random' out"):
        backbones.resolve(NAME, weights="random")


def test_the_folder_where_it_is_kept_has_its_name(on_hub):
    folder = hub.folder_of(NAME)
    assert backbones.resolve(str(folder)).spec == backbones.resolve(NAME).spec
    (folder / "model.safetensors").unlink()
    assert not checkpoint.is_whole(folder)
    backbones.resolve(NAME)  # what is gone is had again
    assert checkpoint.is_whole(folder)


def test_short_names_are_names_on_the_hub(on_hub, monkeypatch):
    own = replace(PUBLISHED["dinov2-small"], repository=REPOSITORY)
    monkeypatch.setitem(PUBLISHED, "dinov2-small", own)
    assert backbones.resolve("dinov2-small").weights.startswith(NAME)
    for name, one in PUBLISHED.items():
        assert name not in registry.CATALOGUE
        assert hub._parted(one.name)[1] == "main"
    with pytest.raises(
        SpecError, match=r"There is no backbone 'dinov2-smal'. Nearest: dinov2-small"
    ):
        backbones.resolve("dinov2-smal")


def test_a_stitched_model_asks_for_its_commit_alone(on_hub, tmp_path):
    pictures = make_photos(tmp_path / "pictures", 6)
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    features = extraction.run(pictures, NAME, **options).features
    settings = {"cv": 3, "jobs": 1, "report": False, "show_progress": False}
    board = fc.fit_heads(features, ["ridge"], **settings)
    on_hub.asked.clear()
    fc.stitch(board.best, tmp_path / "model.keras", show_progress=False)
    assert on_hub.asked == []
    images = np.zeros((1, 24, 24, 3), np.float32)
    assert np.isfinite(fc.load(tmp_path / "model.keras").keras_model(images)).all()
