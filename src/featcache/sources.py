"""Where images come from: a folder, a built-in example or arrays, as one ordered table of samples.

The order is always that of the sorted ids, and every other column follows it. Nothing is decoded
here; a sample is its id, its label and the bytes that give it a digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featcache import examples
from featcache.errors import SourceError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SUFFIXES = {  # files that are images by name; all others are passed over
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib"),
    *(".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"),
}
UNLABELLED = -1
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Source:
    """An ordered collection of images with what is known about each.

    `paths` and `arrays` are alternatives: files, or (n, height, width, 3) uint8 pixels.
    """

    name: str  # plain name, used for the folder below the cache folder
    origin: str  # absolute path, or example:NAME; opens the same source again
    ids: tuple[str, ...]  # sorted, unique
    labels: np.ndarray  # (n,) int64 into class_names; UNLABELLED where unknown
    class_names: tuple[str, ...]
    splits: tuple[str, ...] | None = None  # train, val or test a sample, where the source says
    paths: tuple[str, ...] | None = None
    arrays: np.ndarray | None = None
    n_passed_over: int = 0  # files that are no images by name, or lie outside the class folders

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, row: int) -> bytes:
        """Return the bytes that identify a sample: the file's, or the pixels with their shape."""
        if self.paths is not None:
            return Path(self.paths[row]).read_bytes()
        assert self.arrays is not None
        pixels: bytes = self.arrays[row].tobytes()
        return repr(self.arrays.shape[1:]).encode() + pixels

    def take(self, rows: np.ndarray) -> Source:
        """Return the source with only these rows, in their given (ascending) order."""
        pick = rows.tolist()
        return replace(
            self,
            ids=tuple(self.ids[row] for row in pick),
            labels=self.labels[rows],
            splits=None if self.splits is None else tuple(self.splits[row] for row in pick),
            paths=None if self.paths is None else tuple(self.paths[row] for row in pick),
            arrays=None if self.arrays is None else self.arrays[rows],
        )

    def limit(self, n: int) -> Source:
        """Return `n` samples spread evenly over the sorted ids: every class keeps its share."""
        if n >= len(self):
            return self
        return self.take(np.linspace(0, len(self) - 1, n).round().astype(np.int64))


def open_source(where: str | os.PathLike[str]) -> Source:
    """Open a folder or `example:NAME`.

    A folder has one subfolder a class, optionally under train/, val/ and test/. A folder of images
    without subfolders gives samples without labels.

    Parameters
    ----------
    where : path of a folder, or the name of a built-in example.

    Raises
    ------
    SourceError
        When it does not exist, is no folder or has no images.
    """
    text = os.fspath(where)
    if text.startswith(examples.PREFIX):
        return _open_example(text)
    root = Path(text).expanduser()
    if not root.exists():
        raise SourceError(f"Image folder '{root}' does not exist.")
    if not root.is_dir():
        raise SourceError(f"'{root}' is a file; a folder with one subfolder a class is expected.")
    return _open_folder(root.resolve())


def from_files(paths: Sequence[str | os.PathLike[str]]) -> Source:
    """Return unlabelled samples from files and folders; the id of a file is its path as given.

    Raises
    ------
    SourceError
        When a path does not exist or there is no image at all.
    """
    found: dict[str, str] = {}
    passed_over = 0
    for path in paths:
        if os.path.isdir(path):
            images, odd = _walk(Path(path))
            found.update((_as_id(os.fspath(image)), os.fspath(image)) for image in images)
            passed_over += odd
        elif os.path.exists(path):
            found[_as_id(os.fspath(path))] = os.fspath(path)
        else:
            raise SourceError(f"Image '{os.fspath(path)}' does not exist.")
    if not found:
        raise SourceError(
            f"There are no images in '{os.fspath(paths[0])}'." if paths else "No images."
        )
    ids = tuple(sorted(found))
    return Source(
        name="images",
        origin="",
        ids=ids,
        labels=np.full(len(ids), UNLABELLED, np.int64),
        class_names=(),
        paths=tuple(found[id_] for id_ in ids),
        n_passed_over=passed_over,
    )


def digest(data: bytes) -> bytes:
    """Return BLAKE2b-128 of the bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def scan(
    source: Source, is_plain: Callable[[bytes], bool], advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Read every sample once, in threads.

    Returns
    -------
    digests : (n, 16) uint8, zero where the file could not be read.
    plain : (n,) bool, what `is_plain` says of the bytes; False for arrays.
    unreadable : reason by row, for files that could not be read.
    """
    digests = np.zeros((len(source), DIGEST_BYTES), np.uint8)
    plain = np.zeros(len(source), bool)
    unreadable: dict[int, str] = {}

    def look(row: int) -> tuple[int, bytes, bool, str]:
        try:
            data = source.read(row)
        except OSError as error:
            return row, bytes(DIGEST_BYTES), False, error.strerror or str(error)
        return row, digest(data), source.paths is not None and is_plain(data), ""

    # hashing and reading release the interpreter lock, so threads use the disk and every core
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for row, value, is_plain_file, reason in _bounded_map(pool, look, len(source)):
            digests[row] = np.frombuffer(value, np.uint8)
            plain[row] = is_plain_file
            if reason:
                unreadable[row] = reason
            advance(1)
    return digests, plain, unreadable


def _bounded_map(
    pool: ThreadPoolExecutor, look: Callable[[int], tuple[int, bytes, bool, str]], n: int
) -> Iterator[tuple[int, bytes, bool, str]]:
    """Map in slices, so that a million pending results never exist at once."""
    for start in range(0, n, 4096):
        yield from pool.map(look, range(start, min(n, start + 4096)))


def _open_example(text: str) -> Source:
    name = text.removeprefix(examples.PREFIX)
    if name == "clipart":
        return replace(_open_folder(examples.CLIPART), name=name, origin=text)
    if name == "digits":
        arrays, labels = examples.digits()
        # by class, then by number: the sorted order of the ids
        order = np.lexsort((np.arange(len(labels)), labels))
        ids = tuple(f"{labels[row]}/{row:04d}" for row in order)
        names = tuple(str(label) for label in range(10))
        return Source(name, text, ids, labels[order], names, arrays=arrays[order])
    raise SourceError(
        f"There is no example '{name}'; choose one of "
        f"{', '.join(examples.PREFIX + known for known in examples.NAMES)}."
    )


def _open_folder(root: Path) -> Source:
    images, passed_over = _walk(root)
    if not images:
        raise SourceError(
            f"Image folder '{root}' has no images; expected one subfolder a class with files "
            f"ending in {', '.join(sorted(SUFFIXES))}."
        )
    by_id = {_as_id(image.relative_to(root).as_posix()): image for image in images}
    parts = {id_: tuple(id_.split("/")) for id_ in by_id}
    has_splits = all(len(p) > 2 and p[0].lower() in SPLITS for p in parts.values())
    depth = 1 if has_splits else 0
    has_classes = any(len(p) > depth + 1 for p in parts.values())
    if has_classes:
        # a stray image beside the class folders has no label; Keras passes it over, and so do we
        ids = sorted(id_ for id_ in by_id if len(parts[id_]) > depth + 1)
    else:
        ids = sorted(by_id)
    names = tuple(sorted({parts[id_][depth] for id_ in ids})) if has_classes else ()
    index = {name: label for label, name in enumerate(names)}
    labels = [index[parts[id_][depth]] if has_classes else UNLABELLED for id_ in ids]
    return Source(
        name=root.name or "root",
        origin=os.fspath(root),
        ids=tuple(ids),
        labels=np.array(labels, np.int64),
        class_names=names,
        splits=tuple(SPLITS[parts[id_][0].lower()] for id_ in ids) if has_splits else None,
        paths=tuple(os.fspath(by_id[id_]) for id_ in ids),
        n_passed_over=passed_over + len(by_id) - len(ids),
    )


def _walk(root: Path) -> tuple[list[Path], int]:
    """Return image files below `root` and the number of other files; links are followed once."""
    images: list[Path] = []
    passed_over = 0
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()  # a link back to a folder above it
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            is_image = os.path.splitext(name)[1].lower() in SUFFIXES
            if is_image and not name.startswith("."):
                images.append(Path(folder, name))
            else:
                passed_over += 1
    return images, passed_over


def _as_id(path: str) -> str:
    """Return a path as valid UTF-8; bytes of a name that are none appear as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
