"""A Keras model given from Python. Its architecture and weights identify it, and nothing live.

The digest of a .keras file is that of its bytes. A model in memory has none, and its weights alone
would not tell a stride or an activation from another one, so its description is digested with
them. Names that Keras numbers as it makes layers, `conv2d_7`, are left out: they depend on what
else was made before. See docs/decisions/model-objects.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.networks.providers.base import Entry, Provider, short
from featcache.networks.providers.keras_file import check_ends, entry_for
from featcache.networks.weights import adapted, digest_of, set_weights

if TYPE_CHECKING:
    import keras

ORIGIN = "a Keras model given from Python"  # where such weights come from, in provenance
_WITHOUT_EFFECT = {"trainable", "seed", "compile_config", "build_config"}  # on a forward pass
_FUNCTIONS = {"__lambda__": "a lambda", "function": "a function"}  # as Keras describes them
_REFERENCES = {"keras_history", "input_layers", "output_layers"}  # to layers, by their names

# What was given and still lives, by its digest: stitching needs the network once more.
_given: WeakValueDictionary[str, Any] = WeakValueDictionary()


def check(model: object, weights: str) -> None:
    """Raise SpecError for what is no Keras model, and for weights beside one."""
    keras = sys.modules.get("keras")  # where it was not imported, nothing is a model of it
    if keras is None or not isinstance(model, keras.Model):
        raise SpecError(f"backbone must be a name or a Keras model; got {model!r}.")
    if weights not in ("imagenet", ORIGIN):
        raise SpecError(f"A Keras model brings its own weights; leave weights '{weights}' out.")


def describe(model: keras.Model, layer: str | None) -> tuple[str, Entry, str]:
    """Return a model's name, safe in file names, its entry, and what identifies it.

    Raises
    ------
    BackboneError
        When it is no network of RGB images made of Keras's own layers.
    """
    what = f"Keras model '{model.name}'"
    entry = entry_for(what, _image_shape(what, model))
    check_ends(what, model)
    digest = _identity(what, model, layer)
    _given[digest] = model
    own = "model" if _is_automatic(model.name, type(model).__name__) else model.name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", own), entry, digest


def copy_of(model: keras.Model) -> keras.Model:
    """Return a copy to freeze: what its owner does to the model later does not reach it."""
    twin = import_keras().models.clone_model(model)
    set_weights(twin, model.get_weights())
    return twin


def again(name: str, digest: str) -> keras.Model:
    """Return a model that was given before, if it is still there.

    Raises
    ------
    BackboneError
        When it is gone.
    """
    model = _given.get(digest)
    if model is None:
        raise _gone(name)
    return model


def _gone(name: str) -> BackboneError:
    return BackboneError(
        f"Backbone '{name}' was given from Python; save it with model.save('{name}.keras') and "
        f"extract with --weights {name}.keras."
    )


def _image_shape(what: str, model: keras.Model) -> tuple[int | None, ...]:
    try:
        _, *shape = model.inputs[0].shape
        height, width, channels = shape
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise BackboneError(
            f"{what} is no network of images, (height, width, channels), made by the functional "
            f"API or Sequential: {short(error)}."
        ) from error
    return height, width, channels


def _identity(what: str, model: keras.Model, layer: str | None) -> str:
    """Return BLAKE2b-128 of description and weights, hex."""
    description = {
        "class_name": type(model).__name__,
        "module": type(model).__module__,
        "config": dict(model.get_config(), name=None),
    }
    _check_is_of_keras(what, description)
    automatic = {name: number for number, name in enumerate(_automatic_names(description))}
    canonical = json.dumps(
        _renamed(description, automatic), sort_keys=True, separators=(",", ":"), default=str
    )
    total = hashlib.blake2b(canonical.encode(), digest_size=16)
    total.update(digest_of(model).encode())
    if adapted(model):  # earlier versions ran these without what they were adapted to
        total.update(b"adapted")
    if layer in automatic:  # a name that is not in the description says which layer by its place
        total.update(f"{[one.name for one in model.layers].index(layer)}".encode())
    return total.hexdigest()


def _check_is_of_keras(what: str, part: Any) -> None:
    """Raise BackboneError for code of others: a description has its name, not what it does."""
    for one in _dicts(part):
        kind, module = str(one.get("class_name")), one.get("module")
        # of a class that a script or a notebook defines itself Keras says no module
        is_foreign = {"class_name", "module"} <= set(one) and str(module).split(".")[0] != "keras"
        if is_foreign or kind in _FUNCTIONS:
            raise BackboneError(
                f"{what} has code of its own in it, {_FUNCTIONS.get(kind, kind)}, and nothing "
                f"would tell when that changes. Make it of Keras's own layers."
            )


def _automatic_names(description: Any) -> dict[str, None]:
    """Return the names that Keras made itself, in order."""
    names: dict[str, None] = {}
    for one in _dicts(description):
        config = one.get("config")
        name = config.get("name") if isinstance(config, dict) else None
        if isinstance(name, str) and _is_automatic(name, str(one.get("class_name"))):
            names[name] = None
    return names


def _is_automatic(name: str, class_name: str) -> bool:
    stem = re.sub(r"_\d+$", "", name)
    return stem.replace("_", "") == class_name.replace("_", "").lower()


def _renamed(part: Any, names: dict[str, int], is_reference: bool = False) -> Any:
    """Return a description with numbers for names, without what changes no number of a pass."""
    if isinstance(part, dict):
        return {
            key: _renamed(value, names, is_reference or key in _REFERENCES or key == "name")
            for key, value in part.items()
            if key not in _WITHOUT_EFFECT
        }
    if isinstance(part, (list, tuple)):
        return [_renamed(one, names, is_reference) for one in part]
    return [names[part]] if is_reference and part in names else part


def _dicts(part: Any) -> list[dict[str, Any]]:
    """Return every dict in nested lists and dicts, outer ones first."""
    if isinstance(part, dict):
        return [part, *(one for value in part.values() for one in _dicts(value))]
    if isinstance(part, (list, tuple)):
        return [one for value in part for one in _dicts(value)]
    return []


def _build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    raise _gone(name)


def _weights_path(name: str, weights: str) -> Path | None:
    return None


# a model is no name, and cannot be built again
PROVIDER = Provider({}, _build, _weights_path, again=again)
