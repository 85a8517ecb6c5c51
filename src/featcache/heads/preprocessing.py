"""What a head does to features before it learns: nothing, standardising, unit length or PCA.

Or several of them, one after the other: "l2+standardise". It is part of the head, so it is fitted
inside each fold and shipped in the model. A step is what scikit-learn's `make_pipeline` takes:
"passthrough", a transformer, or a pipeline of transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from featcache.core.checks import bad
from featcache.core.tensorflow import import_keras

NONE, STANDARDISE, L2, PRINCIPAL = "none", "standardise", "l2", "pca"
STEPS = (STANDARDISE, L2, PRINCIPAL)
N_COMPONENTS = 128  # principal components kept, or as many as there are


def check(preprocessing: str) -> None:
    """Raise SpecError unless it is none, or steps joined by +."""
    steps = preprocessing.split("+") if isinstance(preprocessing, str) else []
    if not steps or (steps != [NONE] and not all(one in STEPS for one in steps)):
        must = (
            f"be one of {NONE}, {', '.join(STEPS)}, or several of these steps joined by +, in the "
            f"order in which they apply"
        )
        raise bad("preprocessing", must, preprocessing)


def make(preprocessing: str, n_samples: int, n_features: int) -> Any:
    """Return the unfitted step for (n_samples, n_features)."""
    if preprocessing == NONE:
        return "passthrough"
    steps: list[Any] = []
    for kind in preprocessing.split("+"):
        if kind == PRINCIPAL:
            solver = "covariance_eigh" if n_features <= 4096 else "full"
            n_features = max(1, min(N_COMPONENTS, n_samples - 1, n_features))
            steps.append(PCA(n_features, svd_solver=solver))
        else:
            steps.append(StandardScaler() if kind == STANDARDISE else Normalizer())
    return steps[0] if len(steps) == 1 else make_pipeline(*steps)


def steps_of(step: Any) -> list[Any]:
    """Return the transformers of a step, none for "passthrough"."""
    if isinstance(step, Pipeline):
        return [one for _, one in step.steps]
    return [] if isinstance(step, str) else [step]


def is_known(step: Any) -> bool:
    """Return whether a fitted step is one of those that `make` gives."""
    return step == "passthrough" or all(
        (isinstance(one, StandardScaler) and one.with_mean and one.with_std)
        or (isinstance(one, Normalizer) and one.norm == "l2")
        or (isinstance(one, PCA) and not one.whiten)
        for one in steps_of(step)
    )


def parted(step: Any) -> tuple[list[Any], list[Any]]:
    """Return the transformers up to the last that is not affine, and the affine ones after it."""
    steps = steps_of(step)
    first = max((at for at, one in enumerate(steps, 1) if not _is_affine(one)), default=0)
    return steps[:first], steps[first:]


def folded(
    steps: Sequence[Any], weights: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (d, k) and bias (k,), float64, of `weights` (k, p), `bias` after affine steps.

    They are those of one dense layer that does it all.
    """
    kernel, bias = np.asarray(weights, np.float64).T, np.asarray(bias, np.float64)
    for step in reversed(steps):
        if isinstance(step, StandardScaler):
            kernel = kernel / step.scale_[:, None]
        else:
            kernel = step.components_.T.astype(np.float64) @ kernel
        bias = bias - np.asarray(step.mean_, np.float64) @ kernel
    return kernel, bias


def centred_sums(steps: Sequence[Any], sums: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return sums over rows of z r' (p, k) where affine steps make z of x, from those of x r'.

    What the gradient by the weights of `folded` is, where `sums` (d, k) is that by its kernel.

    Parameters
    ----------
    sums : (d, k) of x r'.
    totals : (k,) of r.
    """
    for step in steps:
        sums = sums - np.outer(np.asarray(step.mean_, np.float64), totals)
        if isinstance(step, StandardScaler):
            sums = sums / step.scale_[:, None]
        else:
            sums = step.components_.astype(np.float64) @ sums
    return sums


def to_keras(steps: Sequence[Any], features: Any) -> Any:
    """Continue a Keras tensor of features with fitted transformers.

    Affine ones that follow each other are one layer.
    """
    layers = import_keras().layers
    numbers: Counter[str] = Counter()

    def name(base: str) -> str:
        numbers[base] += 1
        return base if numbers[base] == 1 else f"{base}_{numbers[base]}"

    for is_affine, some in groupby(steps, _is_affine):
        run = list(some)
        if not is_affine:
            layer = layers.UnitNormalization(name=name("unit_length"))
        elif len(run) == 1 and isinstance(run[0], StandardScaler):
            layer = layers.Normalization(
                mean=run[0].mean_, variance=run[0].scale_ ** 2, name=name("standardised")
            )
        else:
            p = len(run[-1].mean_ if isinstance(run[-1], StandardScaler) else run[-1].components_)
            layer = dense_layer(name("projected"), *folded(run, np.eye(p), np.zeros(p)))
        features = layer(features)
    return features


def gives_unit_length(step: Any) -> bool:
    """Return whether what comes out of a step has length 1."""
    return bool(steps := steps_of(step)) and isinstance(steps[-1], Normalizer)


def _is_affine(step: Any) -> bool:
    return not isinstance(step, Normalizer)


def dense_layer(name: str, kernel: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """Return a Keras Dense layer with these weights, computed in float64 and stored in float32."""
    layer = import_keras().layers.Dense(kernel.shape[1], use_bias=bias is not None, name=name)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return layer
