"""The verb report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from featcache.cli.options import CacheDir, Json, app, result, say
from featcache.core.errors import SpecError

if TYPE_CHECKING:
    from featcache.scoring.leaderboard import Leaderboard

TensorBoard = Annotated[
    Optional[Path],
    typer.Option(help="Also write the embedding for TensorBoard's projector here."),
]


@app.command()
def report(
    heads: Annotated[
        Optional[Path], typer.Argument(help="Folder of fit-heads. (the newest in the cache folder)")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The .html file to write. (report.html in the folder)")
    ] = None,
    tsne: Annotated[
        bool, typer.Option("--tsne", help="Map the embedding by t-SNE instead of PCA.")
    ] = False,
    tensorboard: TensorBoard = None,
    cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
) -> None:
    """Make the page about a comparison again, from what fit-heads saved."""
    from featcache import store
    from featcache.core import disk
    from featcache.report import write_report
    from featcache.scoring import leaderboard
    from featcache.store import uploading, working_copy

    if heads is None:
        heads = store.newest_heads(working_copy.pulled(cache_dir))
        say(f"Took the newest heads: {heads}")
    heads = working_copy.pulled(heads)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise SpecError(f"'{out}' cannot be written: it is a folder, or lies in none that exists.")
    board = leaderboard.load(heads)
    if out is None and not disk.is_writable(heads):
        out = store.place_for(heads.with_suffix(".report.html"), cache_dir)
    written = write_report(board, out=out, tsne=tsne)
    uploading.push_results(heads)
    write_for_tensorboard(board, tensorboard)
    result(as_json, {"report": str(written), "best": board.best.result.name}, f"Wrote {written}")


def write_for_tensorboard(board: Leaderboard, folder: Path | None) -> None:
    """Write the embedding of a comparison into a folder, where one was named."""
    if folder is None:
        return
    from featcache.report import write_projector

    write_projector(board, folder)
    say(f"Wrote {folder}: look at it with `tensorboard --logdir {folder}`.")
