"""YOLO's folder: below `images/` the images, below `labels/` a text file for each with its boxes.

`images` and `labels` lie beside each other, at the top or in `train/`, `val/` and `test/`; or these
lie in both. The classes are named by `names` of data.yaml, or line by line in classes.txt.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from featcache.core.boxes import Drawn
from featcache.core.errors import SourceError, one_line
from featcache.core.labels import SPLITS
from featcache.core.text import few
from featcache.data.sources.boxed import numbers, upright_size
from featcache.data.sources.cells import Record
from featcache.data.sources.folder import walk

IMAGES, LABELS, CLASSES = "images", "labels", "classes.txt"
_TABLES = ("data.yaml", "data.yml", "dataset.yaml")
_FORM = "class, x and y of its middle, width and height, as shares of the image"


def is_one(folder: Path) -> bool:
    """Return whether a folder is laid out so, and names its classes."""
    return _table(folder) is not None and any(
        (place / IMAGES).is_dir() and (place / LABELS).is_dir()
        for place in (folder, *(folder / name for name in SPLITS))
    )


def records(folder: Path) -> tuple[list[tuple[str, Record]], tuple[str, ...]]:
    """Return where each image stands, its path, boxes and split, and what to say of all.

    An image without a text file has no boxes. Of a polygon the box around it is taken.

    Raises
    ------
    SourceError
        When a line is no box, or its class has no name.
    """
    names = _names(folder)
    found: list[tuple[str, Record]] = []
    used: set[Path] = set()
    for path in map(Path, sorted(walk(os.fspath(folder)).images)):
        parts = path.relative_to(folder).parts
        if IMAGES not in parts[:-1]:
            continue
        at = len(parts) - 2 - parts[-2::-1].index(IMAGES)  # the last folder of that name
        file = folder.joinpath(*parts[:at], LABELS, *parts[at + 1 :]).with_suffix(".txt")
        used.add(file)
        boxes = _boxes(file, path, names) if file.is_file() else ()
        split = next((SPLITS[one.lower()] for one in parts[:-1] if one.lower() in SPLITS), None)
        record = {"path": "/".join(parts), "boxes": boxes}
        found.append((f"'{path.name}'", record | ({"split": split} if split else {})))
    files = {file for place in folder.rglob(LABELS) for file in place.rglob("*.txt")}
    alone = sorted(
        os.fspath(file.relative_to(folder)) for file in files - used if file.name != CLASSES
    )
    return found, (f"There is no image for {few(alone)}.",) if alone else ()


def _boxes(file: Path, image: Path, names: dict[int, str]) -> tuple[Drawn, ...]:
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    height, width = upright_size(os.fspath(image)) if any(lines) else (0, 0)
    boxes = []
    for number, cells in enumerate(lines, 1):
        if not cells:
            continue
        place = f"line {number} of '{file.name}'"
        values = numbers(cells, max(5, len(cells)), place, _FORM)
        if values[0] not in names:
            raise SourceError(
                f"The class {cells[0]} in {place} has no name among the {len(names)}."
            )
        if len(values) == 5:
            x, y, wide, high = values[1:]
            shares = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
        else:
            xs, ys = values[1::2], values[2::2]
            shares = (min(xs), min(ys), max(xs), max(ys))
        left, top, right, bottom = shares
        corners = (left * width, top * height, right * width, bottom * height)
        boxes.append(Drawn(names[int(values[0])], corners, place))
    return tuple(boxes)


def _table(folder: Path) -> Path | None:
    """Return the file that names the classes."""
    known = (*_TABLES, CLASSES, f"{LABELS}/{CLASSES}")
    return next((folder / name for name in known if (folder / name).is_file()), None)


def _names(folder: Path) -> dict[int, str]:
    """Return the name of each class by its number."""
    file = _table(folder)
    assert file is not None
    if file.name == CLASSES:
        lines = file.read_text(encoding="utf-8").splitlines()
        return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    found: Any = _yaml(file).get("names")
    items: Any = enumerate(found) if isinstance(found, list) else getattr(found, "items", tuple)()
    try:
        names = {int(number): str(name) for number, name in items}
    except (TypeError, ValueError):
        names = {}
    if not names:
        raise SourceError(f"'{file}' has no 'names', a list of the classes or one by number.")
    return names


def _yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise SourceError(
            f"To read '{file}' install PyYAML: pip install 'featcache[detection]'; or name the "
            f"classes in {CLASSES} beside it, one a line."
        ) from None
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"'{file}' is no YAML: {one_line(error, 150)}.") from error
    return found if isinstance(found, dict) else {}
