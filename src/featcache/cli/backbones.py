"""The verb backbones: every network that has a name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cli.options import CacheDir, Json, app, print_table, result

if TYPE_CHECKING:
    from featcache.networks.known import Backbone


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
    from rich.table import Table

    table = Table(
        caption="Work in billions of multiply-adds an image; images/s as measured in the cache "
        "folder. Other names: hf:owner/name, a folder of weights, a .keras file.",
        caption_justify="left",
    )
    table.add_column("backbone", no_wrap=True)
    table.add_column("family")
    for name in ("parameters", "side", "features", "work", "images/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("licence")
    table.add_column("weights")
    for one in found:
        speed = one.images_per_second
        table.add_row(
            one.name,
            one.family,
            f"{one.parameters / 1e6:.1f} M",
            str(one.image_size),
            str(one.features),
            f"{one.multiply_adds / 1e9:.2f}",
            "" if speed is None else f"{speed:.0f}",
            f"{one.licence or 'not stated'}{', asks for consent' if one.asks_for_consent else ''}",
            "here" if one.is_here else f"from {_place(one)}",
        )
    return table


def _place(one: Backbone) -> str:
    return "the Hub" if one.source.startswith("hf:") else one.source
