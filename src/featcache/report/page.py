"""The report of a comparison of heads: one HTML page that needs nothing else.

It opens from a folder, loads nothing from anywhere, and says of every number how to read it. The
numbers are those that the leaderboard was saved with; nothing is fitted here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.core import atomic
from featcache.report import curves, heat_maps, material, pictures, rendering, sections
from featcache.report.map import pairs_of, points_of
from featcache.report.provenance import provenance
from featcache.scoring.leaderboard import REPORT_FILE, Leaderboard


def write_report(
    board: Leaderboard,
    folder: str | os.PathLike[str] | None = None,
    *,
    tsne: bool = False,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the page of a saved leaderboard and return its path.

    Parameters
    ----------
    folder : where the leaderboard's files are; None is its own folder.
    tsne : draw the map by t-SNE, which keeps neighbours together, rather than by principal
        components. Some seconds a thousand images.
    out : the page; None is report.html in the folder.

    Raises
    ------
    HeadError
        When the out-of-fold predictions are missing or damaged.
    """
    if folder is not None:
        board = replace(board, folder=Path(folder))
    path = board.folder / REPORT_FILE if out is None else Path(out)
    atomic.write_text(
        path, rendering.rendered("page.html.jinja", _content(material.gather(board), tsne))
    )
    return path


def label_suspects(board: Leaderboard, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the images whose label is probably wrong, the likeliest first.

    Each is {place, row, id, part, given, suggested, p_given, p_suggested, margin}; see
    `material.label_suspects`. Of regression there are none.
    """
    return material.label_suspects(material.gather(board), limit)


def _content(about: material.Material, tsne: bool) -> dict[str, Any]:
    """Return what the template shows."""
    per_class, reliability = sections.classes(about), curves.reliability(about)
    learning = curves.learning(about.board)
    mistakes, suspects = sections.mistakes(about), sections.suspects(about)
    farthest = heat_maps.farthest(about) if about.task.is_one_class else []
    charts = dict(per_class["figures"])
    for name, section in (("reliability", reliability), ("learning", learning)):
        if section is not None:
            charts[name] = section["figure"]
    points, pairs, taken = None, None, pictures.Pictures({}, about.note)
    if about.features is not None:
        places, X = about.looked_at()
        points, shown = points_of(about, places, X, tsne)
        pairs = pairs_of(about)
        both = [pair[side]["row"] for pair in pairs["rows"] for side in ("train", "test")]
        first = [one["row"] for one in (*farthest, *mistakes, *suspects["rows"])] + both
        taken = pictures.collect(about.features, first, about.rows[shown].tolist())
    return {
        "head": sections.head(about),
        "task": about.task,
        "metric": about.board.metric,
        "table": sections.table(about.board),
        "per_class": per_class,
        "reliability": reliability,
        "learning": learning,
        "points": points,
        "tsne": tsne,
        "farthest": farthest,
        "strangers": sections.strangers(about.board),
        "mistakes": mistakes,
        "suspects": suspects,
        "pairs": pairs,
        "from_scores": not about.has_probabilities,
        "provenance": provenance(about),
        "note": about.note or taken.note,
        "pictures": taken.uris,
        "charts": charts,
    }
