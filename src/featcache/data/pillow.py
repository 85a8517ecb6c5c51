"""What is global in Pillow: which formats it tries, how large an image may be, what it warns of."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from featcache.core import process

# what the suffixes of a folder's images stand for; Pillow would run a program for PostScript
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "AVIF", "PPM")

_counting = threading.Lock()
_n_inside = 0  # images that are being decoded, in whichever threads
_limit: int | None = None  # Pillow's, until the last of them is done


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Return what Pillow calls the formats that are read."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextmanager
def own_limit() -> Iterator[None]:
    """Let `max_pixels` alone decide about size, and drop Pillow's remarks on odd files.

    The first thread that comes in sets this, for the whole process, and the last one sets it back.
    So it belongs around one image, and never around a `yield` to whoever uses Pillow as well.
    """
    global _n_inside, _limit
    from PIL import Image

    with process.ignored(module="PIL"):
        with _counting:
            if not _n_inside:
                _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            _n_inside += 1
        try:
            yield
        finally:
            with _counting:
                _n_inside -= 1
                if not _n_inside and Image.MAX_IMAGE_PIXELS is None:
                    Image.MAX_IMAGE_PIXELS = _limit
