"""Textures with made defects: crops of scikit-image's brick, grass and gravel.

Half of the crops get a scratch, a stain, or a piece of the same texture pasted where it does not
belong. All is drawn from a seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

TEXTURES = ("brick", "grass", "gravel")
DEFECTS = ("scratch", "stain", "pasted")
SIDE = 160  # of a crop; textures are 512 wide


def texture(name: str) -> np.ndarray:
    """Return (512, 512) uint8."""
    from skimage import data

    return np.asarray(getattr(data, name)())


def good(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a crop (SIDE, SIDE) uint8 from anywhere, as it is or mirrored, a little brighter."""
    top, left = rng.integers(0, np.array(image.shape) - SIDE + 1)
    crop = image[top : top + SIDE, left : left + SIDE].astype(np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.clip(crop * rng.uniform(0.95, 1.05), 0, 255).astype(np.uint8)


def defective(
    image: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop with a defect, and its mask, both (SIDE, SIDE) uint8."""
    crop = good(image, rng)
    mask = Image.new("L", (SIDE, SIDE))
    contrast = 30 + 1.5 * float(crop.std())  # what hides in grass can be seen on a brick
    if kind == "pasted":
        side = int(rng.integers(30, 50))
        top, left = rng.integers(8, SIDE - side - 8, 2)
        piece = np.rot90(good(image, rng)[:side, :side], int(rng.integers(1, 4)))
        piece = (0.75 * piece).astype(np.uint8)
        crop = crop.copy()
        crop[top : top + side, left : left + side] = piece
        ImageDraw.Draw(mask).rectangle([left, top, left + side - 1, top + side - 1], fill=255)
        return crop, np.asarray(mask)
    draw = ImageDraw.Draw(mask)
    if kind == "scratch":
        points = rng.uniform(20, SIDE - 20, 2) + np.cumsum(rng.normal(0, 14, (5, 2)), axis=0)
        draw.line([tuple(point) for point in points.tolist()], fill=255, width=3)
        strength, soft = rng.choice([-contrast, contrast]), 0.6
    else:
        x, y = rng.uniform(30, SIDE - 30, 2)
        a, b = rng.uniform(8, 18, 2)
        draw.ellipse([x - a, y - b, x + a, y + b], fill=255)
        strength, soft = rng.choice([-contrast, contrast]), 4.0
    opacity = np.asarray(mask.filter(ImageFilter.GaussianBlur(soft)), np.float32) / 255
    changed = np.clip(crop + strength * opacity, 0, 255).astype(np.uint8)
    return changed, np.asarray(mask)


def write(folder: Path, name: str, n_good: int, n_bad: int, seed: int) -> Path:
    """Write crops of a texture with a manifest of path, label and mask, and return its path."""
    rng = np.random.default_rng([seed, TEXTURES.index(name)])
    image, lines = texture(name), ["path,label,mask"]
    for kind in ("good", *DEFECTS, "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(n_good):
        path = f"good/{number:04}.png"
        Image.fromarray(good(image, rng)).save(folder / path)
        lines.append(f"{path},good,")
    for number in range(n_bad):
        kind = DEFECTS[number % len(DEFECTS)]
        path, of_mask = f"{kind}/{number:04}.png", f"masks/{number:04}.png"
        crop, mask = defective(image, kind, rng)
        Image.fromarray(crop).save(folder / path)
        Image.fromarray(mask).save(folder / of_mask)
        lines.append(f"{path},{kind},{of_mask}")
    manifest = folder / "images.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest
