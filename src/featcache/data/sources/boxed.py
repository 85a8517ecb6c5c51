"""Images with boxes: how large each image is as it is shown, and whether its boxes lie in it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from featcache.core.boxes import Drawn, measured
from featcache.core.checks import shown
from featcache.core.errors import SourceError
from featcache.core.labels import Columns
from featcache.data.clients import IN_FLIGHT
from featcache.data.levels import Samples
from featcache.data.pillow import known_formats, own_limit
from featcache.data.sources.contents import Contents, Files

UNKNOWN = (0, 0)  # the size of what cannot be read; that it cannot is said when it is to be
_ORIENTATION = 0x0112  # of EXIF
_FORM = 'a JSON list as [{"label": "cat", "box": [x, y, width, height]}], in pixels'


def in_images(columns: Columns, contents: Contents) -> Columns:
    """Return columns whose boxes, if there are any, were compared with their images.

    Of an image on this disk the header alone is read.

    Raises
    ------
    SourceError
        When a box is inverted or lies outside its image.
    """
    if columns.boxes is None:
        return columns
    sizes = upright_sizes(contents, [row is not None for row in columns.boxes])
    boxes, remarks = measured(columns.boxes, sizes)
    return replace(columns, boxes=boxes, sizes=sizes, remarks=(*columns.remarks, *remarks))


def upright_sizes(contents: Contents, is_wanted: Sequence[bool]) -> np.ndarray:
    """Return (n, 2) int64, height and width as shown; 0 of what is not wanted or cannot be read."""
    workers = IN_FLIGHT if contents.is_far else os.cpu_count() or 1

    def one(row: int) -> tuple[int, int]:
        if not is_wanted[row]:
            return UNKNOWN
        try:
            if isinstance(contents, Files):
                return upright_size(contents.paths[row])
            raw = contents.get(row)
        except OSError:
            return UNKNOWN
        if isinstance(raw, bytes):
            return upright_size(io.BytesIO(raw))
        height, width = (raw.values if isinstance(raw, Samples) else raw).shape[:2]
        return int(height), int(width)

    with ThreadPoolExecutor(workers if contents.is_concurrent else 1) as pool:
        return np.array(list(pool.map(one, range(len(is_wanted)))), np.int64).reshape(-1, 2)


def upright_size(file: Any) -> tuple[int, int]:
    """Return height and width of an image file as it is shown; 0 where Pillow does not know it."""
    from PIL import Image

    # whatever is wrong with a file, reading all of it says so in better words
    with suppress(Exception), own_limit(), Image.open(file, formats=known_formats()) as image:
        width, height = image.size
        is_turned = False
        with suppress(Exception):  # of damaged EXIF, as `decoding.upright`
            is_turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        return (width, height) if is_turned else (height, width)
    return UNKNOWN


def of_cell(value: Any, place: str) -> list[Drawn] | None:
    """Return the boxes that a manifest has of an image; None where the cell is empty.

    A box is an object with `label`, and `box`: x and y of its top left corner, width and height;
    and `ignored`, true for what is neither to be learnt nor to be missed.

    Raises
    ------
    SourceError
        When it is not that.
    """
    if isinstance(value, tuple):  # read already
        return list(value)
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, (str, bytes)):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise SourceError(f"'boxes' in {place} must be {_FORM}; got {shown(value)}.") from None
    if not isinstance(value, list):
        raise SourceError(f"'boxes' in {place} must be {_FORM}; got {shown(value)}.")
    return [_of_object(one, f"box {number} in {place}") for number, one in enumerate(value, 1)]


def _of_object(value: Any, place: str) -> Drawn:
    label = value.get("label") if isinstance(value, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise SourceError(f"{place[:1].upper()}{place[1:]} has no label; {_FORM} is expected.")
    corners = from_x_y_width_height(value.get("box"), place)
    return Drawn(label.strip(), corners, place, bool(value.get("ignored")))


def from_x_y_width_height(value: Any, place: str) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a box as COCO has it; raise SourceError of another."""
    x, y, width, height = numbers(value, 4, place, "x, y, width and height, in pixels")
    return x, y, x + width, y + height


def numbers(value: Any, n: int, place: str, must: str) -> list[float]:
    """Return so many numbers; raise SourceError of anything else."""
    try:
        found = [float(one) for one in value]
    except (TypeError, ValueError, OverflowError):
        found = []
    if len(found) != n:
        raise SourceError(f"{place[:1].upper()}{place[1:]} must be {must}; got {shown(value)}.")
    return found
