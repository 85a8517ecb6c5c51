"""A leaderboard: the results of all heads, and the heads themselves in its folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from featcache import heads
from featcache.core import atomic
from featcache.core.checks import shown
from featcache.core.errors import HeadError, SpecError
from featcache.core.keys import digest_file, digest_json
from featcache.core.tasks import TASKS
from featcache.heads import open_set
from featcache.heads.anomaly import AnomalyHead
from featcache.scoring.leaderboard import printing
from featcache.scoring.leaderboard.results import FeatureSet, OutOfFold, Result

BOARD_VERSION = 4
OF_PLACES = ("pixel-roc-auc", "aupro")  # of `test`, where images have masks
OUT_OF_FOLD_FILE, REPORT_FILE = "out_of_fold.npz", "report.html"
OPEN_SET_FILE = "open_set.npz"  # what the score of strangers has learnt


def digest_of(saved: dict[str, Any]) -> str:
    """Return the digest of what leaderboard.json says, but for the features, which have their own.

    Their files may lie elsewhere by now.
    """
    apart = ("digest", "features")
    return digest_json({name: value for name, value in saved.items() if name not in apart})


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
    def features(self) -> FeatureSet:
        """What it was fitted on."""
        return self.board.features[self.result.features]

    @property
    def path(self) -> Path:
        """The head's file."""
        return self.board.folder / self.result.file

    @cached_property
    def head(self) -> heads.Head:
        """The fitted head itself, loaded without running anything in its file.

        It says unknown where `open_set` says by what.
        """
        if self.path.is_file() and digest_file(self.path) != self.result.file_digest:
            raise HeadError(
                f"Head file '{self.path}' is not the one that its leaderboard scored. Run "
                f"`featcache fit-heads` again."
            )
        params = {k: tuple(v) if isinstance(v, list) else v for k, v in self.result.params.items()}
        head = heads.load(self.name, self.path, params, self.result.calibration)
        about = self.open_set
        if about is None:
            return head
        file = self.board.folder / about["file"]
        if file.is_file() and digest_file(file) != about["file_digest"]:
            raise HeadError(
                f"'{file}' is not the one that its leaderboard speaks of. Run `featcache fit-heads "
                f"--unknown` again."
            )
        return open_set.put_together(head, file, about, len(self.board.class_names))

    @property
    def open_set(self) -> dict[str, Any] | None:
        """What is known of its score of strangers; None where it does not say unknown."""
        about = self.board.open_set
        return about if about is not None and about["head"] == self.result.name else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the leaderboard, and unknown where it says so."""
        names = self.board.class_names
        return names if self.open_set is None else (*names, open_set.UNKNOWN)


@dataclass(frozen=True)
class Leaderboard:
    """Heads compared on the same folds, the selected one first, then by their mean score."""

    folder: Path
    features: tuple[FeatureSet, ...]
    task: str
    metric: str  # what was optimised, and what the heads are ordered by
    class_names: tuple[str, ...]  # of the outputs: classes, labels or targets
    results: tuple[Result, ...]
    request: dict[str, Any]  # what was asked: features, folds, seed, heads, versions
    n_train: int
    n_test: int
    luck: float = math.nan  # by how much the first one's mean is too good for being selected
    warnings: tuple[str, ...] = ()  # what a reader should know of the data
    left_out: dict[str, str] | None = None  # head -> why it was not compared
    learning_curve: dict[str, Any] | None = None  # n_train [..], scores [[of each fold], ..]
    open_set: dict[str, Any] | None = None  # which head says unknown and by what; see selection

    @property
    def best(self) -> FittedHead:
        """The selected head."""
        return FittedHead(self, self.results[0])

    @property
    def seed(self) -> int:
        """Seed of the held-out part and the folds."""
        return int(self.request["seed"])

    def __getitem__(self, name: str) -> FittedHead:
        for result in self.results:
            if isinstance(name, str) and name in (result.name, result.head):
                return FittedHead(self, result)
        known = ", ".join(result.name for result in self.results)
        raise SpecError(f"There is no head {shown(name)} in '{self.folder}'; it has {known}.")

    def out_of_fold(self) -> OutOfFold:
        """Return the predictions that the scores were computed from.

        Raises
        ------
        HeadError
            When their file is missing or damaged.
        """
        file = self.folder / OUT_OF_FOLD_FILE
        try:
            with np.load(file, allow_pickle=False) as saved:
                arrays = dict(saved)
            outputs, calibrated = (
                {
                    result.name: arrays[f"{letter}{number}"]
                    for number, result in enumerate(self.results)
                    if f"{letter}{number}" in arrays
                }
                for letter in "oc"
            )
            return OutOfFold(
                rows=arrays["rows"],
                y=arrays["y"],
                folds=arrays["folds"],
                outputs=outputs,
                calibrated=calibrated,
                test_rows=arrays["test_rows"],
                test_outputs=arrays["test_outputs"],
            )
        # zipfile and NumPy raise kinds of their own for what they cannot read
        except Exception as error:
            raise HeadError(
                f"'{file}' is missing or damaged. Run `featcache fit-heads --overwrite`."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return what leaderboard.json holds, as plain JSON types; NaN is null."""
        values = {
            "board_version": BOARD_VERSION,
            "best": self.results[0].name,
            "task": self.task,
            "metric": self.metric,
            "class_names": list(self.class_names),
            "n_train": self.n_train,
            "n_test": self.n_test,
            "luck": self.luck,
            "warnings": list(self.warnings),
            "left_out": self.left_out or {},
            "results": [asdict(result) for result in self.results],
            "learning_curve": self.learning_curve,
            "features": [
                {
                    "name": one.name,
                    "path": None if one.path is None else os.fspath(one.path),
                    "content": one.content,
                    "n_features": one.n_features,
                    "spec": None if one.spec is None else one.spec.to_dict(),
                    "fingerprint": None if one.spec is None else one.spec.fingerprint,
                }
                for one in self.features
            ],
            "request": self.request,
        }
        if self.open_set is not None:
            values["open_set"] = self.open_set
        plain: dict[str, Any] = atomic.plain(values)
        return plain | {"digest": digest_of(plain)}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said of the first: why it was taken, and what it owes to luck."""
        found = printing.remarks(self.results, self.metric, self.luck)
        head = self.best.head if TASKS[self.task].is_one_class else None
        if isinstance(head, AnomalyHead) and head.threshold_ is not None:
            found += (f"Its threshold is {head.threshold_}.",)
        tested = self.results[0].test or {}
        places = [f"{name} {tested[name]:.3f}" for name in OF_PLACES if name in tested]
        if places:
            found += (f"Where anomalies are, held out: {', '.join(places)}.",)
        return found + (() if self.open_set is None else printing.of_strangers(self.open_set))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from printing.table(self.results, self.metric, self.task, options.max_width)
        if self.open_set is not None:
            yield from ("", printing.stranger_table(self.open_set), "")
        yield from self.remarks

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue().rstrip()
