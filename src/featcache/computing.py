"""Rows that are nowhere yet: images through the backbone into parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featcache import backbones, images, progress, runtime, store
from featcache.errors import SourceError
from featcache.inventory import Inventory
from featcache.spec import ExtractionSpec

ON_ERROR = ("skip", "stop")
PART_ROWS = 2048
PART_SECONDS = 30.0
PART_BYTES = 32 << 20


def stop_at_failure(failures: Iterable[tuple[str, str]]) -> None:
    """Raise SourceError for the first of failures (id, reason), if there is one."""
    for id_, reason in failures:
        raise SourceError(
            f"Image '{id_}' cannot be used: {reason}. Mend or remove it and run again, or go on "
            f"without it (--on-error skip)."
        )


@dataclass
class Work:
    """Running the backbone over rows of a source into parts."""

    found: Inventory  # its `failed` is filled with what fails here
    resolved: backbones.Resolved
    parts: store.Parts
    show_progress: bool
    batch_size: int = 32
    device: str = "auto"
    stop: bool = False  # at the first failure
    n_computed: int = 0

    def compute(self, rows: np.ndarray) -> None:
        """Compute these rows; whatever ends this early, finished rows are kept."""
        spec = self.resolved.spec
        keep = _Keeper(self.parts)
        with progress.bar("Extracting", len(rows), "images", self.show_progress) as advance:
            try:
                for numbers, batch in images.batches(
                    self.found.samples,
                    self.found.scanned,
                    rows.tolist(),
                    spec=spec,
                    batch_size=self.batch_size,
                    failures=self.found.failed,
                    max_pixels=self.found.max_pixels,
                ):
                    embeddings = _as_stored(self.run_backbone(batch), spec)
                    good = self._check(numbers, embeddings)
                    keep.add(self.found.scanned.digests[numbers[good]], embeddings[good])
                    self.n_computed += int(good.sum())
                    advance(len(numbers))
                    self._stop_if_asked()
            finally:
                keep.flush()
        self._stop_if_asked()

    def build(self) -> None:
        """Build the backbone now, so that its errors come before anything is touched."""
        _ = self.run_backbone

    @cached_property
    def run_backbone(self) -> Callable[[Any], np.ndarray]:
        """The compiled backbone, built when the first row needs it."""
        where = runtime.pick_device(self.device)
        spec = self.resolved.spec
        backbone = self.resolved.backbone or backbones.build(
            spec.backbone, self.resolved.weights, spec.image_size
        )
        return runtime.compile_frozen(backbones.frozen_extractor(backbone, spec), where)

    def _stop_if_asked(self) -> None:
        if self.stop:
            stop_at_failure(self.found.named_failures())

    def _check(self, numbers: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Return which rows of a batch may be kept; the others become failures."""
        good: np.ndarray = np.isfinite(embeddings).all(axis=1)
        for place, row in enumerate(numbers.tolist()):
            if not good[place]:
                self.found.failed[row] = f"its features are not finite in {embeddings.dtype}"
            elif not self._is_unchanged(row):
                # its digest is of other bytes than its pixels; the next run looks at it afresh
                self.found.failed[row] = "it changed while it was read"
                self.found.scanned.digests[row] = 0
                good[place] = False
        return good

    def _is_unchanged(self, row: int) -> bool:
        try:
            return self.found.samples.stamp(row) == self.found.scanned.stamp(row)
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
        n_rows = sum(len(block) for block, _ in self.waiting)
        n_bytes = sum(block.nbytes for _, block in self.waiting)
        is_full = n_rows >= PART_ROWS or n_bytes >= PART_BYTES
        if is_full or time.monotonic() - self.last >= PART_SECONDS:
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
