"""What every engine offers: to start a batch now, and to have its outputs later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Images = Any  # (b, height, width, 3) float32, NumPy or TensorFlow
Outputs = tuple[np.ndarray, ...]  # (b, …) float32, one array an output of the model

MODELS_FOLDER = ".models"  # in a cache folder: the converted models

Key = TypeVar("Key")
Started = TypeVar("Started")


@dataclass(frozen=True)
class ConversionCache:
    """Where converted models are kept, and what says which one this is."""

    folder: Path
    weights: str  # digest of the weights
    graph: dict[str, Any]  # everything else that determines the graph, as JSON types


class Compiled(ABC):
    """A frozen model compiled for this machine."""

    name: str  # openvino or tensorflow
    where: str  # what it runs on, for people
    devices: Sequence[str] = ("/CPU:0",)  # TensorFlow's names of it
    is_of_one_size: bool = False  # whether it compiles anew for a batch larger than all before
    ahead: int = 2  # batches to have started: one is computed while the next one is brought
    fits: int | None = None  # images that memory takes at once, where more were tried

    @property
    def for_measuring(self) -> Compiled:
        """What computes as fast, near enough, and need not compile for each size of a batch."""
        return self

    @abstractmethod
    def start(self, images: Images) -> Callable[[], Outputs]:
        """Begin a batch of any size; the function that comes back waits for its outputs.

        Batches are finished in the order in which they were started.
        """

    def __call__(self, images: Images) -> Outputs:
        """Return the outputs of a batch."""
        return self.start(images)()


def in_order(
    batches: Iterable[tuple[Key, Started]],
    start: Callable[[Started], Callable[[], Any]],
    ahead: int,
) -> Iterator[tuple[Key, Any]]:
    """Yield (key, outputs) for (key, images), with up to `ahead` batches started."""
    waiting: deque[tuple[Key, Callable[[], Any]]] = deque()
    for key, images in batches:
        waiting.append((key, start(images)))
        if len(waiting) >= ahead:
            first, finish = waiting.popleft()
            yield first, finish()
    for key, finish in waiting:
        yield key, finish()


def padded(images: Images, size: int) -> Images:
    """Return a batch with as many black images as make it `size`: one shape, one compilation."""
    n_missing = size - len(images)
    if n_missing <= 0:
        return images
    return np.concatenate([images, np.zeros((n_missing, *images.shape[1:]), np.float32)])
