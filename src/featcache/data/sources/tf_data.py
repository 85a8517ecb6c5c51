"""Images of a `tf.data.Dataset`: run through in order, and again for those that are missing."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from featcache.core.errors import SourceError
from featcache.data.sources.base import Source, digest
from featcache.data.sources.given import Given, annotated, as_row, in_order


@dataclass
class Streamed:
    """Images of a `tf.data.Dataset`, by running through it in order, again where need be."""

    dataset: Any
    places: np.ndarray  # (n,) which of the dataset's images each row is
    digests: np.ndarray  # (n, 16) uint8, as they were when the dataset was opened
    dtype: str
    is_concurrent = is_encoded = is_far = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: Iterator[tuple[int, np.ndarray]] | None = None
    _at: tuple[int, Any] = (-1, None)

    def get(self, row: int) -> np.ndarray:
        """Return an image's pixels."""
        wanted = int(self.places[row])
        with self._lock:
            if self._running is None or self._at[0] > wanted:
                self._running, self._at = enumerate(_images(self.dataset)), (-1, None)
            while self._at[0] < wanted:
                self._at = next(self._running, (wanted, None))
            image = self._at[1]
        if image is None or digest(image) != self.digests[row].tobytes():
            raise OSError(
                errno.EIO,
                "the dataset gave another image this time; it must not shuffle or augment",
            )
        return np.asarray(image)

    def stamp(self, row: int) -> None:
        """A dataset has no stamp."""

    def __reduce__(self) -> NoReturn:
        raise SourceError(
            "A tf.data.Dataset cannot be handed to another process; give its images as files or "
            "arrays, or extract in one process."
        )

    def take(self, rows: np.ndarray) -> Streamed:
        """Return only these images."""
        return Streamed(self.dataset, self.places[rows], self.digests[rows], self.dtype)


def open_dataset(dataset: Any, given: Given) -> Source:
    """Return a `tf.data.Dataset` of images or (image, label) as a source; runs through it once.

    The images are not kept: what is missing in the cache is computed in a second pass. So each pass
    must give the same images in the same order.

    Raises
    ------
    SourceError
        When its elements are something else, or the first one differs the second time.
    """
    digests, labels = [], []
    dtype, largest = "uint8", 0.0
    for image, label in _elements(dataset):
        largest = max(largest, float(image.max()))
        digests.append(as_row(digest(image)))
        labels.append(label)
        dtype = str(image.dtype)
    if not digests:
        raise SourceError("The dataset is empty.")
    if dtype != "uint8" and largest <= 1:  # a black image alone may be anything
        raise _out_of_range(dtype, 0, largest)
    if digest(next(_images(dataset))) != digests[0].tobytes():
        raise SourceError(
            "The dataset gives other images each time: rows could not be told apart. Build it "
            "without shuffling (shuffle=False) and without random augmentation."
        )
    if given.labels is None and labels[0] is not None:
        names = given.class_names or getattr(dataset, "class_names", None)
        given = replace(given, labels=np.array(labels), class_names=names)
    n = len(digests)
    all_digests = np.stack(digests)
    contents = Streamed(dataset, np.arange(n), all_digests, dtype)
    return in_order("dataset", contents, annotated(n, given), all_digests, given)


def _elements(dataset: Any) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield (image, label or None) one by one, from a dataset that may be batched."""
    for element in dataset.as_numpy_iterator():
        image, label = element, None
        if isinstance(element, (tuple, list)) and 1 <= len(element) <= 2:
            image, label = (*element, None)[:2]
        if not isinstance(image, np.ndarray) or image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise SourceError(
                f"A dataset must give images (height, width, 3), alone or with a label, batched or "
                f"not; got {_shown(element)}."
            )
        if image.ndim == 3:
            yield _checked(image), label
        else:
            labels = [None] * len(image) if label is None else label
            yield from ((_checked(one), name) for one, name in zip(image, labels, strict=True))


def _images(dataset: Any) -> Iterator[np.ndarray]:
    return (image for image, _ in _elements(dataset))


def _checked(image: np.ndarray) -> np.ndarray:
    if not image.size:
        raise SourceError(f"A dataset's images must have pixels; got one of {image.shape}.")
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 255:
        return np.asarray(image, np.float32)  # as image_dataset_from_directory gives them
    raise _out_of_range(str(image.dtype), image.min(), image.max())


def _out_of_range(dtype: str, least: float, most: float) -> SourceError:
    return SourceError(
        f"A dataset's images must have values 0 to 255; got {dtype} from {least} to {most}. The "
        f"backbone's preprocessing is applied by featcache."
    )


def _shown(element: Any) -> str:
    if isinstance(element, np.ndarray):
        return f"an array {element.shape}"
    return f"{type(element).__name__} of {len(element)}" if hasattr(element, "__len__") else "it"
