"""Computed rows on their way to disk: gathered, then written as parts in a thread of their own."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featcache.store.index import Parts

PART_ROWS = 2048
PART_SECONDS = 30.0
PART_BYTES = 32 << 20


class PartWriter:
    """Gathers rows and has a part written when there are enough, or enough time has gone by.

    Writing has a thread of its own, so that the backbone need not wait for the disk.
    """

    def __init__(self, parts: Parts):
        self.parts = parts
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.last = time.monotonic()
        self.writer = ThreadPoolExecutor(1, "featcache-writer")
        self.written: Future[Path] | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
            self._wait()
        finally:
            self.writer.shutdown()

    def add(self, keys: np.ndarray, embeddings: np.ndarray) -> None:
        if self.written is not None and self.written.done():
            self._wait()  # without room on the disk nothing more needs to be computed
        self.waiting.append((keys, embeddings))
        n_rows = sum(len(block) for block, _ in self.waiting)
        n_bytes = sum(block.nbytes for _, block in self.waiting)
        is_full = n_rows >= PART_ROWS or n_bytes >= PART_BYTES
        if is_full or time.monotonic() - self.last >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._wait()
        blocks = [block for block in self.waiting if len(block[0])]
        self.waiting = []
        if blocks:
            keys, embeddings = (np.concatenate(column) for column in zip(*blocks, strict=True))
            self.written = self.writer.submit(self.parts.write, keys, embeddings)
        self.last = time.monotonic()

    def _wait(self) -> None:
        """Wait for the part before; an error in writing it comes up here."""
        written, self.written = self.written, None
        if written is not None:
            written.result()
