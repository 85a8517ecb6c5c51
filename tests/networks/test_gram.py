"""Features of style: Gram matrices of one layer or several, and the recipe that transfers one."""

from __future__ import annotations

import runpy
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

import featcache as fc
from featcache.core.tensorflow import import_keras
from featcache.networks import backbones
from featcache.networks.gram import CHANNELS, gram, projection


def matrices(maps):
    """(n, d), as the definition says."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1]) @ projection(maps.shape[-1])
    products = np.einsum("npi,npj->nij", flat, flat) / flat.shape[1]
    rows, columns = np.triu_indices(flat.shape[-1])
    return products, products[:, rows, columns] * np.where(rows == columns, 1, np.sqrt(2))


@pytest.mark.parametrize("n_channels", [5, 100])
def test_they_are_what_the_definition_says_and_load_in_plain_keras(n_channels, tmp_path):
    keras = import_keras()
    inputs = keras.Input((4, 6, n_channels))
    keras.Model(inputs, gram(inputs, "pooling")).save(tmp_path / "gram.keras")
    model = keras.models.load_model(tmp_path / "gram.keras")
    maps = np.random.default_rng(0).standard_normal((3, 4, 6, n_channels)).astype(np.float32)
    products, expected = matrices(maps)
    np.testing.assert_allclose(model(maps), expected, atol=1e-5)
    # as scalar products they are those of the matrices
    np.testing.assert_allclose(expected[0] @ expected[1], (products[0] * products[1]).sum())


def test_the_projection_is_the_same_for_ever_and_keeps_lengths():
    kernel = projection(200)
    assert kernel.shape == (200, CHANNELS)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(CHANNELS), atol=1e-6)
    np.testing.assert_allclose(kernel[:2, 0], KNOWN, rtol=1e-4)


KNOWN = (0.0233480, -0.0325231)  # of any NumPy and LAPACK


def test_each_layer_has_a_matrix_of_its_own(tiny_backbone):
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)

    def features(layer, pooling):
        resolved = backbones.resolve(weights=str(tiny_backbone), layer=layer, pooling=pooling)
        network = resolved.backbone or backbones.build(
            resolved.spec.backbone, resolved.weights, resolved.spec.image_size
        )
        return np.asarray(backbones.frozen_extractor(network, resolved.spec)(images))

    both = features("relu_1+relu_2", "gram")
    alone = [matrices(features(layer, "none"))[1] for layer in ("relu_1", "relu_2")]
    np.testing.assert_allclose(both, np.hstack(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["relu_2", "relu_1+relu_2"])
def test_heads_learn_from_them_and_are_stitched(features, photos, extract, layer, tmp_path):
    made = extract(photos, layer=layer, pooling="gram").features
    board = fc.fit_heads(made, ["centroid"], cv=3, jobs=1, report=False, show_progress=False)
    model = fc.stitch(board.best, tmp_path / "style.keras", show_progress=False)
    assert model.output_shape == (None, 3)
    (said,) = fc.load(tmp_path / "style.keras", cache_dir=None).predict(
        [sorted((photos / "pear").iterdir())[0]], features=True, show_progress=False
    )
    assert said.features.shape == made.shape[1:]


@pytest.mark.slow
def test_the_recipe_changes_the_image_and_keeps_its_size(photos, tmp_path, monkeypatch):
    content, style = (sorted((photos / name).iterdir())[0] for name in ("apple", "pear"))
    out = tmp_path / "styled.png"
    command = [content, style, "--out", out, "--weights", "random", "--size", "64", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["style_transfer.py", *map(str, command)])
    runpy.run_path(str(REPOSITORY / "pipelines" / "style_transfer.py"), run_name="__main__")
    with Image.open(out) as styled:
        assert max(styled.size) == 64
        assert np.ptp(np.asarray(styled)) > 0
    monkeypatch.setattr(sys, "argv", ["style_transfer.py", "nothing.png", str(style)])
    with pytest.raises(SystemExit, match=r"Error: .*nothing\.png"):
        runpy.run_path(str(REPOSITORY / "pipelines" / "style_transfer.py"), run_name="__main__")
