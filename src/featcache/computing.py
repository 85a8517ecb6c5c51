"""Rows that are nowhere yet: images through the backbone into parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featcache import backbones, images, progress, runtime, sources, store
from featcache.spec import ExtractionSpec

PART_ROWS = 2048
PART_SECONDS = 30.0


@dataclass
class Work:
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
