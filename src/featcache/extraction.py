"""Run a frozen backbone once over the images of a source: source x backbone -> feature file.

The order of work: list and hash the images; if a file holds exactly these rows, stop there; else
find every row that was ever computed with this spec, compute the rest into parts, publish.
TensorFlow is imported only when something has to be computed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache import (
    backbones,
    images,
    progress,
    runtime,
    sources,
    store,
    weights_memo,
)
from featcache.computing import Work
from featcache.errors import SourceError, SpecError, StoreError
from featcache.spec import ExtractionSpec, check_choice

DEFAULT_CACHE = "cache"
DEFAULT_SOURCE = "example:clipart"
MAX_ATTEMPTS = 10
CHECKS = ("stat", "content")
TOO_NEW_NS = 2_000_000_000  # a file changed twice within a clock tick looks unchanged


@dataclass(frozen=True)
class Extraction:
    """What an extraction gave and what it cost."""

    features: store.Features
    hit: bool  # the file was there with exactly these rows
    n_computed: int  # images that went through the backbone
    n_reused: int  # rows computed earlier
    n_removed: int  # rows of the file before whose image is no longer in the source
    n_failed: int  # images that could not be read, named in the file's `failures`
    n_passed_over: int  # files that are no images
    seconds: float


def extract(
    source: str | os.PathLike[str] = DEFAULT_SOURCE,
    backbone: str | None = None,
    *,
    weights: str = "imagenet",
    pooling: str = "avg",
    layer: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "bilinear",
    dtype: str = "float32",
    batch_size: int = 32,
    limit: int | None = None,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    device: str = "auto",
    check: str = "stat",
    wait: bool = True,
    show_progress: bool = True,
) -> store.Features:
    """Return the features of a source's images, computed once and kept in `cache_dir`.

    Parameters
    ----------
    source : a folder with one subfolder a class, optionally under train/, val/ and test/; or
        example:clipart, example:digits.
    backbone : name from `catalogue.CATALOGUE`; None is efficientnet-lite0, or the model itself
        when `weights` is a .keras file.
    weights : imagenet, random, or the path of a weights file or of a .keras backbone.
    pooling : avg, max or flatten; how a feature map becomes a vector.
    layer : name of the layer whose output is taken; None is the backbone's output.
    image_size : pixels, one number or (height, width); None is the backbone's own size.
    resize : bilinear (as Keras does), or antialias (better for large photographs, slower).
    dtype : float32 or float16, as stored.
    batch_size : images a forward pass; does not change the numbers.
    limit : use only so many images, spread evenly over the sorted list.
    device : auto, cpu or gpu; auto is the GPU where TensorFlow sees one.
    check : stat trusts a file whose size and modification time are those of last time; content
        reads every file.
    wait : wait for another process that extracts into the same file, instead of raising.

    Raises
    ------
    SourceError, SpecError, BackboneError, StoreError
        See each; nothing is left behind but finished parts.
    """
    return run(
        source,
        backbone,
        weights=weights,
        pooling=pooling,
        layer=layer,
        image_size=image_size,
        resize=resize,
        dtype=dtype,
        batch_size=batch_size,
        limit=limit,
        cache_dir=cache_dir,
        device=device,
        check=check,
        wait=wait,
        show_progress=show_progress,
    ).features


def run(
    source: str | os.PathLike[str] = DEFAULT_SOURCE,
    backbone: str | None = None,
    *,
    batch_size: int = 32,
    limit: int | None = None,
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
    device: str = "auto",
    check: str = "stat",
    wait: bool = True,
    show_progress: bool = True,
    **spec_options: Any,
) -> Extraction:
    """Do what `extract` does and also say what was computed, reused and failed."""
    started = time.monotonic()
    check_choice("device", device, runtime.DEVICES)
    check_choice("check", check, CHECKS)
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise SpecError(f"{name} must be 1 or more; got {value}.")
    cache = Path(cache_dir)
    samples = sources.open_source(source)
    path_suffix = ""
    if limit is not None and limit < len(samples):
        samples, path_suffix = samples.limit(limit), f"-limit{limit}"
    resolved = backbones.resolve(backbone, memo=cache / weights_memo.FILE_NAME, **spec_options)
    folder = store.source_folder(cache, samples.name, samples.origin)
    path = folder / f"{resolved.spec.short_name}{path_suffix}.h5"

    published = _open_if_good(path)
    known = _stamps(published) if published is not None and check == "stat" else None
    looked_at = time.time_ns()
    with progress.bar("Reading", len(samples), "files", show_progress) as advance:
        scanned = sources.scan(samples, images.is_plain, advance, known)
    state = _State(samples, scanned, dict(scanned.unreadable), looked_at)

    def done(features: store.Features, n_computed: int, hit: bool) -> Extraction:
        return Extraction(
            features=features,
            hit=hit,
            n_computed=n_computed,
            n_reused=len(features) - n_computed,
            n_removed=len(set(published.ids) - set(samples.ids)) if published else 0,
            n_failed=len(features.failures),
            n_passed_over=samples.n_passed_over,
            seconds=time.monotonic() - started,
        )

    if published is not None and state.is_all_in(published):
        return done(published, 0, hit=True)
    _say_why(published, folder, resolved.spec, show_progress)
    with store.locked(path, wait, lambda text: progress.note(text, show_progress)):
        finished = _open_if_good(path)  # another process may have been quicker
        if finished is not None and state.is_all_in(finished):
            return done(finished, 0, hit=True)
        parts = store.Parts(path, resolved.spec.fingerprint, samples.origin)
        work = Work(
            samples, scanned, state.failed, resolved, parts, batch_size, device, show_progress
        )
        features = _assemble(path, cache, state, work)
    return done(features, work.n_computed, hit=False)


def repair(features: store.Features, damage: store.Damage) -> Extraction:
    """Compute the damaged rows of a file again from its source, and publish it anew.

    Raises
    ------
    SourceError
        When the images are no longer where they were; the file is left as it is.
    """
    spec, path = features.spec, features.path
    source = features.provenance["source"]
    n_now = len(sources.open_source(source))  # before anything is touched
    limited = re.search(r"-limit(\d+)$", path.stem)
    limit = int(limited[1]) if limited else None
    if limit is not None and limit >= n_now:
        limit = None
    cache = path.parent.parent
    with store.locked(path, True, progress.note):
        store.salvage(features, damage)
    name, options = backbones.options_of(spec, features.provenance["weights"])
    return run(source, name, limit=limit, cache_dir=cache, check="content", **options)


def _assemble(path: Path, cache: Path, state: _State, work: Work) -> store.Features:
    """Compute what no file has, and publish; the lock of `path` is held."""
    samples, spec = state.samples, work.resolved.spec
    damaged: set[Path] = set()
    for _ in range(MAX_ATTEMPTS):
        # again from the top when a file that was to lend rows turns out damaged, or is gone
        lenders = [*work.parts.paths(), *store.of_fingerprint(cache, spec)]
        kept = store.Rows([lender for lender in lenders if lender not in damaged])
        missing = np.flatnonzero(kept.find(state.scanned.digests) < 0)
        missing = np.array([row for row in missing.tolist() if row not in state.failed], int)
        if len(missing):
            work.compute(_first_of_each(state.scanned.digests, missing))
            state.fail_copies()
            continue
        table = state.table()
        if not table.ids:
            example = table.failures[0]
            raise SourceError(
                f"None of the {len(samples)} images in '{samples.origin}' could be read; "
                f"the first, '{example.id}': {example.reason}."
            )
        try:
            provenance = _provenance(samples, work.resolved.weights)
            features = store.publish(path, spec, table, kept, provenance)
        except store.DamagedFileError as error:
            damaged.add(error.path)
            continue
        work.parts.remove(kept.paths)
        return features
    raise StoreError(
        f"Rows for '{path}' disappeared {MAX_ATTEMPTS} times. Does another program write there? "
        f"Run the same command again, or use another --cache-dir."
    )


@dataclass
class _State:
    """The samples of a source as they were found, and which of them failed so far."""

    samples: sources.Source
    scanned: sources.Scan
    failed: dict[int, str]
    looked_at_ns: int  # when the files were looked at

    def is_all_in(self, features: store.Features) -> bool:
        """Return whether a file has every sample, as a row or as the failure it still is."""
        reasons = {(failure.id, failure.digest): failure.reason for failure in features.failures}
        digests = self.scanned.digests
        keys = zip(self.samples.ids, (digest.tobytes() for digest in digests), strict=True)
        still = {row: reasons[key] for row, key in enumerate(keys) if key in reasons}
        return self.table(self.failed | still).matches(features)

    def table(self, failed: dict[int, str] | None = None) -> store.Table:
        """Part the samples into rows and failures, both in the order of the source."""
        failed = self.failed if failed is None else failed
        digests = self.scanned.digests
        good = np.array([row for row in range(len(self.samples)) if row not in failed], int)
        rows = self.samples.take(good)
        return store.Table(
            ids=rows.ids,
            digests=digests[good],
            labels=rows.labels,
            class_names=rows.class_names,
            splits=rows.splits,
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

    def _stamps(self) -> np.ndarray:
        """Return (n, 2) stamps, -1 where a file is so new that it may change unseen."""
        stamps = np.array([stamp or (-1, -1) for stamp in self.scanned.stamps], np.int64)
        stamps = stamps.reshape(-1, 2)
        stamps[stamps[:, 1] > self.looked_at_ns - TOO_NEW_NS] = -1
        return stamps


def _stamps(features: store.Features) -> dict[str, tuple[tuple[int, int], bytes]]:
    """Return stamp and digest by id, of the rows whose stamp can be trusted."""
    columns = zip(features.ids, features.stamps.tolist(), features.digests, strict=True)
    return {
        id_: ((size, time_ns), digest.tobytes())
        for id_, (size, time_ns), digest in columns
        if size >= 0
    }


def _say_why(
    published: store.Features | None, folder: Path, spec: ExtractionSpec, show: bool
) -> None:
    """Say which field of the spec differs from that of the newest file of the same source."""
    if published is not None or not folder.is_dir():
        return
    earlier = []
    for other in sorted(folder.glob("*.h5"), key=lambda file: file.stat().st_mtime):
        found = _open_if_good(other)
        if found is not None and found.spec != spec:
            earlier.append(found.spec)
    if earlier:
        differences = "; ".join(spec.differences(earlier[-1]))
        progress.note(f"No cached features: {differences}.", show)


def _open_if_good(path: Path) -> store.Features | None:
    """Return a feature file whose columns can be read; whether its features can is not asked."""
    try:
        features = store.Features(path)
        features.load_columns()
    except StoreError:
        return None
    return features


def _first_of_each(digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows without those whose image was already named by an earlier row."""
    _, first = np.unique(digests[rows], axis=0, return_index=True)
    return rows[np.sort(first)]


def _provenance(samples: sources.Source, weights: str) -> dict[str, Any]:
    """Return what is worth knowing about a run but does not change its numbers."""
    packages = ("tensorflow", "keras", "numpy", "h5py", "pillow")
    return {
        "source": samples.origin,
        "weights": weights,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: importlib.metadata.version(package) for package in packages},
    }
