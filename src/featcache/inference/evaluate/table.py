"""An evaluation as tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.scoring.confusion import most_confused

if TYPE_CHECKING:
    from featcache.inference.evaluate.records import Evaluation

SHOWN_CLASSES = 30  # of more the weakest are shown
MATRIX_CLASSES = 15  # of more the commonest mistakes are shown instead of the whole matrix
SHOWN_MISTAKES = 10
COLUMNS = {
    "classification": ("precision", "recall", "f1", "support"),
    "multi-label": ("precision", "recall", "f1", "average_precision", "support"),
    "regression": ("mae", "rmse", "r2", "bias"),
}
NAMES = {"classification": "class", "multi-label": "label", "regression": "target"}


def table(one: Evaluation) -> Any:
    """Return the tables of an evaluation, and below them a line about each class that lags."""
    from rich.console import Group
    from rich.text import Text

    parts = [_scores(one), Text(), _each(one)]
    if one.confusion is not None:
        parts += [Text(), _confusion(one, np.array(one.confusion))]
    return Group(*parts, Text(), *(Text(line) for line in _lines(one)))


def _plain_table(*headings: str) -> Any:
    from rich.table import Table

    # without lines, so that it reads the same where there is only ASCII
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def _scores(one: Evaluation) -> Any:
    made = _plain_table("metric", "value", "95 %")
    for name, value in one.scores.items():
        low, high = one.intervals.get(name, (math.nan, math.nan))
        between = "" if math.isnan(low) else f"{_number(low)} - {_number(high)}"
        made.add_row(name, _number(value), between)
    return made


def _each(one: Evaluation) -> Any:
    from rich.text import Text

    columns = COLUMNS[one.task]
    made = _plain_table(
        NAMES[one.task],
        *(column.replace("average_", "avg ").replace("support", "images") for column in columns),
    )
    some = one.each
    if len(some) > SHOWN_CLASSES:
        order = "r2" if one.task == "regression" else "recall"
        known = [row for row in some if not math.isnan(row[order])]
        some = sorted(known, key=lambda row: row[order])[:SHOWN_CLASSES]
    for row in some:
        made.add_row(Text(row["name"]), *(_number(row[column]) for column in columns))
    return made


def _confusion(one: Evaluation, counts: np.ndarray) -> Any:
    from rich.text import Text

    names = one.class_names
    if len(names) > MATRIX_CLASSES:
        made = _plain_table("most often mistaken", "for", "images")
        for true, predicted, n in most_confused(counts)[:SHOWN_MISTAKES]:
            made.add_row(Text(names[true]), Text(names[predicted]), str(n))
        return made
    numbers = [str(number) for number in range(1, len(names) + 1)]
    made = _plain_table("true class (row), predicted (column)", *numbers)
    for number, name, row in zip(numbers, names, counts.tolist(), strict=True):
        made.add_row(Text(f"{number} {name}"), *(str(n) if n else "." for n in row))
    return made


def _lines(one: Evaluation) -> list[str]:
    weak, slow = one.weakest, one.slowest
    lines = []
    if weak is not None and weak.get("recall", 1) < 1:
        lines.append(
            f"Lagging behind: {weak['name']}, {100 * weak['recall']:.0f} % of {weak['support']} "
            f"found."
        )
    elif weak is not None and "r2" in weak and len(one.each) > 1:
        lines.append(f"Lagging behind: {weak['name']}, R2 {_number(weak['r2'])}.")
    if slow is not None:
        lines.append(
            f"Slowest: {slow['name']}, {slow['ms']:.1f} ms an image to read and decode; "
            f"{slow['typical_ms']:.1f} ms is typical."
        )
    lines.append(
        f"{one.n_images} images ({one.part}) of {one.source}, {one.images_per_s:.0f} images/s. "
        f"Unreadable: {len(one.unreadable)}, unlabelled: {one.n_unlabelled}."
    )
    return lines


def _number(value: float) -> str:
    """Return a score with the digits that count, a number of images as it is."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
