"""The verbs stitch, predict, finetune and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from featcache.cli.options import (
    CacheDir,
    Device,
    Jobs,
    Json,
    Overwrite,
    Runtime,
    Seed,
    app,
    by,
    one_line,
    print_table,
    result,
    say,
)
from featcache.errors import SpecError

SHOWN_PREDICTIONS = 20


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


@app.command()
def finetune(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    source: Annotated[
        Optional[str], typer.Argument(help="Labelled images. (those of the features)")
    ] = None,
    unfreeze: Annotated[
        int, typer.Option(help="Backbone layers, counted from the end among those with weights.")
    ] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-5,
    epochs: Annotated[int, typer.Option(help="The best by validation loss is kept.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    out: Annotated[
        Optional[Path], typer.Option(help="The new .keras file. (MODEL-finetuned.keras)")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train the last layers of a stitched model at a small learning rate."""
    from featcache import finetuning

    out = out or model.with_name(f"{model.stem}-finetuned.keras")
    done = finetuning.finetune(
        model,
        source,
        out=out,
        unfreeze=unfreeze,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    outcome = (
        f"best epoch {done.best_epoch} of {epochs}"
        if done.improved
        else "no epoch lowered the validation loss, so the weights are unchanged"
    )
    result(
        as_json,
        {
            "model": str(out),
            "improved": done.improved,
            "best_epoch": done.best_epoch,
            "validation_loss": list(done.validation_loss),
            "accuracy_before": done.accuracy_before,
            "accuracy_after": done.accuracy_after,
            "unfrozen": list(done.unfrozen),
        },
        f"Wrote {out}: {outcome}.\nHeld-out accuracy {done.accuracy_before:.3f} before, "
        f"{done.accuracy_after:.3f} after ({done.n_test} images); {len(done.unfrozen)} backbone "
        f"layers and the head trained on {done.n_train} images.",
    )


@app.command()
def demo(
    cache_dir: CacheDir = Path("cache"),
    jobs: Jobs = -1,
    as_json: Json = False,
) -> None:
    """Show the whole idea on the built-in clip art: extract, fit-heads, stitch, predict."""
    from rich.console import Console

    from featcache import demo as demonstration

    console = Console(highlight=False, quiet=as_json)
    values = demonstration.run(cache_dir, jobs, console)
    if as_json:
        result(True, values, "")


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
