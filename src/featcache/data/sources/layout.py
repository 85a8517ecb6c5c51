"""How a folder of images is understood: which folders are splits, which are classes, and why.

What may have been meant otherwise is said; see `remarks`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from featcache.core.errors import SourceError
from featcache.core.labels import SPLITS
from featcache.core.text import composed, counted, few

Parts = tuple[str, ...]  # of an image's path below the root, its file name last


@dataclass(frozen=True)
class Layout:
    """What the folders below a root are."""

    has_splits: bool  # the top ones are train/, val/ and test/
    has_classes: bool

    @cached_property
    def class_at(self) -> int:
        """Place of the class in the parts of a path."""
        return int(self.has_splits)

    @cached_property
    def n_parts(self) -> int:
        """Parts that the path of an image has at least; others lie beside the folders."""
        return 1 + self.has_splits + self.has_classes


def understood(root: str, every: Collection[Parts]) -> Layout:
    """Return what the folders of images are, by the parts of the images' paths.

    Raises
    ------
    SourceError
        When splits and other folders lie side by side.
    """
    tops = {parts[0] for parts in every if len(parts) > 1}
    named = {top for top in tops if top.lower() in SPLITS}
    deep = {parts[0] for parts in every if len(parts) > 2}
    if named and tops == named:
        return Layout(has_splits=True, has_classes=bool(deep))
    if named & deep and _n_splits(named) > 1:
        raise SourceError(
            f"'{root}' has {', '.join(sorted(named))} beside "
            f"{', '.join(sorted(tops - named)[:3])}; expected either splits with classes "
            f"below them, or classes alone."
        )
    return Layout(has_splits=False, has_classes=bool(tops))


def remarks(
    root: str, layout: Layout, every: Collection[Parts], tables: Sequence[str]
) -> list[str]:
    """Return how a folder was understood where another way may have been meant.

    Parameters
    ----------
    tables : files beside the images that may be manifests.
    """
    tops = sorted({parts[0] for parts in every if len(parts) > 1})
    made = []
    if beside := ["/".join(parts) for parts in every if len(parts) < layout.n_parts]:
        where = "the folders of the classes" if layout.has_classes else "train/, val/ and test/"
        made.append(
            f"Beside {where} lie {counted(len(beside), 'image')}, which were passed over: "
            f"{few(sorted(beside))}. Put what is to be used into them."
        )
    if layout.has_splits and not layout.has_classes:
        made.append(
            f"The images of '{root}' lie right in {' and '.join(tops)}, which were taken as "
            f"splits: they have no labels. Put those of a class into a folder of its own, as "
            f"{tops[-1]}/CLASS; or rename {' and '.join(tops)}, if they are the classes."
        )
    if not layout.has_classes and tables:
        made.append(
            f"The images of '{root}' have no labels. If {few(tables)} lists them with labels, give "
            f"that file instead."
        )
    if layout.has_classes:
        made += _remarks_on_classes(root, layout, every)
    return made


def _remarks_on_classes(root: str, layout: Layout, every: Collection[Parts]) -> list[str]:
    at = layout.class_at
    inside = {
        parts[at : at + 2] if len(parts) > at + 2 else (parts[at], "")
        for parts in every
        if len(parts) >= layout.n_parts
    }
    below: dict[str, set[str]] = defaultdict(set)  # folders in each class; "" for the class itself
    for name, lower in inside:
        below[composed(name)].add(composed(lower))
    named = [name for name in below if name.lower() in SPLITS]
    if not layout.has_splits and _n_splits(named) > 1:
        return [
            f"{' and '.join(sorted(named))} were taken as classes, since there are others beside "
            f"them. If they are splits, put every class below them."
        ]
    first = next(iter(below.values()))
    inner = sorted(first) if all(one == first for one in below.values()) else []
    if len(inner) < 2 or "" in inner:  # with images of its own a class is one
        return []
    if len(below) == 1:
        (only,) = below
        cure = "move them one up" if layout.has_splits else f"give '{root}/{only}' instead"
        return [
            f"All images lie below '{only}', which was taken as the only class. If the classes are "
            f"{few(inner)}, {cure}."
        ]
    if all(name.lower() in SPLITS for name in inner):
        return [
            f"The classes have folders {few(inner)}, which were not taken as splits. Splits lie "
            f"above the classes, as {inner[-1]}/{min(below)}."
        ]
    return [
        f"{few(sorted(below))} were taken as the classes, and the folders {few(inner)} in each as "
        f"part of it. If those are the classes, the ones above must be called train, val or test."
    ]


def _n_splits(names: Collection[str]) -> int:
    return len({SPLITS[name.lower()] for name in names})
