from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photos

import featcache as fc
from featcache import compare, heads, leaderboard, store
from featcache.errors import HeadError, SpecError, StoreError

QUICK = ["logreg", "linear-svm", "rbf-svm"]


def scores(board):
    """The results without what differs from run to run: times, and dates inside files."""
    return [replace(result, fit_s=0.0, file_digest="") for result in board.results]


@pytest.fixture
def features(photos, extract):
    return extract(photos).features


def fit(features, names=QUICK, **options):
    return fc.fit_heads(features, names, **({"cv": 3, "jobs": 1, "show_progress": False} | options))


def test_clipart_is_learned(clipart_board):
    """The real thing: chance is 0.09, raw pixels give 0.24."""
    assert clipart_board.results[0].accuracy_mean >= 0.66
    assert [result.head for result in clipart_board.results[:1]] == [clipart_board.best.name]
    assert set(heads.CATALOGUE) == {result.head for result in clipart_board.results}
    assert clipart_board.majority < 0.12
    assert all(result.test_accuracy > 0.5 for result in clipart_board.results)


def test_same_seed_same_leaderboard_whatever_the_number_of_processes(
    clipart, clipart_board, tmp_path
):
    some = ["logreg", "dense"]  # one of scikit-learn, one of Keras
    again = fc.fit_heads(clipart, some, jobs=1, folder=tmp_path / "again", show_progress=False)
    assert scores(again) == [one for one in scores(clipart_board) if one.head in some]


def test_scores_are_what_the_saved_head_gives(clipart, clipart_board):
    X, y = clipart.arrays("test", seed=clipart_board.seed)
    for result in clipart_board.results:
        head = clipart_board[result.head].head
        assert np.mean(head.predict(X) == y) == result.test_accuracy


def test_mean_and_spread_are_of_the_folds(features):
    result = fit(features).results[0]
    assert len(result.fold_accuracy) == 3
    assert result.accuracy_mean == pytest.approx(np.mean(result.fold_accuracy))
    assert result.accuracy_std == pytest.approx(np.std(result.fold_accuracy))


def test_files(features):
    board = fit(features)
    assert board.folder == features.path.with_suffix(".heads")
    names = {path.name for path in board.folder.iterdir()}
    assert names == {"leaderboard.json", "leaderboard.csv", *(f"{name}.skops" for name in QUICK)}
    with (board.folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == [result.head for result in board.results]
    assert float(rows[0]["accuracy_mean"]) == board.results[0].accuracy_mean
    saved = json.loads((board.folder / "leaderboard.json").read_text(encoding="utf-8"))
    assert saved["best"] == board.best.name
    assert not list(features.path.parent.glob("*.tmp"))


def test_loaded_it_is_the_same(features):
    board = fit(features)
    again = leaderboard.load(board.folder)
    assert again == board
    assert again["logreg"].name == "logreg"
    with pytest.raises(SpecError, match="no head 'dense'"):
        again["dense"]


def test_nothing_is_fitted_twice(features, monkeypatch):
    board = fit(features)

    def never(*args):
        raise AssertionError("fitted again")

    monkeypatch.setattr(compare, "_score_fold", never)
    assert fit(features) == board


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"cv": 4}, {"names": ["logreg"]}, {"overwrite": True}]
)
def test_another_request_is_fitted(features, change, monkeypatch):
    fit(features)
    monkeypatch.setattr(compare, "_parallel", None)
    with pytest.raises(TypeError):
        fit(features, **change)


def test_a_current_folder_that_changes_does_not_confuse_the_workers(features, monkeypatch):
    for name in ("one", "two"):
        (features.path.parent / name).mkdir()
        monkeypatch.chdir(features.path.parent / name)
        relative = Path("..") / features.path.name
        assert fit(store.Features(relative), ["logreg"], jobs=2, overwrite=True).results


def test_dense_options_replace_its_grid(features):
    options = {"hidden": (8,), "dropout": 0.1, "batch_norm": True}
    board = fit(features, ["dense"], dense=options)
    params = board.results[0].params
    assert params == {"hidden": [8], "dropout": 0.1, "batch_norm": True, "seed": 0}
    assert leaderboard.load(board.folder).best.head.outputs(features.X).shape == (21, 3)


def test_prints_as_a_table(features):
    text = str(fit(features))
    assert text.count("\n") >= 5
    assert "held out" in text
    assert "±" in text


def test_class_names_with_markup_stay_text(tmp_path, extract):
    root = make_photos(tmp_path / "p", classes=("[bold]", "<b>", " "))
    features = extract(root).features
    assert fit(features).class_names == (" ", "<b>", "[bold]")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": ["svm"]}, SpecError, "no head 'svm'; choose from logreg"),
        ({"seed": -1}, SpecError, "seed must be a whole number from 0"),
        ({"seed": 2**32}, SpecError, "seed must be a whole number from 0"),
        ({"jobs": 0}, SpecError, "jobs must be"),
        ({"dense": {"dropout": 0.1}}, SpecError, "dense is not among the heads"),
        ({"cv": 1}, SpecError, "cv must be 2 folds or more"),
        ({"cv": 7}, HeadError, "fewer than the 7 folds"),
        (
            {"names": ["dense"], "dense": {"width": 3}},
            SpecError,
            "no parameter 'width'; it has batch_norm",
        ),
        (
            {"names": ["dense"], "dense": {"dropout": 1.5}},
            SpecError,
            "dropout must lie in",
        ),
        ({"names": ["dense"], "dense": {"hidden": (0,)}}, SpecError, "hidden must be"),
    ],
)
def test_what_cannot_be_compared(features, options, error, message):
    with pytest.raises(error, match=message):
        fit(features, **options)
    assert not features.path.with_suffix(".heads").exists()


def test_one_class(tmp_path, extract):
    features = extract(make_photos(tmp_path / "p", classes=("apple",))).features
    with pytest.raises(HeadError, match="two classes or more; the training part has only 'apple'"):
        fit(features)


def test_no_labels(photos, extract):
    features = extract(photos / "pear").features
    with pytest.raises(HeadError, match="no labelled training images"):
        fit(features)


def test_a_damaged_head_is_fitted_again(features):
    board = fit(features)
    (board.folder / "logreg.skops").write_bytes(b"")
    assert fit(features)["logreg"].head.outputs(features.X).shape == (21, 3)


def test_a_moved_cache_is_found_again(features, tmp_path):
    folder = fit(features).folder
    moved = (tmp_path / "cache").rename(tmp_path / "moved") / folder.parent.name / folder.name
    assert leaderboard.load(moved).features_path == moved.with_suffix(".h5")


@pytest.mark.parametrize(
    "change",
    [{"results": []}, {"request": None}, {"spec": 3}, {"results": [{"params": None}]}],
)
def test_boards_that_lack_something(features, change):
    folder = fit(features).folder
    saved = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    (folder / "leaderboard.json").write_text(json.dumps(saved | change), encoding="utf-8")
    with pytest.raises(HeadError, match="damaged"):
        leaderboard.load(folder)


def test_missing_and_damaged_boards(features):
    with pytest.raises(HeadError, match="no leaderboard"):
        leaderboard.load(features.path.parent)
    folder = fit(features).folder
    (folder / "leaderboard.json").write_text("{")
    with pytest.raises(HeadError, match="damaged"):
        leaderboard.load(folder)
    assert fit(features).results
    with pytest.raises(StoreError, match="does not exist"):
        fit(folder / "nowhere.h5")


def test_other_tasks_are_refused_by_name(extract):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    for given in ({"targets": np.arange(6)}, {"labels": [["a", "b"], ["a"]] * 3}):
        features = extract(fc.open_source(pixels, **given)).features
        with pytest.raises(HeadError, match=f"one class an image; .* is for {features.task}"):
            fc.fit_heads(features)


def test_another_grouping_is_fitted_anew_and_groups_are_never_parted(extract, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    seen = []
    score = compare._score_fold

    def looking(name, params, X, y, train, test):
        seen.append((X[train], X[test]))
        return score(name, params, X, y, train, test)

    monkeypatch.setattr(compare, "_score_fold", looking)
    # images of one group are nearly alike: a fold that parts them would score far too well
    for groups in (None, [str(number // 4) for number in range(40)]):
        given = {"labels": np.arange(40) % 2, "groups": groups, "name": "alike"}
        features = extract(fc.open_source(pixels, **given)).features
        seen.clear()
        fc.fit_heads(features, ["logreg"], cv=2, jobs=1, show_progress=False)
        assert seen
        if groups is not None:
            group_of = {row.tobytes(): group for row, group in zip(features.X, groups, strict=True)}
            for train, test in seen:
                sides = [{group_of[row.tobytes()] for row in side} for side in (train, test)]
                assert not sides[0] & sides[1]
