"""What an evaluation found, as data and as text."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import atomic
from featcache.core.checks import with_checked_arguments
from featcache.core.errors import FeatcacheError, SpecError
from featcache.core.escapes import all_escaped
from featcache.core.tasks import TASKS
from featcache.core.text import counted
from featcache.inference.evaluate import tables
from featcache.models import card

VERSION = 1


class AccuracyError(FeatcacheError, AssertionError):
    """A model is right less often than was asked for."""


@dataclass(frozen=True)
class Evaluation:
    """How good a stitched model is on labelled images; prints as tables."""

    model: str
    source: str
    part: str  # test, train, val or all
    task: str
    output: str  # probabilities, scores or values
    class_names: tuple[str, ...]  # of the model: classes, labels or targets
    n_images: int  # that were judged
    n_unlabelled: int
    unreadable: dict[str, str]  # reason by id; not in the scores
    n_trained_on: int | None  # judged images that taught the model; None where that is not known
    absent: tuple[str, ...]  # classes of the model that the source does not have
    scores: dict[str, float]  # by metric
    intervals: dict[str, tuple[float, float]]  # 95 %, of the metrics that are quick to resample
    each: list[dict[str, Any]]  # of every class, label or target, in the order of class_names
    confusion: list[list[int]] | None  # images of a class (row) taken for one (column)
    weakest: dict[str, Any] | None  # of `each`: lowest recall, of targets lowest R2
    slowest: dict[str, Any] | None  # ms to read and decode one of its images, see `timing`
    seconds: float  # for all images, without compiling
    at_least: float | None = None  # the accuracy that was asked for
    strangers: tuple[str, ...] = ()  # classes of the source that count as unknown

    @property
    def accuracy(self) -> float:
        """Share of images whose class, or every label, is right; NaN of targets."""
        return self.scores.get("accuracy", math.nan)

    @property
    def images_per_s(self) -> float:
        """Images judged a second, from files to outputs."""
        return self.n_images / self.seconds if self.seconds > 0 else math.nan

    def assert_accuracy(self) -> None:
        """Raise AccuracyError where the accuracy is below the one that was asked for."""
        if self.at_least is not None and not self.accuracy >= self.at_least:
            raise AccuracyError(
                f"accuracy {self.accuracy:.4g} is below {self.at_least:g} on {self.n_images} "
                f"images of '{self.source}'."
            )

    @with_checked_arguments
    def write(self, out: str | os.PathLike[str]) -> None:
        """Write all of it into a .json file, in one rename; see `check_out`."""
        check_out(Path(out))
        atomic.write_json(Path(out), all_escaped(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain JSON types, None where a number is undefined."""
        passed = None if self.at_least is None else self.accuracy >= self.at_least
        derived = {
            "accuracy": self.accuracy,
            "images_per_s": self.images_per_s,
            "passed": passed,
        }
        values = {"evaluation_version": VERSION} | asdict(self) | derived
        plain: dict[str, Any] = atomic.plain(values)
        return plain

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts = [
            tables.of_scores(self.scores, self.intervals),
            Text(),
            tables.of_each(TASKS[self.task], self.each),
        ]
        if self.confusion is not None:
            parts += [Text(), tables.of_confusion(self.class_names, np.array(self.confusion))]
        return Group(*parts, Text(), *(Text(line) for line in _summary(self)))

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue().rstrip()


def check_out(out: Path) -> None:
    """Raise SpecError where an evaluation cannot be written to `out`, or would replace a card."""
    if out.suffix != ".json":
        raise SpecError(f"The file must end in .json; got '{out}'.")
    if out.is_dir() or not out.parent.is_dir():
        raise SpecError(f"'{out}' cannot be written: it is a folder, or lies in none that exists.")
    if card.is_card(out):
        raise SpecError(f"'{out}' is the card of a model, which needs it. Choose another --out.")


def _summary(one: Evaluation) -> list[str]:
    """Return a line about what lags behind, what is slowest, and how many images there were."""
    weak, slow = one.weakest, one.slowest
    lines = []
    if weak is not None and weak.get("recall", 1) < 1:
        lines.append(
            f"Lagging behind: {weak['name']}, {100 * weak['recall']:.0f} % of {weak['support']} "
            f"found."
        )
    elif weak is not None and "r2" in weak and len(one.each) > 1:
        lines.append(f"Lagging behind: {weak['name']}, R2 {tables.number(weak['r2'])}.")
    if slow is not None:
        lines.append(
            f"Slowest: {slow['name']}, {slow['ms']:.1f} ms per image to read and decode; "
            f"{slow['typical_ms']:.1f} ms is typical."
        )
    lines.append(
        f"{counted(one.n_images, 'image')} ({one.part}) of {one.source}, {one.images_per_s:.0f} "
        f"images/s. Unreadable: {len(one.unreadable)}, unlabelled: {one.n_unlabelled}."
    )
    return lines
