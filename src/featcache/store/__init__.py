"""The HDF5 feature file: reading it, making it from parts, publishing it whole. See docs/format.md.

Only this package knows h5py. While rows are computed they go to small part files beside the final
one; a part, like the file itself, is written under a temporary name, flushed to disk and renamed,
so that whatever exists under its own name is whole. Rows are found again by content digest.
"""

from featcache.store.attempts import Attempts
from featcache.store.columns import Failure, Metadata
from featcache.store.disk_space import check_room, size_of
from featcache.store.features import Features
from featcache.store.index import DamagedFileError, Parts, ReplacedFileError, Rows
from featcache.store.integrity import Damage, salvage, verify
from featcache.store.layout import (
    EMBEDDER,
    locked,
    newest_features,
    newest_heads,
    of_spec,
    owner,
    prepare,
    source_folder,
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
    "ReplacedFileError",
    "Rows",
    "check_room",
    "locked",
    "newest_features",
    "newest_heads",
    "of_spec",
    "owner",
    "prepare",
    "publish",
    "salvage",
    "size_of",
    "source_folder",
    "verify",
]
