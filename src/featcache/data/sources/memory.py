"""Images given from Python: arrays, Pillow images, lists of paths."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.core.arrays import array
from featcache.core.checks import shown
from featcache.core.errors import SourceError, SpecError, one_line
from featcache.core.escapes import path_of
from featcache.core.labels import row_number
from featcache.data.decoding import upright
from featcache.data.levels import Samples
from featcache.data.pillow import own_limit
from featcache.data.sources.base import Source, as_id, as_ids, digest, sorted_ids
from featcache.data.sources.contents import Contents, Pixels
from featcache.data.sources.given import (
    PREFIX,
    Given,
    annotated,
    as_row,
    checked_name,
    in_order,
)
from featcache.data.sources.objects import at
from featcache.data.sources.on_disk import Disk
from featcache.data.sources.passed_over import in_left_out
from featcache.data.urls import as_url, is_url, plain

_loading = threading.Lock()


@dataclass(frozen=True)
class PillowImages:
    """Pillow images."""

    images: Sequence[Any]
    is_concurrent = is_encoded = is_far = False
    dtype = "uint8"

    def get(self, row: int) -> np.ndarray | Samples:
        """Return an image's pixels or values, upright."""
        # two threads must not load one image, which two collections may have
        with _loading, own_limit():
            return upright(self.images[row])

    def stamp(self, row: int) -> None:
        """Memory has no stamp."""

    def take(self, rows: np.ndarray) -> PillowImages:
        """Return only these images."""
        return PillowImages([self.images[row] for row in rows.tolist()])


def open_images(images: Any, given: Given) -> Source:
    """Return arrays, Pillow images or paths as a source.

    Raises
    ------
    SourceError, SpecError
        When an image or a column is not what is expected.
    """
    n = len(images)
    if not n:
        raise SourceError("There are no images; the sequence is empty.")
    if len(getattr(images, "shape", ())) == 1:  # an array or series of paths, or of images
        images = list(images)
    kind = "arrays" if hasattr(images, "shape") else _kind_of(images)
    contents: Contents
    if kind == "paths":
        return _open_paths([os.fspath(path) for path in images], given)
    if kind == "pictures":
        contents = PillowImages(images)
    else:
        _check_arrays(images)
        contents = Pixels(images)
    digests = np.stack([as_row(_digest(contents, row)) for row in range(n)])
    return in_order(kind, contents, annotated(n, given), digests, given)


def _kind_of(images: Sequence[Any]) -> str:
    """Return what all images are: paths, Pillow's pictures or arrays.

    Raises
    ------
    SourceError
        When some are one and some another, or a picture has no pixels.
    """
    kinds = []
    for row in range(len(images)):
        image = images[row]
        is_picture = hasattr(image, "convert") and hasattr(image, "size")
        if is_picture and not all(image.size):
            raise SourceError(f"Image {row} has no pixels, {shown(image.size)}. Leave it out.")
        is_path = isinstance(image, (str, os.PathLike))
        kinds.append("paths" if is_path else "pictures" if is_picture else "arrays")
        if kinds[row] != kinds[0]:
            raise SourceError(
                f"Images must all be paths, all Pillow images or all arrays; image 0 is of the "
                f"{kinds[0]}, image {row} of the {kinds[row]}. Give each kind as a source."
            )
    return kinds[0]


def _digest(contents: Contents, row: int) -> bytes:
    try:
        return digest(contents.get(row))
    except Exception as error:  # Pillow loads lazily, and raises almost anything
        reason = one_line(error)
        raise SourceError(f"Image {row} cannot be read: {reason}. Leave it out.") from error


def _open_paths(paths: list[str], given: Given) -> Source:
    """Return files by path; ids are the paths relative to the folder that has all of them.

    Where there is a URL among them, ids are the whole paths and URLs.
    """
    if given.ids is not None:
        raise SpecError("ids cannot be given for paths: the paths themselves are the ids.")
    disk = Disk()
    whole = [as_url(path) or disk.find(os.path.abspath(path_of(path))) for path in paths]
    if any(map(is_url, whole)):
        root = "objects"
        ids = as_ids([plain(place) for place in whole])
    else:
        root = os.path.commonpath([os.path.dirname(path) for path in whole])
        ids = as_ids([os.path.relpath(path, root) for path in whole])
    order = sorted_ids(ids, row_number)
    said = "\0".join([as_id(root), *sorted(ids)])
    listed = hashlib.blake2b(said.encode(), digest_size=4).hexdigest()
    name = checked_name(given.name) or f"{os.path.basename(root) or 'root'}-list-{listed}"
    return Source(
        name=name,
        origin=PREFIX + name,
        ids=tuple(ids[row] for row in order.tolist()),
        contents=at([whole[row] for row in order.tolist()]),
        annotations=annotated(len(paths), given).take(order),
        notes=disk.remarks() + in_left_out(ids),
    )


def _check_arrays(images: Any) -> None:
    """Raise SourceError unless every image is (height, width, 3 or 4), 0 to 255."""
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) != 4:
        raise SourceError(
            f"An array of images must be (n, height, width, 3); got {tuple(shape)}. Put one image "
            f"into a list; repeat grey values three times."
        )
    for row in [0] if shape is not None else range(len(images)):
        image = array(f"Image {row}", images[row], "be (height, width, 3)", SourceError)
        if image.ndim != 3 or image.shape[2] not in (3, 4) or not image.size:
            raise SourceError(
                f"Image {row} must be (height, width, 3); got {image.shape}, {image.dtype}."
            )
        if image.dtype != np.uint8:
            raise SourceError(
                f"Image {row} must be uint8, 0 to 255; got {image.dtype}. Convert with "
                f"images.round().astype('uint8'), after images * 255 where they are 0 to 1."
            )
