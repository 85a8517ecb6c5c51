"""What a folder says: which kind of network it holds, and what images that expects.

Folders are laid out as Hugging Face does it, or as timm; what timm says is put into the other's
words.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.checks import bad, check_number, positive, whole
from featcache.core.errors import BackboneError
from featcache.core.tensorflow import import_keras
from featcache.networks import checkpoint
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
    path, says = _said_of_images(folder)
    try:
        framing, preprocessing = _framing(says), _preprocessing(says)
    except ValueError as error:
        raise BackboneError(f"'{path}' does not say how images are prepared: {error}") from error
    return Entry(
        framing.size or own_size,
        preprocessing,
        pooling,
        framing.resize,
        framing.share,
        framing.stretched and f"{folder.name}: {framing.stretched}",
        tuple(f"{folder.name}: {remark}" for remark in framing.remarks),
    )


def _said_of_images(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return a file of a folder, and what it says of the images that the network expects."""
    about = folder / checkpoint.CONFIG
    if timm.is_described(says := checkpoint.read_json(about)):
        return about, timm.images_of(says, about)
    path = folder / checkpoint.PREPROCESSOR
    if not path.is_file():
        raise BackboneError(
            f"'{folder}' has no {path.name}, which says what images its network expects: another "
            f"mean would change all features. Take it from where the weights are from."
        )
    return path, checkpoint.read_json(path)


def _with_crop(says: dict[str, Any]) -> dict[str, Any]:
    """Return the same in words that all have, where ConvNeXt says how much of an image it takes.

    So do its images below 384 pixels; larger ones are stretched.
    """
    size, share = _sides("size", says), says.get("crop_pct")
    if _kind(says).startswith("ConvNext"):  # with what transformers takes where nothing is said
        says = {"resample": 3} | says
        share = 224 / 256 if share is None else share
    if size is None or share is None or min(size) >= 384:
        return says
    shorter = int(min(size) / positive("crop_pct", share))
    return says | {"size": shorter, "do_center_crop": True, "crop_size": list(size)}


def _kind(says: dict[str, Any]) -> str:
    """Return the name of what makes images for the network."""
    return str(says.get("image_processor_type", says.get("feature_extractor_type")))


@dataclass(frozen=True)
class _Framing:
    """How a folder says that images get their size; see `Entry`."""

    size: tuple[int, int] | None
    resize: str
    share: float = 1.0
    stretched: str = ""
    remarks: tuple[str, ...] = ()


def _framing(says: dict[str, Any]) -> _Framing:
    says = _with_crop(says)
    size = _sides("size", says)
    number = 2 if says.get("resample") is None else says["resample"]  # as transformers
    if not isinstance(number, int):
        raise bad("resample", "be a number as Pillow has them, 3 for bicubic", number)
    resize = _RESIZES.get(number, "antialias")
    remarks = []
    if number not in _RESIZES:
        remarks.append(
            f"the original interpolates otherwise (Pillow's resample {number}); here: {resize}."
        )
    if not says.get("do_resize", True):
        remarks.append("the original takes images as large as they are; here they are resized.")
    if not says.get("do_center_crop"):
        return _Framing(size, resize, remarks=tuple(remarks))
    cropped = _sides("crop_size", says) or (224, 224)  # transformers' where nothing is said
    middle = f"the original takes the middle {cropped[0]} x {cropped[1]} of an image"
    here = "here all of it is stretched to the size"
    if size is None or not says.get("do_resize", True):
        stretched = f"{middle}; {here}, unless you say --crop center."
        return _Framing(cropped, resize, 1.0, stretched, tuple(remarks))
    share = min(1.0, min(cropped) / min(size))
    if _is_stretched(says):
        remarks.append(
            f"{middle} stretched to {size[0]} x {size[1]} pixels; {here}, and --crop center takes "
            f"the middle of one that is not stretched."
        )
        return _Framing(cropped, resize, share, remarks=tuple(remarks))
    stretched = (
        f"{middle}, resized to {min(size)} pixels on the shorter side; {here}, unless you say "
        f"--crop center."
    )
    return _Framing(cropped, resize, share, stretched, tuple(remarks))


def _is_stretched(says: dict[str, Any]) -> bool:
    """Return whether images get their first size whatever their proportions."""
    size = says["size"]
    if isinstance(size, dict):
        return "shortest_edge" not in size
    return isinstance(size, list) or _kind(says).startswith(("DeiT", "ViT", "Siglip"))


def _sides(name: str, says: dict[str, Any]) -> tuple[int, int] | None:
    """Return height and width, of numbers or names as such files have them; None where is none."""
    given = says.get(name)
    if given is None:
        return None
    sides = given if isinstance(given, list) else [given, given]
    if isinstance(given, dict):
        shortest = given.get("shortest_edge")
        sides = [given.get("height", shortest), given.get("width", shortest)]
    found = [side for side in map(whole, sides) if side and side > 0]
    if len(sides) != 2 or len(found) != 2:
        must = "be pixels: one number, a height and a width, or a shortest_edge"
        raise bad(name, must, given)
    return found[0], found[1]


def _preprocessing(says: dict[str, Any]) -> str:
    """Return the name of the preprocessing that is asked for; it has all its numbers."""
    scale, mean, deviation = 1.0, [0.0] * 3, [1.0] * 3
    if says.get("do_rescale", True):
        scale = positive("rescale_factor", says.get("rescale_factor", 1 / 255))
    if says.get("do_normalize", True):
        finite = functools.partial(check_number, must="be finite numbers", holds=math.isfinite)
        mean = _three("image_mean", says, finite)
        deviation = _three("image_std", says, positive)
    numbers = (f"{value:.9g}" for value in (*mean, *deviation))
    return f"{MEAN_STD} {' '.join(numbers)} of {scale:.9g}"


def _three(name: str, says: dict[str, Any], checked: Callable[[str, object], float]) -> list[float]:
    """Return a number for each colour; what is not said would differ from family to family."""
    given = says.get(name)
    values = given if isinstance(given, list) else [given] * 3
    if given is None or len(values) != 3:
        raise bad(name, "be three numbers, of red, green and blue", given)
    return [checked(name, value) for value in values]


def scheme(name: str) -> Scheme:
    """Return the preprocessing of a name that `_preprocessing` gave."""
    *numbers, scale = map(float, re.findall(r"[-+0-9.e]+(?= |$)", name.removeprefix(MEAN_STD)))
    mean, deviation = np.array(numbers[:3]), np.array(numbers[3:])

    def apply(x: Any) -> Any:
        factors = (scale / deviation).tolist()
        offsets = (-mean / deviation).tolist()
        return import_keras().layers.Rescaling(factors, offsets, name="preprocessing")(x)

    return apply
