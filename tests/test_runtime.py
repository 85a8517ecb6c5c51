from __future__ import annotations

import numpy as np
import pytest

from featcache import backbones, quiet, runtime
from featcache.errors import SpecError


def test_frozen_gives_what_keras_gives(tiny_backbone):
    resolved = backbones.resolve(weights=str(tiny_backbone))
    backbone = backbones.build("tiny.keras", str(tiny_backbone), (32, 32))
    model = backbones.frozen_extractor(backbone, resolved.spec)
    run = runtime.compile_frozen(model)
    for n in (1, 5):
        pixels = np.random.default_rng(n).uniform(0, 255, (n, 32, 32, 3)).astype(np.float32)
        got = run(pixels)
        assert got.shape == (n, 12)
        np.testing.assert_allclose(got, model(pixels), rtol=1e-5, atol=1e-6)


def test_a_gpu_that_is_not_there():
    if quiet.tensorflow().config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert runtime.pick_device("auto") == "/CPU:0"
    with pytest.raises(SpecError, match="TensorFlow sees no GPU"):
        runtime.pick_device("gpu")
