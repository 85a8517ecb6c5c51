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
from featcache.networks import backbones, engines
from featcache.networks.engines import tensorflow
from featcache.networks.providers import convnext, convnext_network
from featcache.networks.providers.convnext_families import architecture_of

pytest.importorskip("safetensors")
REFERENCE = Path(__file__).parent / "reference"
FAMILIES = sorted(path.name for path in REFERENCE.glob("*convnext*"))
SIZES = ("32x32", "64x32", "37x66")


def built(folder, size=(32, 32)):
    return convnext.PROVIDER.build("x", str(folder / "model.safetensors"), size)


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
