"""The verb extract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from featcache.cli.options import (
    RARE,
    CacheDir,
    Device,
    Json,
    app,
    learnable,
    one_line,
    result,
    say,
)
from featcache.spec import MAX_PIXELS

IMAGES = "Which images"
NUMBERS = "What changes the numbers"


@app.command()
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder with one subfolder a class, manifest (.csv, .tsv, .jsonl, .parquet), tar "
            "shards, or example:clipart|digits."
        ),
    ] = "example:clipart",
    backbone: Annotated[
        Optional[str],
        typer.Option(help="Name, as in keras.applications but kebab-case. (efficientnet-lite0)"),
    ] = None,
    cache_dir: CacheDir = Path("cache"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Compute everything again.")
    ] = False,
    as_json: Json = False,
    weights: Annotated[
        str,
        typer.Option(
            help="imagenet, random, or a weights file or .keras backbone.", rich_help_panel=NUMBERS
        ),
    ] = "imagenet",
    pooling: Annotated[
        str, typer.Option(help="avg, max or flatten.", rich_help_panel=NUMBERS)
    ] = "avg",
    layer: Annotated[
        Optional[str], typer.Option(help="Take this layer's output.", rich_help_panel=NUMBERS)
    ] = None,
    image_size: Annotated[
        Optional[int],
        typer.Option(help="Side in pixels. (the backbone's own)", rich_help_panel=NUMBERS),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            help="bilinear as Keras does, or antialias for large photos.", rich_help_panel=NUMBERS
        ),
    ] = "bilinear",
    background: Annotated[
        str, typer.Option(help="Colour under transparent pixels.", rich_help_panel=NUMBERS)
    ] = "white",
    dtype: Annotated[
        str, typer.Option(help="Stored as float32 or float16.", rich_help_panel=NUMBERS)
    ] = "float32",
    root: Annotated[
        Optional[Path],
        typer.Option(help="Folder of a manifest's paths. (the manifest's)", rich_help_panel=IMAGES),
    ] = None,
    target: Annotated[
        Optional[str],
        typer.Option(help="Target columns of a manifest, as a,b.", rich_help_panel=IMAGES),
    ] = None,
    limit: Annotated[
        Optional[int],
        typer.Option(help="Use so many images, spread over all.", rich_help_panel=IMAGES),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(help="Larger images are failures.", rich_help_panel=IMAGES)
    ] = MAX_PIXELS,
    on_error: Annotated[
        str, typer.Option(help="An image that fails: skip or stop.", rich_help_panel=IMAGES)
    ] = "skip",
    check: Annotated[
        str,
        typer.Option(
            help="stat trusts a file's size and time; content reads all.", rich_help_panel=IMAGES
        ),
    ] = "stat",
    batch_size: Annotated[
        int, typer.Option(help="Images a forward pass.", rich_help_panel=RARE)
    ] = 32,
    device: Device = "auto",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Wait for another process on this file.", rich_help_panel=RARE
        ),
    ] = True,
) -> None:
    """Run a frozen backbone once over images; keep the embeddings as HDF5."""
    from featcache import extraction

    done = extraction.run(
        source,
        backbone,
        weights=weights,
        pooling=pooling,
        layer=layer,
        image_size=image_size,
        resize=resize,
        background=background,
        dtype=dtype,
        root=root,
        target=target,
        limit=limit,
        max_pixels=max_pixels,
        on_error=on_error,
        batch_size=batch_size,
        cache_dir=cache_dir,
        device=device,
        check=check,
        wait=wait,
        overwrite=overwrite,
    )
    features = done.features
    for failure in features.failures[:5]:
        say(one_line(f"unreadable: {failure.id}: {failure.reason}"))
    if len(features.failures) > 5:
        say(f"unreadable: {len(features.failures) - 5} more, see 'failures' in the file")
    n, d = features.shape
    result(
        as_json,
        {
            "features": str(features.path),
            "shape": [n, d],
            "hit": done.hit,
            "computed": done.n_computed,
            "reused": done.n_reused,
            "removed": done.n_removed,
            "failed": done.n_failed,
            "passed_over": done.n_passed_over,
            "task": features.task,
            "classes": list(features.class_names),
            "fingerprint": features.fingerprint,
            "seconds": round(done.seconds, 3),
        },
        f"{'Found' if done.hit else 'Wrote'} {features.path}: {n} images "
        f"{learnable(features)}, {d} features each.\n"
        f"Computed {done.n_computed}, reused {done.n_reused}, removed {done.n_removed}, "
        f"failed {done.n_failed}, passed over {done.n_passed_over} other file(s), "
        f"in {done.seconds:.1f} s.",
    )
