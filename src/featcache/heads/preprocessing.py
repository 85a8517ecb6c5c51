"""What a head does to features before it learns: nothing, standardising, unit length or PCA.

It is part of the head, so it is fitted inside each fold and shipped in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import Normalizer, StandardScaler

from featcache import quiet

NONE, STANDARDISE, L2, PRINCIPAL = "none", "standardise", "l2", "pca"
N_COMPONENTS = 128  # principal components kept, or as many as there are


def _pca(n_samples: int, n_features: int) -> PCA:
    n_components = max(1, min(N_COMPONENTS, n_samples - 1, n_features))
    return PCA(n_components, svd_solver="covariance_eigh" if n_features <= 4096 else "full")


PREPROCESSING: dict[str, Callable[[int, int], Any]] = {
    NONE: lambda n_samples, n_features: "passthrough",
    STANDARDISE: lambda n_samples, n_features: StandardScaler(),
    L2: lambda n_samples, n_features: Normalizer(),
    PRINCIPAL: _pca,
}


def folded(step: Any, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (d, k) and bias (k,) of `weights` (k, p) and `bias` behind an affine step."""
    kernel = np.asarray(weights, np.float64).T
    if isinstance(step, StandardScaler):
        kernel = kernel / step.scale_[:, None]
        return kernel, bias - step.mean_ @ kernel
    if isinstance(step, PCA):
        kernel = step.components_.T.astype(np.float64) @ kernel
        return kernel, bias - step.mean_ @ kernel
    return kernel, np.asarray(bias, np.float64)


def to_keras(step: Any, features: Any) -> Any:
    """Continue a Keras tensor of features with one preprocessing step."""
    layers = quiet.keras().layers
    if isinstance(step, Normalizer):
        return layers.UnitNormalization(name="unit_length")(features)
    if isinstance(step, StandardScaler):
        return layers.Normalization(mean=step.mean_, variance=step.scale_**2, name="standardised")(
            features
        )
    if isinstance(step, PCA):
        kernel, bias = folded(step, np.eye(len(step.components_)), np.zeros(len(step.components_)))
        return dense_layer("principal_components", kernel, bias)(features)
    return features


def dense_layer(name: str, kernel: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """Return a Keras Dense layer with these weights, computed in float64 and stored in float32."""
    layer = quiet.keras().layers.Dense(kernel.shape[1], use_bias=bias is not None, name=name)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return layer
