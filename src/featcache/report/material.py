"""What a report is made of: the leaderboard, its predictions, and the images behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from featcache import heads, store
from featcache.core.errors import FeatcacheError
from featcache.core.one_class import learnt_as
from featcache.core.tasks import PROBABILITIES, TASKS, TargetKind, Task
from featcache.heads.calibrators import Temperature
from featcache.report import findings
from featcache.scoring.leaderboard import Leaderboard, OutOfFold, Result

MAX_ROWS = 10_000  # that are looked at for the map and the projector
MAX_CELLS = 2**26  # of their features: 256 MB
FIT_CELLS = 200_000  # outputs that a temperature is fitted on; one number needs no more


@dataclass(frozen=True)
class Material:
    """A leaderboard with what its heads said of images that they had not seen.

    The arrays that are of all images have the training images first, with their out-of-fold
    predictions, then the held-out ones with the prediction of the selected head.
    """

    board: Leaderboard
    unseen: OutOfFold
    features: store.Features | None  # None where there are no images
    note: str  # why there are none

    @property
    def task(self) -> Task:
        """What the heads learnt."""
        return TASKS[self.board.task]

    @property
    def best(self) -> Result:
        """The selected head."""
        return self.board.results[0]

    @property
    def n_train(self) -> int:
        """Number of images with out-of-fold predictions."""
        return len(self.unseen.rows)

    @cached_property
    def rows(self) -> np.ndarray:
        """(n,) rows of the feature file, of all images that are known."""
        return np.concatenate([self.unseen.rows, self.unseen.test_rows[: self._n_test]])

    @cached_property
    def y(self) -> np.ndarray:
        """(n,) or (n, k), what is right for all images."""
        if self.features is None:
            return self.unseen.y
        about = learnt_as(self.features.annotations, self.board.task, self.board.class_names)
        return np.concatenate([self.unseen.y, about.y[self.unseen.test_rows]])

    @cached_property
    def is_test(self) -> np.ndarray:
        """(n,) bool: held out."""
        return np.arange(len(self.rows)) >= self.n_train

    @cached_property
    def outputs(self) -> np.ndarray:
        """(n, k) of the selected head, through its calibration where there is one."""
        name = self.best.name
        told = self.unseen.calibrated.get(name, self.unseen.outputs[name])
        return np.concatenate([told, self.unseen.test_outputs[: self._n_test]])

    @property
    def has_probabilities(self) -> bool:
        """Whether the selected head says probabilities, itself or through its calibration."""
        return self.are_probabilities(self.best)

    def are_probabilities(self, result: Result) -> bool:
        """Return whether what is known of a head are probabilities."""
        return result.output == PROBABILITIES or result.name in self.unseen.calibrated

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(n, k) of the selected head; its scores become some by one temperature."""
        if self.has_probabilities:
            return self.outputs
        return self.tempered(self.best)

    def tempered(self, result: Result) -> np.ndarray:
        """Return probabilities (n, k) of a head, as sure as it is right on unseen images.

        Of the selected head for all images, of another for the training images.
        """
        told = self.unseen.calibrated.get(result.name, self.unseen.outputs[result.name])
        outputs = self.outputs if result is self.best else told
        seen = slice(0, self.n_train)
        if self.task.kind is TargetKind.CLASS:
            scale = Temperature(logits=not self.are_probabilities(result))
            some = _some(self.n_train, outputs.shape[1])
            scale.fit(outputs[seen][some], self.unseen.y[some])
            return np.asarray(scale.transform(outputs), np.float32)
        # each label on its own: its score against 0
        z = _logits(outputs) if self.are_probabilities(result) else np.asarray(outputs, float)
        scores, truth = z[seen].reshape(-1), self.unseen.y.reshape(-1).astype(int)
        some = _some(len(scores), 2)
        pair = np.stack([0 * scores[some], scores[some]], axis=1)
        factor = 1 / Temperature(logits=True).fit(pair, truth[some]).temperature_
        return np.asarray(0.5 * (1 + np.tanh(0.5 * factor * z)))

    @cached_property
    def judges(self) -> tuple[Result, ...]:
        """The heads that together judge the labels: all but the floor."""
        some = tuple(result for result in self.board.results if result.head != heads.FLOOR)
        return some or self.board.results

    @cached_property
    def predicted(self) -> np.ndarray:
        """(n,) class, (n, k) of 0 and 1, or (n, k) values."""
        output = PROBABILITIES if self.has_probabilities else self.best.output
        return self.task.said(self.outputs, output)

    @cached_property
    def is_right(self) -> np.ndarray:
        """(n,) bool: predicted as labelled; all labels of them."""
        same = self.predicted == self.y
        return np.asarray(same if same.ndim == 1 else same.all(axis=1))

    def name(self, place: int) -> str:
        """Return the id of an image, or its row."""
        row = int(self.rows[place])
        return f"row {row}" if self.features is None else self.features.ids[row]

    def looked_at(self) -> tuple[np.ndarray, np.ndarray]:
        """Return places (m,) of at most `MAX_ROWS` images, and their features (m, d) float32."""
        assert self.features is not None
        n = max(min(MAX_ROWS, MAX_CELLS // self.features.shape[-1]), 2)
        train, test = np.flatnonzero(~self.is_test), np.flatnonzero(self.is_test)
        kept = test[findings.sample(self._strata[test], n // 2, self.board.seed)]
        places = train[findings.sample(self._strata[train], n - len(kept), self.board.seed)]
        places = np.concatenate([places, kept])
        wanted = self.rows[places]
        order = np.argsort(wanted, kind="stable")
        found, start, done = np.empty((len(places), self.features.shape[-1]), np.float32), 0, 0
        for block in self.features.blocks():
            stop = int(np.searchsorted(wanted[order], start + len(block)))
            found[order[done:stop]] = _as_vectors(block[wanted[order[done:stop]] - start])
            start, done = start + len(block), stop
        return places, found

    def read_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of rows of the feature file, (m, d); of maps their means."""
        assert self.features is not None
        return _as_vectors(self.features.read_rows(rows))

    def strata(self, places: np.ndarray) -> np.ndarray:
        """Return (m,) int of images: what a fair sample of them has its share of."""
        return np.asarray(self._strata[places])

    @cached_property
    def _strata(self) -> np.ndarray:
        return self.y if self.task.is_stratified else np.zeros(len(self.rows), int)

    @property
    def _n_test(self) -> int:
        """Held-out images whose truth is known here: of plain arrays it is not kept."""
        return 0 if self.features is None else len(self.unseen.test_rows)


def _as_vectors(features: np.ndarray) -> np.ndarray:
    """Return features (m, d): of maps (m, height, width, channels) the means over their places."""
    if features.ndim == 2:
        return features
    return np.asarray(features.mean(axis=(1, 2), dtype=np.float32))


def gather(board: Leaderboard) -> Material:
    """Return a leaderboard with its predictions and, where they are still the same, its images.

    Raises
    ------
    HeadError
        When the predictions are missing or damaged.
    """
    unseen, first = board.out_of_fold(), board.features[0]
    if first.path is None:
        return Material(
            board,
            unseen,
            None,
            "The heads were compared on plain arrays: there are no names, pictures or map.",
        )
    gone: Any = None
    try:
        features = store.Features(first.path)
        if features.content == first.content:
            return Material(board, unseen, features, "")
        gone = "was rewritten since"
    except (FeatcacheError, OSError):
        gone = "is gone or damaged"
    note = f"The feature file '{first.path}' {gone}: there are no names, pictures or map."
    return Material(board, unseen, None, note)


def label_suspects(material: Material, limit: int | None = None) -> list[dict[str, Any]]:
    """Return what is known of each suspected label, the likeliest to be wrong first.

    All heads but the floor judge the training images together, by the mean of their tempered
    probabilities; the selected head, the only one that was shown the held-out images, judges those.

    Returns
    -------
    list of {place, row, id, part, given, suggested, p_given, p_suggested, margin}: `row` is of the
    feature file, `part` train or held-out, `margin` the lower the worse.
    """
    board = material.board
    if not material.task.has_mistakes:
        return []
    several = material.task.kind is TargetKind.LABELS
    n, names = material.n_train, board.class_names
    mean: np.ndarray | int = 0
    for result in material.judges:
        mean = mean + material.tempered(result)[:n] / np.float32(len(material.judges))
    assert isinstance(mean, np.ndarray)
    own = material.tempered(material.best)
    learnt: list[_Said] = []
    held_out: list[_Said] = []
    for number, label in enumerate(names if several else ("",)):
        said: tuple[str, ...] = names
        y, together, alone = material.y, mean, own
        if several:  # each label is a question with two answers
            said, y = (f"not {label}", label), np.asarray(y[:, number], int)
            together, alone = _two(mean[:, number]), _two(own[:, number])
        limits = findings.thresholds(alone[:n], y[:n])
        for one in findings.label_suspects(together, y[:n]):
            learnt.append((one, said[one.given], said[one.suggested]))
        for one in findings.label_suspects(alone[n:], y[n:], limits):
            one = replace(one, row=one.row + n)
            held_out.append((one, said[one.given], said[one.suggested]))
    # judges differ in how sure they are, so their lists are merged by rank: equally many of each
    # part's images, in proportion to its size, stand before any place in the list
    ranked = _ranked(learnt, n) + _ranked(held_out, len(material.rows) - n)
    found = [one for _, one in sorted(ranked, key=lambda pair: pair[0])]
    return [
        {
            "place": one.row,
            "row": int(material.rows[one.row]),
            "id": material.name(one.row),
            "part": "held-out" if material.is_test[one.row] else "train",
            "given": given,
            "suggested": suggested,
            "p_given": one.p_given,
            "p_suggested": one.p_suggested,
            "margin": one.margin,
        }
        for one, given, suggested in found[:limit]
    ]


_Said = tuple[findings.Suspect, str, str]  # with the names of both labels


def _ranked(found: list[_Said], n: int) -> list[tuple[float, _Said]]:
    """Return suspects with the share of the n images that stands before each."""
    found = sorted(found, key=lambda one: one[0].margin)
    return [((place + 0.5) / n, one) for place, one in enumerate(found)]


def _two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def _some(n: int, n_outputs: int) -> np.ndarray:
    """Return evenly spread places out of n, as many as a temperature needs."""
    return np.linspace(0, n - 1, min(n, max(FIT_CELLS // n_outputs, 1))).astype(int)


def _logits(p: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(p, np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(p) - np.log1p(-p))
