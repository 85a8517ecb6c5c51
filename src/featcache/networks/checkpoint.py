"""Folders as Hugging Face lays them out: config.json, preprocessor_config.json and safetensors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.errors import BackboneError, one_line
from featcache.core.keys import digest_file
from featcache.networks.providers.base import short

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
HUB = "hf:"  # begins the names of folders on the Hugging Face Hub
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# of config.json, what changes no number of a frozen network
_WITHOUT_EFFECT = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "dtype",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "label_descriptions",
    "label_names",
    "license",
    "pretrained_cfg",
    "torch_dtype",
    "transformers_version",
}


Named = tuple[str, np.ndarray]


def is_folder(path: Path) -> bool:
    """Return whether a folder is laid out so."""
    return (path / CONFIG).is_file()


def is_weights(origin: str) -> bool:
    """Return whether weights are those of such a folder: a path, or a name on the Hub."""
    return origin.startswith(HUB) or origin.endswith((f"/{WEIGHTS}", f"/{INDEX}"))


def weights_of(folder: Path) -> Path:
    """Return the file of a folder's weights, or the list of its parts.

    Raises
    ------
    BackboneError
        When there is none, or a part is missing.
    """
    for path in (folder / WEIGHTS, folder / INDEX):
        if path.is_file():
            parts = _parts(path) if path.name == INDEX else [path]
            if missing := [part.name for part in parts if not part.is_file()]:
                raise BackboneError(
                    f"'{path}' lists {len(parts)} files, and {len(missing)} of them are missing: "
                    f"{', '.join(missing[:3])}{' …' if missing[3:] else ''}. Take them from where "
                    f"the others are from."
                )
            return path
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".h5", ".pt"))
    hint = f" Its {others[0]} is not read: it can run code." if others else ""
    raise BackboneError(
        f"'{folder}' has a {CONFIG} and no {WEIGHTS}.{hint} Save the model as safetensors."
    )


def is_whole(folder: Path) -> bool:
    """Return whether the description and all parts of the weights are there."""
    if not is_folder(folder):
        return False
    try:
        weights_of(folder)
    except BackboneError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises
    ------
    BackboneError
        When it is no object, or cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin so
    except (OSError, ValueError) as error:
        raise BackboneError(f"'{path}' cannot be read: {short(error)}") from error
    if not isinstance(found, dict):
        raise BackboneError(f"'{path}' must hold one JSON object.")
    return found


def identity(weights: Path, digest: str) -> str:
    """Return BLAKE2b-128, hex, of all that makes a network's numbers: weights and description.

    Parameters
    ----------
    digest : of the weights' file, or of the list of its parts, which are digested here.
    """
    config = _without_effect_left_out(read_json(weights.with_name(CONFIG)))
    total = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    total.update(digest.encode())
    if weights.name == INDEX:
        for path in _parts(weights):
            total.update(digest_file(path).encode())
    return total.hexdigest()


def _without_effect_left_out(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            name: _without_effect_left_out(value)
            for name, value in config.items()
            if name not in _WITHOUT_EFFECT
        }
    return config


def _parts(index: Path) -> list[Path]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise BackboneError(f"'{index}' lists no weights (weight_map).")
    names = sorted({Path(str(name)).name for name in found.values()})
    return [index.with_name(name) for name in names]


class Tensors:
    """The tensors of a checkpoint, each to be taken once.

    Parameters
    ----------
    weights : the file of the weights, or the list of its parts.
    renamed : patterns and what to put in their place, applied in order to every name.
    ignored : pattern of names, as they are then, that the network does without.
    parts : what a name and a tensor of the file stand for; most for themselves.
    """

    def __init__(
        self,
        weights: Path,
        renamed: Sequence[tuple[str, str]],
        ignored: str,
        parts: Callable[[str, np.ndarray], Iterable[Named]] = lambda name, array: [(name, array)],
    ):
        self.weights = weights
        self._left: dict[str, Named] = {}
        for published, whole in _read(weights):
            for name, array in parts(published, whole):
                for pattern, other in renamed:
                    name = re.sub(pattern, other, name)
                if not re.search(ignored, name):
                    self._left[name] = published, array

    def has(self, name: str) -> bool:
        """Return whether a tensor is there to be taken."""
        return name in self._left

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return a tensor as float32.

        Raises
        ------
        BackboneError
            When it is missing or of another shape.
        """
        if name not in self._left:
            raise BackboneError(
                f"'{self.weights}' has no tensor '{name}', which its {CONFIG} asks for."
            )
        published, array = self._left.pop(name)
        if array.shape != shape:
            raise BackboneError(
                f"Tensor '{published}' of '{self.weights}' has the shape {array.shape}; its "
                f"{CONFIG} asks for {shape}."
            )
        return array.astype(np.float32)

    def check_all_taken(self) -> None:
        """Raise BackboneError where a tensor is left over: the network is not what it was."""
        if self._left:
            published = sorted(name for name, _ in self._left.values())
            raise BackboneError(
                f"'{self.weights}' has {len(published)} tensor(s) that a network of its {CONFIG} "
                f"has no use for: {', '.join(published[:3])}{' …' if published[3:] else ''}."
            )


def _read(weights: Path) -> Iterator[Named]:
    try:
        import ml_dtypes  # noqa: F401 (Keras has it; without it NumPy knows no bfloat16)
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise BackboneError(
            "Networks in Hugging Face's layout need safetensors: pip install 'featcache[hub]'"
        ) from error
    for path in _parts(weights) if weights.name == INDEX else [weights]:
        try:
            found: Mapping[str, np.ndarray] = load_file(path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BackboneError(
                f"'{path}' is no whole safetensors file: {one_line(error)}. Download or copy it "
                f"again."
            ) from error
        yield from found.items()
