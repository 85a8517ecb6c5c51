"""The verb search."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from featcache.cli.options import CacheDir, Json, app, listed, print_table, result, say
from featcache.core.errors import SpecError
from featcache.core.escapes import ESCAPES

ENDINGS = (".csv", ".html")


@app.command()
def search(
    like: Annotated[
        Optional[list[str]], typer.Argument(help="Images to look for: files, folders.")
    ] = None,
    features: Annotated[
        Optional[Path], typer.Option(help="Where to look. (the newest feature file)")
    ] = None,
    row: Annotated[
        Optional[str], typer.Option(help="Images of the file to be like, ids or rows, as a,b.")
    ] = None,
    class_: Annotated[
        Optional[str], typer.Option("--class", help="Classes to be like, as a,b.")
    ] = None,
    unlike: Annotated[
        Optional[str], typer.Option(help="Classes, ids or rows not to be like, as a,b.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="How many.")] = 10,
    out: Annotated[
        Optional[Path], typer.Option(help="Also a file: .csv, or .html with pictures.")
    ] = None,
    exact: Annotated[
        Optional[bool],
        typer.Option(
            "--exact/--index", help="Look at all rows, or ask an index. (by their number)"
        ),
    ] = None,
    cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
) -> None:
    """Find the images most like some: of files, of rows, or of a class; from cached features."""
    from featcache import store
    from featcache.inference import search as searching

    if out is not None and out.suffix not in ENDINGS:
        raise SpecError(f"The file must end in {' or '.join(ENDINGS)}; got '{out}'.")
    if features is None:
        features = store.newest_features(cache_dir)
        say(f"Took the newest feature file: {features}")
    opened = store.Features(features)
    asked: dict[str, Any] = {
        "rows": listed("row", row) or [],
        "classes": listed("class", class_) or [],
        "unlike": listed("unlike", unlike) or [],
    }
    found = searching.search(
        opened,
        like or None,
        k,
        use_index=None if exact is None else not exact,
        cache_dir=cache_dir,
        **asked,
    )
    said = [*(like or ()), *asked["rows"], *asked["classes"]]
    if asked["unlike"]:
        said.append(f"not {', '.join(asked['unlike'])}")
    if out is not None and out.suffix == ".html":
        searching.write_page(out, opened, found, ", ".join(said))
    elif out is not None:
        with out.open("w", newline="", encoding="utf-8", errors=ESCAPES) as file:
            rows = csv.writer(file)
            rows.writerow(["id", "row", "distance", "label"])
            rows.writerows([one.id, one.row, f"{one.distance:.6f}", one.label] for one in found)
    if as_json:
        result(True, {"features": str(features), "found": [one.to_dict() for one in found]}, "")
        return
    print_table(_table(found))
    if out is not None:
        typer.echo(f"Wrote {out}")


def _table(found: list[Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "distance")
    for one in found:
        table.add_row(Text(one.id, overflow="fold"), Text(one.label), f"{one.distance:.3f}")
    return table
