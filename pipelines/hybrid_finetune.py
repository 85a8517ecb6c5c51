"""The hybrid recipe: first a head on frozen features, then the last layers of the network with it.

Shows: what each step brings, on the same held-out images, and what it costs. The head comes from
the comparison in seconds; the last 20 layers of the backbone then train with it at 1e-5, from
cached activations.

    python pipelines/hybrid_finetune.py [SOURCE]

Scores to expect on example:clipart (12 classes, chance 0.08): 0.77 on 90 validation images by
logistic regression, 0.79 with the last 20 layers; 0.62 and 0.63 on 113 held-out ones. 1e-5 is
careful; benchmarks/finetune_clipart.py has rates that bring more.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import featcache as fc
from featcache import finetuning

HEAD = "logreg"  # gives probabilities and has a gradient
UNFREEZE = 20  # layers
LEARNING_RATE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="example:clipart", help="labelled images")
    parser.add_argument("--backbone", help="(efficientnet-lite0)")
    parser.add_argument("--unfreeze", type=int, default=UNFREEZE, help="layers (default 20)")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--views", type=int, default=4, help="cached activations an image")
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        Console().print(hybrid(options))
    except fc.FeatcacheError as error:
        sys.exit(f"Error: {error}")


def hybrid(options: argparse.Namespace) -> Table:
    """Return what each step brought."""
    table = Table("step", "trains", "validation", "held out", "seconds")

    started = time.monotonic()
    features = fc.extract(options.source, options.backbone, cache_dir=options.cache_dir)
    took = time.monotonic() - started
    table.add_row("extract", "nothing", "", "", f"{took:.1f}")

    started = time.monotonic()
    # a folder of its own, so that the full comparison beside the features stays as it is
    board = fc.fit_heads(
        features,
        ["dummy", HEAD],
        seed=options.seed,
        folder=features.path.with_suffix(".hybrid-heads"),
    )
    took = time.monotonic() - started
    floor, head = board["dummy"].result, board[HEAD]
    table.add_row("nobody looks", "nothing", f"{floor.mean:.3f}", "", "")

    stitched = features.path.with_suffix(".hybrid.keras")
    fc.stitch(head, stitched)
    done = finetuning.finetune(
        stitched,
        options.source,
        out=features.path.with_suffix(".hybrid-finetuned.keras"),
        unfreeze=options.unfreeze,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        views=options.views,
        cache_dir=options.cache_dir,
        seed=options.seed,
    )
    (stage,) = done.stages
    first, best = stage.validation_metric[0], stage.validation_metric[stage.best_epoch]
    name = next(iter(done.before))
    table.add_row(
        f"head: {HEAD}", "the head", f"{first:.3f}", f"{done.before[name]:.3f}", f"{took:.1f}"
    )
    table.add_row(
        f"then {len(done.unfrozen)} layers",
        "head and layers" if done.improved else "nothing better found",
        f"{best:.3f}",
        f"{done.after[name]:.3f}",
        f"{sum(stage.seconds):.1f}",
    )
    table.caption = (
        f"{done.metric} on {done.n_validation} validation images that trained neither, {name} on "
        f"{done.n_test} held-out ones"
    )
    return table


if __name__ == "__main__":
    main()
