"""Backbones stitched, fine-tuned for an epoch, exported to every format, and run there.

    python benchmarks/exports.py [--only resnet50] [--images 100] [--side 128] [--whole]

efficientnet-lite0 has its real weights and size, the others random weights and `--side` pixels
(`--whole`: their own size): what a converter makes of a graph does not depend on its weights.
Goals: every backbone goes into every format; all but int8 answer as the model does for every image.
Integers do depend on weights, and outputs of random ones are all but equal: what int8 answers is
reported and not judged, whatever `export` would say. The figures are those that it keeps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import page

import featcache as fc
from featcache import finetuning
from featcache.models import export as exporting

BACKBONES = (
    "efficientnet-lite0",
    "resnet50",
    "vgg16",
    "mobilenet-v2",
    "inception-v3",
    "efficientnet-b0",
)
REAL = "efficientnet-lite0"  # whose weights a package brings
SOURCE = "example:clipart"
HEAD = "logreg"
# features of a random resnet50 are some 10,000 large: too much for a logistic regression in float32
OTHER_HEAD = {"resnet50": "lda"}
HEADER = ("backbone", "format", "same answer", "ties", "largest difference", "mean")
HEADER += ("accuracy, held out", "size", "written in")


def model_of(backbone: str, side: int | None, folder: Path) -> Path:
    """Return a model of a backbone, its last two layers fine-tuned for an epoch."""
    cache = folder / "cache"
    is_real, head = backbone == REAL, OTHER_HEAD.get(backbone, HEAD)
    features = fc.extract(
        SOURCE,
        backbone,
        weights="imagenet" if is_real else "random",
        image_size=None if is_real else side,
        cache_dir=cache,
        show_progress=False,
    )
    board = fc.fit_heads(features, [head], cv=3, report=False, jobs=1, show_progress=False)
    stitched = folder / f"{backbone}-stitched.keras"
    fc.stitch(board[head], stitched, show_progress=False)
    done = finetuning.finetune(
        stitched,
        out=folder / f"{backbone}.keras",
        unfreeze=2,
        epochs=1,
        refit=False,
        cache_dir=cache,
        show_progress=False,
    )
    return done.path


def run(backbone: str, side: int | None, n_images: int, folder: Path) -> list[dict[str, Any]]:
    """Return what each format gave, or why it did not."""
    model = model_of(backbone, side, folder)
    done, failed = [], {}
    for is_quantised, least in ((False, None), (True, 0.0)):
        some, others = exporting.export_all(
            model,
            [name for name, one in exporting.FORMATS.items() if one.quantised == is_quantised],
            min_agreement=least,
            max_images=n_images,
            show_progress=False,
        )
        done, failed = done + some, failed | others
    found = [{"backbone": backbone, **one.to_dict()} for one in done]
    failures = [
        {"backbone": backbone, "format": name, "error": str(error)}
        for name, error in failed.items()
    ]
    return found + failures


def row(one: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
    if "error" in one:
        return (one["backbone"], one["format"], one["error"], *[""] * (len(HEADER) - 3))
    scores = one["scores"]
    return (
        one["backbone"],
        one["format"],
        f"{one['agreement']:.1%}",
        str(one["n_ties"]),
        f"{one['largest_difference']:.0e}",
        f"{one['mean_difference']:.0e}",
        f"{scores['model']:.3f} -> {scores['export']:.3f} (n {scores['n_images']})",
        f"{one['size_bytes'] / 1e6:.1f} MB",
        f"{one['seconds']:.1f} s",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a backbone")
    parser.add_argument("--images", type=int, default=100, help="to compare on")
    parser.add_argument("--side", type=int, default=128, help="pixels, with random weights")
    parser.add_argument("--whole", action="store_true", help="at the networks' own sizes")
    options = parser.parse_args()
    found = []
    for backbone in BACKBONES:
        if options.only not in (None, backbone):
            continue
        with tempfile.TemporaryDirectory() as folder:
            side = None if options.whole else options.side
            some = run(backbone, side, options.images, Path(folder))
        print(json.dumps(some), flush=True)
        found += some
    print(page.table(HEADER, [row(one) for one in found]))
    others = ", ".join(f"{backbone} {head}" for backbone, head in OTHER_HEAD.items())
    heads = f"{HEAD} heads ({others})"
    print(f"\n{options.images} images of {SOURCE}, {heads}. {page.machine()}.")


if __name__ == "__main__":
    main()
