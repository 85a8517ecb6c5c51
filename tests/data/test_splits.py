from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.core.errors import HeadError
from featcache.core.labels import Annotations
from featcache.data import splits

NAMES = tuple("abcdefgh")


def digests_of(numbers) -> np.ndarray:
    """One digest a number; equal numbers are copies of one image."""
    return np.stack(
        [np.random.default_rng(number).integers(0, 256, 16) for number in numbers]
    ).astype(np.uint8)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=60),
    st.integers(-3, 1000),
)
def test_copies_land_on_one_side(samples, seed):
    labels = np.array([label for label, _ in samples])
    digests = digests_of([number for _, number in samples])
    out = splits.held_out(labels, digests, seed)
    for number in {number for _, number in samples}:
        assert len({bool(out[i]) for i, (_, other) in enumerate(samples) if other == number}) == 1


def test_a_stratified_fifth_of_each_class():
    labels = np.repeat([0, 1, 2], [50, 20, 2])
    out = splits.held_out(labels, digests_of(range(72)), 0)
    assert [int(out[labels == label].sum()) for label in range(3)] == [10, 4, 1]


def test_same_seed_same_part_other_seed_another():
    labels, digests = np.zeros(100, int), digests_of(range(100))
    np.testing.assert_array_equal(
        splits.held_out(labels, digests, 3), splits.held_out(labels, digests, 3)
    )
    assert (splits.held_out(labels, digests, 3) != splits.held_out(labels, digests, 4)).any()


def test_it_goes_by_image_not_by_place():
    labels, digests = np.repeat([0, 1], 30), digests_of(range(60))
    order = np.random.default_rng(0).permutation(60)
    out = splits.held_out(labels, digests, 0)
    np.testing.assert_array_equal(out[order], splits.held_out(labels[order], digests[order], 0))


def test_adding_images_hardly_moves_it():
    digests = digests_of(range(220))
    before = splits.held_out(np.zeros(200, int), digests[:200], 0)
    after = splits.held_out(np.zeros(220, int), digests, 0)[:200]
    assert (before != after).sum() <= 8


def test_own_splits_are_kept():
    labels = np.array([0, 0, 1, 1, -1])
    about = Annotations(labels, NAMES[:2], ("train", "test", "val", "test", "test"))
    part = splits.parts(about, digests_of(range(5)), 0)
    assert [np.flatnonzero(part[name]).tolist() for name in ("train", "val", "test")] == [
        [0],
        [2],
        [1, 3],
    ]


def test_without_a_test_part_a_fifth_is_held_out():
    labels = np.repeat([0, 1], 20)
    about = Annotations(labels, NAMES[:2], ("train", "val") * 20)
    part = splits.parts(about, digests_of(range(40)), 0)
    assert part["test"].sum() == 8
    assert (part["train"] | part["val"] | part["test"]).all()


def test_folds_part_every_row_once_and_keep_copies_together():
    numbers = [*range(40), 3, 3, 25]
    labels = np.array([number % 2 for number in numbers])
    tested = np.zeros(len(numbers), int)
    for train, test in splits.folds(Annotations(labels, NAMES[:2]), digests_of(numbers), 5, 0):
        assert not set(train) & set(test)
        assert not {numbers[i] for i in train} & {numbers[i] for i in test}
        assert abs(np.mean(labels[test]) - 0.5) < 0.2
        tested[test] += 1
    assert (tested == 1).all()


def grouped(n=60, n_groups=15):
    """Rows in groups, two of them joined by copies of one image, and some rows of no group."""
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in rng.integers(0, n_groups, n)]
    groups[:10] = [""] * 10
    numbers = list(range(n))
    numbers[20] = numbers[40]
    return rng.integers(0, 2, n), digests_of(numbers), tuple(groups), (20, 40)


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_copies_land_on_one_side(seed):
    labels, digests, groups, copies = grouped()
    masks = [splits.held_out(labels, digests, seed, groups=groups)]
    assert 0.1 < masks[0].mean() < 0.35
    for train, test in splits.folds(
        Annotations(labels, NAMES[:2], groups=groups), digests, 3, seed
    ):
        assert sorted([*train, *test]) == list(range(len(labels)))
        masks.append(np.isin(np.arange(len(labels)), test))
    for mask in masks:
        for group in set(groups) - {""}:
            assert len({mask[row] for row in range(len(groups)) if groups[row] == group}) == 1
        assert mask[copies[0]] == mask[copies[1]]
    assert len(set(masks[0][:10].tolist())) == 2 or seed  # rows of no group are on their own


def test_regression_is_held_out_without_classes():
    about = Annotations(
        np.full(40, -1),
        targets=np.where(np.arange(40) < 5, np.nan, 1.0)[:, None],
        target_names=("age",),
        task="regression",
    )
    part = splits.parts(about, digests_of(range(40)), 0)
    assert part["test"].sum() == 7
    assert not any(mask[:5].any() for mask in part.values())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 10, "only 'a'"),
        (
            [0] * 10 + [1] * 4,
            "'b' has 4 different training images, fewer than the 5 folds. Add images, or use "
            r"fewer folds: --cv 4\.",
        ),
        ([0] * 10 + [1] * 2, r"2 different training images, fewer than the 5 folds. Add images\.$"),
        ([0] * 10 + [1], r"1 different training image, fewer"),
        ([0] * 10 + [2] * 10, "'b' has no training image"),
    ],
)
def test_too_few_for_folds(labels, message):
    names = NAMES[: max(labels) + 1]
    with pytest.raises(HeadError, match=message):
        splits.folds(Annotations(np.array(labels), names), digests_of(range(len(labels))), 5, 0)


def test_other_tasks_have_plain_folds():
    about = Annotations(np.full(20, -1), targets=np.zeros((20, 1)), task="regression")
    tested = [test for _, test in splits.folds(about, digests_of(range(20)), 4, 0)]
    assert sorted(np.concatenate(tested)) == list(range(20))
    with pytest.raises(HeadError, match="The training part has 3 different training image"):
        splits.folds(about.take(np.arange(3)), digests_of(range(3)), 4, 0)


def test_images_on_both_sides_of_given_splits():
    about = Annotations(np.zeros(5, int), NAMES[:1], ("train", "test", "val", "test", "test"))
    assert splits.shared(about, digests_of([1, 1, 2, 2, 3])) == [(0, 1), (2, 3)]
    assert not splits.shared(Annotations(np.zeros(2, int)), digests_of([1, 1]))


def test_groups_that_are_too_few_are_what_to_add():
    about = Annotations(np.array([0, 1] * 6), NAMES[:2], groups=tuple("abababababab"))
    with pytest.raises(HeadError, match=r"1 different training group, .*Add groups\.$"):
        splits.folds(about, digests_of(range(12)), 3, 0)
