"""What of an image's features known images do not have, against what its head says.

Source: Wang, Li, Feng and Zhang 2022, "ViM: out-of-distribution with virtual-logit matching".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.tensorflow import import_keras
from featcache.heads.open_set.base import StrangerScore
from featcache.heads.open_set.outputs import Energy
from featcache.heads.preprocessing import dense_layer

if TYPE_CHECKING:
    from typing_extensions import Self

MOST = 512  # principal components that known images are said to lie in; the source's


class ViM(StrangerScore):
    """Length of the part outside the principal subspace, as a logit, less the energy's logits.

    The subspace is of the features about their mean, for heads differ in what they add to features;
    it has as many dimensions as the source says, but at most a third of those that the images
    span: with few images all would lie in it. That length times `alpha` is the virtual logit:
    known images that the subspace was not fitted to, every second one, have on average as much of
    it as the largest logit is above the mean one.
    """

    needs_logits = True

    def fit(self, X: np.ndarray, y: np.ndarray, logits: np.ndarray) -> Self:
        self.centre_, self.axes_ = _subspace(X)
        order = np.argsort(y, kind="stable")  # both halves have all classes
        centre, axes = _subspace(X[order[::2]])
        unseen = _outside(X[order[1::2]] - centre, axes)
        above = logits.max(axis=1) - logits.mean(axis=1)
        self.alpha_ = float(above.mean() / max(unseen.mean(), np.finfo(np.float32).tiny))
        return self

    def scores(self, X: np.ndarray, logits: np.ndarray) -> np.ndarray:
        virtual = self.alpha_ * _outside(X - self.centre_, self.axes_)
        return np.asarray(virtual + Energy().scores(X, logits))

    def to_keras(self, features: Any, logits: Any) -> Any:
        ops = import_keras().ops
        axes = self.axes_.astype(np.float64)
        inside = dense_layer("principal", axes.T, -axes @ self.centre_)(features)
        outside = ops.subtract(features, dense_layer("restored", axes, self.centre_)(inside))
        length = ops.sqrt(ops.sum(ops.square(outside), axis=-1, keepdims=True))
        return ops.add(ops.multiply(length, self.alpha_), Energy().to_keras(features, logits))

    def state(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre_, "axes": self.axes_, "alpha": np.array(self.alpha_)}

    def take(self, state: dict[str, np.ndarray]) -> Self:
        self.centre_, self.axes_ = state["centre"], state["axes"]
        self.alpha_ = float(state["alpha"])
        return self


def _subspace(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and principal axes (k, d) of rows, float32."""
    n, d = X.shape
    centre = X.mean(axis=0, dtype=np.float64)
    centred = X - centre
    n_axes = max(1, min(MOST, d // 2, (min(n - 1, d)) // 3))
    if n < d:
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
    else:
        axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1]
    return centre.astype(np.float32), axes[:n_axes].astype(np.float32)


def _outside(centred: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return (n,): the length of what of rows is outside a subspace."""
    return np.asarray(np.linalg.norm(centred - (centred @ axes.T) @ axes, axis=1))
