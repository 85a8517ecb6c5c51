"""The verb stitch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from featcache.cli.options import (
    CacheDir,
    Json,
    Overwrite,
    app,
    by,
    result,
    say,
)


@app.command()
def stitch(
    heads: Annotated[
        Optional[Path], typer.Argument(help="Folder of fit-heads. (the newest in the cache folder)")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The .keras file to write. (beside the heads)")
    ] = None,
    head: Annotated[Optional[str], typer.Option(help="Which head. (the best)")] = None,
    source: Annotated[
        Optional[str], typer.Option(help="The images, if they are elsewhere now.")
    ] = None,
    cache_dir: CacheDir = Path("cache"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Join backbone and head into one Keras model, and check it on the images."""
    from featcache import leaderboard, stitching, store

    if heads is None:
        heads = store.newest_heads(cache_dir)
        say(f"Took the newest heads: {heads}")
    board = leaderboard.load(heads)
    fitted = board[head] if head else board.best
    if head is None:
        say(f"Took the best head: {fitted.name}")
    out = out or heads.with_suffix(".keras")
    done = stitching.run(fitted, out, source=source, overwrite=overwrite)
    parity = stitching.Parity(**done.card.parity)
    result(
        as_json,
        {"model": str(done.path), "hit": done.hit} | done.card.to_dict(),
        f"{'Found' if done.hit else 'Wrote'} {done.path}: RGB images of "
        f"{by(done.card.spec.image_size)}, 0 to 255, to {done.card.output} of "
        f"{len(done.card.class_names)} classes.\nParity: {parity}.",
    )
