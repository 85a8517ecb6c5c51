"""From a catalogue name to a frozen network with its weights. Heads and files are other rooms."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import BackboneError, SpecError, one_line
from featcache.core.keys import digest_file
from featcache.core.spec import BACKGROUND, ExtractionSpec
from featcache.core.tensorflow import import_keras
from featcache.networks.providers import efficientnet_lite
from featcache.networks.registry import (
    CATALOGUE,
    DEFAULT,
    LITE0,
    PREPROCESSING,
    Entry,
    find,
    is_own,
)
from featcache.networks.weights import recall, remember

if TYPE_CHECKING:
    import keras


@dataclass
class Resolved:
    """A spec, and the network where knowing the spec already meant building it."""

    spec: ExtractionSpec
    weights: str  # imagenet, random or an absolute path: where the weights come from
    backbone: keras.Model | None = None


def resolve(
    name: str | None = None,
    *,
    weights: str = "imagenet",
    layer: str | None = None,
    pooling: str = "avg",
    image_size: int | tuple[int, int] | None = None,
    resize: str = "bilinear",
    background: str = BACKGROUND,
    dtype: str = "float32",
    precision: str = "float32",
    views: int = 1,
    augment: tuple[str, ...] = (),
    decode_scale: bool = False,
    memo: Path | None = None,
) -> Resolved:
    """Return the spec of an extraction; TensorFlow is imported only when `memo` cannot answer.

    Parameters
    ----------
    name : catalogue name; None is `DEFAULT`, or the model itself when `weights` is a .keras file.
    weights : "imagenet", "random", or the path of a weights file or of a .keras backbone.
    image_size : pixels, one number for a square or (height, width); None is the network's own.
    memo : file that remembers the digests of weights; None remembers nothing.

    The other options are fields of `ExtractionSpec`.

    Raises
    ------
    SpecError
        When a name or value is wrong.
    BackboneError
        When the weights cannot be had or do not fit.
    """
    path = None if weights in ("imagenet", "random") else Path(weights).absolute()
    if path is not None and not path.is_file():
        raise SpecError(
            f"weights must be imagenet, random or the path of a file; there is no file '{weights}'."
        )
    if path is not None and path.suffix == ".keras" and name is None:
        name, entry = path.name, Entry("", _input_side(path), "included")
    else:
        name = name or DEFAULT
        entry = find(name)
    if image_size is None:
        image_size = entry.image_size
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    weights = str(path) if path is not None else weights

    backbone = None
    file = _weights_file(name, weights)
    digest = recall(memo, name, file or weights)
    if digest is None:
        if file is not None:
            digest = digest_file(file)
        else:
            backbone = build(name, weights, size)
            digest = digest_of(backbone)
    spec = ExtractionSpec(
        backbone=name,
        weights=digest,
        image_size=size,
        preprocessing=entry.preprocessing,
        layer=layer,
        pooling=pooling,
        resize=resize,
        background=background,
        dtype=dtype,
        precision=precision,
        views=views,
        augment=augment,
        decode_scale=decode_scale,
    )
    remember(memo, name, file or weights, digest)
    return Resolved(spec, weights, backbone)


def options_of(spec: ExtractionSpec, weights: str) -> tuple[str | None, dict[str, Any]]:
    """Return the name and the options with which `resolve` gives this spec again."""
    own = {"backbone", "weights", "preprocessing", "format_version"}
    options = {
        field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in own
    }
    options["weights"] = weights
    return None if is_own(spec.backbone) else spec.backbone, options


def build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    """Return the bare network without its classifier, weights loaded.

    Raises
    ------
    SpecError
        When the network does not take images of that size.
    BackboneError
        When the weights cannot be had or are of another architecture.
    """
    keras = import_keras()
    if is_own(name):
        return _load_keras_file(Path(weights))
    try:
        if name == LITE0:
            backbone = efficientnet_lite.build(image_size)
        else:
            factory = getattr(keras.applications, CATALOGUE[name].factory)
            # Keras prints its download on stdout, which belongs to results, and warns that weights
            # were trained at another size, which was asked for
            with redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*input_shape", UserWarning)
                backbone = factory(
                    weights="imagenet" if weights == "imagenet" else None,
                    include_top=False,
                    input_shape=(*image_size, 3),
                )
    except ValueError as error:
        raise SpecError(
            f"{name} does not take images of {_by(image_size)}: {_line(error)}"
        ) from error
    except Exception as error:  # get_file raises bare Exception when the network is down
        raise BackboneError(_no_download(name, error)) from error
    if name == LITE0 and weights == "imagenet":
        efficientnet_lite.load_weights(backbone, efficientnet_lite.weights_path())
    elif weights == "random":
        _randomise(backbone)
    elif weights != "imagenet":
        _load_weights_file(backbone, name, Path(weights))
    return backbone


def frozen_extractor(backbone: keras.Model, *specs: ExtractionSpec) -> keras.Model:
    """Return one Keras model from RGB, 0 to 255, (n, height, width, 3), to features (n, …).

    Layers, in order: the preprocessing, the backbone up to the tapped layer as one nested model,
    the pooling. Nothing in it is trainable. Several specs, which differ in `layer` and `pooling`
    alone, give several outputs from one forward pass.

    Raises
    ------
    SpecError
        When the backbone lacks a layer, or its output cannot be pooled.
    """
    keras = import_keras()
    spec = specs[0]
    if any(one.layer is not None for one in specs):
        taps = [_tap(backbone, one) for one in specs]
        name = backbone.name or spec.backbone
        backbone = keras.Model(backbone.inputs[0], taps if len(taps) > 1 else taps[0], name=name)
    backbone.trainable = False
    inputs = keras.Input((*spec.image_size, 3), name="image")
    x = PREPROCESSING[spec.preprocessing](inputs)
    try:
        x = backbone(x, training=False)
    except ValueError as error:
        raise SpecError(
            f"{spec.backbone} does not take images of {_by(spec.image_size)}: {_line(error)}"
        ) from error
    if len(specs) == 1:
        return keras.Model(inputs, _pooled(x, spec), name="features")
    outputs = [
        _pooled(tap, one, f"_{i}") for i, (tap, one) in enumerate(zip(x, specs, strict=True))
    ]
    return keras.Model(inputs, outputs, name="features")


def _pooled(x: Any, spec: ExtractionSpec, suffix: str = "") -> Any:
    if len(x.shape) == 4:
        return _POOLING[spec.pooling](import_keras().layers, f"pooling{suffix}")(x)
    if len(x.shape) != 2:
        raise SpecError(
            f"{f'Layer {spec.layer!r}' if spec.layer else 'The output'} of {spec.backbone} gives "
            f"{len(x.shape)} dimensions; a vector or a map of height, width and channels is "
            f"expected. Tap another layer with --layer."
        )
    return x


_POOLING: dict[str, Callable[[Any, str], Any]] = {
    "none": lambda layers, name: lambda x: x,
    "avg": lambda layers, name: layers.GlobalAveragePooling2D(name=name),
    "max": lambda layers, name: layers.GlobalMaxPooling2D(name=name),
    "flatten": lambda layers, name: layers.Flatten(name=name),
}


def _tap(backbone: keras.Model, spec: ExtractionSpec) -> Any:
    name = spec.layer
    if name is None:
        return backbone.output
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[-3:]
        raise SpecError(f"{spec.backbone} has no layer '{name}'. Nearest: {', '.join(near)}.")
    output = backbone.get_layer(name).output
    if isinstance(output, (list, tuple)):
        raise SpecError(f"Layer '{name}' of {spec.backbone} gives several tensors; tap another.")
    return output


def _weights_file(name: str, weights: str) -> Path | None:
    """Return the file that the weights come from, where that is known before loading them."""
    if weights == "imagenet" and name == LITE0:
        return efficientnet_lite.weights_path()
    return None if weights in ("imagenet", "random") else Path(weights)


def _no_download(name: str, error: Exception) -> str:
    text = _line(error)
    url = next((word.rstrip(":") for word in text.split() if word.startswith("http")), "")
    file = url.rsplit("/", 1)[-1] or "the file"
    return (
        f"The ImageNet weights of {name} could not be downloaded. Put {file} into "
        f"~/.keras/models/ by hand{f' (from {url})' if url else f' ({text})'}, "
        f"give --weights PATH, or use {LITE0}, which needs no download."
    )


def _input_side(path: Path) -> int | tuple[int, int]:
    """Read the image size from a .keras file's own description, without Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        _, height, width, channels = layers[0]["config"]["batch_shape"]
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, ValueError, TypeError) as error:
        raise BackboneError(
            f"'{path}' is no Keras model of images, (height, width, channels): {_line(error)}. "
            f"Save one with model.save('NAME.keras'), or name a backbone for weights files."
        ) from error
    if channels not in (3, None):
        raise BackboneError(
            f"Keras model '{path}' takes images of {channels} channel(s); 3 (RGB) are expected."
        )
    return (height, width) if height and width else 224


def _load_keras_file(path: Path) -> keras.Model:
    keras = import_keras()
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # load_model raises whatever a layer's constructor raises
        raise BackboneError(f"'{path}' is no Keras model that loads: {_line(error)}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BackboneError(
            f"Keras model '{path}' has {len(model.inputs)} inputs and {len(model.outputs)} "
            f"outputs; a backbone has one of each."
        )
    return model


def _load_weights_file(backbone: keras.Model, name: str, path: Path) -> None:
    if path.suffix == ".pth" and name == LITE0:
        efficientnet_lite.load_weights(backbone, path)
        return
    if path.suffix == ".keras":
        given = _load_keras_file(path).get_weights()
        if [w.shape for w in given] == [w.shape for w in backbone.get_weights()]:
            backbone.set_weights(given)
            return
        raise BackboneError(f"The model in '{path}' is not of the architecture of {name}.")
    try:
        backbone.load_weights(path)
    except Exception as error:  # Keras and h5py raise several kinds for a file that does not fit
        raise BackboneError(
            f"Weights file '{path}' is not of {name} without its classifier: {_line(error)}"
        ) from error


def _randomise(backbone: keras.Model) -> None:
    """Draw He-normal kernels from a fixed seed, the same on every machine and Keras version."""
    generator = np.random.default_rng(0)
    for variable in backbone.weights:
        if variable.path.endswith("kernel"):
            shape = variable.shape
            is_depthwise = len(shape) == 4 and (shape[-1] == 1 or "depthwise" in variable.path)
            fan_in = int(np.prod(shape[:-2] if is_depthwise else shape[:-1]))
            drawn = generator.standard_normal(shape, np.float32)
            variable.assign(drawn * np.float32(np.sqrt(2 / max(fan_in, 1))))


def digest_of(backbone: keras.Model) -> str:
    """Return BLAKE2b-128 of a network's weights, hex: their values, shapes and dtypes in order."""
    total = hashlib.blake2b(digest_size=16)
    for array in backbone.get_weights():
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _line(error: BaseException) -> str:
    """Return an error's text on one line of at most 200 characters."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
