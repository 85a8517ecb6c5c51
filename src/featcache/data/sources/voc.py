"""Pascal VOC's folder: `Annotations/*.xml`, `JPEGImages/`, and lists of the parts."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from featcache.core.boxes import Drawn
from featcache.core.errors import SourceError
from featcache.core.labels import SPLITS
from featcache.core.text import counted
from featcache.data.sources.boxed import numbers
from featcache.data.sources.cells import Record

ANNOTATIONS, IMAGES, LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_one(folder: Path) -> bool:
    """Return whether a folder is laid out so."""
    has_both = (folder / ANNOTATIONS).is_dir() and (folder / IMAGES).is_dir()
    return has_both and any((folder / ANNOTATIONS).glob("*.xml"))


def records(folder: Path) -> tuple[list[tuple[str, Record]], tuple[str, ...]]:
    """Return where each image stands, its path, boxes and split, and what to say of all.

    VOC counts pixels from 1 and names the last one that belongs to a box, so the left and top are
    one less here. Difficult objects are `ignored`. Where train.txt, val.txt or test.txt list the
    images, those in none of them are left out.
    """
    split_of = {
        name: SPLITS[file.stem]
        for file in sorted((folder / LISTS).glob("*.txt"))
        if file.stem in SPLITS
        for name in file.read_text(encoding="utf-8").split()
    }
    every = sorted((folder / ANNOTATIONS).glob("*.xml"))
    taken = [file for file in every if file.stem in split_of] if split_of else every
    found = [(f"'{file.name}'", _record(file, split_of.get(file.stem))) for file in taken]
    n_left = len(every) - len(taken)
    said = f"{counted(n_left, 'annotated image')} stand in no list of {LISTS} and were left out."
    return found, (said,) if n_left else ()


def _record(file: Path, split: str | None) -> Record:
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise SourceError(f"'{file}' is no XML: {error}.") from error
    name = (root.findtext("filename") or "").strip()
    if root.tag != "annotation" or not name:
        raise SourceError(f"'{file}' is no annotation of Pascal VOC with a filename.")
    boxes = []
    for number, one in enumerate(root.iter("object"), 1):
        place = f"object {number} in '{file.name}'"
        label = (one.findtext("name") or "").strip()
        if not label:
            raise SourceError(f"Object {number} in '{file.name}' has no name.")
        said = [one.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        left, top, right, bottom = numbers(said, 4, f"the bndbox of {place}", ", ".join(_CORNERS))
        is_difficult = (one.findtext("difficult") or "0").strip() == "1"
        boxes.append(Drawn(label, (left - 1, top - 1, right, bottom), place, is_difficult))
    record = {"path": f"{IMAGES}/{Path(name).name}", "boxes": tuple(boxes)}
    return record if split is None else record | {"split": split}
