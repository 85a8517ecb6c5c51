"""What a folder says: which kind of network it holds, and what images that expects.

Folders are laid out as Hugging Face does it, or as timm; what timm says is put into the other's
words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras
from featcache.networks import checkpoint
from featcache.networks.preprocessing import IMAGENET_STATISTICS
from featcache.networks.providers import timm
from featcache.networks.providers.base import Entry, Scheme

if TYPE_CHECKING:
    import keras

_RESIZES = {2: "antialias", 3: "bicubic"}  # by the numbers that Pillow has for them
MEAN_STD = "mean-std"  # begins the name of a preprocessing; numbers follow


@dataclass(frozen=True)
class Reader:
    """Makes networks of what some kinds of folders hold."""

    kinds: frozenset[str]  # as a config.json names them
    entry_of: Callable[[Path], Entry]  # of a folder; raises BackboneError
    # of a name, the file of the weights and (height, width); raises as `Provider.build` does
    build: Callable[[str, Path, tuple[int, int]], keras.Model]


def config_of(folder: Path) -> dict[str, Any]:
    """Return what a folder's config.json says, in Hugging Face's words.

    Raises
    ------
    BackboneError
        When it cannot be read, or describes nothing that is known.
    """
    path = folder / checkpoint.CONFIG
    says = checkpoint.read_json(path)
    return timm.config_of(says, path) if timm.is_described(says) else says


def entry_of(folder: Path, own_size: tuple[int, int], pooling: str) -> Entry:
    """Return the entry of a folder's network.

    Parameters
    ----------
    own_size : height and width in pixels, where nothing is said of images.
    pooling : what its authors take.

    Raises
    ------
    BackboneError
        When it has no weights, or nothing says what images the network expects.
    """
    checkpoint.weights_of(folder)
    says = _said_of_images(folder)
    framing = _framing(says)
    return Entry(
        framing.size or own_size,
        _preprocessing(folder, says),
        pooling,
        framing.resize,
        framing.share,
        framing.stretched and f"{folder.name}: {framing.stretched}",
        tuple(f"{folder.name}: {remark}" for remark in framing.remarks),
    )


def _said_of_images(folder: Path) -> dict[str, Any]:
    """Return what a folder says of the images that its network expects."""
    about = folder / checkpoint.CONFIG
    if timm.is_described(says := checkpoint.read_json(about)):
        return timm.images_of(says, about)
    path = folder / checkpoint.PREPROCESSOR
    if not path.is_file():
        raise BackboneError(
            f"'{folder}' has no {path.name}, which says what images its network expects: another "
            f"mean would change all features. Take it from where the weights are from."
        )
    return _with_crop(checkpoint.read_json(path))


def _with_crop(says: dict[str, Any]) -> dict[str, Any]:
    """Return the same in words that all have, where ConvNeXt says how much of an image it takes.

    So do its images below 384 pixels; larger ones are stretched.
    """
    kind = str(says.get("image_processor_type", says.get("feature_extractor_type")))
    if kind.startswith("ConvNext"):  # with what transformers takes where nothing is said
        says = {"crop_pct": 224 / 256, "resample": 3} | says
    size, share = _sides(says.get("size")), says.get("crop_pct")
    if size is None or not share or min(size) >= 384:
        return says
    shorter = int(min(size) / float(share))
    return says | {"size": shorter, "do_center_crop": True, "crop_size": list(size)}


@dataclass(frozen=True)
class _Framing:
    """How a folder says that images get their size; see `Entry`."""

    size: tuple[int, int] | None
    resize: str
    share: float = 1.0
    stretched: str = ""
    remarks: tuple[str, ...] = ()


def _framing(says: dict[str, Any]) -> _Framing:
    size = _sides(says.get("size"))
    number = says.get("resample", 2)
    resize = _RESIZES.get(number, "antialias")
    otherwise = f"the original interpolates otherwise (Pillow's resample {number}); here: {resize}."
    remarks = () if number in _RESIZES else (otherwise,)
    if not says.get("do_center_crop") or (cropped := _sides(says.get("crop_size"))) is None:
        return _Framing(size, resize, remarks=remarks)
    first = f", resized to {min(size)} pixels on the shorter side" if size else ""
    stretched = (
        f"the original takes the middle {cropped[0]} x {cropped[1]} of an image{first}; here all "
        f"of it is stretched to the size, unless you say --crop center."
    )
    share = min(1.0, min(cropped) / min(size)) if size else 1.0
    return _Framing(cropped, resize, share, stretched, remarks)


def _sides(says: Any) -> tuple[int, int] | None:
    """Return height and width, of numbers or names as such files have them."""
    if isinstance(says, dict):
        shortest = says.get("shortest_edge")
        says = [says.get("height", shortest), says.get("width", shortest)]
    sides = says if isinstance(says, list) else [says, says]
    if len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
        return sides[0], sides[1]
    return None


def _preprocessing(folder: Path, says: dict[str, Any]) -> str:
    """Return the name of the preprocessing that a folder asks for; it has all its numbers."""
    path = folder / checkpoint.PREPROCESSOR
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    mean, deviation = IMAGENET_STATISTICS
    try:
        scale = float(says.get("rescale_factor", 1 / 255)) if says.get("do_rescale", True) else 1.0
        if says.get("do_normalize", True):
            mean = tuple(map(float, says.get("image_mean", mean)))
            deviation = tuple(map(float, says.get("image_std", deviation)))
        else:
            mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
            raise ValueError("image_mean and image_std must be three numbers")
    except (TypeError, ValueError) as error:
        raise BackboneError(f"'{path}' says no preprocessing that is known: {error}") from error
    numbers = (f"{value:.9g}" for value in (*mean, *deviation))
    return f"{MEAN_STD} {' '.join(numbers)} of {scale:.9g}"


def scheme(name: str) -> Scheme:
    """Return the preprocessing of a name that `_preprocessing` gave."""
    *numbers, scale = map(float, re.findall(r"[-+0-9.e]+(?= |$)", name.removeprefix(MEAN_STD)))
    mean, deviation = np.array(numbers[:3]), np.array(numbers[3:])

    def apply(x: Any) -> Any:
        factors = (scale / deviation).tolist()
        offsets = (-mean / deviation).tolist()
        return import_keras().layers.Rescaling(factors, offsets, name="preprocessing")(x)

    return apply
