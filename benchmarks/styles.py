"""Photographs, drawings and textures told apart by Gram matrices, beside the usual mean.

    python benchmarks/styles.py [--each 150]

Photographs are crops of scikit-image's and scikit-learn's, textures crops of quarters of
scikit-image's, both never parted from others of the same picture; drawings are the clip art. It
measures the accuracy of logistic regression, nested over three folds, with its interval.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import defects
import numpy as np
from PIL import Image

import featcache as fc
from featcache.data import examples

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins")
LAYERS = ("block1a_project_bn+block3b_add+block5c_add", "block3b_add")
SIDE = 160


def pictures() -> dict[str, dict[str, np.ndarray]]:
    """Return pictures (height, width) or (height, width, 3) uint8 by class and name."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    found = {name: getattr(data, name)() for name in PHOTOS}
    found |= {f"sample-{at}": one for at, one in enumerate(load_sample_images().images)}
    return {
        "photograph": found,
        "texture": {
            f"{name}-{top}-{left}": defects.texture(name)[top : top + 256, left : left + 256]
            for name in defects.TEXTURES
            for top in (0, 256)
            for left in (0, 256)
        },
    }


def make(folder: Path, each: int) -> Path:
    """Write a manifest of images with their classes and groups, and return its path."""
    rng, lines = np.random.default_rng(0), ["path,label,group"]
    for label, some in pictures().items():
        (folder / label).mkdir(parents=True)
        for number in range(each):
            name = list(some)[number % len(some)]
            image = some[name]
            top, left = (int(rng.integers(0, size - SIDE + 1)) for size in image.shape[:2])
            crop = image[top : top + SIDE, left : left + SIDE]
            path = f"{label}/{number:03}.png"
            Image.fromarray(crop).convert("L").save(folder / path)  # colour would tell
            lines.append(f"{path},{label},{label}-{name}")
    (folder / "drawing").mkdir()
    drawings = sorted(examples.CLIPART.rglob("*.png"))[:: max(1, 543 // each)][:each]
    for number, drawing in enumerate(drawings):
        path = f"drawing/{number:03}.png"
        with Image.open(drawing) as image:
            image.convert("RGBA").convert("L").save(folder / path)
        lines.append(f"{path},drawing,drawing-{number}")
    manifest = folder / "images.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        manifest = make(Path(name) / "styles", given.each)
        for layer in LAYERS:
            for pooling in ("gram", "avg"):
                if pooling == "avg" and "+" in layer:
                    continue
                features = fc.extract(
                    str(manifest),
                    layer=layer,
                    pooling=pooling,
                    cache_dir=Path(name) / "cache",
                    show_progress=False,
                )
                board = fc.fit_heads(features, ["logreg"], cv=3, report=False, show_progress=False)
                one = board["logreg"].result
                print(
                    f"{layer:42} {pooling:4} {features.shape[1]:5} features: accuracy "
                    f"{one.mean:.3f} [{one.low:.3f} {one.high:.3f}]",
                    flush=True,
                )


if __name__ == "__main__":
    main()
