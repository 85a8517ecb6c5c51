"""Logistic regression of rows that do not fit into memory, many fits in the same passes.

The objective, its tolerance and the solver are scikit-learn's; loss and gradient are summed over
blocks of rows, in the head's precision within a block and in float64 over them. Whatever folds and
settings are under way share a pass: a block is read and preprocessed once, and the weights of all
fits are columns of one product. No fit starts from another one's solution.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from featcache.core import process
from featcache.core.tasks import TargetKind
from featcache.heads.axes import Axes
from featcache.heads.base import SklearnHead
from featcache.heads.fitted_steps import applied, fit_steps
from featcache.heads.logistic_loss import Target
from featcache.heads.preprocessing import centred_sums, folded, parted, steps_of
from featcache.heads.shared_passes import Passes, Segment
from featcache.heads.together import Points, Value, Values, minimised
from featcache.heads.training_rows import TrainingRows

AT_ONCE_BYTES = 512 << 20  # of what the solver remembers of fits that are under way together
_REMEMBERED = 36  # vectors as long as the weights, of each of them

Maps = dict[int, tuple[np.ndarray, np.ndarray]]  # number of a fit -> its kernel (d, c), bias (c,)

LayerSums = tuple[np.ndarray, np.ndarray, np.ndarray]  # loss, sums, totals as of a `Layer`


@dataclass(frozen=True)
class Fit:
    """What is minimised for one head."""

    head: SklearnHead
    number: int  # of its set of rows
    step: Any  # fitted preprocessing
    base: tuple[Any, ...]  # key of the transformers that a block goes through; the rest is folded
    affine: list[Any]  # that rest
    n_inputs: int  # features behind all of them
    target: Target
    axes: Axes  # of the features behind all of them
    penalty: float  # of half the sum of squared weights
    tol: float  # no entry of the gradient is larger in the end

    @property
    def size(self) -> int:
        """Weights and biases."""
        return (self.n_inputs + 1) * self.target.n_columns

    @property
    def scale(self) -> np.ndarray:
        """(p + 1,) of the axes, by about how much the objective is curved along each."""
        share = 1 / max(self.target.n_columns, 2)
        return np.asarray(1 / np.sqrt(share * (1 - share) * self.axes.squares + self.penalty))

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (p, c) and bias (c,) of the solver's vector."""
        along = x.reshape(self.n_inputs + 1, self.target.n_columns)
        both = self.axes.out_of(along, self.scale)
        return both[:-1], both[-1]

    def value(self, x: np.ndarray, loss: float, sums: np.ndarray, totals: np.ndarray) -> Value:
        """Return the objective and its gradient, from sums over all rows: see `Layer`."""
        weights, _ = self.split(x)
        slopes = centred_sums(self.affine, sums, totals) / self.target.n + self.penalty * weights
        gradient = np.concatenate([slopes, totals[None] / self.target.n])
        value = loss / self.target.n + 0.5 * self.penalty * float((weights**2).sum())
        will_do = bool(np.abs(gradient).max() <= self.tol)
        return value, self.axes.into(gradient, self.scale).ravel(), will_do

    def finish(self, x: np.ndarray, n_iterations: int) -> None:
        """Put scikit-learn's estimator with what was learnt into the head."""
        weights, bias = self.split(x)
        weights, bias = weights.astype(self.head.precision), bias.astype(self.head.precision)
        estimator = self.head.make_estimator(self.n_inputs)
        if self.head.target_kind is TargetKind.LABELS:
            # on two rows of nothing, so that all is there but what the labels' models learn
            y = np.stack([self.target.constant] * 2)
            y[1, self.target.present] = 1
            with process.ignored("Label .* is present in all training examples"):
                estimator.fit(np.zeros((2, self.n_inputs), self.head.precision), y)
            models = [estimator.estimators_[label] for label in self.target.present]
            for model, one, its_bias in zip(models, weights.T, bias, strict=True):
                model.coef_, model.intercept_ = one[None], its_bias[None]
                model.n_iter_ = np.array([n_iterations], np.int32)
        else:
            estimator.classes_, estimator.n_features_in_ = self.target.present, self.n_inputs
            estimator.coef_, estimator.intercept_ = weights.T.copy(), bias
            estimator.n_iter_ = np.array([n_iterations], np.int32)
        self.head.pipeline_ = make_pipeline(self.step, estimator)
        self.head.describe()


def fit_in_passes(
    asked: Sequence[tuple[SklearnHead, TrainingRows]],
    threads: int,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Fit logistic regressions, each to its rows, in passes that they share.

    Parameters
    ----------
    asked : unfitted heads of one kind, with rows of one matrix.
    threads : that look at blocks at the same time; they do not change the numbers.
    tell : takes a sentence on what is under way.
    """
    sets = list({id(rows): rows for _, rows in asked}.values())
    numbers = {id(rows): number for number, rows in enumerate(sets)}
    passes = Passes(sets, threads, asked[0][0].precision)
    pairs = [(head, numbers[id(rows)]) for head, rows in asked]
    tell("preprocessing")
    steps = fit_steps(passes, dict.fromkeys((number, head.preprocessing) for head, number in pairs))
    axes: dict[str, Axes] = {}
    fits = [_fit(head, number, sets[number], steps, axes) for head, number in pairs]
    evaluation = Evaluation(passes, fits, tell)
    most = max(1, AT_ONCE_BYTES // (8 * _REMEMBERED * max(max(fit.size for fit in fits), 1)))
    places = [place for place, fit in enumerate(fits) if fit.size]
    for place in set(range(len(fits))) - set(places):  # all labels are constant
        fits[place].finish(np.zeros(0), 0)
    for first in range(0, len(places), most):
        starts = {place: np.zeros(fits[place].size) for place in places[first : first + most]}
        found = minimised(starts, evaluation.values, _model(asked[0][0]).max_iter)
        for place, result in found.items():
            if result.complaint:
                n = result.n_iterations
                text = f"lbfgs failed to converge after {n} iterations: {result.complaint}"
                warnings.warn(text, ConvergenceWarning, stacklevel=2)
            fits[place].finish(result.x, result.n_iterations)


def _model(head: SklearnHead) -> Any:
    """Return scikit-learn's model of one label, or of all classes, with its tolerance."""
    estimator = head.make_estimator(1)
    return estimator.estimator if isinstance(estimator, OneVsRestClassifier) else estimator


def _fit(
    head: SklearnHead,
    number: int,
    rows: TrainingRows,
    steps: dict[tuple[int, str], Any],
    axes: dict[str, Axes],
) -> Fit:
    step = steps[number, head.preprocessing]
    before, affine = parted(step)
    # unit length is learnt from nothing, and so the same for every set
    is_shared = all(isinstance(one, Normalizer) for one in before)
    components = [one.components_ for one in steps_of(step) if hasattr(one, "components_")]
    n_inputs = len(components[-1]) if components else rows.views.shape[2]
    target = Target.of(rows, head.target_kind, head.class_weight == "balanced")
    if head.preprocessing not in axes:  # those of one set are good enough for all
        axes[head.preprocessing] = Axes.of(rows, step, n_inputs, head.precision)
    model = _model(head)
    return Fit(
        head=head,
        number=number,
        step=step,
        base=tuple(map(type, before)) if is_shared else (number, head.preprocessing),
        affine=affine,
        n_inputs=n_inputs,
        target=target,
        axes=axes[head.preprocessing],
        penalty=1 / (model.C * target.n),
        tol=model.tol,
    )


@dataclass
class Layer:
    """Fits whose weights are columns of one product with a group's rows, and sums over these."""

    fits: list[Fit]
    places: list[int]  # numbers of these fits
    kernel: np.ndarray  # (d, c * p)
    bias: np.ndarray  # (c * p,)
    weights: np.ndarray | None  # of rows, of all fits
    loss: np.ndarray  # (p,)
    sums: np.ndarray  # (d, c, p) of x times slope by the logits
    totals: np.ndarray  # (c, p) of slopes

    @classmethod
    def of(cls, fits: list[Fit], places: list[int], maps: Maps) -> Layer:
        kernel = np.stack([maps[place][0] for place in places], axis=-1)
        bias = np.stack([maps[place][1] for place in places], axis=-1)
        weights = [fit.target.weights for fit in fits if fit.target.weights is not None]
        precision = fits[0].head.precision
        return cls(
            fits=fits,
            places=places,
            kernel=kernel.reshape(len(kernel), -1).astype(precision),
            bias=bias.reshape(-1).astype(precision),
            weights=np.stack(weights, axis=-1).astype(precision) if weights else None,
            loss=np.zeros(len(fits)),
            sums=np.zeros(kernel.shape),
            totals=np.zeros(bias.shape),
        )

    def of_rows(self, X: np.ndarray, y: np.ndarray) -> LayerSums:
        """Return loss, sums and totals of some rows (m, d)."""
        logits = (X @ self.kernel + self.bias).reshape(len(X), *self.totals.shape)
        loss, slopes = self.fits[0].target.slopes(logits, y, self.weights)
        sums = (X.T @ slopes.reshape(len(X), -1)).reshape(self.sums.shape)
        return loss, sums, slopes.sum(axis=0, dtype=np.float64)


class Evaluation:
    """Losses and gradients of fits, of all that are asked for in one pass."""

    def __init__(self, passes: Passes, fits: Sequence[Fit], tell: Callable[[str], None]):
        self._passes, self._fits, self._tell = passes, fits, tell
        self._before = {fit.base: parted(fit.step)[0] for fit in fits}
        # without that, sums in float32 of features far from zero lose what tells rows apart
        self._centre = passes.sets[0].near_mean().astype(passes.precision)
        self._n_passes = 0

    def values(self, points: Points) -> Values:
        """Return objective and gradient of some fits at points, by their numbers."""
        self._n_passes += 1
        self._tell(f"pass {self._n_passes} over the features, {len(points)} fits under way")
        layers = self._layers(points)

        def sums(segments: list[Segment]) -> list[tuple[Layer, LayerSums]]:
            found = []
            for one in segments:
                seen: dict[Any, np.ndarray] = {}
                for layer in layers[one.group]:
                    base = layer.fits[0].base
                    if base not in seen:
                        before = self._before[base]
                        seen[base] = applied(before, one.X) if before else one.X - self._centre
                    found.append((layer, layer.of_rows(seen[base], one.y)))
            return found

        for found in self._passes.over(sums):
            for layer, (loss, of_block, totals) in found:
                layer.loss += loss
                layer.sums += of_block
                layer.totals += totals
        return self._values(points, [layer for some in layers.values() for layer in some])

    def _layers(self, points: Points) -> dict[int, list[Layer]]:
        """Return what is to be computed of the rows of each group."""
        maps: Maps = {}
        alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, x in points.items():
            fit = self._fits[place]
            weights, bias = fit.split(x)
            kernel, bias = folded(fit.affine, weights.T, bias)
            maps[place] = kernel, bias if self._before[fit.base] else bias + self._centre @ kernel
            for group in self._passes.groups_of(fit.number):
                alike[group, fit.base, fit.target.key].append(place)
        layers: dict[int, list[Layer]] = defaultdict(list)
        for (group, *_), places in alike.items():
            layers[group].append(Layer.of([self._fits[place] for place in places], places, maps))
        return layers

    def _values(self, points: Points, layers: Sequence[Layer]) -> Values:
        found: Values = {}
        for place, x in points.items():
            fit = self._fits[place]
            mine = [(one, one.places.index(place)) for one in layers if place in one.places]
            loss = sum(float(one.loss[column]) for one, column in mine)
            sums = np.sum([one.sums[..., column] for one, column in mine], axis=0)
            totals = np.sum([one.totals[:, column] for one, column in mine], axis=0)
            if not self._before[fit.base]:
                sums = sums + np.outer(self._centre, totals)
            found[place] = fit.value(x, loss, sums, totals)
        return found
