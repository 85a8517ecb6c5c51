"""Size and work of networks with a name, as benchmarks/describe_backbones.py counted them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measures:
    """What a network is, without its classifier, for one image of its own size."""

    parameters: int
    features: int  # numbers an image
    image_size: int  # pixels a side
    multiply_adds: int
    file: str = ""  # in which Keras keeps its weights


def of(name: str) -> Measures:
    """Return what was counted of a network of `registry` or `published`."""
    return _every()[name]


@functools.cache
def _every() -> dict[str, Measures]:
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return {name: Measures(**values) for name, values in json.loads(text).items()}
