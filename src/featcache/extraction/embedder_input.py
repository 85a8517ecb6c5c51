"""What `Embedder` is given: images of one kind, as scikit-learn hands them on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache.core.errors import SourceError
from featcache.data import openers, sources
from featcache.data.sources.on_disk import Disk
from featcache.data.urls import as_url, is_url, shown


def open_images(X: Any) -> tuple[sources.Source, np.ndarray]:
    """Return images as a source, and for each of X, (n,), which of the source's it is."""
    images = checked(X)
    if kind_of(images[0]) != "path":
        samples = openers.open_source(images)  # numbered as given
        return samples, np.arange(len(samples))
    # a source of files has each once, in the order of its ids
    disk = Disk()
    whole = [
        as_url(os.fspath(path)) or disk.find(os.path.abspath(os.fspath(path))) for path in images
    ]
    samples = openers.open_source(list(dict.fromkeys(whole)))
    assert samples.places is not None
    number = {place: row for row, place in enumerate(samples.places)}
    return samples, np.array([number[path] for path in whole])


def checked(X: Any) -> Any:
    """Return X as one array (n, height, width, channels) or as a list of images of one kind."""
    shape = getattr(X, "shape", None)
    is_sequence = hasattr(X, "__len__") and hasattr(X, "__getitem__") and hasattr(X, "__iter__")
    of_shape = "" if shape is None or len(shape) in (1, 4) else f" of shape {tuple(shape)}"
    if not is_sequence or of_shape or isinstance(X, (str, bytes, os.PathLike, dict)):
        raise SourceError(
            f"X must be a list of paths or images, or an array (n, height, width, 3); got "
            f"{type(X).__name__}{of_shape}. Put one image into a list; of a table give one column."
        )
    if not len(X):
        raise SourceError("X has no images; give at least one.")
    if shape is not None and len(shape) == 4:
        return np.asarray(X)
    images = list(X)
    kinds = [kind_of(image) for image in images]
    for row, kind in enumerate(kinds):
        if kind is None or kind != kinds[0]:
            expected = f"{kinds[0]}, as the first one" if kind else "path, array or Pillow image"
            got = type(images[row]).__name__
            raise SourceError(f"Image {row} of X must be a {expected}; got {got}.")
    return images


def kind_of(image: Any) -> str | None:
    if isinstance(image, (str, os.PathLike)):
        return "path"
    if hasattr(image, "convert"):
        return "Pillow image"
    return "array" if hasattr(image, "shape") and len(image.shape) else None


def stop_at(failed: Mapping[int, str], places: np.ndarray, X: Any) -> None:
    """Raise SourceError for the first image of X that failed; `failed` is by sample."""
    for row, place in enumerate(places.tolist()):
        if place in failed:
            image = next(itertools.islice(iter(X), row, None))
            path = os.fspath(image) if kind_of(image) == "path" else ""
            name = f" '{shown(path) if is_url(path) else path}'" if path else ""
            raise SourceError(
                f"Image {row} of X{name} cannot be used: {failed[place]}. Mend it or leave it out."
            )
