"""COCO's annotation file: images, categories, and a box for each annotation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featcache.core.boxes import Drawn
from featcache.core.checks import shown
from featcache.core.errors import SourceError
from featcache.core.text import counted, few
from featcache.data.sources.boxed import from_x_y_width_height
from featcache.data.sources.cells import Record
from featcache.data.sources.download import Download

_PARTS = ("images", "annotations", "categories")


def records(path: Path | Download) -> Iterator[tuple[str, Record]]:
    """Yield for each image where it stands, and its path and boxes; crowds are `ignored`.

    Raises
    ------
    SourceError
        When it is no such file, or an annotation names an image or a category that is not in it.
    """
    found = _read(path)
    names = {one["id"]: str(one["name"]).strip() for one in found["categories"]}
    if twice := sorted({name for name in names.values() if list(names.values()).count(name) > 1}):
        raise SourceError(f"'{path.name}' has the category '{twice[0]}' twice; rename one.")
    known = {one["id"] for one in found["images"]}
    if missing := [one for one in found["annotations"] if one["image_id"] not in known]:
        first = missing[0]
        n = counted(len(missing), "annotation")
        raise SourceError(
            f"Annotation {first.get('id')} of '{path.name}' is of image {first['image_id']}, which "
            f"is not in 'images' ({n} like that). Add the image, or remove it."
        )
    boxes: dict[Any, list[Drawn]] = defaultdict(list)
    for one in found["annotations"]:
        place = f"annotation {one.get('id')} of '{path.name}'"
        if one["category_id"] not in names:
            raise SourceError(
                f"The category {one['category_id']} of {place} is none of: "
                f"{few([str(known) for known in names])}."
            )
        corners = from_x_y_width_height(one.get("bbox"), f"the bbox of {place}")
        label = names[one["category_id"]]
        boxes[one["image_id"]].append(Drawn(label, corners, place, bool(one.get("iscrowd"))))
    for image in found["images"]:
        yield (
            f"image {image['id']}",
            {
                "path": image["file_name"],
                "boxes": tuple(boxes[image["id"]]),
            },
        )


def _read(path: Path | Download) -> dict[str, list[dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"'{path}' is no JSON: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(one), list) for one in _PARTS):
        raise SourceError(
            f"'{path}' is no annotation file of COCO: an object with the lists {', '.join(_PARTS)} "
            f"is expected; got {shown(found)}."
        )
    needed = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id")}
    for part, names in (needed | {"categories": ("id", "name")}).items():
        for number, one in enumerate(found[part], 1):
            if not isinstance(one, dict) or any(name not in one for name in names):
                raise SourceError(
                    f"Entry {number} of '{part}' in '{path.name}' must have {' and '.join(names)}; "
                    f"got {shown(one)}."
                )
    return found
