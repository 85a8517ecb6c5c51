"""The charts of a training: what is lost, judged and waited for, epoch by epoch."""

from __future__ import annotations

from typing import Any

from featcache.report.charts import Figure, listed, plain
from featcache.report.rendering import Values

MOST_TICKS = 12
COLOURS = tuple(f"var(--{name})" for name in ("accent", "second", "good", "muted", "wrong"))


def losses(stage: Values) -> Figure:
    """Return training and validation loss of a stage, with what was kept and where it began."""
    epochs = range(1, len(stage["training_loss"]) + 1)
    trained = _line("training", epochs, stage["training_loss"], "var(--muted)", "dash")
    judged = _judged(stage["validation_loss"], stage["best_epoch"])
    return _figure([trained, *judged], "loss", len(epochs))


def metric(stage: Values, name: str) -> Figure:
    """Return the metric of a stage on the validation images, in the same way."""
    judged = _judged(stage["validation_metric"], stage["best_epoch"])
    return _figure(judged, name, len(stage["training_loss"]))


def refit(stage: Values, again: Values) -> Figure:
    """Return the training loss of a stage beside that of its second run on all images."""
    n_epochs = max(len(stage["training_loss"]), len(again["training_loss"]))
    lines = [
        _line(name, range(1, len(values) + 1), values, colour, dash)
        for name, values, colour, dash in (
            ("first run", stage["training_loss"], "var(--muted)", "dash"),
            ("second run", again["training_loss"], "var(--accent)", "solid"),
        )
    ]
    return _figure(lines, "training loss", n_epochs)


def seconds(runs: list[tuple[str, list[float]]]) -> Figure:
    """Return the seconds of every epoch of named runs, one after the other."""
    bars: list[Figure] = []
    done = 0
    for place, (name, values) in enumerate(runs):
        numbers = list(range(1, len(values) + 1))
        bars.append(
            {
                "type": "bar",
                "x": [done + number for number in numbers],
                "y": listed(values),
                "customdata": numbers,
                "name": plain(name),
                "marker": {"color": COLOURS[place % len(COLOURS)]},
                "hovertemplate": "%{fullData.name}, epoch %{customdata}: %{y:.2f} s<extra></extra>",
            }
        )
        done += len(values)
    figure = _figure(bars, "seconds", done)
    figure["layout"] |= {"height": 260, "showlegend": len(runs) > 1}
    figure["layout"]["xaxis"]["title"]["text"] = "epoch, counted through"
    return figure


def _judged(values: list[float], best: int) -> list[Figure]:
    """Return the level before training, the curve of what judges, and the epoch that was kept."""
    last = len(values) - 1
    kept = _line("kept", [best], values[best : best + 1], "var(--accent)", "solid")
    ring = {
        "size": 15,
        "symbol": "circle-open",
        "color": "var(--accent)",
        "line": {"width": 2.5},
    }
    return [
        _line("before", [0, last], [values[0]] * 2, "var(--second)", "dot"),
        _line("validation", range(last + 1), values, "var(--accent)", "solid"),
        kept | {"mode": "markers", "marker": ring, "hoverinfo": "skip", "hovertemplate": None},
    ]


def _line(name: str, x: Any, y: list[float], colour: str, dash: str) -> Figure:
    # one epoch is no line
    mode = "lines" if dash == "dot" else "lines+markers"
    return {
        "type": "scatter",
        "mode": mode,
        "x": list(x),
        "y": listed(y),
        "name": name,
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "size": 6},
        "hovertemplate": "%{fullData.name}, epoch %{x}: %{y:.4f}<extra></extra>",
    }


def _figure(data: list[Figure], what: str, n_epochs: int) -> Figure:
    return {
        "data": data,
        "layout": {
            "height": 340,
            "margin": {"l": 56, "r": 12, "t": 44, "b": 48},
            "xaxis": {"title": {"text": "epoch"}, "dtick": _step(n_epochs), "zeroline": False},
            "yaxis": {"title": {"text": plain(what)}},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        },
    }


def _step(n_epochs: int) -> int:
    """Return a round number of epochs between ticks."""
    step = 1
    while n_epochs > MOST_TICKS * step:
        step *= 10
    parts = (max(1, step // 5), max(1, step // 2), step)
    return next(part for part in parts if n_epochs <= MOST_TICKS * part)
