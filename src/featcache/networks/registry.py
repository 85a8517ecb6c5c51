"""The families of networks, and which of them a name belongs to."""

from __future__ import annotations

import difflib
from pathlib import Path

from featcache.core.errors import BackboneError, SpecError
from featcache.networks import checkpoint
from featcache.networks.preprocessing import COMMON
from featcache.networks.providers import (
    base,
    convnext,
    efficientnet_lite,
    folder,
    keras_applications,
    keras_file,
    keras_model,
    vit,
)
from featcache.networks.providers.base import Entry, Provider, Scheme
from featcache.networks.published import PUBLISHED

DEFAULT = base.DEFAULT

PROVIDERS: tuple[Provider, ...] = (
    efficientnet_lite.PROVIDER,
    keras_applications.PROVIDER,
)
CATALOGUE: dict[str, Provider] = {name: one for one in PROVIDERS for name in one.entries}
# From RGB, 0 to 255, to what a network was trained on, by the name that a spec has for it.
PREPROCESSING: dict[str, Scheme] = dict(COMMON)
for _provider in PROVIDERS:
    PREPROCESSING.update(_provider.preprocessing)


_FOLDERS = {kind: one for one in (vit.FOLDERS, convnext.FOLDERS) for kind in one.kinds}


def find(name: str) -> Entry:
    """Return what is known of the network of a name.

    Raises
    ------
    SpecError
        When there is none, with the nearest names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name].entries[name]
    known = [*CATALOGUE, *PUBLISHED]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}." if near else f"For example: {DEFAULT}, mobilenet-v2."
    raise SpecError(f"There is no backbone '{name}'. {hint}")


def provider_of(name: str, weights: str) -> Provider:
    """Return who builds the network that a spec names, whose weights are from there.

    Raises
    ------
    SpecError
        When nobody does, with the nearest names.
    BackboneError
        When they were in a folder and are gone.
    """
    if weights == keras_model.ORIGIN:
        return keras_model.PROVIDER
    if name.endswith(keras_file.SUFFIX):
        return keras_file.PROVIDER
    if checkpoint.is_weights(weights):
        if not Path(weights).is_file():
            raise BackboneError(f"The weights of {name} are gone: there is no file '{weights}'.")
        return of_folder(Path(weights).parent).provider
    find(name)
    return CATALOGUE[name]


def of_folder(path: Path) -> folder.Folders:
    """Return which kind of folder holds a network.

    Raises
    ------
    BackboneError
        When it describes none that is known.
    """
    kind = str(folder.config_of(path).get("model_type"))
    if kind not in _FOLDERS:
        known = ", ".join(sorted(one for one in _FOLDERS if not one.startswith("timm_")))
        raise BackboneError(
            f"'{path / checkpoint.CONFIG}' describes a network of the kind {kind}; known are "
            f"{known}."
        )
    return _FOLDERS[kind]


def preprocessing(name: str) -> Scheme:
    """Return the preprocessing of a name that a spec has."""
    return folder.scheme(name) if name.startswith(folder.MEAN_STD) else PREPROCESSING[name]
