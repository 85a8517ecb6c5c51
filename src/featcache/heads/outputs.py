"""What fitted heads say of many rows, block by block."""

from __future__ import annotations

import numpy as np

from featcache.core.memory import release
from featcache.core.tasks import PROBABILITIES, TargetKind
from featcache.heads.base import Head, SklearnHead
from featcache.heads.training_rows import BLOCK

_BLOCK_BYTES = 256 << 20  # of features at a time


def outputs_of(
    fitted: list[Head], views: np.ndarray, rows: np.ndarray, n_outputs: int
) -> list[np.ndarray]:
    """Return what each head says of the clean images, (n, n_outputs), one column per class."""
    found: list[list[np.ndarray]] = [[] for _ in fitted]
    size = max(1, min(BLOCK, _BLOCK_BYTES // max(1, views[:1, 0].nbytes)))  # maps are large
    for start in range(0, len(rows), size):
        block = np.asarray(views[rows[start : start + size], 0])
        release(views)
        if isinstance(fitted[0], SklearnHead):  # once for all settings of a head
            block = np.asarray(block, fitted[0].precision)
        for head, parts in zip(fitted, found, strict=True):
            parts.append(_all_classes(head, head.outputs(block), n_outputs))
    return [np.concatenate(parts) if parts else np.zeros((0, n_outputs)) for parts in found]


def _all_classes(head: Head, outputs: np.ndarray, n_outputs: int) -> np.ndarray:
    """Return outputs with a column for each class, also for those that the head never saw."""
    if head.target_kind is not TargetKind.CLASS or outputs.shape[1] == n_outputs:
        return outputs
    lowest = 0.0 if head.output == PROBABILITIES else float(outputs.min(initial=0.0)) - 1.0
    wide = np.full((len(outputs), n_outputs), lowest)
    wide[:, head.classes_] = outputs
    return wide
