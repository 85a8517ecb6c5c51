"""ConvNeXt of keras.applications as Keras builds it, and rewritten, by TensorFlow in one run.

    python benchmarks/rewriting.py [--side 64] [--images 32] [--rounds 5]

Both are frozen graphs as `extract` runs them, of the same random weights, called in turn.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import page

from featcache.core.tensorflow import import_tensorflow
from featcache.networks import registry
from featcache.networks.engines import constant_graph

NAME = "convnext-tiny"


def measured(side: int, n_images: int, n_rounds: int) -> tuple[list[list[float]], float]:
    """Return images/s of each round, before and after, and the largest relative difference."""
    provider = registry.provider_of(NAME, "random")
    before = provider.build(NAME, "random", (side, side))
    graphs = [constant_graph(one) for one in (before, provider.rewritten(before))]
    pixels = np.random.default_rng(0).uniform(0, 255, (n_images, side, side, 3))
    images = import_tensorflow().constant(pixels, "float32")
    first, second = (graph(images)[0].numpy() for graph in graphs)  # also warms them up
    rates: list[list[float]] = [[], []]
    for _ in range(n_rounds):
        for graph, some in zip(graphs, rates, strict=True):
            start = time.perf_counter()
            graph(images)[0].numpy()
            some.append(n_images / (time.perf_counter() - start))
    return rates, float(np.abs(first - second).max() / np.abs(first).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--images", type=int, default=32, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    (before, after), difference = measured(options.side, options.images, options.rounds)
    rows = [
        (what, f"{np.median(some):.1f}", f"{min(some):.1f} to {max(some):.1f}")
        for what, some in (("as Keras builds it", before), ("rewritten", after))
    ]
    print(page.table((f"{NAME}, {options.side} pixels", "images/s", "rounds"), rows))
    ratio = np.median(after) / np.median(before)
    print(f"\n{ratio:.1f} times as fast; largest relative difference {difference:.0e}.")
    print(f"{page.machine()}.")


if __name__ == "__main__":
    main()
