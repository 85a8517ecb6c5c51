"""The page of a fine-tuning: what came of it, its curves, and how it was trained.

It shows what it is told. Nothing is trained or scored here; only the interval of an accuracy is
computed, which hangs on the number of images alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

from featcache.core import atomic
from featcache.report import rendering, training_charts
from featcache.report.charts import Figure
from featcache.report.provenance import shown
from featcache.report.rendering import Values
from featcache.scoring import intervals, metrics
from featcache.scoring.leaderboard import number

ACCURACY = "accuracy"


def write_training_page(path: Path, about: Values) -> Path:
    """Write the page of a fine-tuning and return its path.

    Parameters
    ----------
    path : the .html file.
    about : plain values:

        - model (name of the file), source, head, backbone, task: str;
        - metric: str, which chose the epochs; improved: bool, on the validation images;
        - before, after: dict of every metric to its value on the held-out part;
        - n_train, n_validation, n_test: int, images;
        - stages: list of dicts with unfrozen (list of layer names), boundary (str),
          validation_loss and validation_metric (k + 1 floats; number 0 is before training),
          training_loss and seconds (k floats), best_epoch (int; 0: none was better);
        - plan, versions: dict; parity: dict, or None where nothing improved;
        - optional are refit, a list of one dict per stage with training_loss and seconds: the
          second run, on all training images; and command: str, which does the same again.
    """
    atomic.write_text(path, rendering.rendered("training_page.html.jinja", _content(about)))
    return path


def _content(about: Values) -> Values:
    """Return what the template shows; numbers become text here."""
    stages = [_stage(about, place) for place in range(len(about["stages"]))]
    again = _second_run(about)
    runs = [(one["title"], about["stages"][place]["seconds"]) for place, one in enumerate(stages)]
    runs += [(one["title"], one["seconds"]) for one in again]
    figures: dict[str, Figure] = {"seconds": training_charts.seconds(runs)}
    for place, stage in enumerate(about["stages"]):
        figures[f"loss-{place + 1}"] = training_charts.losses(stage)
        figures[f"metric-{place + 1}"] = training_charts.metric(stage, about["metric"])
    for one in again:
        figures[one["chart"]] = one.pop("figure")
    return {
        "about": about,
        "facts": _facts(about),
        "validated": _validated(about),
        "held_out": _held_out(about),
        "lower_is_better": metrics.better(about["metric"]) < 0,
        "one_image": number(1 / about["n_validation"]) if about["metric"] == ACCURACY else "",
        "stages": stages,
        "again": again,
        "pace": [(title, f"{sum(took):.1f} s", f"{median(took):.2f} s") for title, took in runs],
        "scores": [_score(about, name) for name in about["before"]],
        "command": about.get("command"),
        "groups": _groups(about),
        "figures": figures,
    }


def _facts(about: Values) -> list[tuple[str, str]]:
    seconds = [one for stage in about["stages"] for one in stage["seconds"]]
    return [
        (f"{about['n_train']:,}", "images trained on"),
        (f"{about['n_validation']:,}", "chose the epoch"),
        (f"{about['n_test']:,}", "held out"),
        (f"{len(seconds):,}", "epoch" if len(seconds) == 1 else "epochs"),
        (f"{median(seconds):.2f} s", "per epoch, median"),
    ]


def _validated(about: Values) -> str:
    """Say what became of the validation images' metric and loss."""
    first, last = about["stages"][0], about["stages"][-1]
    best = last["best_epoch"]
    before, after = number(first["validation_metric"][0]), number(last["validation_metric"][best])
    if before != after:
        return f"{about['metric']} went from {before} to {after}"
    losses = f"{_loss(first['validation_loss'][0])} to {_loss(last['validation_loss'][best])}"
    return f"{about['metric']} stayed at {before} and the loss went from {losses}"


def _held_out(about: Values) -> Values:
    """Return what training did to the metric on images that chose nothing."""
    name = about["metric"]
    gain = metrics.better(name) * (about["after"][name] - about["before"][name])
    counts = []
    if name == ACCURACY:
        counts = [round(about[when][name] * about["n_test"]) for when in ("before", "after")]
    return _score(about, name) | {
        "verdict": "better" if gain > 0 else "worse" if gain < 0 else "the same",
        "right": counts,
    }


def _score(about: Values, name: str) -> Values:
    """Return a metric before and after, as text."""
    before, after = about["before"][name], about["after"][name]
    return {
        "name": name,
        "lower": metrics.better(name) < 0,
        "before": number(before),
        "after": number(after),
        "change": _change(after - before),
        "intervals": [_interval(name, value, about["n_test"]) for value in (before, after)],
    }


def _change(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" if value else "0"


def _interval(name: str, value: float, n: int) -> str:
    """Return the 95 % interval of an accuracy over n images as text, or ""."""
    if name != ACCURACY:
        return ""
    return " to ".join(map(number, intervals.wilson(value, n)))


def _stage(about: Values, place: int) -> Values:
    stage, n_stages = about["stages"][place], len(about["stages"])
    best, losses, judged = stage["best_epoch"], stage["validation_loss"], stage["validation_metric"]
    trained = ["", *map(_loss, stage["training_loss"])]
    took = ["", *(f"{one:.2f}" for one in stage["seconds"])]
    cells = zip(trained, map(_loss, losses), map(number, judged), took, strict=True)
    return {
        "title": f"Stage {place + 1} of {n_stages}" if n_stages > 1 else "Training",
        "unfrozen": stage["unfrozen"],
        "boundary": stage["boundary"],
        "rows": [
            {"epoch": epoch or "before", "kept": epoch == best, "cells": row}
            for epoch, row in enumerate(cells)
        ],
        "loss": _told([_loss(losses[0]), _loss(losses[best])], best),
        "metric": _told([number(judged[0]), number(judged[best])], best),
    }


def _told(values: list[str], best: int) -> str:
    """Return a curve in words: its values before training and in the epoch that was kept."""
    if not best:
        return f"{values[0]} before training, and no epoch was kept"
    return f"{values[0]} before training, {values[1]} in epoch {best}, which was kept"


def _second_run(about: Values) -> list[Values]:
    """Return the stages of the run on all training images; one of no epoch is left out."""
    found = []
    runs = about.get("refit") or []
    for place, (stage, again) in enumerate(zip(about["stages"], runs, strict=bool(runs)), 1):
        if not again["training_loss"]:
            continue
        first = stage["training_loss"]
        found.append(
            {
                "title": f"Second run, stage {place}" if len(runs) > 1 else "Second run",
                "chart": f"refit-{place}",
                "figure": training_charts.refit(stage, again),
                "seconds": again["seconds"],
                "rows": [
                    (epoch + 1, _loss(first[epoch]), _loss(loss), f"{took:.2f}")
                    for epoch, (loss, took) in enumerate(
                        zip(again["training_loss"], again["seconds"], strict=True)
                    )
                ],
            }
        )
    return found


def _groups(about: Values) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = [("Plan", _rows(about["plan"]))]
    if about["parity"] is not None:
        groups.append(("The whole model against the part that was trained", _rows(about["parity"])))
    return [*groups, ("Versions", _rows(about["versions"]))]


def _rows(values: Values) -> list[tuple[str, str]]:
    return [
        (
            name.removeprefix("n_").replace("_", " "),
            f"{value:.6g}" if isinstance(value, float) else shown(value),
        )
        for name, value in values.items()
    ]


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
