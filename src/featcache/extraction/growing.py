"""The feature file of `Embedder`, which only grows: each call asks for other images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache import store
from featcache.core.labels import unlabelled
from featcache.extraction.listing import metadata_of
from featcache.extraction.output import OutputFile, open_if_good


@dataclass(eq=False)
class GrowingFile(OutputFile):
    """A feature file that keeps the rows it had; ids are digests. Its lock is held."""

    is_salvaged: bool = False

    def rows(self, cache: Path | None, attempts: store.Attempts) -> store.Rows:
        """Return the rows of this file and its parts, which nobody else writes meanwhile."""
        before = open_if_good(self.path)
        if attempts.passes_by(self.path) and before is not None and not self.is_salvaged:
            store.salvage(before, store.verify(before), self.parts)
            self.is_salvaged = True
        return attempts.rows([*self.parts.paths(), self.path])

    def publish(self, rows: store.Rows) -> store.Features:
        """Put the file in place with the rows it had and the new ones."""
        new = metadata_of(self.listing, self.failed)
        before = open_if_good(self.path)
        if not new.ids:
            return super().publish(rows) if before is None else before
        digests = new.digests if before is None else np.concatenate([before.digests, new.digests])
        digests = np.unique(digests, axis=0)
        digests = digests[rows.find(digests) >= 0]  # what damage left
        metadata = store.Metadata(
            ids=tuple(digest.tobytes().hex() for digest in digests),
            digests=digests,
            annotations=unlabelled(len(digests)),
            failures=(),
            stamps=np.full((len(digests), 2), -1),
        )
        features = store.publish(self.path, self.spec, metadata, rows, self.provenance())
        self.parts.clear()
        return features
