from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from featcache.core.errors import BackboneError
from featcache.networks import torch_file
from featcache.networks.providers import efficientnet_lite


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


@pytest.fixture(scope="module")
def model():
    return efficientnet_lite.network("efficientnet-lite0", (32, 32))


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.slow
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
def test_foreign_files_are_refused_and_run_nothing(model, tmp_path, capsys, data):
    file = tmp_path / "w.pth"
    file.write_bytes(data)
    with pytest.raises(BackboneError, match=r"w\.pth"):
        efficientnet_lite.load_weights(model, "efficientnet-lite0", file)
    assert "must not run" not in capsys.readouterr().out
