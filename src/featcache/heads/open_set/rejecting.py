"""A fitted head that also says unknown: its outputs have one more column, the last.

Source of the threshold: see `heads.anomaly.threshold`. That a class of strangers takes its share
from the others' probabilities is as in Bendale and Boult 2016, "Towards open set deep networks".
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core.errors import HeadError
from featcache.core.tasks import PROBABILITIES, TargetKind, names_of
from featcache.core.tensorflow import import_keras
from featcache.heads.anomaly.threshold import Threshold
from featcache.heads.base import Head
from featcache.heads.calibrated import Calibrated
from featcache.heads.open_set.base import (
    LEAST,
    SCORE,
    StrangerScore,
    log,
    logits_in_keras,
    logits_of,
    tensor_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self

UNKNOWN = "unknown"  # the class of strangers
LAYER = "with_unknown"
ODDS = 100.0  # of the best class against unknown, where the score is that of a typical known image
LIMIT = 60.0  # of the logarithm of these odds: float32 holds no more


class OpenSet(Head):
    """A fitted head with a score of strangers, and a threshold on it.

    Unknown is the largest output exactly where the score is above the threshold: its logarithm
    (of scores itself) is that of the best class, plus `steepness` times what the score is above the
    threshold, within `LIMIT`. Probabilities are divided by what all add up to, so that rows add up
    to 1 and classes keep their odds. It is made from its parts, and cannot be fitted again.

    Parameters
    ----------
    head : fitted, of classes, calibrated or not.
    score : fitted.
    threshold : of the score; what is above it is unknown.
    typical : the score of a typical known image.
    unknown : number of the class of strangers, one that the head does not have.
    """

    tasks = names_of(TargetKind.CLASS)
    has_gradients = False

    def __init__(
        self, head: Head, score: StrangerScore, threshold: Threshold, typical: float, unknown: int
    ):
        self.head = head
        self.score = score
        self.threshold = threshold
        self.typical = typical
        self.unknown = unknown

    @classmethod
    def grid(cls, task: str) -> tuple[dict[str, Any], ...]:
        return ()

    @property
    def task(self) -> str:  # type: ignore[override]
        """That of the head."""
        return self.head.task

    @property
    def output(self) -> str:
        return self.head.output

    @property
    def classes_(self) -> np.ndarray:  # type: ignore[override]
        """Those of the head, and that of strangers."""
        return np.append(self.head.classes_, self.unknown)

    @property
    def n_features_in_(self) -> int:  # type: ignore[override]
        """Those of the head."""
        return self.head.n_features_in_

    @property
    def steepness(self) -> float:
        """What a step of the score adds to the logarithm of the odds of unknown."""
        return steepness(self.threshold.value, self.typical)

    @property
    def parity_layer(self) -> str:
        return f"{self.head.parity_layer}+{SCORE}"

    def parity_values(self, X: np.ndarray) -> np.ndarray:
        return np.concatenate([self.head.parity_values(X), self.stranger_scores(X)[:, None]], 1)

    def parity_scale(self, values: np.ndarray) -> np.ndarray:
        of_head = self.head.parity_scale(values[:, :-1])
        of_score = np.abs(values[:, -1:]).max(axis=0)
        wide = np.broadcast_to(of_head, values[0, :-1].shape)
        return np.concatenate([wide, np.maximum(of_score, np.finfo(np.float32).tiny)])

    def hangs_on_a_tie(self, X: np.ndarray, tolerance: float) -> np.ndarray:
        values = self.parity_values(X)
        scale = self.parity_scale(values)
        share = tolerance / scale.max()
        of_head = self.head.hangs_on_a_tie(X, share * scale[:-1].max())
        return np.asarray(
            of_head | (np.abs(values[:, -1] - self.threshold.value) < share * scale[-1])
        )

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        raise HeadError("A head that says unknown is made by a comparison: fit_heads(unknown=True)")

    def _fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Self:
        return self.fit(X, y, groups)

    def stranger_scores(self, X: np.ndarray) -> np.ndarray:
        """Return (n,) float64: how strange each image is, the larger the stranger."""
        X = np.asarray(X, np.float32)
        return np.asarray(self.score.scores(X, logits_of(bare(self.head), X)), np.float64)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        outputs = self.head.outputs(X)
        are_probabilities = self.output == PROBABILITIES
        z = np.log(np.maximum(outputs, LEAST)) if are_probabilities else outputs
        above = self.steepness * (self.stranger_scores(X) - self.threshold.value)
        top = z.max(axis=1) + np.clip(above, -LIMIT, LIMIT)
        z = np.concatenate([z, top[:, None]], axis=1)
        if not are_probabilities:
            return z
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(z / z.sum(axis=1, keepdims=True))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (n, n_classes + 1) probabilities; see the class for the last."""
        return self.outputs(X)

    def to_keras_layers(self, features: Any) -> Any:
        keras = import_keras()
        layers, ops = keras.layers, keras.ops
        outputs, inner = self.head.to_keras_layers(features), bare(self.head)
        of_inner = outputs if inner is self.head else tensor_of(inner.output, outputs)
        score = self.score.to_keras(features, logits_in_keras(inner, of_inner))
        score = layers.Identity(name=SCORE)(score)
        above = ops.multiply(ops.subtract(score, self.threshold.value), self.steepness)
        z = log(outputs) if self.output == PROBABILITIES else outputs
        top = ops.add(ops.max(z, axis=-1, keepdims=True), ops.clip(above, -LIMIT, LIMIT))
        z = layers.Concatenate(name="classes_and_unknown")([z, top])
        last = layers.Softmax if self.output == PROBABILITIES else layers.Identity
        return last(name=LAYER)(z)

    def save(self, file: Path) -> None:
        self.head.save(file)

    def about(self, name: str) -> dict[str, Any]:
        """Return what `put_together` takes beside the file, as plain types; of a score's name."""
        return {"score": name, "threshold": asdict(self.threshold), "typical": self.typical}

    def save_score(self, file: Path) -> None:
        """Write what the score has learnt, an .npz."""
        with file.open("wb") as out:
            np.savez(out, allow_pickle=False, **self.score.state())

    def restore(self, file: Path) -> Self:
        raise HeadError("A head that says unknown is put together from its parts by a leaderboard.")


def bare(head: Head) -> Head:
    """Return a head without its calibration."""
    return head.head if isinstance(head, Calibrated) else head


def steepness(threshold: float, typical: float) -> float:
    """Return what a step of a score adds to the logarithm of the odds of unknown."""
    apart = max(threshold - typical, 1e-6 * max(1.0, abs(threshold)))
    return math.log(ODDS) / apart


def strangeness(outputs: np.ndarray, output: str, threshold: float, typical: float) -> np.ndarray:
    """Return the scores (n,) that outputs (n, n_classes + 1) of such a head were made from.

    Scores farther from the threshold than `LIMIT` allows are given as that far.
    """
    outputs = np.asarray(outputs, np.float64)
    if output == PROBABILITIES:
        outputs = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
    above = outputs[:, -1] - outputs[:, :-1].max(axis=1)
    return np.asarray(threshold + np.clip(above, -LIMIT, LIMIT) / steepness(threshold, typical))


def kept(threshold: Threshold) -> str:
    """Return what a threshold promises of known images, as a sentence's part."""
    low, high = threshold.interval
    said = (
        f"set by {threshold.n_good} held-out images: at least {1 - threshold.promised:.1%} of "
        f"known images like these are kept on average; this threshold's own share lies between "
        f"{1 - high:.1%} and {1 - low:.1%}"
    )
    if threshold.promised > threshold.asked:
        wanted = math.ceil(1 / threshold.asked) - 1
        said += f" ({1 - threshold.asked:.1%} was asked for, which takes {wanted} held-out images)"
    return said
