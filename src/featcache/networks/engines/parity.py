"""Does a compiled model give what plain Keras gives? Asked at the start of every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featcache.core.text import counted
from featcache.networks.engines.base import Compiled, Images, Outputs

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-4  # of float32, relative to the largest value of a row
N_IMAGES = 8  # of the first batch; enough to tell, and soon done where a network is slow


@dataclass(frozen=True)
class Closeness:
    """How near a compiled model's outputs come to those of plain Keras in float32."""

    largest_difference: float  # over all rows, relative to the largest absolute value of a row
    cosine: float  # the lowest cosine similarity of a row

    @classmethod
    def of(cls, got: Outputs, expected: Outputs) -> Closeness:
        """Compare outputs row by row; what is finite in one only differs without limit.

        What is finite in neither is the same: it cannot be used, and is said so where it is used.
        """
        differences, cosines = [0.0], [1.0]
        for one, other in zip(got, expected, strict=True):
            a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (one, other))
            in_one, in_both = np.isfinite(a) ^ np.isfinite(b), np.isfinite(a) & np.isfinite(b)
            a, b = np.where(in_both, a, 0.0), np.where(in_both, b, 0.0)
            scale = np.abs(b).max(axis=1)
            apart = np.abs(a - b).max(axis=1) / np.where(scale > 0, scale, 1.0)
            differences += np.where(in_one.any(axis=1), np.inf, apart).tolist()
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            products = (a * b).sum(axis=1)
            # a row of zeros has no direction
            cosines += (products[lengths > 0] / lengths[lengths > 0]).tolist()
        return cls(max(differences), min(cosines))

    @property
    def holds(self) -> bool:
        """Whether these are the same numbers in float32."""
        return self.largest_difference <= TOLERANCE


def agree(
    compiled: Compiled,
    model: keras.Model,
    images: Images,
    precision: str,
    say: Callable[[str], None],
) -> tuple[Compiled, Closeness]:
    """Return a compiled model that agrees with Keras on real images, and how well it does.

    In float32 one that does not is replaced by TensorFlow without XLA, at last by Keras itself,
    with a warning. Reduced precision gives other numbers by its nature; how much is said.
    """
    from featcache.networks.engines import tensorflow

    some = np.asarray(images[:N_IMAGES], np.float32)
    expected = tensorflow.plain(model)(some)
    # what compiles for a size is to compile for the one that follows, and once
    got = compiled(images if compiled.is_of_one_size else some)
    found = Closeness.of(tuple(output[: len(some)] for output in got), expected)
    if precision != "float32":
        say(
            f"{precision} by {compiled.name}: cosine similarity to float32 {found.cosine:.4f} "
            f"(the lowest of {counted(len(some), 'image')})."
        )
    elif not found.holds:
        say(
            f"Warning: {compiled.name} gives other numbers than Keras here, by "
            f"{found.largest_difference:.0e} of a row's largest value (tolerance {TOLERANCE:.0e}). "
            f"Going on with TensorFlow, which is slower."
        )
        compiled = tensorflow.compile_model(model, precision, compiled.devices, False, say)
        found = Closeness.of(compiled(some), expected)
        if not found.holds:
            compiled = tensorflow.plain(model)
            found = Closeness.of(compiled(some), expected)
    return compiled, found
