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
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featcache import backbones, images, progress, runtime, sources, store, weights_memo
from featcache.errors import SourceError, SpecError, StoreError
from featcache.spec import ExtractionSpec, check_choice

DEFAULT_CACHE = "cache"
DEFAULT_SOURCE = "example:clipart"
PART_ROWS = 2048
PART_SECONDS = 30.0
MAX_ATTEMPTS = 10


@dataclass(frozen=True)
class Extraction:
    """What an extraction gave and what it cost."""

    features: store.Features
    hit: bool  # the file was there with exactly these rows
    n_computed: int  # images that went through the backbone
    n_reused: int  # rows computed earlier
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
    show_progress: bool = True,
    **spec_options: Any,
) -> Extraction:
    """Do what `extract` does and also say what was computed, reused and failed."""
    started = time.monotonic()
    check_choice("device", device, runtime.DEVICES)
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise SpecError(f"{name} must be 1 or more; got {value}.")
    cache = Path(cache_dir)
    samples = sources.open_source(source)
    path_suffix = ""
    if limit is not None and limit < len(samples):
        samples, path_suffix = samples.limit(limit), f"-limit{limit}"
    resolved = backbones.resolve(backbone, memo=cache / weights_memo.FILE_NAME, **spec_options)
    spec = resolved.spec

    with progress.bar("Reading", len(samples), "files", show_progress) as advance:
        scanned = sources.scan(samples, images.is_plain, advance)
    failed = dict(scanned.unreadable)

    path = store.source_folder(cache, samples.name, samples.origin) / (
        f"{spec.short_name}{path_suffix}.h5"
    )
    published = _open_if_good(path)
    if published is not None:
        still_failing = failed | _known_failures(published, samples, scanned.digests)
        if _table(samples, scanned.digests, still_failing).matches(published):
            return Extraction(
                features=published,
                hit=True,
                n_computed=0,
                n_reused=len(published),
                n_failed=len(published.failures),
                n_passed_over=samples.n_passed_over,
                seconds=time.monotonic() - started,
            )

    parts = store.Parts(path, spec.fingerprint, samples.origin)
    work = _Work(samples, scanned, failed, resolved, parts, batch_size, device, show_progress)
    damaged: set[Path] = set()
    for _ in range(MAX_ATTEMPTS):
        # again from the top when a file that was to lend rows turns out damaged, or when another
        # run of the same extraction has published and taken the parts away
        lenders = [*parts.paths(), *store.of_fingerprint(cache, spec)]
        kept = store.Rows([lender for lender in lenders if lender not in damaged])
        missing = np.flatnonzero((kept.find(scanned.digests) < 0) & ~_mask(failed, len(samples)))
        if len(missing):
            work.compute(_first_of_each(scanned.digests, missing))
            _fail_copies(scanned.digests, failed)
            continue
        table = _table(samples, scanned.digests, failed)
        if not table.ids:
            example = table.failures[0]
            raise SourceError(
                f"None of the {len(samples)} images in '{samples.origin}' could be read; "
                f"the first, '{example.id}': {example.reason}."
            )
        try:
            provenance = _provenance(samples, resolved.weights)
            features = store.publish(path, spec, table, kept, provenance)
            break
        except store.DamagedFileError as error:
            damaged.add(error.path)
    else:
        raise StoreError(
            f"Rows for '{path}' disappeared {MAX_ATTEMPTS} times. Does another process write "
            f"there? Run the same command again, or use another --cache-dir."
        )
    parts.remove(kept.paths)
    return Extraction(
        features=features,
        hit=False,
        n_computed=work.n_computed,
        n_reused=len(features) - work.n_computed,
        n_failed=len(table.failures),
        n_passed_over=samples.n_passed_over,
        seconds=time.monotonic() - started,
    )


@dataclass
class _Work:
    """Running the backbone over rows of a source into parts."""

    samples: sources.Source
    scanned: sources.Scan
    failed: dict[int, str]  # filled with what fails here
    resolved: backbones.Resolved
    parts: store.Parts
    batch_size: int
    device: str
    show_progress: bool
    n_computed: int = 0

    def compute(self, rows: np.ndarray) -> None:
        """Compute these rows; whatever ends this early, finished rows are kept."""
        spec = self.resolved.spec
        keep = _Keeper(self.parts)
        with progress.bar("Extracting", len(rows), "images", self.show_progress) as advance:
            try:
                for numbers, batch in images.batches(
                    self.samples,
                    self.scanned,
                    rows.tolist(),
                    image_size=spec.image_size,
                    resize_method=spec.resize,
                    batch_size=self.batch_size,
                    failures=self.failed,
                ):
                    embeddings = _as_stored(self.run_backbone(batch), spec)
                    good = self._check(numbers, embeddings)
                    keep.add(self.scanned.digests[numbers[good]], embeddings[good])
                    self.n_computed += int(good.sum())
                    advance(len(numbers))
            finally:
                keep.flush()

    @cached_property
    def run_backbone(self) -> Callable[[Any], np.ndarray]:
        """The compiled backbone, built when the first row needs it."""
        where = runtime.pick_device(self.device)
        spec = self.resolved.spec
        backbone = self.resolved.backbone or backbones.build(
            spec.backbone, self.resolved.weights, spec.image_size
        )
        return runtime.compile_frozen(backbones.frozen_extractor(backbone, spec), where)

    def _check(self, numbers: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Return which rows of a batch may be kept; the others become failures."""
        good: np.ndarray = np.isfinite(embeddings).all(axis=1)
        for place, row in enumerate(numbers.tolist()):
            if not good[place]:
                self.failed[row] = f"its features are not finite in {embeddings.dtype}"
            elif not self._is_unchanged(row):
                # its digest is of other bytes than its pixels; the next run looks at it afresh
                self.failed[row] = "it changed while it was read"
                self.scanned.digests[row] = 0
                good[place] = False
        return good

    def _is_unchanged(self, row: int) -> bool:
        try:
            return self.samples.stamp(row) == self.scanned.stamps[row]
        except OSError:
            return False


class _Keeper:
    """Gathers rows and writes a part when there are enough, or enough time has gone by."""

    def __init__(self, parts: store.Parts):
        self.parts = parts
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.last = time.monotonic()

    def add(self, digests: np.ndarray, embeddings: np.ndarray) -> None:
        self.waiting.append((digests, embeddings))
        n_waiting = sum(len(block) for block, _ in self.waiting)
        if n_waiting >= PART_ROWS or time.monotonic() - self.last >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        blocks = [block for block in self.waiting if len(block[0])]
        self.waiting = []
        if blocks:
            self.parts.write(*(np.concatenate(column) for column in zip(*blocks, strict=True)))
        self.last = time.monotonic()


def _as_stored(embeddings: np.ndarray, spec: ExtractionSpec) -> np.ndarray:
    """Convert to the stored dtype, in NumPy: HDF5's own conversion is many times slower."""
    with np.errstate(over="ignore"):
        return np.asarray(embeddings.astype(spec.dtype))


def _table(samples: sources.Source, digests: np.ndarray, failed: dict[int, str]) -> store.Table:
    """Part the samples into rows and failures, both in the order of the source."""
    good = np.flatnonzero(~_mask(failed, len(samples)))
    rows = samples.take(good)
    failures = tuple(
        store.Failure(samples.ids[row], digests[row].tobytes(), failed[row])
        for row in sorted(failed)
    )
    return store.Table(
        rows.ids, digests[good], rows.labels, rows.class_names, rows.splits, failures
    )


def _known_failures(
    features: store.Features, samples: sources.Source, digests: np.ndarray
) -> dict[int, str]:
    """Return the samples that failed before and have not changed since."""
    reasons = {(failure.id, failure.digest): failure.reason for failure in features.failures}
    keys = zip(samples.ids, (digest.tobytes() for digest in digests), strict=True)
    return {row: reasons[key] for row, key in enumerate(keys) if key in reasons}


def _fail_copies(digests: np.ndarray, failed: dict[int, str]) -> None:
    """Let every copy of an image that failed fail with it: only the first was tried."""
    reasons = {digests[row].tobytes(): reason for row, reason in failed.items()}
    reasons.pop(bytes(sources.DIGEST_BYTES), None)  # no digest, so nothing is its copy
    for row, digest in enumerate(digests):
        if (reason := reasons.get(digest.tobytes())) is not None:
            failed.setdefault(row, reason)


def _open_if_good(path: Path) -> store.Features | None:
    try:
        return store.Features(path)
    except (StoreError, SpecError):
        return None


def _first_of_each(digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows without those whose image was already named by an earlier row."""
    _, first = np.unique(digests[rows], axis=0, return_index=True)
    return rows[np.sort(first)]


def _mask(rows: dict[int, str], n: int) -> np.ndarray:
    mask = np.zeros(n, bool)
    mask[list(rows)] = True
    return mask


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
