"""The verb evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from featcache.cli import detection
from featcache.cli.options import (
    CacheDir,
    Device,
    Json,
    Root,
    Runtime,
    Target,
    app,
    print_table,
    result,
    say,
)
from featcache.core.errors import one_line
from featcache.core.text import counted, few

if TYPE_CHECKING:
    from featcache.inference.evaluate import Evaluation

SHOWN_UNREADABLE = 5


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    source: Annotated[
        Optional[str],
        typer.Argument(help="Labelled images, as for extract. (those of the model)"),
    ] = None,
    split: Annotated[
        Optional[str],
        typer.Option(help="test, train, val or all. (test of the model's images, all of others)"),
    ] = None,
    assert_accuracy_at_least: Annotated[
        Optional[float], typer.Option(help="0 to 1; below it the exit code is 1.")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Also write all of it into this .json.")
    ] = None,
    cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
    root: Root = None,
    target: Target = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
) -> None:
    """Measure a stitched model on labelled images: metrics, confusion, the slowest class."""
    from featcache.inference import evaluate as evaluation
    from featcache.models.load import read_card

    if out is not None:
        evaluation.check_out(out)
    if detection.is_of_boxes(read_card(model).task):
        given = {"assert-accuracy-at-least": assert_accuracy_at_least, "target": target}
        detection.refuse(given, "leave it out")
        detection.evaluate(model, source, split, root, out, as_json)
        return
    done = evaluation.evaluate(
        model,
        source,
        split=split,
        at_least=assert_accuracy_at_least,
        root=root,
        target=target,
        cache_dir=cache_dir,
        runtime=runtime,
        device=device,
    )
    for note in _notes(done):
        say(one_line(note))
    if out is not None:
        done.write(out)
    if as_json:
        result(True, done.to_dict(), "")
    else:
        print_table(done)
        if out is not None:
            typer.echo(f"Wrote {out}")
    done.assert_accuracy()


def _notes(done: Evaluation) -> list[str]:
    """Return what a reader of the numbers has to know besides them."""
    listed = list(done.unreadable.items())
    notes = [f"unreadable: {id_}: {reason}" for id_, reason in listed[:SHOWN_UNREADABLE]]
    if len(listed) > SHOWN_UNREADABLE:
        notes.append(f"unreadable: {len(listed) - SHOWN_UNREADABLE} more")
    if done.n_trained_on:
        notes.append(
            f"Note: {done.n_trained_on} of {counted(done.n_images, 'image')} taught the model, so "
            f"it looks better than it is. --split test takes those that were held out."
        )
    if done.n_trained_on is None and done.part != "all":
        notes.append(
            "Note: which images taught the model is not known here (its features are not cached, "
            "or their images changed since), so some of these may have."
        )
    if done.strangers:
        notes.append(
            f"Note: the model did not learn {few(done.strangers)}; their images count as unknown."
        )
    if done.absent:
        notes.append(f"Note: the source has no {', '.join(done.absent[:10])}.")
    return notes
