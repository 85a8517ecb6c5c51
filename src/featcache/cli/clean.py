"""The verb clean: shows what can go, asks, removes. Never TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from featcache.cli.options import Json, amount, app, print_table, result
from featcache.core.checks import bad
from featcache.core.errors import SpecError
from featcache.core.text import counted

if TYPE_CHECKING:
    from featcache.store.cleaning import Removable

SECONDS_A_DAY = 86400.0


@app.command()
def clean(
    cache_dir: Annotated[Path, typer.Argument(help="The cache folder, or its s3:// URL.")] = Path(
        "cache"
    ),
    older_than: Annotated[
        Optional[float], typer.Option(help="Also feature files and parts older than so many days.")
    ] = None,
    max_size: Annotated[
        Optional[float], typer.Option(help="Also the oldest until the rest is under so many GB.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what a cache folder does not need, after showing it; heads and models stay."""
    from featcache.store import uploading

    for name, value in (("older_than", older_than), ("max_size", max_size)):
        if value is not None and not value >= 0:
            raise bad(name, "be 0 or more", value)
    with uploading.removing(cache_dir) as folder:
        _clean(folder, older_than, max_size, yes, as_json)


def _clean(
    cache_dir: Path, older_than: float | None, max_size: float | None, yes: bool, as_json: bool
) -> None:
    from featcache.store import cleaning

    if not cache_dir.is_dir():
        raise SpecError(f"Cache folder '{cache_dir}' does not exist.")
    found = cleaning.removable(
        cache_dir,
        older_than_s=None if older_than is None else older_than * SECONDS_A_DAY,
        max_bytes=None if max_size is None else int(max_size * 1e9),
    )
    if found and not as_json:
        print_table(_table(found))
    size = sum(one.size_bytes for one in found)
    may = yes or bool(
        found
        and not as_json
        and sys.stdin.isatty()
        and typer.confirm(f"Remove {counted(len(found), 'file')}, {amount(size)}?", err=True)
    )
    gone = cleaning.remove(found) if may else []
    freed = sum(one.size_bytes for one in gone)
    busy = len(found) - len(gone)
    if not found:
        text = f"There is nothing to remove in '{cache_dir}'."
    elif not may:
        text = f"Removed nothing. To remove {counted(len(found), 'file')} run again with --yes."
    else:
        still = f"; {busy} are in use by another process and stay" if busy else ""
        text = f"Removed {counted(len(gone), 'file')}, {amount(freed)}{still}."
    values = {
        "removable": [
            {"path": str(one.path), "why": one.why, "size_bytes": one.size_bytes} for one in found
        ],
        "removed": [str(one.path) for one in gone],
        "freed_bytes": freed,
    }
    result(as_json, values, text)


def _table(found: list[Removable]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "why", "size")
    for one in found:
        table.add_row(Text(str(one.path), overflow="fold"), one.why, amount(one.size_bytes))
    return table
