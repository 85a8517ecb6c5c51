"""Detected boxes to a file: COCO's JSON, or CSV with a line a box."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from featcache.core import atomic
from featcache.core.errors import SpecError
from featcache.core.escapes import ESCAPES, all_escaped
from featcache.detection.model import Detected

ENDINGS = (".json", ".csv")
COLUMNS = ("path", "label", "score", "x", "y", "width", "height", "error")


def check_out(out: Path, inputs: Iterable[str] = ()) -> None:
    """Raise SpecError where boxes cannot be written to `out`, or it is one of the inputs."""
    if out.suffix.lower() not in ENDINGS:
        raise SpecError(f"The file of boxes must end in {' or '.join(ENDINGS)}; got '{out}'.")
    if out.is_dir() or not out.parent.is_dir():
        raise SpecError(f"'{out}' cannot be written: it is a folder, or lies in none that exists.")
    if out.exists() and any(Path(one).exists() and out.samefile(one) for one in inputs if one):
        raise SpecError(f"'{out}' lists the images, and would be replaced. Choose another --out.")


def write(every: Sequence[Detected], names: Sequence[str], out: Path) -> None:
    """Write what was found into a .json or .csv file, whole or not at all."""
    check_out(out)
    if out.suffix.lower() == ".csv":
        _csv(every, out)
    else:
        atomic.write_json(out, all_escaped(as_coco(every, names)))


def as_coco(every: Sequence[Detected], names: Sequence[str]) -> dict[str, list[dict[str, object]]]:
    """Return what COCO's tools read: images, categories, and an annotation with a score each box.

    Images that could not be read have their reason in `error`, and no annotation.
    """
    numbers = {name: number for number, name in enumerate(names, 1)}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, one in enumerate(every, 1):
        height, width = one.size
        about = {"id": image_id, "file_name": one.path, "width": width, "height": height}
        images.append(about | ({"error": one.error} if one.error else {}))
        for box in one.boxes:
            *_, wide, high = box["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[box["label"]],
                    "bbox": box["box"],
                    "area": round(wide * high, 2),
                    "iscrowd": 0,
                    "score": box["score"],
                }
            )
    categories: list[dict[str, object]] = [
        {"id": number, "name": name} for name, number in numbers.items()
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _csv(every: Sequence[Detected], out: Path) -> None:
    """A line for each box; an image without any has one without a label."""
    with (
        atomic.replacing(out) as made,
        made.open("w", newline="", encoding="utf-8", errors=ESCAPES) as file,
    ):
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for one in every:
            for box in one.boxes:
                lines.writerow([one.path, box["label"], f"{box['score']:.7g}", *box["box"], ""])
            if not one.boxes:
                lines.writerow([one.path, *[""] * 6, one.error])
