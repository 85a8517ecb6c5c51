"""Vision transformers from folders as Hugging Face lays them out: DINOv2, ViT, SigLIP, CLIP, …

The folder's weights and its description identify a network; where it lies does not. Nothing is
downloaded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import BackboneError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.networks import checkpoint, hub
from featcache.networks.preprocessing import IMAGENET_STATISTICS
from featcache.networks.providers import vit_network
from featcache.networks.providers.base import Entry, Provider, Scheme
from featcache.networks.providers.vit_families import IGNORED, architecture_of

if TYPE_CHECKING:
    import keras

_RESIZES = {2: "antialias", 3: "bicubic"}  # by the numbers that Pillow has for them
MEAN_STD = "mean-std"  # begins the name of a preprocessing; numbers follow


def entry_of(folder: Path) -> Entry:
    """Return what a folder says of its network.

    Raises
    ------
    BackboneError
        When it is of no family that is known, or has no weights.
    """
    checkpoint.weights_of(folder)
    of = architecture_of(checkpoint.read_json(folder / checkpoint.CONFIG), folder)
    pooling = of.family.pooled if of.has_head or of.family.has_class else "avg"
    says = _said_of_images(folder)
    framing = _framing(says)
    return Entry(
        framing.size or of.image_size,
        _preprocessing(folder, says),
        pooling,
        framing.resize,
        framing.share,
        framing.stretched and f"{folder.name}: {framing.stretched}",
        tuple(f"{folder.name}: {remark}" for remark in framing.remarks),
    )


def _said_of_images(folder: Path) -> dict[str, Any]:
    """Return what a folder says of the images that its network expects."""
    path = folder / checkpoint.PREPROCESSOR
    if not path.is_file():
        raise BackboneError(
            f"'{folder}' has no {path.name}, which says what images its network expects: another "
            f"mean would change all features. Take it from where the weights are from."
        )
    return checkpoint.read_json(path)


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


def name_of(folder: Path) -> str:
    """Return what a spec calls the network of a folder: safe in names of files."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", hub.own_name(folder.resolve())).strip("._") or "network"


def _build(name: str, weights: str, image_size: tuple[int, int]) -> keras.Model:
    path = _weights_path(name, weights)
    of = architecture_of(checkpoint.read_json(path.with_name(checkpoint.CONFIG)), path.parent)
    if any(side < patch for side, patch in zip(image_size, of.patch, strict=True)):
        height, width = image_size
        raise SpecError(
            f"{name} does not take images of {height} x {width} pixels: its patches have "
            f"{of.patch[0]} x {of.patch[1]}."
        )
    tensors = checkpoint.Tensors(path, of.family.names, IGNORED)
    model = vit_network.network(of, image_size)
    vit_network.load(model, of, tensors)
    return model


def _weights_path(name: str, weights: str) -> Path:
    if weights.startswith(checkpoint.HUB):
        return checkpoint.weights_of(hub.folder_of(weights))
    path = Path(weights)
    if not path.is_file():
        raise BackboneError(f"The weights of {name} are gone: there is no file '{weights}'.")
    return path


# its networks have no names of their own: folders are given
PROVIDER = Provider({}, _build, _weights_path, identity=checkpoint.identity)
