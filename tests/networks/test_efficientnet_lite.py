from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_tensorflow
from featcache.networks import registry, torch_file
from featcache.networks.providers import efficientnet_lite


@pytest.fixture(scope="module")
def classifier():
    model = efficientnet_lite.network("efficientnet-lite0", (224, 224), include_top=True)
    path = efficientnet_lite.weights_path("efficientnet-lite0", "imagenet")
    efficientnet_lite.load_weights(model, "efficientnet-lite0", path)
    return model


def test_number_of_parameters(classifier):
    assert classifier.count_params() == 4_694_024


@pytest.mark.parametrize(
    ("photo", "classes", "probability"),
    [
        ("china.jpg", [698, 442, 663, 975], 0.30),  # palace, bell cote, monastery, lakeside
        ("flower.jpg", [985, 947, 309], 0.23),  # daisy, mushroom, bee
    ],
)
def test_it_knows_two_photographs(classifier, photo, classes, probability):
    tf = import_tensorflow()
    bunch = load_sample_images()
    image = next(
        image
        for name, image in zip(bunch.filenames, bunch.images, strict=True)
        if name.endswith(photo)
    )
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    resized = tf.image.resize(square, (224, 224), "bicubic", antialias=True)[None]
    probabilities = classifier(registry.PREPROCESSING["lite"](resized), training=False).numpy()[0]
    best = np.argsort(-probabilities)
    assert best[: len(classes)].tolist() == classes
    assert probabilities[best[0]] == pytest.approx(probability, abs=0.005)


def torch_bytes(tensors, storages) -> bytes:
    """Write the legacy format by hand; `tensors` maps names to (storage key, shape, strides)."""
    out = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj.pid if isinstance(obj, Storage) else None

    class Storage:
        def __init__(self, key):
            self.pid = ("storage", FloatStorage, key, "cpu", 0, None)

    class FloatStorage:
        pass

    class Rebuild:
        def __init__(self, key, shape, strides):
            self.args = (Storage(key), 0, shape, strides, False, None)

        def __reduce__(self):
            return _rebuild_tensor_v2, self.args

    def _rebuild_tensor_v2(*arguments):
        return arguments

    FloatStorage.__module__, FloatStorage.__qualname__ = "torch", "FloatStorage"
    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    import sys
    import types

    fakes = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    fakes["torch"].FloatStorage = FloatStorage
    fakes["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    before = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        for value in (0x1950A86A20F9469CFC6C, 1001, {}):
            pickle.dump(value, out, 2)
        Pickler(out, 2).dump({name: Rebuild(*args) for name, args in tensors.items()})
        pickle.dump(list(storages), out, 2)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    for data in storages.values():
        out.write(np.int64(len(data)).tobytes() + np.asarray(data, "<f4").tobytes())
    return out.getvalue()


def test_strides_are_honoured(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(torch_bytes({"w": ("0", (2, 3), (1, 2))}, {"0": range(6)}))
    got = torch_file.read(file)["w"]
    assert got.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(torch_bytes({"w": ("0", (2, 4), (4, 1))}, {"0": range(6)}))
    with pytest.raises(ValueError, match="beyond its storage"):
        torch_file.read(file)


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickle.dumps(Evil(), 2),
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Evil(), 2),
        torch_bytes({"w": ("0", (2,), (1,))}, {"0": range(2)}),
    ],
)
def test_foreign_files_are_refused_and_run_nothing(tmp_path, capsys, data):
    file = tmp_path / "w.pth"
    file.write_bytes(data)
    model = efficientnet_lite.network("efficientnet-lite0", (32, 32))
    with pytest.raises(BackboneError, match=r"w\.pth"):
        efficientnet_lite.load_weights(model, "efficientnet-lite0", file)
    assert "must not run" not in capsys.readouterr().out
