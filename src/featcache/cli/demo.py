"""The verb demo."""

from __future__ import annotations

from pathlib import Path

from featcache.cli.options import CacheDir, Jobs, Json, app, result


@app.command()
def demo(
    cache_dir: CacheDir = Path("cache"),
    jobs: Jobs = -1,
    as_json: Json = False,
) -> None:
    """Show the whole idea on the built-in clip art: extract, fit-heads, stitch, predict."""
    from rich.console import Console

    from featcache.cli import demo_run

    console = Console(highlight=False, quiet=as_json)
    values = demo_run.run(cache_dir, jobs, console)
    if as_json:
        result(True, values, "")
