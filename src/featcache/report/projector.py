"""Features as a folder that TensorBoard's embedding projector shows; TensorBoard is not needed.

`write_projector` shows a comparison, `write` any matrix of features.

The numbers go as text: the projector tries a file as text before it takes it for raw floats, so raw
ones that happen to begin like text are an error to it, and its stand-alone page reads text alone.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from featcache.core import atomic, disk
from featcache.core.errors import HeadError, SpecError
from featcache.core.escapes import ESCAPES
from featcache.report import material, pictures
from featcache.report.sections import told
from featcache.scoring.leaderboard import Leaderboard

CONFIG = "projector_config.pbtxt"  # the projector looks for this name
TENSORS = "tensors.tsv"
METADATA = "metadata.tsv"
SPRITE = "sprite.png"
MAX_SPRITE = 8192  # pixels; the largest texture that browsers can be counted on to show
MAX_THUMBNAIL = 100  # pixels
_TENSOR_PATH = f'tensor_path: "{TENSORS}"'  # in every config that is written here
EMPTY = "-"  # the projector passes over empty lines, and later names would be other images'
_BREAKS = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def write_projector(board: Leaderboard, folder: str | os.PathLike[str]) -> Path:
    """Write what a comparison knows of its images, and return the path of the config.

    That is features, names, labels, predictions and pictures; of more than `material.MAX_ROWS`
    images, of a fair sample.

    Raises
    ------
    HeadError
        When the features are not there: of plain arrays, or of a file that is gone or was changed.
    """
    about = material.gather(board)
    if about.features is None:
        raise HeadError(f"TensorBoard's projector cannot be given an embedding. {about.note}")
    places, X = about.looked_at()
    rows, listed = about.rows[places].tolist(), places.tolist()
    metadata = {
        "image": [about.name(place) for place in listed],
        "given": [told(about, about.y[place]) for place in listed],
        "predicted": [told(about, about.predicted[place]) for place in listed],
        "part": ["held out" if about.is_test[place] else "training" for place in listed],
    }
    taken = pictures.collect(about.features, rows).uris
    thumbnails = [_picture(taken.get(row)) for row in rows] if taken else None
    return write(folder, X, metadata, thumbnails, name=board.features[0].name)


def write(
    folder: str | os.PathLike[str],
    features: np.ndarray,
    metadata: Mapping[str, Sequence[str]] | None = None,
    thumbnails: Sequence[Image.Image] | None = None,
    name: str = "features",
) -> Path:
    """Write features for `tensorboard --logdir FOLDER`, and return the path of its config.

    Files of an earlier call are replaced, whole and the config last; all others stay.

    Parameters
    ----------
    folder : made if need be; gets tensors.tsv, projector_config.pbtxt, and metadata.tsv and
        sprite.png where there is something for them.
    features : (n, d) numbers; written with 7 digits.
    metadata : columns of n names by their title, to colour and label by; tabs and line breaks in
        them become spaces.
    thumbnails : n Pillow images; put on white squares, each of at most 100 pixels, and smaller
        where there are so many that the sprite would be larger than 8192 x 8192 pixels.
    name : what the projector calls the features.

    Raises
    ------
    SpecError
        When features are not a finite matrix, anything does not have one entry per row, or the
        folder has files of these names that were not written here.
    OSError
        When the folder cannot be written.

    Examples
    --------
    >>> from featcache.report import projector
    >>> projector.write("projector", X, {"file": ids, "class": names})  # doctest: +SKIP
    """
    features = np.asarray(features)
    columns = {title: [str(value) for value in some] for title, some in (metadata or {}).items()}
    _check(features, columns, thumbnails)
    folder = Path(folder)
    _check_is_ours(folder)
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / TENSORS, _rows(features))
    fields = [("tensor_name", name), ("tensor_path", TENSORS)]
    if columns:
        _write_lines(folder / METADATA, _metadata(columns))
        fields.append(("metadata_path", METADATA))
    lines = [f"  {field}: {_quoted(text)}" for field, text in fields]
    lines += [f"  tensor_shape: {length}" for length in features.shape]
    if thumbnails is not None:
        side = _side(thumbnails)
        sprite = _sprite(thumbnails, side)
        with atomic.replacing(folder / SPRITE) as made:
            sprite.save(made, format="PNG")
        path = f"    image_path: {_quoted(SPRITE)}"
        lines += ["  sprite {", path, *[f"    single_image_dim: {side}"] * 2, "  }"]
    _write_lines(folder / CONFIG, ["embeddings {", *lines, "}"])
    return folder / CONFIG


def _picture(uri: str | None) -> Image.Image:
    """Return the picture of a data URI, white where there is none."""
    if uri is None:
        return Image.new("RGB", (8, 8), "white")
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def _check(
    features: np.ndarray,
    columns: Mapping[str, Sequence[str]],
    thumbnails: Sequence[Image.Image] | None,
) -> None:
    """Raise SpecError for what the projector could not show, or would show beside the wrong row."""
    if features.ndim != 2 or not features.size or features.dtype.kind not in "fiu":
        raise SpecError(
            f"features must be numbers (n, d), at least one; got {features.shape}, "
            f"{features.dtype}."
        )
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise SpecError(f"features must be finite; row {row} is not. Leave it out.")
    n = len(features)
    for title, column in columns.items():
        if len(column) != n:
            raise SpecError(
                f"The metadata column '{title}' has {len(column)} entries for {n} rows of features."
            )
    if thumbnails is not None and len(thumbnails) != n:
        raise SpecError(f"There are {len(thumbnails)} thumbnails for {n} rows of features.")


def _check_is_ours(folder: Path) -> None:
    """Raise SpecError where files of our names are not of an earlier call."""
    there = [name for name in (CONFIG, TENSORS, METADATA, SPRITE) if (folder / name).exists()]
    if not there:
        return
    try:
        is_ours = _TENSOR_PATH in (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError):
        is_ours = False
    if not is_ours:
        raise SpecError(
            f"'{folder / there[0]}' was not written by featcache, and would be replaced. Choose "
            f"another folder, or delete it."
        )


def _rows(features: np.ndarray) -> Iterator[str]:
    show = "{:.7g}".format
    return ("\t".join(map(show, row.tolist())) for row in features)


def _metadata(columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the lines: a header where there are two columns or more, as the projector expects."""
    if len(columns) > 1:
        yield "\t".join(_one_cell(title) for title in columns)
    for cells in zip(*columns.values(), strict=True):
        yield "\t".join(map(_one_cell, cells))


def _one_cell(text: str) -> str:
    return _BREAKS.sub(" ", text).strip() or EMPTY


def _side(thumbnails: Sequence[Image.Image]) -> int:
    """Return the side in pixels that every thumbnail gets in the sprite."""
    largest = max(max(image.size) for image in thumbnails)
    return min(largest, MAX_THUMBNAIL, MAX_SPRITE // math.ceil(math.sqrt(len(thumbnails))))


def _sprite(thumbnails: Sequence[Image.Image], side: int) -> Image.Image:
    """Return all thumbnails in one square picture, row by row from the top left."""
    a_row = math.ceil(math.sqrt(len(thumbnails)))
    sprite = Image.new("RGB", (a_row * side, a_row * side), "white")
    for number, image in enumerate(thumbnails):
        place = (number % a_row * side, number // a_row * side)
        layer = ImageOps.pad(image.convert("RGBA"), (side, side), color=(255, 255, 255, 0))
        sprite.paste(layer, place, layer)
    return sprite


def _quoted(text: str) -> str:
    """Return text as a string of a .pbtxt file: UTF-8, what is not printable ASCII in octal."""
    plain = {ord(character) for character in map(chr, range(32, 127))} - {*b"\\\"'"}
    data = text.encode("utf-8", ESCAPES)
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in data) + '"'


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with (
        atomic.replacing(path) as made,
        made.open("w", encoding="utf-8", errors=ESCAPES, newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)
