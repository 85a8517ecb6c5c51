"""Small pictures of the images that a report shows, as text that can stand inside the page.

An image that is gone, or is another one now, has no picture; it never has a wrong one.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from featcache import store
from featcache.core.errors import FeatcacheError
from featcache.core.spec import MAX_PIXELS
from featcache.data import decoding, openers, sources
from featcache.data.damage import UnreadableImageError

SIDE = 96  # pixels of the longer side
SMALL_SIDE = 48  # where there are thousands
MANY = 1000
BUDGET_BYTES = 2_000_000  # of all pictures together, as base64
TIME_S = 20.0  # photos of many megapixels may take it; what is not done by then has no picture
QUALITY = 60


@dataclass(frozen=True)
class Pictures:
    """Pictures by row of the feature file, and a sentence where some are missing."""

    uris: dict[int, str]
    note: str = ""


def collect(
    features: store.Features,
    shown: Sequence[int],
    others: Sequence[int] = (),
    *,
    side: int = SIDE,
    budget_bytes: int = BUDGET_BYTES,
    time_s: float = TIME_S,
) -> Pictures:
    """Return pictures of rows as data URIs, as many as fit.

    Parameters
    ----------
    features : the file that the rows are of.
    shown : rows that come first, at full size.
    others : rows that get what is left of the budget, smaller where they are thousands.
    side : pixels of the longer side, at full size.
    """
    try:
        source = openers.reopen(features.provenance)
    except (FeatcacheError, OSError):
        return Pictures(
            {},
            f"There are no pictures: the images are no longer at "
            f"'{features.provenance.get('source')}'.",
        )
    place = {id_: number for number, id_ in enumerate(source.ids)}
    wanted = dict.fromkeys(shown, side)
    for row in others:
        wanted.setdefault(row, SMALL_SIDE if len(others) > MANY else SIDE)
    reader = _Reader(features, source, place)
    uris: dict[int, str] = {}
    n_gone, used, started, in_time = 0, 0, time.monotonic(), True
    for row, uri in reader.read(list(wanted.items())):
        if uri is None:
            n_gone += 1
        elif used + len(uri) <= budget_bytes:
            uris[row] = uri
            used += len(uri)
        in_time = time.monotonic() - started < time_s
        if used > 0.99 * budget_bytes or not in_time:
            break
    return Pictures(uris, _note(len(wanted), len(uris), n_gone))


def _note(n_wanted: int, n_made: int, n_gone: int) -> str:
    if n_gone and not n_made:
        return "There are no pictures: none of the images is unchanged where it was extracted from."
    notes = []
    if n_gone:
        notes.append(f"{n_gone:,} of the images are gone or have changed and have no picture.")
    if n_made + n_gone < n_wanted:
        notes.append(
            f"{n_made:,} of {n_wanted:,} images have a picture, to keep the page small and quick "
            f"to make."
        )
    return " ".join(notes)


@dataclass(frozen=True)
class _Reader:
    """Reads images in threads, each checked against the digest it was extracted with."""

    features: store.Features
    source: sources.Source
    place: dict[str, int]  # id -> row of the source

    def read(self, wanted: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str | None]]:
        """Yield (row, picture) in order; None where there is none."""
        workers = (os.cpu_count() or 1) if self.source.contents.is_concurrent else 1
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(wanted), 16 * workers):
                some = wanted[start : start + 16 * workers]
                yield from zip((row for row, _ in some), pool.map(self._one, some), strict=True)

    def _one(self, wanted: tuple[int, int]) -> str | None:
        row, side = wanted
        number = self.place.get(self.features.ids[row])
        if number is None:
            return None
        try:
            raw = self.source.get(number)
            if sources.digest(raw) != self.features.digests[row].tobytes():
                return None
            max_pixels = self.features.provenance.get("max_pixels", MAX_PIXELS)
            pixels = decoding.seen(raw, self.features.spec, max_pixels, side)
            return encode(np.asarray(np.clip(pixels, 0, 255), np.uint8), side)
        except (OSError, UnreadableImageError):
            return None


def encode(pixels: np.ndarray, side: int) -> str:
    """Return RGB pixels (height, width, 3) uint8 as a data URI, at most `side` pixels long."""
    from PIL import Image, features

    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    kind = "webp" if features.check("webp") else "jpeg"
    made = io.BytesIO()
    image.save(made, kind, quality=QUALITY, **({"method": 2} if kind == "webp" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(made.getvalue()).decode()}"
