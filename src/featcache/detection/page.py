"""The page of a detector: how precise it is, by class and by score, and where it is wrong.

One HTML file that loads nothing. It shows what the detector was saved with; pictures come from the
images where they were extracted from, as long as they are unchanged there.
"""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from featcache import store
from featcache.core import atomic
from featcache.core.errors import FeatcacheError
from featcache.core.text import counted
from featcache.detection import judging
from featcache.detection.detector import PAGE_FILE, Detector
from featcache.detection.scoring import RECALLS
from featcache.report import charts, pictures, rendering
from featcache.report.provenance import shown
from featcache.scoring.leaderboard import number

SHOWN = 18  # images that went worst, with a picture each
SIDE = 360  # pixels of a picture's longer side


def write_page(made: Detector, out: Path | None = None) -> Path:
    """Write the page of a detector, into its folder unless named, and return its path."""
    path = made.folder / PAGE_FILE if out is None else out
    atomic.write_text(path, rendering.rendered("detection_page.html.jinja", _content(made)))
    return path


def _content(made: Detector) -> dict[str, Any]:
    """Return what the template shows; numbers become text here."""
    try:
        features = [store.Features(path) for path in made.features]
    except FeatcacheError:
        features = []
    worst, uris, note = _worst(made, features[0] if features else None)
    n = made.n_images
    return {
        "name": made.folder.stem,
        "source": features[0].provenance["source"] if features else "",
        "backbone": features[0].spec.backbone if features else "",
        "facts": [
            (f"{n['train']:,}", "images trained on"),
            (f"{n['val']:,}", "chose the epoch"),
            (f"{n['test']:,}", "held out"),
            (f"{len(made.epochs):,}", "epochs"),
            (f"{median(one.seconds for one in made.epochs):.1f} s", "per epoch, median"),
        ],
        "n_test": n["test"],
        "scores": [
            {
                "name": name,
                "value": number(value),
                "interval": " to ".join(map(number, made.test.intervals.get(name, ()))),
                "means": _MEANS[name],
            }
            for name, value in made.test.scores().items()
        ],
        "classes": [
            one | {"ap50": _shown(one["ap50"]), "ap": _shown(one["ap"])}
            for one in sorted(made.test.of_class, key=lambda one: _rank(one["ap50"]))
        ],
        "min_score": f"{made.min_score:.2f}",
        "f1": number(made.val_f1),
        "epoch": made.best_epoch,
        "validated": [(epoch, number(one)) for epoch, one in made.val_scores.items()],
        "worst": worst,
        "pictures": uris,
        "note": note,
        "command": _command(made),
        "groups": _groups(made, features),
        "figures": {"curves": _curves(made), "training": _training(made)},
    }


_MEANS = {
    "map50": "a box counts if it overlaps the drawn one by half; mean over classes",
    "map": "the same, mean over overlaps of 0.50 to 0.95: how tightly boxes fit",
    "ap50": "overlap by half, whatever the class: is what is there found at all?",
}


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else number(value)


def _curves(made: Detector) -> charts.Figure:
    """Return precision against recall, with classes and without."""
    lines = [
        ("with classes (mean)", made.test.curve, "var(--accent)", "solid"),
        ("without classes", made.test.curve_without_classes, "var(--second)", "dash"),
    ]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [round(one, 2) for one in RECALLS.tolist()],
                "y": charts.listed(curve),
                "name": name,
                "line": {"color": colour, "dash": dash, "width": 2},
                "hovertemplate": "%{fullData.name}: precision %{y:.2f} at recall %{x:.2f}"
                "<extra></extra>",
            }
            for name, curve, colour, dash in lines
        ],
        "layout": {
            "height": 380,
            "margin": {"l": 56, "r": 12, "t": 44, "b": 48},
            "xaxis": {"title": {"text": "recall: share of boxes found"}, "range": [0, 1.01]},
            "yaxis": {"title": {"text": "precision: share that is right"}, "range": [0, 1.03]},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        },
    }


def _training(made: Detector) -> charts.Figure:
    """Return the loss of every epoch."""
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(1, len(made.epochs) + 1)),
                "y": charts.listed([one.loss for one in made.epochs]),
                "line": {"color": "var(--accent)", "width": 2},
                "hovertemplate": "epoch %{x}: %{y:.3f}<extra></extra>",
            }
        ],
        "layout": {
            "height": 300,
            "xaxis": {"title": {"text": "epoch"}, "zeroline": False},
            "yaxis": {"title": {"text": "loss of a box"}, "rangemode": "tozero"},
        },
    }


def _worst(
    made: Detector, features: store.Features | None
) -> tuple[list[dict[str, Any]], dict[int, str], str]:
    """Return the held-out images with most mistakes, their pictures, and a note."""
    if features is None or features.annotations.boxes is None:
        return [], {}, "The feature file is gone, so there are no pictures."
    row_of = {id_: row for row, id_ in enumerate(features.ids)}
    boxes, names = features.annotations.boxes, made.class_names
    every = []
    for id_, found in made.held_out.items():
        if id_ not in row_of:
            continue
        row = row_of[id_]
        drawn = boxes.take(np.array([row]))
        judged = judging.judged(found, drawn, made.min_score)
        n_wrong = int(judged.is_missed.sum() + (~judged.is_right).sum())
        every.append((n_wrong, row, id_, found, drawn, judged))
    every.sort(key=lambda one: (-one[0], one[2]))
    worst = [one for one in every[:SHOWN] if one[0]]
    taken = pictures.collect(features, [row for _, row, *_ in worst], side=SIDE)
    shown_ = []
    for _, row, id_, found, drawn, judged in worst:
        height, width = drawn.sizes[0].tolist()
        marks = [
            _mark(corners, names[kind], "missed" if missed else "hit")
            for corners, kind, missed in zip(
                drawn.corners, drawn.classes, judged.is_missed, strict=True
            )
        ] + [
            _mark(
                found.corners[place],
                f"{names[found.classes[place]]} {found.scores[place]:.2f}",
                "right" if right else "wrong",
            )
            for place, right in zip(judged.places, judged.is_right, strict=True)
        ]
        n_missed, n_wrong = int(judged.is_missed.sum()), int((~judged.is_right).sum())
        shown_.append(
            {
                "row": row,
                "id": id_,
                "width": width,
                "height": height,
                "text_px": max(width, height) / 26,
                "marks": marks,
                "said": f"{counted(n_missed, 'box', 'boxes')} missed, {n_wrong} found wrongly",
            }
        )
    return shown_, taken.uris, taken.note


def _mark(corners: np.ndarray, text: str, kind: str) -> dict[str, Any]:
    left, top, right, bottom = corners.tolist()
    return {
        "x": round(left, 1),
        "y": round(top, 1),
        "width": round(right - left, 1),
        "height": round(bottom - top, 1),
        "text": text,
        "kind": kind,
    }


def _command(made: Detector) -> str:
    paths = " ".join(shlex.quote(os.fspath(path)) for path in made.features)
    return f"python -m featcache fit-heads {paths} --epochs {made.settings.epochs}"


def _groups(
    made: Detector, features: list[store.Features]
) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = [("Settings", [(name, shown(one)) for name, one in made.settings.to_dict().items()])]
    for one in features:
        rows = [("file", os.fspath(one.path)), ("content", one.content)]
        rows += [(f"spec: {name}", shown(value)) for name, value in one.spec.to_dict().items()]
        groups.append((f"Features: {one.spec.layer or 'the output'}", rows))
    versions = made.request["versions"]
    return [*groups, ("Versions", [(name, shown(one)) for name, one in versions.items()])]
