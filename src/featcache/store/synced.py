"""Which objects below a URL are those of a cache folder, and which of its files go there.

Keys are other people's words: what would be a path elsewhere, or a hidden one, is nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from featcache.core import atomic
from featcache.networks.engines import MODELS_FOLDER
from featcache.store.hdf5 import is_part
from featcache.store.layout import LOCK_FOLDER, OWNER_FILE, STAMP_FOLDER
from featcache.store.parted import PARTS

HEADS = ".heads"
FEATURES = re.compile(r".+-[0-9a-f]{8}(-limit\d+)?\.h5")
_BOARD = "leaderboard.json"
_LONGEST_NAME = 255  # bytes
_OURS = {LOCK_FOLDER, STAMP_FOLDER, MODELS_FOLDER}  # of this machine alone

Found = TypeVar("Found")


class Kind(IntEnum):
    """What an object is, in the order in which it is put in place: a file after what it needs."""

    OWNER = 1  # whose a folder is
    PART = 2
    HEADS = 3
    BOARD = 4  # says which heads there are
    FEATURES = 5


def kind_of(key: str) -> Kind | None:
    """Return what an object is by its key below the cache folder's URL; None is not ours."""
    names = key.split("/")
    is_plain = all(map(_is_name, names)) and names[0] not in _OURS
    if not 2 <= len(names) <= 3 or not is_plain or names[-1].startswith("."):
        return None
    folder, name = names[-2:]
    if len(names) == 2:
        if name == OWNER_FILE:
            return Kind.OWNER
        return Kind.FEATURES if FEATURES.fullmatch(name) else None
    if folder.endswith(f".h5{PARTS}"):
        return Kind.PART if is_part(name) else None
    if not folder.endswith(HEADS):
        return None
    return Kind.BOARD if name == _BOARD else Kind.HEADS


def _is_name(name: str) -> bool:
    is_plain = name.isprintable() and "\\" not in name and name not in ("", ".", "..")
    return is_plain and len(name.encode()) <= _LONGEST_NAME


def ours(found: Mapping[str, Found]) -> dict[str, Found]:
    """Return what is ours of objects by key: in folders with an owner, and heads with a board."""
    kinds = {key: kind for key in found if (kind := kind_of(key)) is not None}
    owned = {key.partition("/")[0] for key, kind in kinds.items() if kind is Kind.OWNER}
    boards = {key.rpartition("/")[0] for key, kind in kinds.items() if kind is Kind.BOARD}
    return {
        key: found[key]
        for key, kind in kinds.items()
        if (key.rpartition("/")[0] in boards)
        or (key.partition("/")[0] in owned and kind not in (Kind.HEADS, Kind.BOARD))
    }


def in_order(keys: Mapping[str, Found] | set[str] | list[str]) -> list[str]:
    """Return keys of ours, each after those of what it needs."""
    return sorted(keys, key=lambda key: (kind_of(key) or 0, key))


def files_in(root: Path) -> list[str]:
    """Return the keys of a working copy's files but parts and owners, as they are put in place."""
    paths = [*root.glob("*/*.h5"), *root.glob(f"*/*{HEADS}/*")]
    keys = [
        path.relative_to(root).as_posix()
        for path in paths
        if path.is_file() and not atomic.is_temporary(path)
    ]
    return in_order([key for key in keys if kind_of(key) is not None])


def parts_of(key: str) -> str:
    """Return what the keys of a feature file's parts begin with."""
    return f"{key}{PARTS}/"
