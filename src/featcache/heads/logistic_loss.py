"""Loss of logistic regressions, and its slope by the logits, of several fits at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from featcache.core.tasks import TargetKind
from featcache.heads.training_rows import TrainingRows


@dataclass(frozen=True)
class Target:
    """What a fit learns of its rows.

    Columns of logits are classes that compete; or one for two classes, the odds of the second; or
    one for each label.
    """

    kind: TargetKind
    present: np.ndarray  # (k,) classes that have rows; labels that some rows have and some have not
    constant: np.ndarray  # (n_labels,) 0 and 1: what is said of labels that are not present
    n: int  # rows, views counted
    weights: (
        np.ndarray | None
    )  # of rows: (c,) by class; of one column each (2, c), without and with

    @classmethod
    def of(cls, rows: TrainingRows, kind: TargetKind, is_balanced: bool) -> Target:
        """Return what rows teach; balanced as scikit-learn weighs classes."""
        y = rows.y[rows.chosen]
        n = len(y) * rows.views.shape[1]
        weights: np.ndarray | None = None
        if kind is TargetKind.CLASS:
            present, counts = np.unique(y, return_counts=True)
            if is_balanced:
                weights = len(y) / (len(present) * counts)
                weights = weights[:, None] if len(present) == 2 else weights
            return cls(kind, present, np.zeros(0), n, weights)
        counts = y.sum(axis=0)
        present = np.flatnonzero((counts > 0) & (counts < len(y)))
        if is_balanced:
            weights = len(y) / (2 * np.stack([len(y) - counts, counts])[:, present])
        return cls(kind, present, (counts == len(y)).astype(int), n, weights)

    @property
    def competes(self) -> bool:
        """Whether the columns are classes of which one is right."""
        return self.kind is TargetKind.CLASS and len(self.present) > 2

    @property
    def n_columns(self) -> int:
        return len(self.present) if self.competes or self.kind is TargetKind.LABELS else 1

    @property
    def key(self) -> tuple[bool, bytes]:
        """Equal for fits whose logits `slopes` takes together."""
        return self.competes, self.present.tobytes()

    def slopes(
        self, logits: np.ndarray, y: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of p fits, (p,), and slopes (m, c, p) of each row's by its logits.

        Parameters
        ----------
        logits : (m, c, p), overwritten.
        y : of the rows.
        weights : those of the fits, in a last axis.
        """
        loss, slopes, by_row = (self._competing if self.competes else self._single)(
            logits, y, weights
        )
        if by_row is not None:
            loss *= by_row
            slopes *= by_row if by_row.ndim == 3 else by_row[:, None]
        return loss.reshape(-1, loss.shape[-1]).sum(axis=0, dtype=np.float64), slopes

    def _competing(
        self, logits: np.ndarray, y: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        right = np.searchsorted(self.present, y)
        rows = np.arange(len(y))
        logits -= logits.max(axis=1, keepdims=True)
        loss = -logits[rows, right]
        odds = np.exp(logits, out=logits)
        total = odds.sum(axis=1)
        loss += np.log(total)
        odds /= total[:, None]
        odds[rows, right] -= 1
        return loss, odds, None if weights is None else weights[right]

    def _single(
        self, logits: np.ndarray, y: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        is_class = self.kind is TargetKind.CLASS
        has = (y == self.present[1])[:, None] if is_class else y[:, self.present] == 1
        has = has[:, :, None]
        # of a row that has it log(1 + exp(-logit)), of another log(1 + exp(logit))
        loss = np.logaddexp(0, np.where(has, -logits, logits))
        slopes = special.expit(logits) - has.astype(logits.dtype)
        return loss, slopes, None if weights is None else np.where(has, weights[1], weights[0])
