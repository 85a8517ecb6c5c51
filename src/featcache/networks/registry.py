"""The families of networks, and which of them a name belongs to."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from featcache.core.errors import SpecError
from featcache.networks import checkpoint
from featcache.networks.preprocessing import COMMON
from featcache.networks.providers import (
    base,
    described,
    efficientnet_lite,
    folder,
    keras_applications,
    keras_file,
    keras_model,
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


def find(name: str) -> Entry:
    """Return what is known of the network of a name.

    Raises
    ------
    SpecError
        When there is none, with the nearest names, or why a path is none.
    """
    if name in CATALOGUE:
        return CATALOGUE[name].entries[name]
    if os.sep in name or Path(name).exists():
        raise SpecError(_why_none(name))
    known = [*CATALOGUE, *PUBLISHED]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}." if near else f"For example: {DEFAULT}, mobilenet-v2."
    raise SpecError(f"There is no backbone '{name}'. {hint}")


def _why_none(path: str) -> str:
    """Return why a path is no backbone."""
    if Path(path).is_dir():
        return (
            f"The folder '{path}' has no {checkpoint.CONFIG}, so it is no backbone. Give one as "
            f"Hugging Face or timm lays it out, with {checkpoint.CONFIG} and {checkpoint.WEIGHTS}."
        )
    if Path(path).exists():
        return (
            f"'{path}' is a file, and no .keras backbone. Give the folder that it is in, or a name "
            f"and the file as weights."
        )
    on_hub = re.fullmatch(r"(?:https://huggingface\.co/)?(\w[\w.-]*/\w[\w.-]*?)/?", path)
    hint = f" If it is on the Hugging Face Hub, say {checkpoint.HUB}{on_hub[1]}." if on_hub else ""
    return f"There is no folder '{path}'.{hint} `featcache backbones` lists the names."


def provider_of(name: str, weights: str) -> Provider:
    """Return who builds the network that a spec names, whose weights are from there.

    Raises
    ------
    SpecError
        When nobody does, with the nearest names.
    """
    if weights == keras_model.ORIGIN:
        return keras_model.PROVIDER
    if checkpoint.is_weights(weights):  # also of a folder that is called x.keras
        return folder.PROVIDER
    if name.endswith(keras_file.SUFFIX):
        return keras_file.PROVIDER
    find(name)
    return CATALOGUE[name]


def preprocessing(name: str) -> Scheme:
    """Return the preprocessing of a name that a spec has."""
    return described.scheme(name) if name.startswith(described.MEAN_STD) else PREPROCESSING[name]
