"""Reading and writing the folder of a leaderboard."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import atomic
from featcache.core.checks import with_checked_arguments
from featcache.core.errors import HeadError, SpecError
from featcache.core.escapes import ESCAPES
from featcache.core.keys import digest_file
from featcache.core.spec import ExtractionSpec
from featcache.scoring.leaderboard.board import (
    BOARD_VERSION,
    OPEN_SET_FILE,
    OUT_OF_FOLD_FILE,
    Leaderboard,
    digest_of,
)
from featcache.scoring.leaderboard.printing import setting
from featcache.scoring.leaderboard.results import FeatureSet, OutOfFold, Result

BOARD_FILE, CSV_FILE = "leaderboard.json", "leaderboard.csv"
NoneType = type(None)
_NUMBER = (int, float, NoneType)


@with_checked_arguments
def load(folder: str | os.PathLike[str]) -> Leaderboard:
    """Return the leaderboard that `fit_heads` saved.

    Raises
    ------
    HeadError
        When the folder has none, or one that cannot be read.
    """
    folder = Path(folder)
    file = folder / BOARD_FILE
    if not file.is_file():
        raise HeadError(f"'{folder}' has no {BOARD_FILE}. Run `featcache fit-heads` first.")
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if saved["board_version"] != BOARD_VERSION:
            raise HeadError(
                f"'{file}' has board version {saved['board_version']}; this featcache reads "
                f"version {BOARD_VERSION}. Run `featcache fit-heads` again."
            )
        _check_types(saved)
        if saved.get("digest", digest_of(saved)) != digest_of(saved):  # not always there
            raise HeadError(
                f"'{file}' was changed since the heads were fitted, so it may not say what they "
                f"do. Put back what it said, or run `featcache fit-heads` again."
            )
        return Leaderboard(
            folder=folder,
            features=tuple(_feature_set(one, folder) for one in saved["features"]),
            class_names=tuple(saved["class_names"]),
            results=tuple(_result(row) for row in saved["results"]),
            warnings=tuple(saved["warnings"]),
            luck=_number(saved["luck"]),
            open_set=_open_set(saved.get("open_set")),
            **{
                name: saved[name]
                for name in (
                    *("task", "metric", "request", "n_train", "n_test"),
                    *("left_out", "learning_curve"),
                )
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"'{file}' is damaged. Run `featcache fit-heads` again.") from error


def _feature_set(saved: dict[str, Any], folder: Path) -> FeatureSet:
    path = None
    if saved["path"] is not None:
        # the folder may have been moved together with the features beside it
        path = Path(saved["path"])
        beside = folder.parent / path.name
        path = beside if beside.is_file() else path
    return FeatureSet(
        name=saved["name"],
        content=saved["content"],
        n_features=saved["n_features"],
        path=path,
        spec=None if saved["spec"] is None else ExtractionSpec.from_dict(saved["spec"]),
    )


def _result(saved: dict[str, Any]) -> Result:
    numbers = ("mean", "std", "low", "high", "difference", "p_value")
    values = saved | {
        name: _number(saved[name]) for name in (*numbers, "test_low", "test_high", "fit_s")
    }
    values["fold_params"] = tuple(saved["fold_params"])
    values["scores"] = {
        metric: tuple(map(_number, scores)) for metric, scores in saved["scores"].items()
    }
    if saved["test"] is not None:
        values["test"] = {metric: _number(score) for metric, score in saved["test"].items()}
    return Result(**values)


def _open_set(saved: dict[str, Any] | None) -> dict[str, Any] | None:
    if saved is None:
        return None
    scores = {
        name: {key: _number(value) for key, value in one.items() if key != "each"}
        | {"each": list(map(_number, one["each"]))}
        for name, one in saved["scores"].items()
    }
    test = saved["test"] and {name: _number(score) for name, score in saved["test"].items()}
    return saved | {"scores": scores, "test": test}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def load_if_same(folder: Path, request: dict[str, Any]) -> Leaderboard | None:
    """Return the leaderboard of the same request, if it and its heads are whole."""
    try:
        board = load(folder)
    except (HeadError, SpecError):
        return None
    whole = (folder / OUT_OF_FOLD_FILE).is_file() and all(map(_is_whole, _files(board)))
    return board if board.request == request and whole else None


def is_folder(folder: Path) -> bool:
    """Return whether a folder is one of heads, of whatever version."""
    return (folder / BOARD_FILE).is_file()


def _files(board: Leaderboard) -> list[tuple[Path, str]]:
    files = [(board.folder / result.file, result.file_digest) for result in board.results]
    if board.open_set is not None:
        files.append((board.folder / OPEN_SET_FILE, board.open_set["file_digest"]))
    return files


def _is_whole(file: tuple[Path, str]) -> bool:
    path, digest = file
    return path.is_file() and digest_file(path) == digest


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("task", "metric"), str),
    **dict.fromkeys(("n_train", "n_test"), int),
    **dict.fromkeys(("class_names", "warnings", "results", "features"), list),
    **dict.fromkeys(("request", "left_out"), dict),
    "learning_curve": (dict, NoneType),
    "luck": _NUMBER,
}
_KINDS_OF_RESULT: dict[str, Any] = {
    **dict.fromkeys(("name", "head", "output", "file", "file_digest"), str),
    **dict.fromkeys(("mean", "std", "low", "high", "difference", "fit_s"), _NUMBER),
    **dict.fromkeys(("p_value", "test_low", "test_high"), _NUMBER),
    **dict.fromkeys(("params", "scores"), dict),
    **dict.fromkeys(("test", "calibration"), (dict, NoneType)),
    "features": int,
    "fold_params": list,
    "is_level": bool,
}
_KINDS_OF_OPEN_SET: dict[str, Any] = {
    **dict.fromkeys(("head", "score", "file", "file_digest"), str),
    **dict.fromkeys(("threshold", "scores"), dict),
    **dict.fromkeys(("typical", "keep_known"), _NUMBER),
    "test": (dict, NoneType),
    "groups": list,
}


def _check_types(saved: dict[str, Any]) -> None:
    """Raise TypeError where a saved leaderboard is not what a user of it relies on."""
    _require(saved, _KINDS)
    if not saved["results"] or not isinstance(saved["request"]["seed"], int):
        raise TypeError("no results")
    if not all(isinstance(name, str) for name in saved["class_names"] + saved["warnings"]):
        raise TypeError("names are no text")
    if saved.get("open_set") is not None:
        _require(saved["open_set"], _KINDS_OF_OPEN_SET)
    for result in saved["results"]:
        _require(result, _KINDS_OF_RESULT)
        scores = [score for some in result["scores"].values() for score in some]
        tested = list((result["test"] or {saved["metric"]: None}).values())
        if not all(isinstance(score, _NUMBER) for score in scores + tested):
            raise TypeError("scores are no numbers")
        metrics = {saved["metric"]} - set(result["scores"])
        if metrics or (result["test"] is not None and saved["metric"] not in result["test"]):
            raise TypeError("no scores")
        if not 0 <= result["features"] < len(saved["features"]):
            raise TypeError("no features")


def _require(values: dict[str, Any], kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is of the wrong type")


def write(board: Leaderboard, predictions: OutOfFold, folder: Path) -> None:
    """Write leaderboard.json, leaderboard.csv and the out-of-fold predictions."""
    atomic.write_json(folder / BOARD_FILE, board.to_dict())
    _write_csv(board, folder / CSV_FILE)
    kept = predictions.outputs[board.results[0].name].dtype
    arrays = {
        "rows": predictions.rows,
        "y": predictions.y,
        "folds": predictions.folds,
        "test_rows": predictions.test_rows,
        "test_outputs": predictions.test_outputs.astype(kept),
    }
    for number, result in enumerate(board.results):
        arrays[f"o{number}"] = predictions.outputs[result.name]
        if result.name in predictions.calibrated:
            arrays[f"c{number}"] = predictions.calibrated[result.name]
    np.savez(folder / OUT_OF_FOLD_FILE, allow_pickle=False, **arrays)


def _write_csv(board: Leaderboard, path: Path) -> None:
    names = ("mean", "std", "low", "high", "difference", "p_value", "is_level")
    others = [metric for metric in board.results[0].scores if metric != board.metric]
    with path.open("w", newline="", encoding="utf-8", errors=ESCAPES) as file:
        writer = csv.writer(file)
        tested = (f"held_out_{board.metric}", "held_out_low", "held_out_high")
        writer.writerow(["name", "setting", "metric", *names, *others, *tested, "fit_s"])
        for result in board.results:
            test = [""] * 3
            if result.test is not None:
                test = [str(result.test[board.metric]), str(result.test_low), str(result.test_high)]
            means = [float(np.mean(result.scores[metric])) for metric in others]
            writer.writerow(
                [
                    *(result.name, setting(result.params), board.metric),
                    *(getattr(result, name) for name in names),
                    *(means + test),
                    result.fit_s,
                ]
            )
