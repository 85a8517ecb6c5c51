"""Which heads the quick set has, by rows, features and classes."""

from __future__ import annotations

import pytest

from featcache import heads
from featcache.core.errors import SpecError
from featcache.core.tasks import TASKS, TargetKind
from featcache.heads import costs
from featcache.selection import candidates, quick

FIRST = ["dummy", "centroid", "ridge"]


def chosen(names, size, task="classification", dense=None):
    found, left_out = candidates.choose(
        names,
        task=task,
        size=size,
        metric=TASKS[task].default_metric,
        class_weight=None,
        calibrate=None,
        seed=0,
        dense=dense,
    )
    return [one.name for one in found], left_out


@pytest.mark.parametrize(
    ("size", "rest"),
    [
        ((430, 1280, 12), ["lda", "logreg", "linear-svm", "knn"]),
        ((3_000, 1280, 10), ["lda", "logreg", "linear-svm", "knn"]),
        ((10_000, 1280, 10), ["lda", "logreg", "knn"]),
        ((10_000, 320, 10), ["lda", "logreg", "linear-svm", "knn"]),
        ((10_000, 1280, 100), ["lda", "logreg"]),
        ((3_000, 1280, 1_000), ["lda", "knn"]),
        ((10_000, 1280, 1_000), []),
        ((50_000, 1280, 10), ["lda", "logreg"]),
    ],
)
def test_sets(size, rest):
    names, left_out = chosen(None, size)
    assert names == FIRST + rest
    assert set(names) | set(left_out) == set(heads.CATALOGUE)


@pytest.mark.parametrize("kind", [kind for kind in TargetKind if kind is not TargetKind.BOXES])
@pytest.mark.parametrize("n_outputs", [1, 10, 100, 1_000])
@pytest.mark.parametrize("n_features", [1, 320, 1_280])
@pytest.mark.parametrize("n_rows", [10, 1_000, 3_000, 10_000])
def test_it_takes_a_minute_at_most(kind, n_outputs, n_features, n_rows):
    task = next(task for task in TASKS.values() if task.kind is kind)
    size = n_rows, n_features, n_outputs
    names, _ = chosen("quick", size, task.name)
    assert sum(costs.seconds(name, kind, *size) for name in names) <= 60
    assert len(names) > 1


def test_more_of_anything_never_costs_less():
    for name in costs._COSTS:
        for kind in TargetKind:
            one = costs.seconds(name, kind, 2_000, 1_280, 20)
            for size in ((4_000, 1_280, 20), (2_000, 2_000, 20), (2_000, 1_280, 40)):
                assert costs.seconds(name, kind, *size) >= one


def test_one_head_is_left_whatever_the_size():
    names, left_out = chosen(None, (10_000, 100_000, 10))
    assert len(names) == 2
    assert names[0] == "dummy"
    assert left_out["ridge"].endswith("h on two cores, and the quick set 60 s at most")


def test_what_is_asked_for_is_taken():
    names, left_out = chosen(["quick", "logreg", "dense"], (10_000, 1280, 1_000))
    assert names == [*FIRST, "logreg", "dense"]
    assert set(left_out) == {"lda", "linear-svm", "knn", "rbf-svm", "random-forest"}
    assert chosen("all", (10_000, 1280, 1_000)) == (list(heads.CATALOGUE), {})
    assert chosen(["logreg"], (10_000, 1280, 1_000)) == (["dummy", "logreg"], {})
    assert "dense" in chosen(None, (100, 10, 2), dense={"dropout": 0.1})[0]
    with pytest.raises(SpecError, match="dense is not among the heads"):
        chosen(["logreg"], (100, 10, 2), dense={"dropout": 0.1})


def test_many_rows_may_take_longer():
    assert [quick.at_most_s(n) for n in (1, 10_000, 20_000, 10**6)] == [60, 60, 120, 300]
