"""Scores by what a head says: it is less sure of strangers.

Sources: Hendrycks et al. 2022, "Scaling out-of-distribution detection for real-world settings";
Liu, Wang, Owens and Li 2020, "Energy-based out-of-distribution detection".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.heads.open_set.base import StrangerScore


class MaxLogit(StrangerScore):
    """The largest logit, negative.

    Of probabilities without logits it is the largest one's logarithm, which orders images as the
    probability does (Hendrycks and Gimpel 2017).
    """

    def scores(self, X: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.asarray(-logits.max(axis=1))

    def to_keras(self, features: Any, logits: Any) -> Any:
        ops = import_keras().ops
        return ops.negative(ops.max(logits, axis=-1, keepdims=True))


class Energy(StrangerScore):
    """The logarithm of the sum of the exponentials of all logits, negative.

    It is 0 of all probabilities, which sum up to 1.
    """

    needs_logits = True

    def scores(self, X: np.ndarray, logits: np.ndarray) -> np.ndarray:
        top = logits.max(axis=1)
        return np.asarray(-top - np.log(np.exp(logits - top[:, None]).sum(axis=1)))

    def to_keras(self, features: Any, logits: Any) -> Any:
        ops = import_keras().ops
        # by hand: what Keras makes of logsumexp has steps that not every format knows
        top = ops.max(logits, axis=-1, keepdims=True)
        total = ops.sum(ops.exp(ops.subtract(logits, top)), axis=-1, keepdims=True)
        return ops.negative(ops.add(top, ops.log(total)))
