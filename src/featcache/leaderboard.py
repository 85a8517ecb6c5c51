"""The result of comparing heads: a table of scores and a folder of fitted heads."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from featcache import heads, weights_memo
from featcache.errors import HeadError, SpecError
from featcache.spec import ExtractionSpec

BOARD_FILE = "leaderboard.json"
BOARD_VERSION = 1


@dataclass(frozen=True)
class Result:
    """How one head did with its best setting."""

    head: str  # name in heads.CATALOGUE
    params: dict[str, Any]  # the setting; everything else is the head's default
    fold_accuracy: tuple[float, ...]  # of each fold of the training part
    accuracy_mean: float
    accuracy_std: float  # standard deviation over the folds
    test_accuracy: float  # on the held-out part
    test_macro_f1: float  # mean over classes
    fit_s: float  # seconds to fit on the whole training part
    file: str  # in the folder of the leaderboard
    file_digest: str  # BLAKE2b-128 of it


@dataclass(frozen=True)
class FittedHead:
    """A head of a leaderboard, with what stitching needs to know of its features."""

    board: Leaderboard
    result: Result

    @property
    def name(self) -> str:
        """Name in the catalogue."""
        return self.result.head

    @property
    def path(self) -> Path:
        """The head's file."""
        return self.board.folder / self.result.file

    @cached_property
    def head(self) -> heads.Head:
        """The fitted head itself, loaded without running anything in its file."""
        return heads.load(self.name, self.path, _as_params(self.result.params))


@dataclass(frozen=True)
class Leaderboard:
    """Heads compared on one feature file, best first by mean accuracy over the folds."""

    folder: Path
    features_path: Path
    spec: ExtractionSpec
    class_names: tuple[str, ...]
    results: tuple[Result, ...]
    request: dict[str, Any]  # what was asked: features, folds, seed, heads, versions
    n_train: int
    n_test: int
    majority: float  # accuracy of always naming the largest class, on the held-out part

    @property
    def best(self) -> FittedHead:
        """The first head of the board."""
        return FittedHead(self, self.results[0])

    @property
    def seed(self) -> int:
        """Seed of the held-out part and the folds."""
        return int(self.request["seed"])

    def __getitem__(self, name: str) -> FittedHead:
        for result in self.results:
            if result.head == name:
                return FittedHead(self, result)
        known = ", ".join(result.head for result in self.results)
        raise SpecError(f"There is no head '{name}' in '{self.folder}'; it has {known}.")

    def to_dict(self) -> dict[str, Any]:
        """Return what leaderboard.json holds, as plain JSON types."""
        return {
            "board_version": BOARD_VERSION,
            "features": os.fspath(self.features_path),
            "spec": self.spec.to_dict(),
            "fingerprint": self.spec.fingerprint,
            "class_names": list(self.class_names),
            "n_train": self.n_train,
            "n_test": self.n_test,
            "majority": self.majority,
            "best": self.results[0].head,
            "results": [asdict(result) for result in self.results],
            "request": self.request,
        }

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        n_folds = self.request["cv"]
        table = Table("head", "setting", title_justify="left")
        for column in (f"accuracy, {n_folds} folds", "held out", "macro-F1", "fit"):
            table.add_column(column, justify="right", no_wrap=True)
        for row, result in enumerate(self.results):
            table.add_row(
                result.head,
                Text(_setting(result.params)),  # a list in brackets is no markup
                f"{result.accuracy_mean:.3f} ± {result.accuracy_std:.3f}",
                f"{result.test_accuracy:.3f}",
                f"{result.test_macro_f1:.3f}",
                f"{result.fit_s:.2f} s",
                style="bold" if row == 0 else "",
            )
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue().rstrip()


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
        # the folder may have been moved together with the features beside it
        recorded = Path(saved["features"])
        beside = folder.parent / recorded.name
        return Leaderboard(
            folder=folder,
            features_path=beside if beside.is_file() else recorded,
            spec=ExtractionSpec.from_dict(saved["spec"]),
            class_names=tuple(saved["class_names"]),
            results=tuple(
                Result(**(row | {"fold_accuracy": tuple(row["fold_accuracy"])}))
                for row in saved["results"]
            ),
            request=saved["request"],
            n_train=saved["n_train"],
            n_test=saved["n_test"],
            majority=saved["majority"],
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"'{file}' is damaged. Run `featcache fit-heads` again.") from error


def load_if_same(folder: Path, request: dict[str, Any]) -> Leaderboard | None:
    try:
        board = load(folder)
    except (HeadError, SpecError):
        return None
    return board if board.request == request and all(map(_is_whole, _files(board))) else None


def _files(board: Leaderboard) -> list[tuple[Path, str]]:
    return [(board.folder / result.file, result.file_digest) for result in board.results]


def _is_whole(file: tuple[Path, str]) -> bool:
    path, digest = file
    return path.is_file() and weights_memo.digest_file(path) == digest


def _check_types(saved: dict[str, Any]) -> None:
    """Raise TypeError where a saved leaderboard lacks what a user of it needs."""
    if not saved["results"] or not isinstance(saved["request"]["seed"], int):
        raise TypeError("no results")
    if not all(isinstance(result["params"], dict) for result in saved["results"]):
        raise TypeError("no params")


def write(board: Leaderboard, folder: Path) -> None:
    """Write leaderboard.json and leaderboard.csv."""
    text = json.dumps(board.to_dict(), indent=1, ensure_ascii=False)
    (folder / BOARD_FILE).write_text(text, encoding="utf-8")
    with (folder / "leaderboard.csv").open("w", newline="", encoding="utf-8") as file:
        columns = [
            key
            for key in asdict(board.results[0])
            if key not in ("fold_accuracy", "file", "file_digest")
        ]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for result in board.results:
            writer.writerow(asdict(result) | {"params": _setting(result.params)})


def _setting(params: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items() if key != "seed")


def _as_params(params: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
