"""Photographs with drawings pasted on them, and where: a data set of boxes, the same for a seed.

A drawing is cut out of its white paper, so that its box is that of what is drawn. The drawings of
the validation and of the held-out part are on none of the other images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featcache.data import examples

SIZES = ((480, 360), (360, 480), (400, 400), (512, 320))  # width, height in pixels
SCALES = (0.15, 0.6)  # longer side of a drawing, of the image's shorter side
MOST_DRAWINGS = 3  # on an image
PAPER = 235  # grey level from which on what touches a drawing's edge is paper
OVERLAP = 0.15  # of the smaller of two boxes, at most
PARTS = {"train": 0.7, "val": 0.1, "test": 0.2}  # of images, and of the drawings of each class
NOISE = 6  # grey levels
QUALITY = 88


def make(root: Path, n: int, seed: int = 0) -> Path:
    """Write `n` JPEG files below `root` and a COCO file for each part; return the manifest.

    The manifest, `boxes.jsonl`, has columns `path`, `split` and `boxes`.
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    drawings = _drawings(rng)
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(n):
        share = number / n
        part = "train" if share < PARTS["train"] else "val" if share < 1 - PARTS["test"] else "test"
        image = _background(photos[int(rng.integers(len(photos)))], rng)
        boxes = _pasted(image, drawings[part], rng)
        pixels = np.asarray(image).astype(np.int16)
        pixels = pixels + rng.integers(-NOISE, NOISE + 1, (*pixels.shape[:2], 1))
        path = f"{part}/{number:05d}.jpg"
        (root / path).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / path, quality=QUALITY)
        lines.append({"path": path, "split": part, "boxes": boxes})
    manifest = root / "boxes.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def _drawings(rng: np.random.Generator) -> dict[str, list[tuple[str, Image.Image]]]:
    """Return class and cut-out drawing, by part."""
    found: dict[str, list[tuple[str, Image.Image]]] = {part: [] for part in PARTS}
    for folder in sorted(path for path in examples.CLIPART.iterdir() if path.is_dir()):
        paths = sorted(folder.glob("*.jpg"))
        places = rng.permutation(len(paths))
        n_test, n_val = (round(PARTS[part] * len(paths)) for part in ("test", "val"))
        for place, which in enumerate(places):
            part = "test" if place < n_test else "val" if place < n_test + n_val else "train"
            found[part].append((folder.name, _cut_out(Image.open(paths[which]).convert("RGB"))))
    return found


def _cut_out(drawing: Image.Image) -> Image.Image:
    """Return a drawing with its paper transparent, no larger than what is drawn."""
    from scipy import ndimage

    pixels = np.asarray(drawing)
    paper, _ = ndimage.label(pixels.min(axis=2) >= PAPER)
    edges = np.concatenate([paper[0], paper[-1], paper[:, 0], paper[:, -1]])
    is_paper = np.isin(paper, edges[edges > 0])
    if is_paper.mean() > 0.97:  # nothing would be left of thin lines
        is_paper[:] = False
    made = Image.fromarray(np.dstack([pixels, np.where(is_paper, 0, 255).astype(np.uint8)]), "RGBA")
    return made.crop(made.getchannel("A").getbbox())


def _background(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a part of a photograph, mirrored every second time, of another brightness."""
    size = SIZES[int(rng.integers(len(SIZES)))]
    most = min(photo.width / size[0], photo.height / size[1])
    factor = most * rng.uniform(0.4, 1.0)
    width, height = int(size[0] * factor), int(size[1] * factor)
    left = int(rng.integers(0, photo.width - width + 1))
    top = int(rng.integers(0, photo.height - height + 1))
    made = photo.crop((left, top, left + width, top + height))
    made = made.resize(size, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    light = rng.uniform(0.7, 1.3, 3)
    return Image.fromarray((np.asarray(made) * light).clip(0, 255).astype(np.uint8))


def _pasted(
    image: Image.Image, drawings: list[tuple[str, Image.Image]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Paste one drawing to three, hardly one on another, and return labels and boxes."""
    boxes: list[tuple[int, int, int, int]] = []
    found = []
    for _ in range(int(rng.integers(1, MOST_DRAWINGS + 1))):
        name, drawing = drawings[int(rng.integers(len(drawings)))]
        side = rng.uniform(*SCALES) * min(image.size)
        factor = side / max(drawing.size)
        size = tuple(max(4, round(length * factor)) for length in drawing.size)
        small = drawing.resize(size, Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, top = (int(rng.integers(0, image.size[i] - size[i] + 1)) for i in (0, 1))
        box = (left, top, left + size[0], top + size[1])
        if any(_overlap(box, other) > OVERLAP for other in boxes):
            continue
        image.paste(small, (left, top), small)
        boxes.append(box)
        found.append({"label": name, "box": [left, top, *size]})
    return found


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the part of the smaller of two boxes (left, top, right, bottom) that both have."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(width, 0) * max(height, 0) / min(areas)
