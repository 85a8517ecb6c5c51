"""Where images come from: a folder, a built-in example or arrays, as one ordered table of samples.

The order is always that of the sorted ids, and every other column follows it. Nothing is decoded
here; a sample is its id, its label and the bytes that give it a digest.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featcache import examples
from featcache.errors import SourceError, SpecError

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

    def stamp(self, row: int) -> tuple[int, int] | None:
        """Return size and modification time (ns) of a file; None for arrays.

        Raises
        ------
        OSError
            When it is gone or is no regular file.
        """
        if self.paths is None:
            return None
        status = os.stat(self.paths[row])
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise OSError(errno.EINVAL, "not a regular file")
        return status.st_size, status.st_mtime_ns

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
        When it does not exist, is no folder, has no images, or mixes splits with other folders.
    SpecError
        When there is no such example.
    """
    text = os.fspath(where)
    if text.startswith(examples.PREFIX):
        return _open_example(text)
    if not text:
        raise SpecError("The image folder's name is empty; give a folder or example:clipart.")
    root = Path(text)
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


@dataclass(frozen=True)
class Scan:
    """What one look at every sample of a source gave."""

    digests: np.ndarray  # (n, 16) uint8, zero where the file could not be read
    plain: np.ndarray  # (n,) bool: TensorFlow can decode it; False for arrays
    stamps: list[tuple[int, int] | None]  # size and time of each file before it was read
    unreadable: dict[int, str]  # reason by row

    def take(self, rows: np.ndarray) -> Scan:
        """Return the scan of `source.take(rows)`."""
        place = {row: number for number, row in enumerate(rows.tolist())}
        return Scan(
            self.digests[rows],
            self.plain[rows],
            [self.stamps[row] for row in rows.tolist()],
            {place[row]: reason for row, reason in self.unreadable.items() if row in place},
        )


def _nothing(n: int) -> None:
    """Show no progress."""


def scan(
    source: Source,
    is_plain: Callable[[bytes], bool],
    advance: Callable[[int], None] = _nothing,
    known: Mapping[str, tuple[tuple[int, int], bytes]] | None = None,
) -> Scan:
    """Read every sample once, in threads; `is_plain` judges a file's bytes.

    `known` gives stamp and digest by id, of a file that was read before: where size and
    modification time are still the same it is not read again, and counts as not plain.
    """
    digests = np.zeros((len(source), DIGEST_BYTES), np.uint8)
    plain = np.zeros(len(source), bool)
    stamps: list[tuple[int, int] | None] = [None] * len(source)
    unreadable: dict[int, str] = {}

    def look(row: int) -> tuple[int, bytes, bool, str]:
        try:
            stamps[row] = source.stamp(row)
            data = source.read(row)
        except OSError as error:
            return row, bytes(DIGEST_BYTES), False, error.strerror or str(error)
        return row, digest(data), source.paths is not None and is_plain(data), ""

    unread = []
    for row, id_ in enumerate(source.ids):
        if known and (seen := known.get(id_)) is not None and _stamp(source, row) == seen[0]:
            stamps[row], digests[row] = seen[0], np.frombuffer(seen[1], np.uint8)
            advance(1)
        else:
            unread.append(row)

    # hashing and reading release the interpreter lock, so threads use the disk and every core
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for row, value, is_plain_file, reason in _bounded_map(pool, look, unread):
            digests[row] = np.frombuffer(value, np.uint8)
            plain[row] = is_plain_file
            if reason:
                unreadable[row] = reason
            advance(1)
    return Scan(digests, plain, stamps, unreadable)


def _bounded_map(
    pool: ThreadPoolExecutor,
    look: Callable[[int], tuple[int, bytes, bool, str]],
    rows: Sequence[int],
) -> Iterator[tuple[int, bytes, bool, str]]:
    """Map in slices, so that a million pending results never exist at once."""
    for start in range(0, len(rows), 4096):
        yield from pool.map(look, rows[start : start + 4096])


def _stamp(source: Source, row: int) -> tuple[int, int] | None:
    try:
        return source.stamp(row)
    except OSError:
        return None


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
    raise SpecError(
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
    by_id: dict[str, Path] = {}
    for image in images:
        id_ = _as_id(image.relative_to(root).as_posix())
        if id_ in by_id:
            raise SourceError(f"Two files have the id '{id_}': {by_id[id_]!r} and {image!r}.")
        by_id[id_] = image
    parts = {id_: tuple(id_.split("/")) for id_ in by_id}
    has_splits = _has_splits(root, parts.values())
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


def _has_splits(root: Path, parts: Collection[tuple[str, ...]]) -> bool:
    """Return whether the folders at the top are splits, with classes below them."""
    tops = {p[0] for p in parts if len(p) > 1}
    named = {top for top in tops if top.lower() in SPLITS}
    deep = {p[0] for p in parts if len(p) > 2}
    if not named & deep:
        return False  # images lie directly in train/ and test/: these are classes
    if tops == named:
        return True
    if len({SPLITS[top.lower()] for top in named}) > 1:
        raise SourceError(
            f"'{root}' has {', '.join(sorted(named))} beside "
            f"{', '.join(sorted(tops - named)[:3])}; expected either splits with classes "
            f"below them, or classes alone."
        )
    return False


def _walk(root: Path) -> tuple[list[Path], int]:
    """Return image files below `root` and the number of other files; links are followed."""
    images: list[Path] = []
    passed_over = 0
    above = {os.fspath(root): {_identity(root)}}  # by folder: itself and what it lies in
    for folder, subfolders, files in os.walk(root, followlinks=True):
        chain = above.pop(folder)
        kept = []
        for name in sorted(subfolders):
            path = os.path.join(folder, name)
            if not name.startswith(".") and (identity := _identity(path)) not in chain:
                above[path] = chain | {identity}
                kept.append(name)
        subfolders[:] = kept  # a link back to a folder above is not followed again
        for name in files:
            is_image = os.path.splitext(name)[1].lower() in SUFFIXES
            if is_image and not name.startswith("."):
                images.append(Path(folder, name))
            else:
                passed_over += 1
    return images, passed_over


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _as_id(path: str) -> str:
    """Return a path as valid UTF-8; bytes of a name that are none appear as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
