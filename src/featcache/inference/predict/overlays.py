"""Heat maps as pictures: what a model saw, red where it is unlike all good images."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from featcache.core import disk
from featcache.core.atomic import replacing
from featcache.core.errors import SpecError
from featcache.core.overlay import overlay
from featcache.core.text import file_name
from featcache.inference.predict.prediction import Prediction

_LONGEST = 200  # bytes of a name, without its ending
_ABSOLUTE = re.compile(r"/|[A-Za-z]:|.*://")


def check_folder(folder: Path) -> None:
    """Raise SpecError where pictures cannot be written into a folder, which need not exist."""
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"'{folder}' is a file; pictures of heat maps go into a folder.")
    if not folder.parent.is_dir():
        raise SpecError(f"Folder '{folder.parent}' for '{folder.name}' does not exist.")


def write_overlay(folder: Path, one: Prediction, threshold: float) -> Path:
    """Write an image with its heat map over it as a PNG, and return where.

    Parameters
    ----------
    threshold : the score above which an image is an anomaly.
    """
    from PIL import Image

    assert one.image is not None
    assert one.heat_map is not None
    path = folder / _name_of(one.path)
    with disk.writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ending=".png") as made:
            Image.fromarray(np.asarray(overlay(one.image, one.heat_map, threshold))).save(made)
    return path


def _name_of(path: str) -> PurePosixPath:
    """Return where the picture of an image lies: as the image does below its own folder.

    Of an absolute path, or a URL, it is the name alone, with a digest of the rest.
    """
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]
    name = file_name(parts[-1] if parts else "image", _LONGEST)
    if _ABSOLUTE.match(path) or ".." in re.split(r"[/\\]", path):
        digest = hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()
        return PurePosixPath(f"{name}-{digest}.png")
    name += "" if name.endswith(".png") else ".png"
    return PurePosixPath(*(file_name(part, _LONGEST) for part in parts[:-1]), name)
