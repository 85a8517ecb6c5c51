"""A listing on its way to a feature file: what is known before, and its parting into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from featcache import store
from featcache.core import progress
from featcache.core.spec import ExtractionSpec
from featcache.data import sources
from featcache.data.listing import Known, Listing, Reading, Unusable, list_images
from featcache.data.sources import passed_over
from featcache.store import stamps

TIFF = (".tif", ".tiff")
TOO_NEW_NS = 2_000_000_000  # a file changed twice within a clock tick looks unchanged

Failed = Mapping[int, Unusable]  # by row of the listing


def look(
    source: sources.Source, max_pixels: int, known: Known | None, show_progress: bool
) -> Listing:
    """Look at every image once."""
    with progress.bar("Reading", len(source), "files", show_progress) as advance:
        return list_images(source, max_pixels, known=known, advance=advance)


def unread(source: sources.Source, max_pixels: int) -> Listing:
    """Return a listing of images that are read when they are computed."""
    return Reading(source, max_pixels).listing(is_read=False)


def is_read_in_passing(source: sources.Source, specs: Iterable[ExtractionSpec]) -> bool:
    """Return whether images can be read as late as when they are decoded, which is once then."""
    # what is decoded scaled is decoded for each geometry by itself
    geometries = {spec.geometry for spec in specs if spec.decode_scale}
    return source.contents.is_encoded and source.digests is None and len(geometries) <= 1


def unreadable(listing: Listing) -> dict[int, Unusable]:
    """Return what failed before anything was computed."""
    return {row: Unusable(reason) for row, reason in listing.unreadable.items()}


def known_to_all(published: Sequence[store.Features | None]) -> Known | None:
    """Return what is known of files that every feature file has: others must be read anyway."""
    known = [_known_stamps(features) for features in published if features is not None]
    if len(known) < len(published):
        return None
    first, *others = known
    return {id_: one for id_, one in first.items() if all(o.get(id_) == one for o in others)}


def _known_stamps(features: store.Features) -> dict[str, tuple[sources.Stamp, bytes]]:
    """Return stamp and digest by id, of the rows whose stamp can be trusted.

    Versions that do not say which they are read some TIFF files otherwise than now, under the same
    digests (`levels.was_misread`): theirs are looked at afresh.
    """
    is_of_before = "featcache" not in features.provenance
    columns = zip(features.ids, stamps.known(features).tolist(), features.digests, strict=True)
    return {
        id_: ((size, modified_ns, changed_ns, inode), digest.tobytes())
        for id_, (size, modified_ns, changed_ns, inode), digest in columns
        if size >= 0 and not (is_of_before and id_.lower().endswith(TIFF))
    }


def metadata_of(listing: Listing, failed: Failed) -> store.Metadata:
    """Part a listing into rows and failures, both in the order of the source."""
    source, digests = listing.source, listing.digests
    stamps = _trusted_stamps(listing)[:, :2]
    if not failed:  # of millions of images nothing is copied
        return store.Metadata(source.ids, digests, source.annotations, (), stamps)
    is_good = np.ones(len(listing), bool)
    is_good[list(failed)] = False
    good = np.flatnonzero(is_good)
    nothing = bytes(sources.DIGEST_BYTES)
    return store.Metadata(
        ids=tuple(source.ids[row] for row in good.tolist()),
        digests=digests[good],
        annotations=source.annotations.take(good),
        failures=tuple(
            store.Failure(
                source.ids[row],
                # the digest of what is gone says nothing; the next run looks at it afresh
                nothing if one.has_changed else digests[row].tobytes(),
                one.reason,
            )
            for row, one in sorted(failed.items())
        ),
        stamps=stamps[good],
    )


def is_all_in(listing: Listing, failed: Failed, features: store.Features) -> bool:
    """Return whether a file has every image, as a row or as the failure it still is."""
    if not features.failures:
        return metadata_of(listing, failed).matches(features.metadata)
    if features.provenance.get("max_pixels") != listing.max_pixels:
        return False  # what was too large may not be so any more
    reasons = {(failure.id, failure.digest): failure.reason for failure in features.failures}
    digests = (digest.tobytes() for digest in listing.digests)
    keys = zip(listing.source.ids, digests, strict=True)
    still = {row: Unusable(reasons[key]) for row, key in enumerate(keys) if key in reasons}
    return metadata_of(listing, {**failed, **still}).matches(features.metadata)


def copies_of_failed(listing: Listing, failed: Failed) -> dict[int, Unusable]:
    """Return the copies of images that failed: only the first of them was tried."""
    reasons = {
        listing.digests[row].tobytes(): one
        for row, one in failed.items()
        if not one.has_changed and listing.digests[row].any()
    }
    if not reasons:
        return {}
    each = ((row, reasons.get(digest.tobytes())) for row, digest in enumerate(listing.digests))
    return {row: one for row, one in each if one is not None and row not in failed}


def lost_classes(source: sources.Source, failures: Sequence[store.Failure]) -> tuple[str, ...]:
    """Return which classes lost much to images that could not be read, see `passed_over`."""
    labels = source.labels
    if not failures or labels.ndim != 1 or source.annotations.boxes is not None:
        return ()
    failed = {failure.id for failure in failures}
    is_lost = np.array([id_ in failed for id_ in source.ids]) & (labels >= 0)
    lost, taken = (
        Counter(source.class_names[label] for label in labels[rows].tolist())
        for rows in (is_lost, ~is_lost & (labels >= 0))
    )
    return passed_over.lost_classes(taken, lost, "since they could not be read")


def first_of_each(digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows without those whose image was already named by an earlier row."""
    _, first = np.unique(digests[rows], axis=0, return_index=True)
    return rows[np.sort(first)]


def stamps_of(listing: Listing, ids: tuple[str, ...]) -> np.ndarray:
    """Return (n, 4) stamps of images by id, in that order."""
    trusted = _trusted_stamps(listing)
    if ids == listing.source.ids:
        return trusted
    place = {id_: row for row, id_ in enumerate(listing.source.ids)}
    return trusted[[place[id_] for id_ in ids]]


def _trusted_stamps(listing: Listing) -> np.ndarray:
    """Return (n, 4) stamps, -1 where a file is so new that it may change unseen."""
    trusted: np.ndarray = listing.stamps.copy()
    is_new = trusted[:, 1] > listing.looked_at_ns - TOO_NEW_NS
    if listing.source.contents.is_far:
        is_new &= trusted[:, 3] < 0  # a version tells whatever the time
    trusted[is_new] = -1
    return trusted
