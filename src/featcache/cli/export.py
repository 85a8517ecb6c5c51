"""The verb export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from featcache.cli import detection
from featcache.cli.options import Json, app, listed, print_table, result, say
from featcache.core.errors import one_line


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    source: Annotated[
        Optional[str], typer.Argument(help="Images to compare on. (those of the features)")
    ] = None,
    format_: Annotated[
        Optional[list[str]],
        typer.Option(
            "--format",
            help="saved-model, onnx, tflite, tflite-float16, tflite-int8, openvino, several with "
            "commas; or all. (saved-model)",
        ),
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The file or folder, of one format. (beside the model)")
    ] = None,
    min_agreement: Annotated[
        Optional[float],
        typer.Option(help="Share of images with the same answer. (1; tflite-int8 0.98)"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Do it again, also over a file that is not its export."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a model in other formats, and run each file on images to compare."""
    from featcache.models import export as exporting
    from featcache.models.load import read_card

    given = ",".join(format_) if format_ else "saved-model"
    names = listed("format", given) or []
    if detection.is_of_boxes(read_card(model).task):
        detection.export(model, names, source, out, overwrite, as_json)
        return
    if "all" in names:
        names = list(exporting.FORMATS)
    done, failed = exporting.export_all(
        model,
        names,
        source=source,
        out=out,
        min_agreement=min_agreement,
        overwrite=overwrite,
        stop=len(names) == 1,
    )
    if as_json:
        values = [one.to_dict() for one in done]
        errors = {name: one_line(str(error)) for name, error in failed.items()}
        result(True, {"exports": values, "failed": errors}, "")
    elif done:
        print_table(exporting.table(done))
        for one in done:
            typer.echo(f"{'Found' if one.hit else 'Wrote'} {one.path}")
            if exporting.FORMATS[one.format].quantised and one.scores is not None:
                typer.echo(
                    "8-bit integers: {metric} {model:.3f} became {export:.3f} on {n_images} "
                    "labelled images.".format(**one.scores)
                )
    *others, last = failed.values() or [None]
    for error in others:
        say(f"Error: {one_line(str(error))}")
    if last is not None:
        raise last
