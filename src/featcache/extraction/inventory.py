"""A source as it was found in one look: what each image is, and which of them failed so far."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.data import decoding, sources

TOO_NEW_NS = 2_000_000_000  # a file changed twice within a clock tick looks unchanged


@dataclass
class Inventory:
    """The samples of a source as they were found, and which of them failed so far."""

    samples: sources.Source
    scanned: sources.Scan
    failed: dict[int, str]
    looked_at_ns: int  # when the files were looked at
    max_pixels: int

    def is_all_in(self, features: store.Features) -> bool:
        """Return whether a file has every sample, as a row or as the failure it still is."""
        if not features.failures:
            return self.table().matches(features.table)
        if features.provenance.get("max_pixels") != self.max_pixels:
            return False  # what was too large may not be so any more
        reasons = {(failure.id, failure.digest): failure.reason for failure in features.failures}
        digests = self.scanned.digests
        keys = zip(self.samples.ids, (digest.tobytes() for digest in digests), strict=True)
        still = {row: reasons[key] for row, key in enumerate(keys) if key in reasons}
        return self.table(self.failed | still).matches(features.table)

    def table(self, failed: dict[int, str] | None = None) -> store.Table:
        """Part the samples into rows and failures, both in the order of the source."""
        failed = self.failed if failed is None else failed
        digests = self.scanned.digests
        good = np.array([row for row in range(len(self.samples)) if row not in failed], int)
        ids = self.samples.ids
        return store.Table(
            ids=tuple(ids[row] for row in good.tolist()) if failed else ids,
            digests=digests[good],
            annotations=self.samples.annotations.take(good),
            failures=tuple(
                store.Failure(self.samples.ids[row], digests[row].tobytes(), failed[row])
                for row in sorted(failed)
            ),
            stamps=self._stamps()[good],
        )

    def fail_copies(self) -> None:
        """Let every copy of an image that failed fail with it: only the first was tried."""
        digests = self.scanned.digests
        reasons = {digests[row].tobytes(): reason for row, reason in self.failed.items()}
        reasons.pop(bytes(sources.DIGEST_BYTES), None)  # no digest, so nothing is its copy
        for row, digest in enumerate(digests):
            if (reason := reasons.get(digest.tobytes())) is not None:
                self.failed.setdefault(row, reason)

    def named_failures(self) -> list[tuple[str, str]]:
        """Return id and reason of what failed so far, in the order of the source."""
        return [(self.samples.ids[row], self.failed[row]) for row in sorted(self.failed)]

    def _stamps(self) -> np.ndarray:
        """Return (n, 2) stamps, -1 where a file is so new that it may change unseen."""
        stamps: np.ndarray = self.scanned.stamps.copy()
        stamps[stamps[:, 1] > self.looked_at_ns - TOO_NEW_NS] = -1
        return stamps


def known_stamps(features: store.Features) -> dict[str, tuple[tuple[int, int], bytes]]:
    """Return stamp and digest by id, of the rows whose stamp can be trusted."""
    columns = zip(features.ids, features.stamps.tolist(), features.digests, strict=True)
    return {
        id_: ((size, time_ns), digest.tobytes())
        for id_, (size, time_ns), digest in columns
        if size >= 0
    }


def look(
    samples: sources.Source,
    max_pixels: int,
    known: dict[str, tuple[sources.Stamp, bytes]] | None,
    show_progress: bool,
) -> Inventory:
    """Look at every image once."""
    looked_at = time.time_ns()
    judge = functools.partial(decoding.plain_orientation, max_pixels=max_pixels)
    with progress.bar("Reading", len(samples), "files", show_progress) as advance:
        scanned = sources.scan(samples, judge, advance, known)
    return Inventory(samples, scanned, dict(scanned.unreadable), looked_at, max_pixels)


def first_of_each(digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows without those whose image was already named by an earlier row."""
    _, first = np.unique(digests[rows], axis=0, return_index=True)
    return rows[np.sort(first)]
