"""The verb extract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from featcache.cli.options import (
    RARE,
    CacheDir,
    Device,
    Json,
    Runtime,
    app,
    learnable,
    listed,
    result,
    say,
)
from featcache.core.errors import one_line
from featcache.core.spec import MAX_PIXELS

if TYPE_CHECKING:
    from featcache.extraction import Extraction

WORTH_SAYING_S = 1.0  # less time than that is taken by starting up
IMAGES = "Which images"
NUMBERS = "What changes the numbers"


@app.command()
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder with one subfolder per class, manifest (.csv, .tsv, .jsonl, .parquet), "
            "tar shards, or example:clipart|digits."
        ),
    ] = "example:clipart",
    backbone: Annotated[
        Optional[str],
        typer.Option(
            help="Name, as in keras.applications but kebab-case, or several: a,b. "
            "(efficientnet-lite0)"
        ),
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
        str, typer.Option(help="avg, max, flatten; none keeps maps.", rich_help_panel=NUMBERS)
    ] = "avg",
    layer: Annotated[
        Optional[str],
        typer.Option(help="Take this layer's output, or several: x,y.", rich_help_panel=NUMBERS),
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
    decode_scale: Annotated[
        bool,
        typer.Option(
            "--decode-scale", help="Decode large JPEGs at 1/2 to 1/8.", rich_help_panel=NUMBERS
        ),
    ] = False,
    views: Annotated[
        int,
        typer.Option(
            help="Embeddings per image: the clean one, the rest augmented.", rich_help_panel=NUMBERS
        ),
    ] = 1,
    augment: Annotated[
        Optional[str],
        typer.Option(help="How: flip,crop,color. (all three)", rich_help_panel=NUMBERS),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="Computed in float32, bfloat16 or float16.", rich_help_panel=NUMBERS),
    ] = "float32",
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
    runtime: Runtime = "auto",
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

    every = extraction.run_all(
        source,
        listed("backbone", backbone),
        weights=weights,
        pooling=pooling,
        layer=listed("layer", layer),
        image_size=image_size,
        resize=resize,
        background=background,
        decode_scale=decode_scale,
        views=views,
        augment=listed("augment", augment),
        precision=precision,
        dtype=dtype,
        root=root,
        target=target,
        limit=limit,
        max_pixels=max_pixels,
        on_error=on_error,
        batch_size=batch_size,
        cache_dir=cache_dir,
        runtime=runtime,
        device=device,
        check=check,
        wait=wait,
        overwrite=overwrite,
    )
    failures = {one.id: one.reason for done in every for one in done.features.failures}
    for id_, reason in list(failures.items())[:5]:
        say(one_line(f"unreadable: {id_}: {reason}"))
    if len(failures) > 5:
        say(f"unreadable: {len(failures) - 5} more, see 'failures' in the file")
    values = [_described(done) for done in every]
    text = "\n".join(_told(done) for done in every)
    text += f"\n{_timed(every[0], sum(done.n_computed for done in every))}"
    result(as_json, values[0] if len(every) == 1 else {"extractions": values}, text)


def _described(done: Extraction) -> dict[str, Any]:
    features = done.features
    return {
        "features": str(features.path),
        "shape": list(features.shape),
        "views": features.spec.views,
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
        "computing_seconds": round(done.computing_s, 3),
        "waited_seconds": {name: round(value, 3) for name, value in done.waited_s.items()},
    }


def _told(done: Extraction) -> str:
    features = done.features
    n, *row = features.shape
    what = f"{row[0]} features" if len(row) == 1 else f"a map of {' x '.join(map(str, row))}"
    views = f", {features.spec.views} views" if features.spec.views > 1 else ""
    return (
        f"{'Found' if done.hit else 'Wrote'} {features.path}: {n} images "
        f"{learnable(features)}{views}, {what} each.\n"
        f"Computed {done.n_computed}, reused {done.n_reused}, removed {done.n_removed}, "
        f"failed {done.n_failed}, passed over {done.n_passed_over} other file(s)."
    )


def _timed(done: Extraction, n_computed: int) -> str:
    if not n_computed or done.computing_s < WORTH_SAYING_S:
        return f"It took {done.seconds:.1f} s."
    total = sum(done.waited_s.values()) or 1.0
    shares = " and ".join(
        f"{100 * seconds / total:.0f} % for {'decoding' if name == 'decoding' else 'the backbone'}"
        for name, seconds in done.waited_s.items()
    )
    return (
        f"It took {done.seconds:.1f} s, {done.computing_s:.1f} s of it for images on their way; "
        f"waited {shares}."
    )
