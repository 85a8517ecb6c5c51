"""Small leaderboards for the tests of the report, made by hand: nothing is fitted."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_image

from featcache.core.tasks import TASKS
from featcache.scoring import leaderboard, metrics

HOSTILE = "<script>alert(1)</script>"
BOLD = '<b>bold</b> & "co" %{x} </script>'
COLOURS = {HOSTILE: (200, 60, 40), BOLD: (70, 180, 60), "plain": (60, 90, 200)}
WRONG = "red 3.png"  # is red, and said to be green
COPY, ORIGINAL = "blue 11.png", "blue 0.png"  # the same bytes on both sides


def make_manifest(folder: Path, a_class: int = 12) -> Path:
    """Write images of three classes, the last three of each for testing, and their manifest."""
    rows = []
    for number, (name, hue) in enumerate(COLOURS.items()):
        colour = ("red", "green", "blue")[number]
        for i in range(a_class):
            path = make_image(folder / f"{colour} {i}.png", hue, 100 * number + i, (40 + i, 50))
            label = BOLD if path.name == WRONG else name
            rows.append((path.name, label, "test" if i >= a_class - 3 else "train"))
    (folder / COPY).write_bytes((folder / ORIGINAL).read_bytes())
    manifest = folder / "images.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return manifest


def outputs_of(
    truth: np.ndarray, y: np.ndarray, n_outputs: int, kind: str, seed: int, strength: float
) -> np.ndarray:
    """Return outputs that mostly see what is there, and surely where it is labelled otherwise."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(truth), n_outputs))
    logits += strength * (2 * truth - 1 if truth.ndim == 2 else np.eye(n_outputs)[truth])
    wrong = (truth != y).reshape(len(y), -1).any(axis=1)
    logits[wrong] *= 3
    if kind != "probabilities":
        return logits
    return softmax(logits) if truth.ndim == 1 else 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def make_board(
    folder: Path,
    y: np.ndarray,
    names: tuple[str, ...],
    *,
    task: str = "classification",
    seen: np.ndarray | None = None,
    features: Any = None,
    test: np.ndarray | None = None,
    kinds: dict[str, str] | None = None,
    calibrated: bool = False,
    **given: Any,
) -> leaderboard.Leaderboard:
    """Return a saved leaderboard of three heads, or of those with `kinds` of output.

    Parameters
    ----------
    y : of all rows; `seen` is what heads see in them, None is `y`.
    features : a feature file; None is plain arrays.
    test : (n,) bool, held out.
    """
    seen = y if seen is None else seen
    test = np.arange(len(y)) % 5 == 4 if test is None else test
    usual = "values" if task == "regression" else "probabilities"
    kinds = kinds or {"logreg": usual, "linear-svm": "scores", "dummy": usual}
    metric = TASKS[task].default_metric
    rows, test_rows = np.flatnonzero(~test), np.flatnonzero(test)
    folds = np.arange(len(rows)) % 3
    outputs, results = {}, []
    for number, (name, kind) in enumerate(kinds.items()):
        strength = 0.0 if name == "dummy" else 4.0 - number
        if task == "regression":
            noise = np.random.default_rng(number).standard_normal(y.shape)
            every = seen + (number + 0.1) * noise
        else:
            every = outputs_of(seen, y, len(names), kind, number, strength)
        outputs[name], said = every[rows], every[test_rows]
        scores = {
            one: tuple(
                metrics.score_one(
                    one, task, y[rows[folds == fold]], every[rows[folds == fold]], kind
                )
                for fold in range(3)
            )
            for one in TASKS[task].metrics
        }
        mean, std = float(np.mean(scores[metric])), float(np.std(scores[metric]))
        tested = metrics.score(task, y[test_rows], said, kind) if number == 0 else None
        if number == 0:
            test_outputs = said
        results.append(
            leaderboard.Result(
                name=name,
                head=name,
                features=0,
                params={"C": 0.1},
                fold_params=({},) * 3,
                output=kind,
                scores=scores,
                mean=mean,
                std=std,
                low=mean - std,
                high=mean + std,
                difference=0.0 if number == 0 else results[0].mean - mean,
                p_value=math.nan if number == 0 else 0.0004 * 100 ** (2 - number),
                is_level=number < 2,
                fit_s=0.1 * (number + 1),
                file=f"{name}.skops",
                file_digest="",
                test=tested,
                test_low=math.nan if tested is None else 0.5,
                test_high=math.nan if tested is None else 0.9,
            )
        )
    content = "0" if features is None else features.content
    width = 4 if features is None else features.shape[1]
    path, spec = (None, None) if features is None else (features.path, features.spec)
    first = results[0].name
    through = {first: softmax(2 * outputs[first])} if calibrated else {}
    folder.mkdir(parents=True, exist_ok=True)
    board = leaderboard.Leaderboard(
        folder=folder,
        features=(leaderboard.FeatureSet("tiny", content, width, path, spec),),
        task=task,
        metric=metric,
        class_names=names,
        results=tuple(results),
        request={"features": [content], "cv": 3, "seed": 0, "heads": {"logreg": [{"C": 0.1}]}},
        n_train=len(rows),
        n_test=len(test_rows),
        **given,
    )
    kept = leaderboard.OutOfFold(rows, y[rows], folds, outputs, through, test_rows, test_outputs)
    leaderboard.write(board, kept, folder)
    return board


CURVE = {
    "n_train": [9, 18],
    "scores": [[0.5, None, 0.4], [0.8, 0.7, 0.75]],
    "metric": "accuracy",
    "verdict": "More labels would help.",
}


def make_photo_board(folder: Path, features: Any, **given: Any) -> leaderboard.Leaderboard:
    """Return the board of `make_manifest`'s images: heads see the colour, not the label."""
    names = features.class_names
    colours = {"red": HOSTILE, "green": BOLD, "blue": "plain"}
    seen = np.array([names.index(colours[id_.split()[0]]) for id_ in features.ids])
    test = np.array(features.splits) == "test"
    return make_board(
        folder, features.labels, names, seen=seen, features=features, test=test, **given
    )
