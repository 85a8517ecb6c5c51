"""The verb predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from featcache.cli.options import (
    CacheDir,
    Device,
    Json,
    Runtime,
    app,
    one_line,
    print_table,
    result,
    say,
)
from featcache.errors import SpecError

SHOWN_PREDICTIONS = 20


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files and folders.")],
    out: Annotated[Optional[Path], typer.Option(help="CSV file: path,class,score.")] = None,
    top: Annotated[int, typer.Option(help="Classes an image, best first.")] = 1,
    cache_dir: CacheDir = Path("cache"),
    runtime: Runtime = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Name the class of images with a stitched model."""
    from featcache import predict as prediction

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise SpecError(f"'{out}' cannot be written: it is a folder, or lies in none that exists.")
    loaded = prediction.load(model, device, runtime, cache_dir)
    predictions = loaded.predict(images, top=top)
    unreadable = [one for one in predictions if one.error]
    for one in unreadable[:5]:
        say(one_line(f"unreadable: {one.path}: {one.error}"))
    if out is not None:
        prediction.write_csv(predictions, out, min(top, len(loaded.card.class_names)))
    if as_json:
        values = [one.to_dict() for one in predictions]
        result(True, {"output": loaded.card.output, "predictions": values}, "")
        return
    print_table(_prediction_table(predictions[:SHOWN_PREDICTIONS], loaded.card.output))
    n_more = len(predictions) - SHOWN_PREDICTIONS
    if n_more > 0:
        typer.echo(
            f"and {n_more} more; {'all are in the file' if out else '--out keeps them all'}."
        )
    kept = f"Wrote {out}: " if out else ""
    typer.echo(f"{kept}{len(predictions)} images, {len(unreadable)} unreadable.")


def _prediction_table(predictions: Any, output: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    unit = "probability" if output == "probabilities" else "score"
    table = Table("image", "class", unit)
    for one in predictions:
        table.add_row(
            Text(one.path, overflow="fold"),
            Text("\n".join(one.classes) or f"unreadable: {one.error}"),
            "\n".join(f"{score:.3f}" for score in one.scores),
        )
    return table
