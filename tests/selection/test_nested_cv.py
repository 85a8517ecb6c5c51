"""Nested folds: no number of a fold, and no choice for it, has seen the fold."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featcache as fc
from featcache import heads
from featcache.data import splits
from featcache.selection import fold_work, nested_cv, ranking, search
from featcache.selection.candidates import Candidate
from featcache.selection.comparison import Comparison
from featcache.selection.folds import FoldedData
from featcache.selection.preference import BEST, SIMPLE

N_FOLDS = 4
SHARED = {"task": "classification", "class_weight": None, "seed": 0}


def inline(calls):
    return ((call.key, call.function(*call.arguments)) for call in calls)


def comparison(names, prefer="best", n_outputs=3, calibrates=False):
    chosen = [
        Candidate(
            name,
            heads.CATALOGUE[name],
            tuple(one | SHARED for one in heads.CATALOGUE[name].grid("classification")),
        )
        for name in names
    ]
    return Comparison(
        task="classification",
        metric="accuracy",
        n_outputs=n_outputs,
        prefer=prefer,
        seed=0,
        candidates=tuple(chosen),
        calibrates=calibrates,
        moments_travel=True,
    )


def made(n=80, d=6, v=1, seed=0):
    """Three classes that overlap, each row with `v` views, in four folds."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = rng.standard_normal((3, d))
    views = centres[y][:, None] + 1.5 * rng.standard_normal((n, v, d))
    folds = (np.arange(n) % N_FOLDS).astype(np.int16)
    return FoldedData(
        views=(views.astype(np.float32),),
        y=y,
        folds=folds[None],
        train=np.arange(n),
        test=np.arange(0),
        units=np.arange(n),
        n_same=(0,),
    )


def compared(data, names, tmp_path, **options):
    return nested_cv.search_and_fit(
        data, comparison(names, **options), tmp_path, inline, lambda n: None
    )


@pytest.fixture(scope="module")
def compared_once(tmp_path_factory):
    """Comparisons of what `made` gives, each made once and changed by nobody."""

    @functools.cache
    def lend(*names, **options):
        return compared(made(), names, tmp_path_factory.mktemp("compared"), **options)

    return lend


@pytest.mark.xdist_group("nested")  # so that they share what is compared
@pytest.mark.parametrize("fold", range(N_FOLDS))
def test_what_is_said_of_a_fold_does_not_depend_on_its_labels(fold, tmp_path, compared_once):
    names = ["centroid", "ridge", "lda", "logreg", "linear-svm", "knn"]
    data = made()
    rng = np.random.default_rng(1)
    wrong = data.y.copy()
    wrong[data.folds[0] == fold] = rng.integers(0, 3, (data.folds[0] == fold).sum())
    first = compared_once(*names)
    second = compared(replace(data, y=wrong), names, tmp_path)
    for one, other in zip(first, second, strict=True):
        assert one.fold_chosen[0, fold] == other.fold_chosen[0, fold]
        np.testing.assert_allclose(one.outputs[0, fold], other.outputs[0, fold], atol=1e-6)
    # and the other folds do: else this would prove nothing
    moved = [
        not np.allclose(
            one.outputs[0, (fold + 1) % N_FOLDS], other.outputs[0, (fold + 1) % N_FOLDS]
        )
        for one, other in zip(first, second, strict=True)
    ]
    assert all(moved)


def test_every_inner_fit_serves_two_folds(tmp_path, monkeypatch):
    seen = []
    try_settings = fold_work.try_settings

    def counted(views, y, folds, job):
        seen.append(job.without)
        return try_settings(views, y, folds, job)

    monkeypatch.setattr(fold_work, "try_settings", counted)
    compared(made(), ["centroid"], tmp_path)
    assert sorted(seen) == [(i, j) for i in range(N_FOLDS) for j in range(i + 1, N_FOLDS)]


def test_a_setting_is_judged_by_models_that_left_its_fold_out(tmp_path, monkeypatch):
    """The score for fold i is that of the model without i and j, on j."""
    monkeypatch.setattr(
        fold_work,
        "try_settings",
        # the second setting is better on fold 0 alone, so no choice for fold 0 may take it
        lambda views, y, folds, job: np.array(
            [[0.5, 0.5], [0.9 if fold == 0 else 0.4 for fold in job.without], [0.1, 0.1]]
        ),
    )
    (one,) = compared(made(), ["centroid"], tmp_path)
    assert [one.fold_chosen[0, fold] for fold in range(N_FOLDS)] == [0, 1, 1, 1]
    assert one.chosen == 1


@pytest.mark.xdist_group("nested")
@pytest.mark.parametrize("fold", [0, 2])
def test_calibrated_probabilities_of_a_fold_do_not_depend_on_its_labels(
    fold, tmp_path, compared_once
):
    names = ["logreg", "linear-svm", "centroid"]
    data = made()
    wrong = data.y.copy()
    wrong[data.folds[0] == fold] = (wrong[data.folds[0] == fold] + 1) % 3
    here = data.folds[0] == fold
    fitted = compared_once(*names, calibrates=True)
    fitted_wrong = compared(replace(data, y=wrong), names, tmp_path, calibrates=True)
    for kind in ("temperature", "platt", "isotonic"):
        first = [ranking._calibrated(data, one, 0, kind) for one in fitted]
        second = [ranking._calibrated(replace(data, y=wrong), one, 0, kind) for one in fitted_wrong]
        for one, other in zip(first, second, strict=True):
            np.testing.assert_allclose(one[here], other[here], atol=1e-5)
            assert not np.allclose(one[~here], other[~here], atol=1e-3)
            np.testing.assert_allclose(one.sum(axis=1), 1, rtol=1e-6)


def test_the_map_of_a_fold_is_of_the_setting_that_the_fold_chose(tmp_path):
    """Settings of the nearest mean have scores of very different scale."""
    data = made()
    (one,) = compared(data, ["centroid"], tmp_path, calibrates=True)
    kind, settings_of = one.candidate.kind, one.candidate.settings
    for (repeat, fold, other), outputs in one.inner.items():
        rows = np.flatnonzero(~np.isin(data.folds[repeat], [fold, other]))
        setting = settings_of[one.fold_chosen[repeat, fold]]
        head = kind(**setting).fit(data.views[0][rows, 0], data.y[rows])
        tested = data.views[0][data.folds[repeat] == other, 0]
        np.testing.assert_allclose(outputs, head.outputs(tested), rtol=1e-4, atol=1e-5)
    for fold, outputs in one.shipped.items():
        rows = np.flatnonzero(data.folds[0] != fold)
        head = kind(**settings_of[one.chosen]).fit(data.views[0][rows, 0], data.y[rows])
        tested = data.views[0][data.folds[0] == fold, 0]
        np.testing.assert_allclose(outputs, head.outputs(tested), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 1000), st.integers(1, 3))
@settings(max_examples=25)
def test_views_of_an_image_are_on_one_side(seed, v):
    data = made(40, v=v, seed=seed)
    rows = heads.TrainingRows(data.views[0], data.y, np.flatnonzero(data.folds[0] != 1))
    X, y, groups = rows.arrays()
    learnt = {row.tobytes() for row in X}
    held = {row.tobytes() for row in data.views[0][data.folds[0] == 1].reshape(-1, X.shape[1])}
    assert len(X) == len(y) == v * len(rows)
    assert not learnt & held
    if v > 1:
        assert len(set(groups.tolist())) == len(rows)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=40, max_size=80),
    st.integers(0, 50),
)
@settings(max_examples=40)
def test_groups_and_copies_are_on_one_side(samples, seed):
    """Of (image, group) pairs, group 0 being none."""
    from featcache.core.labels import Annotations

    n = len(samples)
    digests = np.array([[image] * 16 for image, _ in samples], np.uint8)
    groups = tuple("" if group == 0 else str(group) for _, group in samples)
    about = Annotations(
        np.full(n, -1),
        groups=groups,
        targets=np.zeros((n, 1)),
        target_names=("t",),
        task="regression",
    )
    units = splits.units(digests, groups)
    if len(set(units)) < 3:
        return
    for train, test in splits.folds(about, digests, 3, seed):
        assert not set(units[train]) & set(units[test])
        assert not {samples[i][0] for i in train} & {samples[i][0] for i in test}
        assert not {groups[i] for i in train} & {groups[i] for i in test} - {""}


SLOW = {"dense": {"epochs": 30}, "random-forest": {"n_estimators": 30}}


@pytest.mark.parametrize("name", heads.CATALOGUE)
def test_permuted_labels_give_chance(name, tmp_path, monkeypatch):
    """Copies, and groups of near copies, with the same label: what leaks is learnt by heart."""
    rng = np.random.default_rng(3)
    n = 90
    X = rng.standard_normal((n, 12))
    y = rng.permutation(np.arange(n) % 3)
    near = X + 1e-3 * rng.standard_normal(X.shape)
    X, y = np.concatenate([X, X, near]), np.concatenate([y, y, y])
    groups = np.concatenate([np.arange(n)] * 3)
    if name in SLOW:
        kind = heads.CATALOGUE[name]
        grid = tuple(one | SLOW[name] for one in kind.grid("classification")[:2])
        monkeypatch.setattr(kind, "grid", classmethod(lambda cls, task: grid))
    names = [name]
    if name == "dummy":
        names = ["centroid"]  # a comparison needs a head beside the floor
    board = fc.fit_heads(
        *((X, y), names),
        groups=groups,
        jobs=1,
        folder=tmp_path / "h",
        report=False,
        show_progress=False,
    )
    result = board[name].result
    # of 270 rows that are 90 different ones
    error = np.sqrt((1 / 3) * (2 / 3) / n)
    # what leaks makes it better; worse than chance it is because a class that is rarer among the
    # rows to learn from is commoner among those to judge
    assert -4 * error < result.mean - 1 / 3 < 2.6 * error
    assert result.low - error < 1 / 3


@pytest.mark.parametrize(
    ("scores", "best", "simple"),
    [
        ([[0.5, 0.5, 0.5], [0.6, 0.6, 0.6]], 1, 1),
        ([[0.60, 0.58, 0.62], [0.61, 0.55, 0.67], [0.2, 0.2, 0.2]], 1, 0),
        ([[0.5, 0.5], [0.5, 0.5]], 0, 0),
        ([[np.nan, np.nan], [0.4, 0.5]], 1, 1),
        ([[np.nan, np.nan], [np.nan, np.nan]], 0, 0),
    ],
)
def test_pick(scores, best, simple):
    assert search.pick(np.array(scores), BEST) == best
    assert search.pick(np.array(scores), SIMPLE) == simple


def test_slow_heads_look_at_a_part_first(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH_ROWS", 5)
    seen = []
    fit = fold_work._fit

    def counted(views, y, folds, job, **options):
        fitted = fit(views, y, folds, job, **options)
        seen.append((len(job.settings), len(job.without), job.at_most))
        return fitted

    monkeypatch.setattr(fold_work, "_fit", counted)
    (one,) = compared(made(), ["random-forest"], tmp_path)
    n_settings = len(one.candidate.settings)
    looks = [entry for entry in seen if entry[2] is not None]
    assert looks == [(n_settings, 2, 10)] * 6
    full = [entry for entry in seen if entry[2] is None and entry[1] == 2]
    assert all(n < n_settings for n, _, _ in full)
    assert set(one.fold_chosen) == {(0, fold) for fold in range(N_FOLDS)}
