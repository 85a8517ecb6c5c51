"""Activation functions of stock operations, which every Keras loads and every export can write."""

from __future__ import annotations

from typing import Any

from featcache.core.tensorflow import import_keras

KNOWN = ("gelu", "quick_gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu")


def activated(name: str, x: Any) -> Any:
    """Return what an activation function gives, by the name of `KNOWN` that configs have for it."""
    ops = import_keras().ops
    if name == "gelu":  # of erf: `keras.ops.gelu` becomes Erfc, which ONNX has not
        half = ops.multiply(x, 0.5)
        return ops.multiply(half, ops.add(ops.erf(ops.multiply(x, 0.5**0.5)), 1.0))
    if name == "quick_gelu":
        return ops.multiply(x, ops.sigmoid(ops.multiply(x, 1.702)))
    if name in ("gelu_pytorch_tanh", "gelu_new"):
        return ops.gelu(x, approximate=True)
    return getattr(ops, name)(x)
