"""What was found as one HTML page with pictures, which needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featcache import store
from featcache.core import atomic
from featcache.inference.search.api import Found
from featcache.report import pictures, rendering


def write_page(
    path: Path, features: store.Features, found: Sequence[Found], looked_for: str
) -> Path:
    """Write the images that were found, the most like first, each with its picture."""
    taken = pictures.collect(features, [one.row for one in found])
    page = rendering.rendered(
        "search.html.jinja",
        {
            "looked_for": looked_for,
            "source": str(features.provenance.get("source", features.path)),
            "backbone": features.spec.backbone,
            "found": [
                {"id": one.id, "label": one.label, "distance": f"{one.distance:.3f}"}
                | {"picture": taken.uris.get(one.row, "")}
                for one in found
            ],
            "note": taken.note,
        },
    )
    atomic.write_text(path, page)
    return path
