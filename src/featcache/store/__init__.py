"""The HDF5 feature file: reading it, making it from parts, publishing it whole. See docs/format.md.

Only this package knows h5py. Whatever has its own name is whole; rows are found by content digest.
"""

from featcache.store.attempts import Attempts
from featcache.store.columns import Failure, Metadata
from featcache.store.disk_space import check_room, size_of
from featcache.store.features import Features
from featcache.store.index import DamagedFileError, Parts, Rows
from featcache.store.integrity import Damage, salvage, verify
from featcache.store.layout import (
    EMBEDDER,
    locked,
    newest_features,
    newest_heads,
    of_spec,
    owner,
    place_for,
    prepare,
    source_folder,
    stand_in,
)
from featcache.store.writing import publish

__all__ = [
    "EMBEDDER",
    "Attempts",
    "Damage",
    "DamagedFileError",
    "Failure",
    "Features",
    "Metadata",
    "Parts",
    "Rows",
    "check_room",
    "locked",
    "newest_features",
    "newest_heads",
    "of_spec",
    "owner",
    "place_for",
    "prepare",
    "publish",
    "salvage",
    "size_of",
    "source_folder",
    "stand_in",
    "verify",
]
