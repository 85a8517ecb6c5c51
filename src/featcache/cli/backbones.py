"""The verb backbones: every network that has a name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cli.options import CacheDir, Json, app, print_table, result

if TYPE_CHECKING:
    from featcache.networks.known import Backbone

WIDE = 110  # characters a line, in which everything has room


@app.command()
def backbones(cache_dir: CacheDir = Path("cache"), as_json: Json = False) -> None:
    """List the networks that extract knows by name: size, work, licence, and what is here."""
    from featcache.extraction import speeds

    found = speeds.backbones(cache_dir)
    if as_json:
        result(True, {"backbones": [asdict(one) for one in found]}, "")
    else:
        print_table(_table(found))


def _table(found: list[Backbone]) -> Any:
    """Return a table for a terminal of any width: of what it is for, nothing is left out."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        caption="Size in parameters; work in billions of multiply-adds an image; images/s as "
        "measured in the cache folder. Other names: hf:owner/name, a folder of weights, a .keras "
        "file.",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    rows = [_row(one) for one in found]
    without = {"family", "features"} if Console().width < WIDE else set()
    if not any(row["images/s"] for row in rows):
        without.add("images/s")
    words = ("backbone", "family", "licence", "weights")
    shown = [name for name in rows[0] if name not in without]
    for name in shown:
        justify: Any = "left" if name in words else "right"
        table.add_column(name, justify=justify, no_wrap=name not in words[1:])
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table


def _row(one: Backbone) -> dict[str, str]:
    speed = one.images_per_second
    return {
        "backbone": one.name,
        "family": one.family,
        "size": f"{one.parameters / 1e6:.1f} M",
        "side": str(one.image_size),
        "features": str(one.features),
        "work": f"{one.multiply_adds / 1e9:.2f}",
        "images/s": "" if speed is None else f"{speed:.0f}",
        "licence": f"{one.licence or 'not stated'}{', asks for consent' * one.asks_for_consent}",
        "weights": "here" if one.is_here else f"from {_place(one)}",
    }


def _place(one: Backbone) -> str:
    return "the Hub" if one.source.startswith("hf:") else one.source
