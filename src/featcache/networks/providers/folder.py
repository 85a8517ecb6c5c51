"""Networks from folders of weights, as Hugging Face or timm lays them out, whatever their family.

The folder's weights and its description identify a network; where it lies does not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.errors import BackboneError
from featcache.networks import checkpoint, hub
from featcache.networks.providers import convnext, described, vit
from featcache.networks.providers.base import Entry, Provider

if TYPE_CHECKING:
    import keras

_READERS = {kind: one for one in (vit.READER, convnext.READER) for kind in one.kinds}


def name_of(path: Path) -> str:
    """Return what a spec calls the network of a folder: safe in names of files."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", hub.own_name(path.resolve())).strip("._") or "network"


def entry_of(path: Path) -> Entry:
    """Return what a folder says of its network.

    Raises
    ------
    BackboneError
        When it is of no family that is known, has no weights, or does not say what images it
        expects.
    """
    return _reader_of(path).entry_of(path)


def _reader_of(path: Path) -> described.Reader:
    kind = str(described.config_of(path).get("model_type"))
    if kind not in _READERS:
        known = ", ".join(sorted(one for one in _READERS if not one.startswith("timm_")))
        raise BackboneError(
            f"'{path / checkpoint.CONFIG}' describes a network of the kind {kind}; known are "
            f"{known}."
        )
    return _READERS[kind]


def _build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    path = _weights_path(name, weights)
    network = _reader_of(path.parent).build(name, path, image_size)
    network.name = f"{name}_backbone"  # else functional_3 and the like, which no error should say
    return network


def _weights_path(name: str, weights: str) -> Path:
    if weights.startswith(checkpoint.HUB):
        return checkpoint.weights_of(hub.folder_of(weights))
    path = Path(weights)
    if not path.is_file():
        raise BackboneError(f"The weights of {name} are gone: there is no file '{weights}'.")
    return path


# its networks have no names of their own: folders are given
PROVIDER = Provider({}, _build, _weights_path, identity=checkpoint.identity)
