"""Tables of an evaluation for the terminal; they are made of plain data, and read nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featcache.core.tasks import Task
from featcache.scoring.confusion import most_confused

SHOWN_CLASSES = 30  # of more the weakest are shown
MATRIX_CLASSES = 15  # of more the commonest mistakes are shown instead of the whole matrix
SHOWN_MISTAKES = 10


def _plain_table(*headings: str) -> Any:
    from rich.table import Table

    # without lines, so that it reads the same where there is only ASCII
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def of_scores(scores: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Any:
    """Return the metrics with their 95 % intervals, where these are known."""
    made = _plain_table("metric", "value", "95 %")
    for name, value in scores.items():
        low, high = intervals.get(name, (math.nan, math.nan))
        between = "" if math.isnan(low) else f"{number(low)} - {number(high)}"
        made.add_row(name, number(value), between)
    return made


def of_each(task: Task, some: list[dict[str, Any]]) -> Any:
    """Return the scores of each class, label or target; of many those that do worst."""
    from rich.text import Text

    columns = task.scores_of_each
    made = _plain_table(
        task.noun,
        *(column.replace("average_", "avg ").replace("support", "images") for column in columns),
    )
    if len(some) > SHOWN_CLASSES:
        known = [row for row in some if not math.isnan(row[task.weakest_by])]
        some = sorted(known, key=lambda row: row[task.weakest_by])[:SHOWN_CLASSES]
    for row in some:
        made.add_row(Text(row["name"]), *(number(row[column]) for column in columns))
    return made


def of_confusion(names: tuple[str, ...], counts: np.ndarray) -> Any:
    """Return which classes are taken for which: `counts` (n, n), true in rows."""
    from rich.text import Text

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


def number(value: float) -> str:
    """Return a score with the digits that count, a number of images as it is."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
