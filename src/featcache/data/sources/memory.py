"""Images given from Python: arrays, Pillow images, lists of paths, a `tf.data.Dataset`."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featcache.core.errors import SourceError, SpecError, one_line
from featcache.core.labels import Annotations, Columns, clean, from_columns, row_number
from featcache.data.decoding import upright
from featcache.data.sources.base import DIGEST_BYTES, Source, as_id, digest, sorted_ids
from featcache.data.sources.contents import Contents, Files, Pixels

PREFIX = "memory:"  # of the origin of a source that only the caller can give again


@dataclass(frozen=True)
class Given:
    """What a caller says about images besides the images; every column has one entry an image."""

    labels: Any = None  # class indices or names; (n, n_classes) of 0 and 1; or lists of names
    targets: Any = None  # (n,) or (n, n_targets) numbers
    class_names: Sequence[str] | None = None
    target_names: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    groups: Sequence[Any] | None = None
    ids: Sequence[str] | None = None
    name: str | None = None

    def is_empty(self) -> bool:
        """Return whether nothing was said."""
        return all(value is None for value in vars(self).values())


@dataclass(frozen=True)
class Pictures:
    """Pillow images."""

    images: Sequence[Any]
    is_concurrent = False  # two threads must not load one image
    dtype = "uint8"

    def get(self, row: int) -> np.ndarray:
        """Return an image's pixels, upright."""
        return upright(self.images[row])

    def stamp(self, row: int) -> None:
        """Memory has no stamp."""

    def take(self, rows: np.ndarray) -> Pictures:
        """Return only these images."""
        return Pictures([self.images[row] for row in rows.tolist()])


@dataclass
class Streamed:
    """Images of a `tf.data.Dataset`, by running through it in order, again where need be."""

    dataset: Any
    places: np.ndarray  # (n,) which of the dataset's images each row is
    digests: np.ndarray  # (n, 16) uint8, as they were when the dataset was opened
    dtype: str
    is_concurrent = False
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

    def take(self, rows: np.ndarray) -> Streamed:
        """Return only these images."""
        return Streamed(self.dataset, self.places[rows], self.digests[rows], self.dtype)


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
    contents: Contents
    if not isinstance(images, np.ndarray) and isinstance(images[0], (str, os.PathLike)):
        return _open_paths([os.fspath(path) for path in images], given)
    if not isinstance(images, np.ndarray) and hasattr(images[0], "convert"):
        contents, kind = Pictures(images), "pictures"
    else:
        _check_arrays(images)
        contents, kind = Pixels(images), "arrays"
    digests = np.stack([_as_row(_digest(contents, row)) for row in range(n)])
    return _in_order(kind, contents, _annotations(n, given), digests, given)


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
    dtype = "uint8"
    for image, label in _elements(dataset):
        digests.append(_as_row(digest(image)))
        labels.append(label)
        dtype = str(image.dtype)
    if not digests:
        raise SourceError("The dataset is empty.")
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
    return _in_order("dataset", contents, _annotations(n, given), all_digests, given)


def _digest(contents: Contents, row: int) -> bytes:
    try:
        return digest(contents.get(row))
    except Exception as error:  # Pillow loads lazily, and raises almost anything
        reason = one_line(error)
        raise SourceError(f"Image {row} cannot be read: {reason}. Leave it out.") from error


def _in_order(
    kind: str, contents: Contents, annotations: Annotations, digests: np.ndarray, given: Given
) -> Source:
    """Sort by id; without ids the images are numbered."""
    n = len(digests)
    if given.ids is not None and len(given.ids) != n:
        raise SpecError(f"ids has {len(given.ids)} entries for {n} images.")
    width = len(str(n - 1))
    ids = [clean(str(id_)) for id_ in given.ids or ()] or [f"{row:0{width}d}" for row in range(n)]
    order = sorted_ids(ids, row_number)
    # unnamed images get a name by content, so that two collections never share a feature file
    about = repr((ids, annotations.y.tolist(), annotations.splits, annotations.groups))
    content = hashlib.blake2b(digests.tobytes() + about.encode(), digest_size=4).hexdigest()
    name = _checked_name(given.name) or f"{kind}-{content}"
    return Source(
        name=name,
        origin=PREFIX + name,
        ids=tuple(ids[row] for row in order.tolist()),
        contents=contents.take(order),
        annotations=annotations.take(order),
        digests=digests[order],
    )


def _open_paths(paths: list[str], given: Given) -> Source:
    """Return files by path; ids are the paths relative to the folder that has all of them."""
    if given.ids is not None:
        raise SpecError("ids cannot be given for paths: the paths themselves are the ids.")
    whole = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in whole])
    ids = [as_id(os.path.relpath(path, root)) for path in whole]
    order = sorted_ids(ids, row_number)
    listed = hashlib.blake2b("\0".join([root, *sorted(ids)]).encode(), digest_size=4).hexdigest()
    name = _checked_name(given.name) or f"{os.path.basename(root) or 'root'}-list-{listed}"
    return Source(
        name=name,
        origin=PREFIX + name,
        ids=tuple(ids[row] for row in order.tolist()),
        contents=Files(tuple(whole[row] for row in order.tolist())),
        annotations=_annotations(len(paths), given).take(order),
    )


def _checked_name(name: str | None) -> str | None:
    if name is not None and (not name or name.startswith(".") or set(name) & set('/\\:\0"<>|?*')):
        raise SpecError(f"name becomes a folder's name in the cache; '{name}' cannot.")
    return name


def _check_arrays(images: Any) -> None:
    """Raise SourceError unless every image is (height, width, 3 or 4), 0 to 255."""
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) != 4:
        raise SourceError(
            f"An array of images must be (n, height, width, 3); got {tuple(shape)}. Put one image "
            f"into a list; repeat grey values three times."
        )
    for row in [0] if shape is not None else range(len(images)):
        image = np.asarray(images[row])
        if image.ndim != 3 or image.shape[2] not in (3, 4) or not image.size:
            raise SourceError(
                f"Image {row} must be (height, width, 3); got {image.shape}, {image.dtype}."
            )
        if image.dtype != np.uint8:
            raise SourceError(
                f"Image {row} must be uint8, 0 to 255; got {image.dtype}. Convert with "
                f"images.round().astype('uint8'), after images * 255 where they are 0 to 1."
            )


def _annotations(n: int, given: Given) -> Annotations:
    columns = Columns(
        split=None if given.splits is None else [str(name) for name in given.splits],
        group=None if given.groups is None else [clean(str(name)) for name in given.groups],
        class_names=None if given.class_names is None else list(given.class_names),
    )
    for name in ("labels", "targets", "splits", "groups"):
        value = getattr(given, name)
        if value is not None and len(value) != n:
            raise SpecError(f"{name} has {len(value)} entries for {n} images.")
    if given.targets is not None:
        targets = np.asarray(given.targets, np.float64).reshape(n, -1)
        columns.targets = targets.tolist()
        names = given.target_names or [f"target_{i}" for i in range(targets.shape[1])]
        if len(names) != targets.shape[1]:
            raise SpecError(f"target_names has {len(names)} names for {targets.shape[1]} targets.")
        columns.target_names = tuple(names)
    if given.labels is not None:
        _set_labels(columns, given.labels)
    return from_columns(n, columns)


def _set_labels(columns: Columns, labels: Any) -> None:
    """Put labels into columns as names: one a row, or several where rows are sequences."""
    if any(isinstance(row, (list, tuple, set)) and _is_words(row) for row in labels):
        columns.labels = [None if row is None else sorted(row) for row in labels]
        return
    values = np.asarray(labels)
    if values.ndim == 1 and values.dtype.kind in "iu":
        known = columns.class_names or [str(n) for n in sorted(set(values[values >= 0].tolist()))]
        if columns.class_names is None:
            columns.label = [None if v < 0 else str(v) for v in values.tolist()]
        else:
            if values.max() >= len(known):
                raise SpecError(f"labels has class {values.max()}, but {len(known)} class_names.")
            columns.label = [None if v < 0 else known[v] for v in values.tolist()]
        columns.class_names = known
    elif values.ndim == 1 and values.dtype.kind in "OUS":
        columns.label = [None if v is None else str(v) for v in values.tolist()]
    elif values.ndim == 2 and np.isin(values, (0, 1)).all():
        names = columns.class_names or [str(n) for n in range(values.shape[1])]
        if len(names) != values.shape[1]:
            raise SpecError(f"class_names has {len(names)} names for {values.shape[1]} columns.")
        columns.class_names = names
        hot = [[names[i] for i in np.flatnonzero(row).tolist()] for row in values]
        if all(len(row) == 1 for row in hot):
            columns.label = [row[0] for row in hot]  # one-hot: one class an image
        else:
            columns.labels = hot
    else:
        raise SpecError(
            f"labels must be class indices or names, one an image, or rows of 0 and 1 or of names; "
            f"got an array {values.shape} of {values.dtype}. Numbers to predict are targets."
        )


def _is_words(row: Any) -> bool:
    return all(isinstance(name, str) for name in row)


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
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f" and image.min() >= 0 and 1 < image.max() <= 255:
        return np.asarray(image, np.float32)  # as image_dataset_from_directory gives them
    raise SourceError(
        f"A dataset's images must have values 0 to 255; got {image.dtype} from {image.min()} to "
        f"{image.max()}. The backbone's preprocessing is applied by featcache."
    )


def _shown(element: Any) -> str:
    if isinstance(element, np.ndarray):
        return f"an array {element.shape}"
    return f"{type(element).__name__} of {len(element)}" if hasattr(element, "__len__") else "it"


def _as_row(value: bytes) -> np.ndarray:
    assert len(value) == DIGEST_BYTES
    return np.frombuffer(value, np.uint8)
