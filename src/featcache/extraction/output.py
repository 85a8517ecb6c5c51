"""A feature file in the making: its spec, where its rows come from, what of it is missing."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache import store
from featcache.core import disk
from featcache.core.errors import SourceError, StoreError
from featcache.core.spec import ExtractionSpec
from featcache.core.text import counted
from featcache.core.versions import version
from featcache.data.listing import Listing, Unusable
from featcache.extraction.listing import (
    copies_of_failed,
    is_all_in,
    metadata_of,
    stamps_of,
    unreadable,
)
from featcache.networks import backbones
from featcache.store import stamps, working_copy


@dataclass(eq=False)
class OutputFile:
    """One feature file of a listing, and what became of its images so far."""

    path: Path
    resolved: backbones.Resolved
    listing: Listing
    dark: set[int] = field(default_factory=set)  # see `loading.Batch`
    ran: Mapping[str, Any] = field(default_factory=dict)  # what they went through, for provenance
    assembled_bytes: float = math.inf  # a file whose rows take more leaves them in parts

    def __post_init__(self) -> None:
        self.failed: dict[int, Unusable] = unreadable(self.listing)
        self.is_computed = np.zeros(len(self.listing), bool)  # by row: it went through the backbone
        self.parts = store.Parts(self.path, self.spec, self.listing.source.origin)

    @property
    def spec(self) -> ExtractionSpec:
        """What determines the numbers."""
        return self.resolved.spec

    def is_all_in(self, features: store.Features | None) -> bool:
        """Return whether a file that is there has every image, as a row or as a failure."""
        return features is not None and is_all_in(self.listing, self.failed, features)

    def can_be_found(self, cache: Path | None) -> bool:
        """Return whether rows of this spec are anywhere; None looks at this run's alone."""
        return self.parts.has_any() or bool(cache and store.of_spec(cache, self.spec))

    def learn(self, listing: Listing) -> None:
        """Take what is known of the images by now."""
        self.listing = listing
        self.failed = unreadable(listing) | self.failed

    def rows(self, cache: Path | None, attempts: store.Attempts) -> store.Rows:
        """Return every row that was ever computed with this spec; None uses this run's alone."""
        return attempts.rows(
            [*self.parts.paths(), *(store.of_spec(cache, self.spec) if cache else ())]
        )

    def missing(self, rows: store.Rows) -> np.ndarray:
        """Return (n, views) bool: which embeddings are nowhere yet."""
        missing: np.ndarray = rows.find_views(self.listing.digests, self.spec) < 0
        missing[list(self.failed)] = False
        return missing

    def demand_room(self, missing: np.ndarray, rows: np.ndarray) -> None:
        """Raise DiskError where the disk has no room for all that is to be computed.

        Parameters
        ----------
        missing : (n, views) bool.
        rows : (m, …) some of them, as they are stored.
        """
        if working_copy.root_of(self.path) is not None:
            return  # parts that lie in the bucket give way
        row_bytes = rows[0].nbytes
        assembled = self._assembled_bytes(len(missing), row_bytes)
        copied = 0 if assembled > self.assembled_bytes else assembled
        disk.demand(self.path, int(missing.sum()) * row_bytes + copied)

    def _assembled_bytes(self, n_images: int, row_bytes: int) -> int:
        """Return what the rows take in one file; with views the clean one is there twice."""
        return n_images * row_bytes * (1 if self.spec.views == 1 else 1 + self.spec.views)

    def fail_copies(self) -> None:
        """Let the copies of failed images fail with them."""
        self.failed |= copies_of_failed(self.listing, self.failed)

    def has_nothing(self) -> bool:
        """Return whether every image failed."""
        return len(self.failed) == len(self.listing)

    def named_failures(self) -> list[tuple[str, str]]:
        """Return id and reason of what failed so far, in the order of the source."""
        ids = self.listing.source.ids
        return [(ids[row], one.reason) for row, one in sorted(self.failed.items())]

    def publish(self, rows: store.Rows) -> store.Features:
        """Put the file in place; every row is there.

        Raises
        ------
        SourceError
            When no image could be used.
        DamagedFileError, ReplacedFileError
            When a file that was to lend rows cannot be read, or is another one by now.
        """
        metadata = metadata_of(self.listing, self.failed)
        if not metadata.ids:
            example = metadata.failures[0]
            raise SourceError(
                f"None of {counted(len(self.listing), 'image')} in '{self.listing.source.origin}' "
                f"could be used for '{self.path.name}'; the first, '{example.id}': "
                f"{example.reason}."
            )
        row_bytes = rows.read(rows.find(metadata.digests[:1])).nbytes
        assembled = self._assembled_bytes(len(metadata.ids), row_bytes)
        parts = self.parts if assembled > self.assembled_bytes else None
        features = store.publish(self.path, self.spec, metadata, rows, self.provenance(), parts)
        self.parts.clear()  # every row of the source is in the file now, or in parts it needs
        self.keep_stamps(features)
        return features

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of the images, and of how they got to the network where any did."""
        return self.listing.source.remarks + (
            self.resolved.remarks if self.is_computed.any() else ()
        )

    def keep_stamps(self, features: store.Features) -> None:
        """Keep for the next run how the images of a file that `is_all_in` look now."""
        stamps.keep(features, stamps_of(self.listing, features.ids))

    def provenance(self) -> dict[str, Any]:
        """Return what is worth knowing about a run but does not change its numbers."""
        source = self.listing.source
        packages = ("featcache", "tensorflow", "keras", "numpy", "h5py", "pillow")
        return {
            "source": source.origin,
            "source_options": dict(source.options),
            "limit": source.limited_to,
            "max_pixels": self.listing.max_pixels,
            "weights": self.resolved.weights,
            **({"model": self.resolved.model} if self.resolved.model else {}),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{package: version(package) for package in packages},
            **self.ran,
        }


def open_if_good(path: Path) -> store.Features | None:
    """Return a feature file whose columns can be read; whether its features can is not asked."""
    try:
        features = store.Features(path)
        assert features.metadata
    except StoreError:
        return None
    return features
