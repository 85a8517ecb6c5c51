"""Templates to pages that need nothing else: style, scripts and Plotly are inside."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from featcache.core import atomic

Values = dict[str, Any]  # what a template shows: plain types, numbers as text


def rendered(template: str, content: Values) -> str:
    """Return a page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("featcache.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data"] = lambda value: Markup(as_data(value))

    def own(name: str) -> Any:
        text = resources.files("featcache.report").joinpath(name).read_text(encoding="utf-8")
        return Markup(text)

    code = {
        "style": own("page.css"),
        "charts_script": own("charts.js"),
        "page_script": own("page.js"),
        "plotly": Markup(get_plotlyjs()),
    }
    return environment.get_template(template).render(**content, **code)


def as_data(value: Any) -> str:
    """Return JSON that can stand inside a script element, whatever its texts are; NaN is null."""
    plain = atomic.plain(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
