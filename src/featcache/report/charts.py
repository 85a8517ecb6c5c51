"""Plotly figures as plain dicts; a colour like `var(--accent)` is looked up in the page's style.

Plotly takes some HTML in its texts, so every name from outside goes through `plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featcache.report import findings

Figure = dict[str, Any]
MAX_LABELS = 40  # class names along an axis; from there on some are left out
WRITTEN_CELLS = 16  # classes up to which the counts stand in the cells
SCATTERED = 2000  # points of a scatter plot
CELL_PX = {40: 26, 100: 14}  # up to so many classes, height of a row; more: 6


def plain(text: str) -> str:
    """Return text in which Plotly sees no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str, length: int = 22) -> str:
    """Return text for an axis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def confusion(counts: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Return a heat map of a confusion matrix; its cells are filled in by the page.

    Only what is not zero is handed over: a thousand classes have a million cells.
    """
    n = len(names)
    step = -(-n // MAX_LABELS)
    ticks = list(range(0, n, step))
    labels = [plain(short(names[tick])) for tick in ticks]
    axis = {"tickvals": ticks, "ticktext": labels, "showgrid": False, "zeroline": False}
    side = next((px for limit, px in CELL_PX.items() if n <= limit), 6)
    rows, columns = np.nonzero(counts)
    return {
        "kind": "confusion",
        "cells": [rows.tolist(), columns.tolist(), counts[rows, columns].tolist()],
        "names": list(names),
        "support": counts.sum(axis=1).tolist(),
        "written": n <= WRITTEN_CELLS,
        "min_width": 150 + n * side,
        "data": [],
        "layout": {
            "height": int(np.clip(150 + n * side, 320, 1400)),
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "xaxis": axis
            | {
                "title": {"text": "predicted", "standoff": 14},
                "tickangle": -60,
                "automargin": True,
            },
            "yaxis": axis
            | {
                "title": {"text": "given", "standoff": 14},
                "autorange": "reversed",
                "automargin": True,
            },
        },
    }


def reliability(curves: list[tuple[str, list[dict[str, float]]]]) -> Figure:
    """Return a reliability diagram of named curves, the last one in front, with its counts."""
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "name": "perfectly calibrated",
            "hoverinfo": "skip",
            "line": {"color": "var(--muted)", "dash": "dot", "width": 1},
        }
    ]
    styles = [("var(--accent)", "circle"), ("var(--second)", "square")]
    for (name, bins), (colour, symbol) in zip(curves, styles, strict=False):
        largest = max((one["n"] for one in bins), default=1)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [one["confidence"] for one in bins],
                "y": [one["accuracy"] for one in bins],
                "customdata": [[one["n"], one["low"], one["high"]] for one in bins],
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "size": [6 + 14 * float(np.sqrt(one["n"] / largest)) for one in bins],
                },
                "line": {"color": colour, "width": 1.5},
                "hovertemplate": "%{customdata[0]} images predicted with %{customdata[1]:.2f} to "
                "%{customdata[2]:.2f}<br>mean %{x:.2f}, correct %{y:.2f}",
            }
        )
    return {
        "data": data,
        "layout": {
            "height": 420,
            "xaxis": {"title": {"text": "predicted probability"}, "range": [-0.02, 1.02]},
            "yaxis": {"title": {"text": "share that was correct"}, "range": [-0.02, 1.04]},
            "legend": {"orientation": "h", "y": 1.12},
        },
    }


def learning_curve(n_train: list[int], scores: list[list[float]], metric: str) -> Figure:
    """Return mean score against number of images, with a band of one standard deviation."""
    known = [np.array(one, float)[np.isfinite(np.array(one, float))] for one in scores]
    mean = np.array([one.mean() if len(one) else np.nan for one in known])
    spread = np.array([one.std(ddof=1) if len(one) > 1 else 0.0 for one in known])
    folds = [(n, score) for n, one in zip(n_train, known, strict=True) for score in one.tolist()]
    band = {
        "type": "scatter",
        "x": n_train + n_train[::-1],
        "y": listed(np.concatenate([mean + spread, (mean - spread)[::-1]])),
        "fill": "toself",
        "fillcolor": "var(--accent-soft)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": "± 1 standard deviation over folds",
    }
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [n for n, _ in folds],
        "y": [score for _, score in folds],
        "marker": {"color": "var(--muted)", "size": 4},
        "hoverinfo": "skip",
        "name": "one fold",
    }
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": n_train,
        "y": listed(mean),
        "line": {"color": "var(--accent)"},
        "marker": {"size": 8},
        "name": "mean",
        "hovertemplate": "%{x} images: %{y:.3f}<extra></extra>",
    }
    axis = {"title": {"text": "training images"}, "rangemode": "tozero"}
    return {
        "data": [band, points, line],
        "layout": {
            "height": 380,
            "xaxis": axis,
            "yaxis": {"title": {"text": plain(metric)}},
            "legend": {"orientation": "h", "y": 1.12},
        },
    }


def predicted_and_true(y: np.ndarray, values: np.ndarray, name: str, seed: int) -> Figure:
    """Return predicted against true values (n,) of a target, and the residuals beside them."""
    some = findings.sample(np.zeros(len(y), int), SCATTERED, seed)
    truth, value = y[some].astype(float), values[some].astype(float)
    low, high = float(min(truth.min(), value.min())), float(max(truth.max(), value.max()))
    marker = {"color": "var(--accent)", "size": 6, "opacity": 0.6}
    dotted = {"color": "var(--muted)", "dash": "dot", "width": 1}
    ends = [low, high]
    line: Figure = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": dotted}
    dots: Figure = {"type": "scatter", "mode": "markers", "marker": marker, "x": truth.tolist()}
    hover = "true %{x:.4g}, %{fullData.name} %{y:.4g}<extra></extra>"
    return {
        "data": [
            line | {"x": ends, "y": ends},
            dots | {"y": value.tolist(), "name": "predicted", "hovertemplate": hover},
            line | {"x": ends, "y": [0, 0], "xaxis": "x2", "yaxis": "y2"},
            dots
            | {"y": (value - truth).tolist(), "name": "residual", "hovertemplate": hover}
            | {"xaxis": "x2", "yaxis": "y2"},
        ],
        "layout": {
            "height": 380,
            "showlegend": False,
            "grid": {"rows": 1, "columns": 2, "pattern": "independent", "xgap": 0.18},
            "xaxis": {"title": {"text": f"true {plain(short(name))}"}},
            "yaxis": {"title": {"text": "predicted"}},
            "xaxis2": {"title": {"text": f"true {plain(short(name))}"}},
            "yaxis2": {"title": {"text": "predicted - true"}},
        },
    }


def listed(values: np.ndarray | Sequence[float]) -> list[float | None]:
    """Return values for JSON, which has no number that is not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]
