"""What told that images had not changed, when they were last looked at: apart from a feature file.

A feature file has the size and the modification time of each image as it was read. Here is all that
is free to compare, as of the last run that found every image in the file: so images that were moved
or copied, their times and inodes with them, are read once more and not each time. Losing this costs
no more than that.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from featcache.store import hdf5
from featcache.store.features import Features
from featcache.store.layout import STAMP_FOLDER
from featcache.store.strings import read_attribute, write_attribute

SUFFIX = ".stamps"


def path_of(path: Path) -> Path:
    """Return where the stamps of a feature file in a cache folder lie."""
    return path.parent.parent / STAMP_FOLDER / path.parent.name / f"{path.stem}{SUFFIX}"


def known(features: Features) -> np.ndarray:
    """Return (n, 4) int64: size, modification and change time in ns, inode; -1 is unknown."""
    n = len(features)
    with (
        suppress(OSError, KeyError, RuntimeError, ValueError),
        hdf5.reading(path_of(features.path)) as file,
    ):
        stamps = np.asarray(file["stamps"][:], np.int64)
        if read_attribute(file, "checksum") == features.checksum and stamps.shape == (n, 4):
            return stamps
    return np.concatenate([features.stamps, np.full((n, 2), -1)], axis=1)


def keep(features: Features, stamps: np.ndarray) -> None:
    """Keep the stamps of each row, (n, 4), if they are news and the cache folder can be written."""
    if np.array_equal(known(features), stamps):
        return
    path = path_of(features.path)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with hdf5.replacing(path, stamps.nbytes) as file:
            write_attribute(file, "checksum", features.checksum)
            file.create_dataset("stamps", data=stamps, fletcher32=True)
