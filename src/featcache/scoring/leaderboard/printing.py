"""Results as a table for the terminal, and numbers and settings as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from featcache import heads
from featcache.core.tasks import TASKS
from featcache.core.text import counted
from featcache.heads import open_set
from featcache.heads.anomaly import Threshold
from featcache.scoring import metrics
from featcache.scoring.leaderboard.results import Result

SHORT = {"balanced-accuracy": "balanced"}
LONG = 10  # a metric's name of more letters has its heading in two lines
SETTING = 1  # column


def table(results: Sequence[Result], metric: str, task: str, width: int) -> list[Any]:
    """Return a rich table, one line per head, and lines on settings that have no room in it.

    Heads level with the first are marked with =.
    """
    from rich.table import Table
    from rich.text import Text

    beside = next(name for name in TASKS[task].shown_metrics if name != metric)
    interval = "\n".join([metric, "(95 %)"]) if len(metric) > LONG else f"{metric} (95 %)"
    heading = ["head", "setting", interval, SHORT.get(beside, beside), "p", "held out", "fit"]
    rows = [
        [
            f"{result.name}{' =' if row and result.is_level else ''}",
            setting(result.params),
            f"{number(result.mean)} ({number(result.low, 2)}-{number(result.high, 2)})",
            number(float(np.mean(result.scores[beside]))),
            "" if row == 0 else p_value(result),
            "-" if result.test is None else number(result.test[metric]),
            f"{result.fit_s:.2f} s",
        ]
        for row, result in enumerate(results)
    ]
    longest = [
        max(len(line) for cell in column for line in cell.split("\n"))
        for column in zip(heading, *rows, strict=True)
    ]
    room = width - sum(longest) + longest[SETTING] - len(heading)
    below = [
        Text(f"* {result.name}: {row[SETTING]}")
        for row, result in zip(rows, results, strict=True)
        if len(row[SETTING]) > room
    ]
    # without lines, so that it fits into 80 columns and reads the same where there is only ASCII
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for place, name in enumerate(heading):
        made.add_column(name, justify="left" if place <= SETTING else "right", no_wrap=True)
    for place, (row, result) in enumerate(zip(rows, results, strict=True)):
        row[SETTING] = row[SETTING] if len(row[SETTING]) <= room else "*"
        made.add_row(
            *map(Text, row),  # a list in brackets is no markup
            style="bold" if place == 0 else ("" if result.is_level else "dim"),
        )
    return [made, *below]


def stranger_table(about: dict[str, Any]) -> Any:
    """Return a rich table of how well each score tells strangers, the one that ships in bold."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column("stranger score", no_wrap=True)
    for name in ("AUROC (95 %)", "OSCR (95 %)", "found"):
        made.add_column(name, justify="right", no_wrap=True)
    for name, one in about["scores"].items():
        areas = [
            f"{number(value)} ({number(low, 2)}-{number(high, 2)})"
            for value, low, high in (
                [one[f"{area}{end}"] for end in ("", "_low", "_high")] for area in ("auroc", "oscr")
            )
        ]
        made.add_row(
            name, *areas, f"{one['found']:.0%}", style="bold" if name == about["score"] else ""
        )
    return made


def of_strangers(about: dict[str, Any]) -> tuple[str, ...]:
    """Return sentences on how strangers are told, and what the threshold promises."""
    one, each = about["scores"][about["score"]], []
    for names, auroc in zip(about["groups"], one["each"], strict=True):
        each.append((auroc, ", ".join(names)))
    hardest = min(each, key=lambda pair: np.nan_to_num(pair[0], nan=np.inf))
    found = [
        f"{about['head']} says unknown by {about['score']}: with each class unknown in turn its "
        f"AUROC is {number(one['auroc'])}; hardest to tell is {hardest[1]} ({number(hardest[0])}). "
        f"Of such strangers about {one['found']:.0%} are found where {about['keep_known']:.0%} of "
        f"known images are kept.",
        f"Its threshold is {open_set.kept(Threshold(**about['threshold']))}.",
    ]
    if about["test"] is not None:
        right = about["test"]["accuracy"]
        found.append(f"Held out, with unknown as a mistake, its accuracy is {number(right)}.")
    return tuple(found)


def remarks(results: Sequence[Result], metric: str, luck: float) -> tuple[str, ...]:
    """Return sentences on the selected head: what it was preferred to, what it owes to luck."""
    first, found = results[0], []
    others = [one for one in results if one.head != heads.FLOOR]
    sign = metrics.better(metric)
    best = max(others or results, key=lambda one: np.nan_to_num(sign * one.mean, nan=-np.inf))
    if sign * (best.mean - first.mean) > 0:
        why = "simpler"
        if first.output == heads.PROBABILITIES and best.output != heads.PROBABILITIES:
            why = "its outputs are probabilities"
        found.append(
            f"{first.name} is taken before {best.name} ({number(best.mean)}), with which it is "
            f"level: {why}."
        )
    if not math.isnan(luck):
        much = "no part" if luck < 0.0005 else f"about {number(luck)}"
        found.append(
            f"Of its {metric}, {much} is owed to being selected of {counted(len(others), 'head')}."
        )
    floor = [one for one in results if one.head == heads.FLOOR and one is not first]
    if floor and floor[0].is_level:
        found.append(f"It is not told from {heads.FLOOR}, which looks at no feature.")
    return tuple(found)


def number(value: float, digits: int = 3) -> str:
    """Return a score with the digits that count."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.4g}"


def p_value(result: Result) -> str:
    """Return how likely such a difference is between equal heads."""
    if math.isnan(result.p_value):
        return "-"
    return "<.001" if result.p_value < 0.001 else f"{result.p_value:.3f}".removeprefix("0")


def setting(params: dict[str, Any]) -> str:
    """Return a setting as text, without what is the same for all heads."""
    same = ("seed", "task", "class_weight", "false_alarms")
    return ", ".join(
        str(value) if key == "preprocessing" else f"{key}={value}"
        for key, value in params.items()
        if key not in same
    )
