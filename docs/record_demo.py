"""Record `featcache demo` as docs/demo.svg, the picture in the README: `make picture`.

It runs in an empty folder of its own, as a newcomer sees it.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from featcache.cli import demo

# plain local fonts: the picture asks no other host for anything
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


def main() -> None:
    picture = Path(__file__).parent / "demo.svg"
    console = Console(
        record=True, width=96, file=io.StringIO(), highlight=False, force_terminal=True
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        demo.run(Path("cache"), -1, console)
        os.chdir(picture.parent)
    svg = console.export_svg(title="make demo", theme=MONOKAI, code_format=FORMAT)
    picture.write_text(re.sub(r"[ \t]+\n", "\n", svg), encoding="utf-8")


if __name__ == "__main__":
    main()
