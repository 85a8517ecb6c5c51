"""The page of a fine-tuning: its curves, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache import files, metrics
from featcache.leaderboard import number
from featcache.report import rendering
from featcache.report.charts import Figure, plain

Values = dict[str, Any]


def write(path: Path, about: Values) -> Path:
    """Write the page and return its path.

    Parameters
    ----------
    about : plain values: model, source, head, backbone, task, metric, improved, before and after
        (metric to value), n_train, n_validation, n_test, parity (or None), plan, versions, and
        stages, each with unfrozen, boundary, validation_loss, validation_metric (number 0 is before
        training), training_loss, seconds and best_epoch.
    """
    files.write_text(path, rendering.rendered("training.html.jinja", _content(about)))
    return path


def _content(about: Values) -> Values:
    """Return what the template shows; numbers become text here."""
    figures: dict[str, Figure] = {}
    for number_, stage in enumerate(about["stages"], 1):
        figures[f"loss-{number_}"] = _losses(stage)
        figures[f"metric-{number_}"] = _metric(stage, about["metric"])
    name = next(iter(about["before"]))
    return {
        "about": about,
        "facts": _facts(about),
        "shown": {
            "metric": name,
            "before": number(about["before"][name]),
            "after": number(about["after"][name]),
            "one_image": f"{1 / about['n_test']:.3f}",
        },
        "lower_is_better": metrics.better(about["metric"]) < 0,
        "stages": [_stage(stage, place, about) for place, stage in enumerate(about["stages"])],
        "scores": [
            (key, number(value), number(about["after"][key]))
            for key, value in about["before"].items()
        ],
        "groups": _groups(about),
        "figures": figures,
    }


def _facts(about: Values) -> list[tuple[str, str]]:
    epochs = sum(len(stage["training_loss"]) for stage in about["stages"])
    seconds = sum(sum(stage["seconds"]) for stage in about["stages"])
    return [
        (f"{about['n_train']:,}", "images trained"),
        (f"{about['n_validation']:,}", "chose the epoch"),
        (f"{about['n_test']:,}", "held out"),
        (f"{epochs}", "epochs"),
        (f"{seconds / max(epochs, 1):.2f} s", "an epoch"),
    ]


def _stage(stage: Values, place: int, about: Values) -> Values:
    several = len(about["stages"]) > 1
    best = stage["best_epoch"]
    rows = []
    for epoch, (loss, metric) in enumerate(
        zip(stage["validation_loss"], stage["validation_metric"], strict=True)
    ):
        trained = ("", "")
        if epoch:
            trained = (
                f"{stage['training_loss'][epoch - 1]:.4f}",
                f"{stage['seconds'][epoch - 1]:.2f}",
            )
        rows.append(
            {
                "epoch": epoch or "before",
                "kept": epoch == best,
                "cells": (trained[0], f"{loss:.4f}", number(metric), trained[1]),
            }
        )
    return {
        "title": f"Stage {place + 1} of {len(about['stages'])}" if several else "Training",
        "unfrozen": stage["unfrozen"],
        "boundary": stage["boundary"],
        "rows": rows,
    }


def _groups(about: Values) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = [("Plan", _rows(about["plan"]))]
    if about["parity"] is not None:
        groups.append(("The whole model against the part that was trained", _rows(about["parity"])))
    groups.append(("Versions", _rows(about["versions"])))
    return groups


def _rows(values: Values) -> list[tuple[str, str]]:
    def shown(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value)) or "none"
        if isinstance(value, float):
            return f"{value:.6g}"
        return "none" if value is None else str(value)

    return [(name.replace("_", " "), shown(value)) for name, value in values.items()]


def _losses(stage: Values) -> Figure:
    trained = list(range(1, len(stage["training_loss"]) + 1))
    lines = [
        _line(trained, stage["training_loss"], "training", "var(--muted)", "dash"),
        *_judged(stage["validation_loss"], stage["best_epoch"], "validation"),
    ]
    return _figure(lines, "loss")


def _metric(stage: Values, metric: str) -> Figure:
    return _figure(_judged(stage["validation_metric"], stage["best_epoch"], "validation"), metric)


def _judged(values: list[float], best: int, name: str) -> list[Figure]:
    """Return the curve of what judges, its level before training, and the epoch that was kept."""
    epochs = list(range(len(values)))
    level = _line([0, epochs[-1]], [values[0]] * 2, "before training", "var(--second)", "dot")
    kept = {
        "type": "scatter",
        "mode": "markers",
        "x": [best],
        "y": [values[best]],
        "name": "kept",
        "marker": {
            "size": 14,
            "color": "rgba(0,0,0,0)",
            "line": {"color": "var(--accent)", "width": 2},
        },
        "hoverinfo": "skip",
    }
    return [level, _line(epochs, values, name, "var(--accent)", "solid"), kept]


def _line(x: list[int], y: list[float], name: str, colour: str, dash: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers" if dash == "solid" else "lines",
        "x": x,
        "y": y,
        "name": plain(name),
        "line": {"color": colour, "dash": dash},
        "hovertemplate": "epoch %{x}: %{y:.4f}<extra></extra>",
    }


def _figure(data: list[Figure], what: str) -> Figure:
    n_epochs = max(max(one["x"], default=0) for one in data)
    return {
        "data": data,
        "layout": {
            "height": 340,
            "xaxis": {
                "title": {"text": "epoch"},
                "rangemode": "tozero",
                "dtick": max(1, round(n_epochs / 12)),
            },
            "yaxis": {"title": {"text": plain(what)}},
            "legend": {"orientation": "h", "y": 1.14},
        },
    }
