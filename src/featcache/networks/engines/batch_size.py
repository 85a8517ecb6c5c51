"""How many images at once: the size at which a network stops getting faster, measured."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator

import numpy as np

from featcache.core import memo
from featcache.core.memory import free_memory
from featcache.core.text import counted
from featcache.networks.engines.base import Compiled, ConversionCache, in_order
from featcache.networks.engines.choice import gpus

BATCH_SIZE = 32  # where nothing is measured: on CPUs other sizes are hardly faster
MEMO = "batch-sizes.json"  # among the converted models: the sizes found before
SMALLEST, LARGEST = 8, 1024
IS_FASTER = 1.05  # times as many images a second; less is not worth the memory
FOR_S = 0.2  # that a size is measured for, at least
BUDGET_S = (1.0, 10.0)  # of measuring, at least and at most: a tenth of what the run will take
MEMORY_SHARE = 8  # of free memory: batches may take one in so many


def chosen(
    asked: int | str | None,
    device: str,
    compiled: Callable[[], Compiled],
    shape: tuple[int, ...],
    n_images: int,
    kept: ConversionCache | None,
    say: Callable[[str], None],
) -> int:
    """Return the batch size that was asked for: a number, auto, or None for 32 or, on GPUs, auto.

    `compiled` gives the network, which is not compiled before that is needed; the rest are the
    arguments of `fastest`.
    """
    if isinstance(asked, int):
        return asked
    if asked is None and not gpus(device):
        return BATCH_SIZE
    return fastest(compiled(), shape, n_images, kept, say)


def fastest(
    compiled: Compiled,
    shape: tuple[int, ...],
    n_images: int,
    kept: ConversionCache | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Return the batch size from which on a network gets no faster, and which fits into memory.

    Sizes from 8 on are doubled until two in a row are no faster. What was found is kept, so that
    the next run need not measure.

    Parameters
    ----------
    shape : (height, width, 3) of an image.
    n_images : that are to be computed: no size is larger than what they make up.
    kept : where converted models are kept; None keeps nothing.
    say : told what was found, when it was measured.
    """
    at_most = _at_most(compiled, shape, n_images)
    memo_of = None if kept is None else kept.folder / MEMO
    key = json.dumps([kept and [kept.weights, kept.graph], compiled.name, compiled.where])
    match memo.recall(memo_of, key):
        case {"size": int(size), "up_to": int(tried)} if size > 0 and tried >= at_most:
            return min(size, at_most)
    measuring, began = compiled.for_measuring, time.monotonic()
    found, rate, size, budget_s = SMALLEST, 0.0, SMALLEST, BUDGET_S[1]
    while size <= min(at_most, 4 * found) and time.monotonic() - began < budget_s:
        now = _images_per_s(measuring, np.zeros((size, *shape), np.float32))
        if measuring.fits is not None:
            found = min(found, measuring.fits)
            break
        if now > IS_FASTER * rate:
            found, rate = size, now
        budget_s = float(np.clip(n_images / rate / 10, *BUDGET_S))
        size *= 2
    say(f"Batches of {counted(found, 'image')}, at {rate:,.0f} images/s through the network.")
    # where there were too few images for larger ones, these are still to be tried
    memo.remember(memo_of, key, {"size": found, "up_to": LARGEST if size > 4 * found else at_most})
    return found


def _at_most(compiled: Compiled, shape: tuple[int, ...], n_images: int) -> int:
    """Return the largest size to try: a power of two, from 8 to 1,024."""
    n_batches = compiled.ahead + 3  # in work, and decoded already
    image_bytes = 4 * int(np.prod(shape))
    most = min(n_images, free_memory() // MEMORY_SHARE // (n_batches * image_bytes), LARGEST)
    return int(max(SMALLEST, 1 << max(0, int(most).bit_length() - 1)))


def _images_per_s(compiled: Compiled, images: np.ndarray) -> float:
    compiled(images)  # what is searched for or allocated at the first of a size is not in it
    began = time.monotonic()

    def batches() -> Iterator[tuple[None, np.ndarray]]:
        for number in itertools.count():
            if number >= 2 * compiled.ahead and time.monotonic() - began > FOR_S:
                return
            yield None, images

    n = sum(len(images) for _ in in_order(batches(), compiled.start, compiled.ahead))
    return n / (time.monotonic() - began)
