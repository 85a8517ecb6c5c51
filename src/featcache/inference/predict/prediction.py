"""What a model says of one image, read off the row of its outputs; nothing is run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.core.checks import whole_number
from featcache.core.errors import SpecError
from featcache.core.tasks import DEFAULT_TASK, TASKS, TargetKind
from featcache.heads.open_set import strangeness
from featcache.models.card import Card


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Two are equal if they say the same of the same path; features and outputs are not compared.
    """

    path: str
    classes: tuple[str, ...] = ()  # best first: as many as asked for, or the labels it has
    scores: tuple[float, ...] = ()  # of the same: probabilities or scores, as the card says
    error: str = ""  # why the image could not be read; then there is nothing else
    task: str = DEFAULT_TASK  # of the model
    outputs: dict[str, float] | None = field(default=None, compare=False)  # by name; of regression
    features: np.ndarray | None = field(default=None, compare=False, repr=False)  # (d,) float32
    stranger: float | None = None  # how strange it is to a model that says unknown; see its card
    from_cache: bool = field(default=False, compare=False)  # its features were known already
    # how far each place is from good ones, (height, width) float32, and what the model saw,
    # (height, width, 3) uint8; of anomalies, where asked for
    heat_map: np.ndarray | None = field(default=None, compare=False, repr=False)
    image: np.ndarray | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain JSON types: what is named depends on the task."""
        values: dict[str, Any] = {"path": self.path}
        task = TASKS[self.task]
        if task.kind is TargetKind.NUMBERS:
            values["values"] = self.outputs
        else:
            values |= {task.nouns: list(self.classes), "scores": list(self.scores)}
            if self.outputs is not None:
                values["outputs"] = self.outputs
        if self.stranger is not None:
            values["stranger"] = self.stranger
        if self.features is not None:
            values["features"] = self.features.tolist()
        return values | {"error": self.error}


@dataclass(frozen=True)
class Wanted:
    """What predictions are to say.

    Parameters
    ----------
    top : how many classes or labels, best first. None is one class; the labels that an image has,
        best first, where it may have several.
    outputs : say the probability or score of every class or label, too.
    features : give the embedding, too.
    heat_maps : give where the score comes from, and what the model saw.

    Raises
    ------
    SpecError
        When `top` is less than 1, or the model gives values and a ranking is asked for.
    """

    described: Card
    top: int | None = None
    outputs: bool = False
    features: bool = False
    heat_maps: bool = False

    def __post_init__(self) -> None:
        if self.top is not None:
            whole_number("top", self.top, 1)
        if self._kind is TargetKind.NUMBERS and (self.top is not None or self.outputs):
            raise SpecError(
                f"top and probabilities are for classes and labels; the model predicts "
                f"{', '.join(self.described.class_names[:5])}, and every value is given anyway."
            )

    @property
    def _kind(self) -> TargetKind:
        return TASKS[self.described.task].kind

    @property
    def n_ranked(self) -> int:
        """Classes or labels that each prediction ranks; 0 where there is no fixed number."""
        if self._kind is TargetKind.NUMBERS:
            return 0
        if self.top is None:
            return int(self._kind is TargetKind.CLASS)
        return min(self.top, len(self.described.class_names))

    def named(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return `classes`, `scores`, `outputs` and `stranger` of rows (b, n_outputs)."""
        names = self.described.class_names
        whole: list[dict[str, float] | None] = [None] * len(outputs)
        if self.outputs or self._kind is TargetKind.NUMBERS:
            whole = [dict(zip(names, row, strict=True)) for row in outputs.tolist()]
        strange: list[float | None] = [None] * len(outputs)
        if (about := self.described.open_set) is not None:
            at = about["threshold"]["value"], about["typical"]
            strange = strangeness(outputs, self.described.output, *at).tolist()
        return [
            {
                "classes": tuple(names[column] for column in best),
                "scores": tuple(row[column] for column in best),
                "outputs": every,
                "stranger": score,
            }
            for row, best, every, score in zip(
                outputs.tolist(), self._best(outputs), whole, strange, strict=True
            )
        ]

    def _best(self, outputs: np.ndarray) -> Sequence[list[int]]:
        """Return for each row the columns to name, best first."""
        if self._kind is TargetKind.NUMBERS:
            return [[]] * len(outputs)
        order = np.argsort(-outputs, axis=1, kind="stable")
        if self.n_ranked:
            ranked: list[list[int]] = order[:, : self.n_ranked].tolist()
            return ranked
        said = TASKS[self.described.task].said(outputs, self.described.output)
        counts = said.sum(axis=1)
        return [
            columns[:count] for columns, count in zip(order.tolist(), counts.tolist(), strict=True)
        ]
