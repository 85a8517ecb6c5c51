"""From a shard to rows: images are read, go through the networks, become keys and features.

`run` changes nothing that it is given and writes nothing: what a failure means, and where rows
are kept, is for `publish` to say. Decoding and the networks overlap; so does whatever the caller
does with the rows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featcache.core.keys import view_keys
from featcache.core.spec import ExtractionSpec
from featcache.data import loading, nvimagecodec
from featcache.data.listing import Listing, Reading, Unusable
from featcache.data.recipe import views_of
from featcache.data.sources import digest
from featcache.extraction.networks import Network, Networks
from featcache.extraction.shards import Pass, Shard
from featcache.networks import engines

Outputs = list[list[np.ndarray]]  # for each pass and each of its files (b, v, …)


@dataclass(frozen=True)
class PartRows:
    """Rows for one feature file, of one batch of images, or only what failed in between."""

    file: int  # number of the feature file that wants them
    n_images: int  # images that are done with these rows; of a batch the last file's rows say so
    rows: np.ndarray  # (b,) int64: the images that were read, by row of the whole run's listing
    keys: np.ndarray  # (m, 16) uint8: of each image and view that the file lacked
    features: np.ndarray  # (m, …) in the dtype that is stored
    failures: Mapping[int, Unusable] = field(default_factory=dict)  # by row as above
    dark: frozenset[int] = frozenset()  # rows as above, see `loading.Batch`
    ran: Mapping[str, Any] = field(default_factory=dict)  # what they went through, for provenance
    spent_s: Mapping[str, float] = field(default_factory=dict)  # see `Stopwatch`
    is_whole: bool = False  # with these, all rows of a shard have come, and are worth keeping now
    # rows as above, and their listing: last of a shard's, where that was not read before
    looked: tuple[np.ndarray, Listing] | None = None


class Stopwatch:
    """Seconds by what was waited for: decoding, backbone; and preparing, which is building one."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        """Count seconds."""
        self.spent_s[what] = self.spent_s.get(what, 0.0) + seconds

    def taken(self) -> dict[str, float]:
        """Return what was counted since the last call."""
        taken, self.spent_s = self.spent_s, {}
        return taken


def run(shard: Shard, networks: Networks | None = None) -> Iterator[PartRows]:
    """Yield the rows of a shard, batch by batch, and for each batch file by file.

    Parameters
    ----------
    networks : where the networks of this process are; None builds them for this shard alone.
    """
    networks = Networks() if networks is None else networks
    opened = [networks.of(one.network) for one in shard.passes]
    watch, n_done = Stopwatch(), 0
    reading = None
    if not shard.listing.is_read:
        reading = Reading(shard.listing.source, shard.listing.max_pixels)
    known = shard.listing if reading is None else reading
    for batch, outputs in _computed(shard, opened, watch, reading):
        if not len(batch.rows):
            yield from _only_failures(shard, batch.failures, watch)
            continue
        n_done += len(batch.rows)
        n_left = sum(len(one.files) for one in shard.passes)
        for one, network, arrays in zip(shard.passes, opened, outputs, strict=True):
            for place, array in enumerate(arrays):
                part = _part(shard, known, one, place, batch, array)
                n_left -= 1
                n_images = 0 if n_left else len(batch.rows)
                yield replace(part, n_images=n_images, ran=network.ran, spent_s=watch.taken())
    if reading is not None:
        nothing, no_keys = np.zeros(0, np.int64), np.zeros((0, 16), np.uint8)
        n_left = len(shard) - n_done
        looked = shard.rows, reading.listing()
        yield PartRows(0, n_left, nothing, no_keys, nothing, looked=looked)


def _computed(
    shard: Shard, opened: list[Network], watch: Stopwatch, reading: Reading | None
) -> Iterator[tuple[loading.Batch, Outputs]]:
    """Yield batches of the shard with embeddings.

    Without outputs there are failures alone.
    """
    if any(network.spec.decoder == "gpu" for network in opened):
        nvimagecodec.of_gpu()  # where there is none, that is said before networks are built
    before = time.monotonic()
    n_images = len(shard) * len(shard.views)
    batch_size = max(network.batch_size(n_images) for network in opened)
    watch.add("preparing", time.monotonic() - before)
    batches = _timed(
        loading.batches(
            shard.listing,
            range(len(shard)),
            specs=[network.spec for network in opened],
            views=shard.views,
            batch_size=batch_size,
            reading=reading,
        ),
        watch,
    )
    before = time.monotonic()
    first = next(batches, None)
    watch.add("backbone", time.monotonic() - before)
    if first is None:
        return
    if not len(first.rows):  # nothing could be decoded, so no network is needed
        yield first, []
        return
    before = time.monotonic()
    for one, network, stack in zip(shard.passes, opened, first.images, strict=True):
        images = views_of(stack, one.places[:1])
        network.check(images)
        if network.spec.decoder != "exact":
            listing = shard.listing if reading is None else reading.listing()
            network.note_decoder(images, listing, first.rows, shard.views[one.places[0]])
    watch.add("preparing", time.monotonic() - before)

    def start(batch: loading.Batch) -> Callable[[], Outputs]:
        if not len(batch.rows):
            return list
        finish = [
            network.start(stack, one.places)
            for one, network, stack in zip(shard.passes, opened, batch.images, strict=True)
        ]
        return lambda: [done() for done in finish]

    ahead = max(network.compiled.ahead for network in opened)
    keyed = ((batch, batch) for batch in itertools.chain([first], batches))
    before = time.monotonic()
    for batch, outputs in engines.in_order(keyed, start, ahead):
        watch.add("backbone", time.monotonic() - before)
        yield batch, outputs
        before = time.monotonic()
    watch.add("backbone", time.monotonic() - before)


def _timed(batches: Iterator[loading.Batch], watch: Stopwatch) -> Iterator[loading.Batch]:
    """Pass batches on; what is waited for them is decoding, not the backbone."""
    while True:
        before = time.monotonic()
        batch = next(batches, None)
        waited = time.monotonic() - before
        watch.add("decoding", waited)
        watch.add("backbone", -waited)  # which is timed around it
        if batch is None:
            return
        yield batch


def _only_failures(
    shard: Shard, failures: Mapping[int, Unusable], watch: Stopwatch
) -> Iterator[PartRows]:
    nothing, failed = np.zeros(0, np.int64), _by_row_of_run(shard, failures)
    for file in (file for one in shard.passes for file in one.files):
        no_keys = np.zeros((0, 16), np.uint8)
        yield PartRows(file, 0, nothing, no_keys, nothing, failed, spent_s=watch.taken())


def _by_row_of_run(shard: Shard, failures: Mapping[int, Unusable]) -> dict[int, Unusable]:
    return {int(shard.rows[row]): why for row, why in failures.items()}


def _part(
    shard: Shard,
    known: Listing | Reading,
    one: Pass,
    place: int,
    batch: loading.Batch,
    array: np.ndarray,
) -> PartRows:
    """Return what the file of one output of a task gets of a batch (b, v, …)."""
    rows = batch.rows
    spec = one.network.specs[place]
    missing = one.missing[place][rows]  # (b, n_views)
    embeddings = _as_stored(array, spec)
    failed = dict(batch.failures) | _unusable(known, batch, embeddings)
    good = np.array([row not in failed for row in rows.tolist()], bool)
    keys, features = [], []
    for column, where in enumerate(one.places):
        some = good & missing[:, where]
        digests = known.digests[rows[some]]
        keys.append(view_keys(digests, shard.views[where], spec.augment))
        features.append(embeddings[some, column])
    return PartRows(
        file=one.files[place],
        n_images=0,
        rows=shard.rows[rows[good & missing.any(axis=1)]],
        keys=np.concatenate(keys),
        features=np.concatenate(features),
        failures=_by_row_of_run(shard, failed),
        dark=frozenset(int(shard.rows[row]) for row in batch.dark),
    )


def _unusable(
    known: Listing | Reading, batch: loading.Batch, embeddings: np.ndarray
) -> dict[int, Unusable]:
    """Return which images of a batch must not be kept, by row of the listing."""
    finite = np.isfinite(embeddings).all(axis=tuple(range(1, embeddings.ndim)))
    why = Unusable(f"its features are not finite in {embeddings.dtype}")
    failed = dict.fromkeys(batch.rows[~finite].tolist(), why)
    if not batch.is_of_digests:  # the file was read twice, and may have been another one
        changed = Unusable("it changed while it was read", has_changed=True)
        some = batch.rows[finite].tolist()
        failed |= {row: changed for row in some if not _is_unchanged(known, row)}
    return failed


def _is_unchanged(known: Listing | Reading, row: int) -> bool:
    contents, then = known.source.contents, known.stamp(row)
    try:
        if contents.is_far:  # its stamp may be of a listing: what was decoded is kept, and tells
            return bool(digest(contents.get(row)) == known.digests[row].tobytes())
        now = contents.stamp(row)
        if now is None or then is None or now[:2] != then[:2]:
            return now == then
        # a link or another mode changes the rest as well as another file does: its bytes tell
        return now == then or digest(contents.get(row)) == known.digests[row].tobytes()
    except OSError:
        return False


def _as_stored(embeddings: np.ndarray, spec: ExtractionSpec) -> np.ndarray:
    """Convert to the stored dtype, in NumPy: HDF5's own conversion is many times slower."""
    with np.errstate(over="ignore"):
        return np.asarray(embeddings.astype(spec.dtype))
