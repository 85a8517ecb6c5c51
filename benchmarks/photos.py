"""Photographs to measure with: 500 x 375 pixels, about 50 KB, the same ones for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from featcache.data import examples

SIZE = (500, 375)
N_CLASSES = 4
STICKER = 0.4  # of the height: a drawing of the clip art on each photograph
NOISE = 12  # grey levels; brings the files to the size of a camera's
QUALITY = 79


def make(root: Path, n: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Write `n` JPEG files in classes: parts of scikit-learn's photographs with a drawing on top.

    Returns
    -------
    `root`.
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    drawings = sorted(
        path for path in examples.CLIPART.rglob("*") if path.suffix in (".png", ".webp", ".jpg")
    )
    for number in range(n):
        photo = photos[number % len(photos)]
        width = int(rng.integers(photo.width // 3, photo.width))
        height = min(photo.height, width * size[1] // size[0])
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        box = (left, top, left + width, top + height)
        image = photo.crop(box).resize(size, Image.Resampling.BICUBIC)
        side = int(STICKER * size[1])
        with Image.open(drawings[int(rng.integers(len(drawings)))]) as drawing:
            sticker = drawing.convert("RGBA").resize((side, side))
        place = [int(rng.integers(0, length - side)) for length in size]
        image.paste(sticker, (place[0], place[1]), sticker)
        noise = rng.integers(-NOISE, NOISE + 1, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(image).astype(np.int16) + noise, 0, 255).astype(np.uint8)
        path = root / f"class {number % N_CLASSES}" / f"photo {number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=QUALITY)
    return root
