"""The sections of the page as plain values: numbers become text here, text is escaped later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from featcache import heads
from featcache.core.tasks import TargetKind
from featcache.heads.anomaly import Threshold
from featcache.heads.open_set import kept
from featcache.report import charts, findings
from featcache.report.curves import mean
from featcache.report.material import Material, label_suspects
from featcache.report.rendering import Values
from featcache.scoring import confusion
from featcache.scoring.leaderboard import Leaderboard, Result, number, setting

N_MISTAKES, N_SUSPECTS, N_CONFUSED = 24, 50, 12
MAX_TARGETS = 12  # that have charts


def head(material: Material) -> Values:
    """Return the title, the result in a sentence, and what a reader should know first."""
    board, best, features = material.board, material.best, material.features
    level = [one.name for one in board.results[1:] if one.is_level]
    floor = [one for one in board.results if one.head == heads.FLOOR]
    path = board.features[0].path
    source = "arrays" if path is None else path.stem
    if features is not None:
        source = str(features.provenance.get("source", source))
    return {
        "source": source,
        "name": source.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].removeprefix("example:"),
        "backbones": [one.name for one in board.features],
        "best": best.name,
        "metric": board.metric,
        "score": number(best.mean),
        "interval": f"{number(best.low)} to {number(best.high)}",
        "n_folds": len(best.scores[board.metric]),
        "level": level,
        "test": "" if best.test is None else _held_out(best.test[board.metric], best),
        "floor": number(floor[0].mean) if floor and best is not floor[0] else "",
        "remarks": board.remarks,
        "warnings": board.warnings,
        "left_out": sorted((board.left_out or {}).items()),
        "facts": [
            (f"{board.n_train + board.n_test:,}", "images"),
            (f"{board.n_train:,}", "to learn from"),
            (f"{board.n_test:,}", "held out"),
            (f"{len(board.class_names):,}", material.task.nouns),
            (f"{len(board.results):,}", "heads compared"),
        ],
    }


def table(board: Leaderboard) -> Values:
    """Return the leaderboard's rows, each with its interval as per cent of a common scale."""
    others = [name for name in board.results[0].scores if name != board.metric]
    # what is nearer to the floor than to the best would squeeze all others
    best = board.results[0].mean
    floor = [one.mean for one in board.results[1:] if one.head == heads.FLOOR and one.mean != best]
    scaled = [
        one for one in board.results if not floor or (one.mean - floor[0]) / (best - floor[0]) > 0.5
    ]
    ends = [end for one in scaled for end in (one.low, one.high, one.mean)]
    ends = [end for end in ends if math.isfinite(end)] or [0.0, 1.0]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0

    def place(value: float) -> float:
        share = 100 * (value - low) / width if math.isfinite(value) else -1.0
        return round(share, 2)

    rows = []
    for rank, one in enumerate(board.results):
        level = "level" if one.is_level else "behind"
        rows.append(
            {
                "name": one.name,
                "rank": rank,
                "verdict": "selected" if rank == 0 else level,
                "mean": cell(one.mean),
                "low": number(one.low),
                "high": number(one.high),
                "forest": _forest(place(one.low), place(one.high), place(one.mean)),
                "others": [cell(mean(one.scores[name])) for name in others],
                "behind": cell(0.0 if rank == 0 else abs(one.difference)),
                "p_value": p_cell(one.p_value),
                "test": None if one.test is None else cell(one.test[board.metric]),
                "test_interval": f"{number(one.test_low)} to {number(one.test_high)}",
                "setting": setting(one.params) or "no settings",
                "fit": {"text": f"{one.fit_s:.2f} s", "value": one.fit_s},
            }
        )
    return {"others": others, "rows": rows, "best_at": place(board.results[0].mean)}


def strangers(board: Leaderboard) -> Values | None:
    """Return how well each score tells images of unknown classes, and each class by the best."""
    about = board.open_set
    if about is None:
        return None
    taken = about["scores"][about["score"]]
    areas = ("auroc", "oscr")
    return {
        "head": about["head"],
        "score": about["score"],
        "keep": f"{100 * about['keep_known']:g} %",
        "kept": kept(Threshold(**about["threshold"])),
        "rows": [
            {
                "name": name,
                "is_taken": name == about["score"],
                "found": {"text": f"{one['found']:.0%}", "value": one["found"]},
                "cells": [
                    cell(one[area])
                    | {"ends": f"{number(one[f'{area}_low'])} to {number(one[f'{area}_high'])}"}
                    for area in areas
                ],
            }
            for name, one in about["scores"].items()
        ],
        "groups": [
            {"name": ", ".join(names), "auroc": cell(auroc)}
            for names, auroc in zip(about["groups"], taken["each"], strict=True)
        ],
    }


def classes(material: Material) -> Values:
    """Return scores of each class, label or target, and the figures beside them."""
    board, n = material.board, material.n_train
    y, outputs = material.unseen.y, material.outputs[:n]
    made: Values = {"figures": {}, "pairs": []}
    keys = material.task.scores_of_each
    scores, counts = confusion.of_each(board.task, y, outputs, material.best.output)
    if material.task.kind is TargetKind.NUMBERS:
        for place, name in enumerate(board.class_names[:MAX_TARGETS]):
            figure = charts.predicted_and_true(y[:, place], outputs[:, place], name, board.seed)
            made["figures"][f"target-{place}"] = figure
        made["n_targets_left_out"] = max(len(board.class_names) - MAX_TARGETS, 0)
    if counts is not None:
        made["figures"]["confusion"] = charts.confusion(counts, board.class_names)
        made["pairs"] = _confused(counts, board.class_names)
    made["columns"] = [key.replace("_", " ") for key in keys]
    made["rows"] = [
        {"name": name, "cells": [cell(one[key], key == "support") for key in keys]}
        for name, one in zip(board.class_names, scores, strict=True)
    ]
    return made


def mistakes(material: Material) -> list[Values]:
    """Return the predictions that were surest and wrong, or farthest off."""
    names = material.board.class_names
    if material.task.kind is TargetKind.CLASS:
        places = findings.confident_mistakes(material.probabilities, material.y, N_MISTAKES)
        return [picture(material, int(place)) for place in places]
    if material.task.kind is TargetKind.LABELS:
        p = material.tempered(material.best)
        wrong = (p >= 0.5) != (material.y == 1)
        sure = np.where(wrong, np.abs(p - 0.5), -1.0)
        flat = np.argsort(-sure, axis=None, kind="stable")[:N_MISTAKES]
        found = []
        for place, label in zip(*np.unravel_index(flat, sure.shape), strict=True):
            if wrong[place, label]:
                given = names[label] if material.y[place, label] else f"not {names[label]}"
                said = f"not {names[label]}" if material.y[place, label] else names[label]
                chance = float(max(p[place, label], 1 - p[place, label]))
                found.append(
                    picture(material, int(place))
                    | {"given": given, "predicted": said, "p": f"{chance:.2f}"}
                )
        return found
    # targets have units of their own, so errors are counted in standard deviations
    spread = np.std(material.unseen.y, axis=0)
    error = np.abs(material.outputs - material.y) / np.where(spread > 0, spread, 1)
    worst = np.argsort(-error.max(axis=1), kind="stable")[:N_MISTAKES]
    return [picture(material, int(place)) for place in worst]


def suspects(material: Material) -> Values:
    """Return the labels that are probably wrong, and who says so."""
    found = label_suspects(material)
    return {
        "n": len(found),
        "n_held_out": sum(one["part"] == "held-out" for one in found),
        "rows": [
            one | {"p_given": f"{one['p_given']:.2f}", "p_suggested": f"{one['p_suggested']:.2f}"}
            for one in found[:N_SUSPECTS]
        ],
        "judges": [one.name for one in material.judges],
    }


def picture(material: Material, place: int) -> Values:
    """Return what stands below the picture of an image."""
    return {
        "place": place,
        "row": int(material.rows[place]),
        "id": material.name(place),
        "part": "held-out" if material.is_test[place] else "train",
        "given": told(material, material.y[place]),
        "predicted": told(material, material.predicted[place]),
        "p": chance(material, place),
    }


def told(material: Material, what: Any) -> str:
    """Return a class, labels or values as text."""
    names = material.board.class_names
    if material.task.kind is TargetKind.CLASS:
        return names[int(what)]
    if material.task.kind is TargetKind.LABELS:
        return ", ".join(names[label] for label in np.flatnonzero(what)) or "no label"
    if len(names) == 1:
        return f"{what[0]:.4g}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, what, strict=True))


def chance(material: Material, place: int) -> str:
    """Return the probability of the predicted class as text; "" where there is no such thing."""
    if material.task.kind is not TargetKind.CLASS:
        return ""
    return f"{material.probabilities[place, material.predicted[place]]:.2f}"


def cell(value: float, is_count: bool = False) -> Values:
    """Return a number as text and as what it is sorted by."""
    text = f"{int(value):,}" if is_count else number(value)
    return {"text": text, "value": value if math.isfinite(value) else ""}


def p_cell(value: float) -> Values:
    """Return a p-value as text and as what it is sorted by."""
    if not math.isfinite(value):
        return {"text": "-", "value": ""}
    return {"text": "< .001" if value < 0.001 else f"{value:.3f}", "value": value}


def _held_out(score: float, best: Result) -> str:
    return f"{number(score)} [{number(best.test_low)} to {number(best.test_high)}]"


def _forest(low: float, high: float, mean: float) -> Values:
    """Return where an interval is drawn, in per cent; a mean off the scale is an arrow."""
    within = [min(max(value, 0.0), 100.0) for value in (low, 100 - high, mean)]
    off = "left" if mean < 0 else "right" if mean > 100 else ""
    return {"left": within[0], "right": within[1], "mean": within[2], "off": off}


def _confused(counts: np.ndarray, names: Sequence[str]) -> list[Values]:
    found = []
    for given, predicted, n in confusion.most_confused(counts)[:N_CONFUSED]:
        share = n / counts[given].sum()
        found.append(
            {"given": names[given], "predicted": names[predicted], "n": n}
            | {"share": f"{share:.0%}", "value": share}
        )
    return found
