"""From a name, a file or a model to a frozen network. Images and heads are other rooms.

What differs between families of networks is in `providers`; here is what all have in common.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.core.errors import SpecError
from featcache.core.geometry import CENTER, NONE, check_crop, crop_of
from featcache.core.keys import digest_file
from featcache.core.spec import ExtractionSpec
from featcache.core.tensorflow import import_keras
from featcache.networks import checkpoint, hub, registry
from featcache.networks.providers import folder, keras_file, keras_model
from featcache.networks.providers.base import WORDS, Entry, size_error
from featcache.networks.published import PUBLISHED
from featcache.networks.taps import grid_of, pooled, tapped
from featcache.networks.weights import digest_of, recall, remember

if TYPE_CHECKING:
    import keras


@dataclass
class Resolved:
    """A spec, and the network where knowing the spec already meant building it."""

    spec: ExtractionSpec
    weights: str  # imagenet, random, an absolute path, on the Hub, or `keras_model.ORIGIN`: origin
    backbone: keras.Model | None = None
    model: str = ""  # absolute path of the model that it is a part of, where that changed weights
    remarks: tuple[str, ...] = ()  # what to know of how images get to it, a sentence each


def resolve(
    name: str | keras.Model | None = None,
    *,
    weights: str = "imagenet",
    image_size: int | tuple[int, int] | None = None,
    memo: Path | None = None,
    **numbers: Any,
) -> Resolved:
    """Return the spec of an extraction; TensorFlow is imported only when `memo` cannot answer.

    Parameters
    ----------
    name : a name of the registry or of `published`, one on the Hub, or the path of a folder or of a
        .keras file; None is `registry.DEFAULT`, or the model itself when `weights` is such a file.
        Or a Keras model, which takes RGB, 0 to 255, as it is.
    weights : "imagenet", "random", or the path of a weights file or of a .keras backbone.
    image_size : pixels, one number for a square or (height, width); None is the network's own.
    memo : file that remembers the digests of weights; None remembers nothing.

    **numbers : the other fields of `ExtractionSpec`.

    Raises
    ------
    SpecError
        When a name or value is wrong.
    BackboneError
        When the weights cannot be had or do not fit.
    """
    backbone = digest = source = path = None
    if name is None or isinstance(name, str):
        name, weights, entry = named(name, weights)
    else:
        model = name
        keras_model.check(model, weights)
        name, entry, digest = keras_model.describe(model, numbers.get("layer"))
        weights, backbone = keras_model.ORIGIN, keras_model.copy_of(model)
    if image_size is None:
        image_size = entry.image_size
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    numbers = completed(numbers, entry)
    stretched = (entry.stretched,) if entry.stretched and numbers["crop"] == NONE else ()

    if digest is None:
        provider = registry.provider_of(name, weights)
        path = provider.weights_path(name, weights)
        source = path or weights
        digest = recall(memo, name, source)
        if digest is None and path is not None:
            digest = digest_file(path)
        elif digest is None:
            built = provider.build(name, weights, size)
            digest, backbone = digest_of(built), provider.rewritten(built)
    identity = digest if path is None else provider.identity(path, digest)
    spec = ExtractionSpec(
        backbone=name,
        weights=identity,
        image_size=size,
        preprocessing=entry.preprocessing,
        **numbers,
    )
    if source is not None:
        remember(memo, name, source, digest)
    return Resolved(spec, weights, backbone, remarks=stretched + entry.remarks)


def completed(numbers: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """Return the fields of a spec with what a backbone's authors do where nobody said.

    Raises
    ------
    SpecError
        When there is no such crop.
    """
    crop = numbers.get("crop", NONE)
    check_crop(crop)
    return numbers | {
        "pooling": numbers.get("pooling") or entry.pooling,
        "resize": numbers.get("resize") or entry.resize,
        "crop": crop_of(entry.share) if crop == CENTER else crop,
    }


def named(name: str | None, weights: str) -> tuple[str, str, Entry]:
    """Return the name that a spec has for what is asked for, absolute weights, and its entry.

    What is on the Hub is downloaded for it, unless it is on this machine.
    """
    weights = os.fspath(weights)
    if found := _brings_weights(name):
        if weights != "imagenet":
            raise SpecError(f"Backbone '{name}' brings its own weights; leave '{weights}' out.")
        if found.endswith(keras_file.SUFFIX) and not Path(found).is_file():
            raise SpecError(f"There is no file '{found}'. Give the path of a .keras backbone.")
        name, weights = None, found
    if weights.startswith(checkpoint.HUB):
        place = hub.folder_of(weights)
        own = _own_name(name, place, weights)
        return own, hub.pinned(weights, place), folder.entry_of(place)
    if weights not in WORDS:
        path = Path(weights).absolute()
        if not path.is_file():
            instead = (
                f"'{weights}' is a folder: give it as the backbone"
                if checkpoint.is_folder(path)
                else f"there is no file '{weights}'"
            )
            raise SpecError(f"weights must be imagenet, random or the path of a file; {instead}.")
        if name is None and path.suffix == keras_file.SUFFIX:
            return path.name, str(path), keras_file.entry_of(path)
        if checkpoint.is_weights(str(path)):
            own = _own_name(name, path.parent, weights)
            return own, str(path), folder.entry_of(path.parent)
        weights = str(path)
    name = name or registry.DEFAULT
    return name, weights, registry.find(name)


def _own_name(name: str | None, place: Path, weights: str) -> str:
    """Return the name of the network in a folder; a spec may have given the folder's former one."""
    own = folder.name_of(place)
    if name in registry.CATALOGUE and name != own:
        raise SpecError(
            f"weights '{weights}' are those of {own}, and the backbone is {name}. Leave one of the "
            f"two out."
        )
    return own


def _brings_weights(name: str | None) -> str:
    """Return the weights that a name stands for, where it is one of those and not of a kind."""
    if name is None or name in registry.CATALOGUE:
        return ""
    if checkpoint.is_folder(Path(name)):
        return str(checkpoint.weights_of(Path(name).absolute()))
    if name in PUBLISHED:
        return PUBLISHED[name].name
    return name if name.startswith(checkpoint.HUB) or name.endswith(keras_file.SUFFIX) else ""


def options_of(
    spec: ExtractionSpec, weights: str
) -> tuple[str | keras.Model | None, dict[str, Any]]:
    """Return the backbone and the options with which `resolve` gives this spec again.

    Raises
    ------
    BackboneError
        When the network was a model given from Python, and is gone.
    """
    own = {"backbone", "weights", "preprocessing", "format_version"}
    options = {
        field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in own
    }
    options["weights"] = weights
    provider = registry.provider_of(spec.backbone, weights)
    return provider.again(spec.backbone, spec.weights), options


def is_of_this_process(weights: str) -> bool:
    """Return whether the weights that `resolve` named are those of a model given from Python."""
    return weights == keras_model.ORIGIN


def build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    """Return the bare network without its classifier, weights loaded.

    Parameters
    ----------
    name, weights : as `resolve` gives them, in the spec and beside it.

    Raises
    ------
    SpecError
        When the network does not take images of that size.
    BackboneError
        When the weights cannot be had or are of another architecture.
    """
    provider = registry.provider_of(name, weights)
    return provider.rewritten(provider.build(name, weights, image_size))


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
    grid = grid_of(backbone)
    if len(backbone.outputs) > 1 or any(one.layer is not None for one in specs):
        taps = [tapped(backbone, one) for one in specs]
        name = backbone.name or spec.backbone
        backbone = keras.Model(backbone.inputs[0], taps if len(taps) > 1 else taps[0], name=name)
    backbone.trainable = False
    inputs = keras.Input((*spec.image_size, 3), name="image")
    x = registry.preprocessing(spec.preprocessing)(inputs)
    try:
        x = backbone(x, training=False)
    except ValueError as error:
        raise size_error(spec.backbone, spec.image_size, error) from error
    if len(specs) == 1:
        return keras.Model(inputs, pooled(x, spec, grid=grid), name="features")
    each = enumerate(zip(x, specs, strict=True))
    outputs = [pooled(tap, one, f"_{number}", grid) for number, (tap, one) in each]
    return keras.Model(inputs, outputs, name="features")
