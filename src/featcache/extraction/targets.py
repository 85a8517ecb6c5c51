"""A feature file in the making: its spec, where its rows come from, what of it is missing."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache import store
from featcache.core.errors import SourceError, StoreError
from featcache.core.keys import view_keys
from featcache.core.spec import ExtractionSpec
from featcache.extraction.inventory import Inventory
from featcache.networks import backbones


@dataclass(eq=False)
class Target:
    """One feature file of a source."""

    path: Path
    resolved: backbones.Resolved
    found: Inventory  # its `failed` is filled with what fails for this file
    computed: set[int] = field(default_factory=set)  # rows that went through the backbone
    ran: dict[str, Any] = field(default_factory=dict)  # what they went through, for provenance

    def __post_init__(self) -> None:
        self.parts = store.Parts(self.path, self.spec, self.found.samples.origin)

    @property
    def spec(self) -> ExtractionSpec:
        """What determines the numbers."""
        return self.resolved.spec

    def rows(self, cache: Path | None, damaged: set[Path]) -> store.Rows:
        """Return every row that was ever computed with this spec; None uses this run's alone."""
        lenders = [*self.parts.paths(), *(store.of_spec(cache, self.spec) if cache else ())]
        return store.Rows(lender for lender in lenders if lender not in damaged)

    def missing(self, rows: store.Rows) -> np.ndarray:
        """Return (n, views) bool: which embeddings are nowhere yet."""
        missing: np.ndarray = rows.find_views(self.found.scanned.digests, self.spec) < 0
        missing[list(self.found.failed)] = False
        return missing

    def keys(self, numbers: np.ndarray, view: int) -> np.ndarray:
        """Return the keys under which a view of these rows is kept, (m, 16) uint8."""
        return view_keys(self.found.scanned.digests[numbers], view, self.spec.augment)

    def publish(self, rows: store.Rows) -> store.Features:
        """Put the file in place; every row is there.

        Raises
        ------
        SourceError
            When no image could be used.
        DamagedFileError, ReplacedFileError
            When a file that was to lend rows cannot be read, or is another one by now.
        """
        table = self.found.table()
        if not table.ids:
            example = table.failures[0]
            raise SourceError(
                f"None of the {len(self.found.samples)} images in "
                f"'{self.found.samples.origin}' could be used for '{self.path.name}'; the first, "
                f"'{example.id}': {example.reason}."
            )
        features = store.publish(self.path, self.spec, table, rows, self._provenance())
        self.parts.clear()  # every row of the source is in the file now
        return features

    def _provenance(self) -> dict[str, Any]:
        """Return what is worth knowing about a run but does not change its numbers."""
        samples = self.found.samples
        packages = ("tensorflow", "keras", "numpy", "h5py", "pillow")
        return {
            "source": samples.origin,
            "source_options": dict(samples.options),
            "limit": samples.limited_to,
            "max_pixels": self.found.max_pixels,
            "weights": self.resolved.weights,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{package: importlib.metadata.version(package) for package in packages},
            **self.ran,
        }


def open_if_good(path: Path) -> store.Features | None:
    """Return a feature file whose columns can be read; whether its features can is not asked."""
    try:
        features = store.Features(path)
        assert features.table
    except StoreError:
        return None
    return features
