"""The verb demo: the whole idea on the built-in clip art, each stage with its command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cli.options import Jobs, Json, LocalCacheDir, app, result

if TYPE_CHECKING:
    from rich.console import Console

    from featcache.scoring.leaderboard import Leaderboard

SOURCE = "example:clipart"


@app.command()
def demo(
    cache_dir: LocalCacheDir = Path("cache"),
    jobs: Jobs = -1,
    as_json: Json = False,
) -> None:
    """Show the whole idea on the built-in clip art: extract, fit-heads, stitch, predict."""
    from rich.console import Console

    console = Console(highlight=False, quiet=as_json)
    values = run(cache_dir, jobs, console)
    if as_json:
        result(True, values, "")


def run(cache_dir: Path, jobs: int, console: Console) -> dict[str, Any]:
    """Extract, fit heads, stitch and predict on `example:clipart`, saying what each stage did.

    Returns
    -------
    The files made and the scores, as plain JSON types.
    """
    from rich.table import Table

    from featcache import extraction
    from featcache.inference import predict
    from featcache.models import stitching
    from featcache.selection.fit_heads import fit_heads
    from featcache.store import layout

    started = time.monotonic()
    layout.on_disk(cache_dir)

    _command(console, f"featcache extract {SOURCE}")
    extracted = extraction.run(SOURCE, cache_dir=cache_dir)
    features = extracted.features
    console.print(
        f"{len(features)} drawings of {len(features.class_names)} classes through "
        f"{features.spec.backbone} with its ImageNet weights: {features.shape[1]} features each.\n"
        f"{extracted.n_computed} computed, {extracted.n_reused} from the cache "
        f"-> {features.path}"
    )
    _took(console, extracted.seconds)

    stage = time.monotonic()
    _command(console, f"featcache fit-heads {features.path}")
    board = fit_heads(features, jobs=jobs, cache_dir=cache_dir)
    console.print(board)
    console.print(
        f"Nested scores with 95 % intervals; = is statistically level with the first. "
        f"{board.n_test} of {len(features)} images are held out, for the first alone. "
        f"Report: {board.folder / 'report.html'}"
    )
    _took(console, time.monotonic() - stage)

    stage = time.monotonic()
    out = board.folder.with_suffix(".keras")
    _command(console, f"featcache stitch {board.folder}")
    stitched = stitching.run(board.best, out)
    console.print(
        f"{board.best.name} and {features.spec.backbone} are one Keras model now: {out}\n"
        f"Parity: {stitching.Parity(**stitched.card.parity)}."
    )
    _took(console, time.monotonic() - stage)

    stage = time.monotonic()
    _command(console, f"featcache predict {out} IMAGES")
    chosen = _one_held_out_image_a_class(board)
    table = Table("held-out image", "prediction", "score")
    right = 0
    by_path = {one.path: one for one in predict.load(out, cache_dir=None).predict(list(chosen))}
    for path, label in chosen.items():
        one = by_path[path]
        is_right = one.classes[0] == label
        right += is_right
        mark = "" if is_right else f" (it is a {label})"
        name = f"{label}/{Path(path).name}"
        table.add_row(name, f"{one.classes[0]}{mark}", f"{one.scores[0]:.2f}")
    console.print(table)
    console.print(f"{right} of {len(chosen)} right.")
    _took(console, time.monotonic() - stage)

    console.print(
        f"\n[bold]All of it: {time.monotonic() - started:.0f} s.[/bold] Run it again and only "
        f"the prediction is computed. Your own images: featcache extract FOLDER"
    )
    return {
        "features": str(features.path),
        "heads": str(board.folder),
        "best": board.best.name,
        "accuracy": board.best.result.mean,
        "test_accuracy": board.best.result.test and board.best.result.test["accuracy"],
        "model": str(out),
        "parity": stitched.card.parity,
        "predictions": [one.to_dict() for one in by_path.values()],
        "seconds": round(time.monotonic() - started, 3),
    }


def _command(console: Console, command: str) -> None:
    console.print(f"\n[bold cyan]$ {command}[/bold cyan]", soft_wrap=True)


def _took(console: Console, seconds: float) -> None:
    console.print(f"[dim]{seconds:.1f} s[/dim]")


def _one_held_out_image_a_class(board: Leaderboard) -> dict[str, str]:
    """Return path -> class of the first held-out image of every class."""
    from featcache import store
    from featcache.data import examples

    path = board.best.features.path
    assert path is not None  # the board is of a feature file
    features = store.Features(path)
    chosen: dict[str, str] = {}
    for row in features.rows("test", board.seed).tolist():
        label = features.class_names[features.labels[row]]
        if label not in chosen.values():
            chosen[str(examples.CLIPART / features.ids[row])] = label
    return chosen
