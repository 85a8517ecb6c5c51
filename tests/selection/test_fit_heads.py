from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photos

import featcache as fc
from featcache import heads, store
from featcache.core import disk
from featcache.core.errors import DiskError, HeadError, SpecError, StoreError
from featcache.heads import costs
from featcache.models import stitching
from featcache.scoring import leaderboard
from featcache.selection import fold_work

QUICK = ["logreg", "linear-svm", "rbf-svm"]


def scores(board):
    """The results without what differs from run to run: times, and dates inside files.

    As text, in which what is undefined, NaN, equals itself.
    """
    return [repr(replace(result, fit_s=0.0, file_digest="")) for result in board.results]


def fit(features, names=QUICK, **options):
    given = {"cv": 3, "jobs": 1, "report": False, "show_progress": False} | options
    return fc.fit_heads(features, names, **given)


@pytest.fixture(params=["clipart_board", "clipart_slow_board"])
def real_board(request):
    """The boards of the clip art, which together have every head."""
    return request.getfixturevalue(request.param)


def test_clipart_is_learned(clipart_board, clipart_slow_board):
    """The real thing: chance is 0.09, raw pixels give 0.24."""
    for board in (clipart_board, clipart_slow_board):
        best = board.results[0]
        highest = max(result.mean for result in board.results)
        assert highest >= 0.67
        assert best.low < best.mean < best.high
        assert best.test["accuracy"] > 0.55
        assert best.test_low < best.test["accuracy"] < best.test_high
        assert board.results[-1].head == "dummy"
        assert board["dummy"].result.mean < 0.13
        assert not board["dummy"].result.is_level
        others = [one for one in board.results if one.name not in ("dummy", best.name)]
        assert all(0.5 < result.mean <= highest and result.test is None for result in others)
        assert any(result.is_level for result in others)
    both = [*clipart_board.results, *clipart_slow_board.results]
    assert set(heads.CATALOGUE) == {result.head for result in both}


def test_same_seed_same_leaderboard_whatever_the_number_of_processes(clipart, tmp_path):
    data = clipart.X[::2, ::8], clipart.labels[::2]
    logreg = heads.CATALOGUE["logreg"]
    # solved by us, by scikit-learn, by Keras
    some = ["lda", logreg(C=0.01), logreg(C=10.0, preprocessing="l2"), "dense"]
    small = {"hidden": (8,), "dropout": 0.5, "epochs": 2}
    boards = [
        fit(data, some, jobs=jobs, folder=tmp_path / f"{jobs}", dense=small) for jobs in (1, 2)
    ]
    assert scores(boards[0]) == scores(boards[1])


def test_scores_are_what_the_saved_head_gives(clipart, real_board):
    X, y = clipart.arrays("test", seed=real_board.seed)
    best = real_board.best
    assert np.mean(best.head.predict(X) == y) == best.result.test["accuracy"]


def test_scores_are_those_of_the_out_of_fold_predictions(clipart, real_board):
    said = real_board.out_of_fold()
    np.testing.assert_array_equal(said.y, clipart.labels[said.rows])
    for result in real_board.results:
        right = said.outputs[result.name].argmax(axis=1) == said.y
        per_fold = [right[said.folds == fold].mean() for fold in range(5)]
        np.testing.assert_allclose(per_fold, result.scores["accuracy"])
        assert result.mean == pytest.approx(np.mean(per_fold))
        assert result.std == pytest.approx(np.std(per_fold, ddof=1))
    held_out = said.test_outputs.argmax(axis=1) == clipart.labels[said.test_rows]
    assert held_out.mean() == real_board.best.result.test["accuracy"]


def test_repeats_draw_the_folds_anew(features):
    result = fit(features, ["centroid"], repeats=2).results[0]
    assert len(result.scores["accuracy"]) == len(result.fold_params) == 6


def test_the_floor_is_always_shown(features):
    board = fit(features, ["logreg"])
    assert [result.name for result in board.results] == ["logreg", "dummy"]


def test_metric_decides_the_order(features):
    board = fit(features, ["logreg", "lda"], metric="log-loss", prefer="best")
    assert board.metric == "log-loss"
    means = [result.mean for result in board.results]
    assert means == sorted(means)
    for result in board.results:
        assert result.mean == pytest.approx(np.mean(result.scores["log-loss"]))


def test_heads_that_cannot_are_left_out_with_the_reason(features):
    board = fit(features, ["logreg", "linear-svm"], metric="log-loss")
    assert "log-loss needs probabilities" in board.left_out["linear-svm"]
    assert {result.head for result in board.results} == {"dummy", "logreg"}


def test_quick_heads_go_by_what_they_cost(features, monkeypatch):
    monkeypatch.setitem(costs._COSTS, "knn", lambda n, d, k: 1000.0)
    board = fit(features, None)
    never = dict.fromkeys(["dense", "rbf-svm", "random-forest"], "never in the quick set")
    slow = {"knn": "takes about 7 min on two cores, and the quick set 60 s at most"}
    assert board.left_out == slow | never
    names = {result.head for result in board.results}
    assert names == {"dummy", "centroid", "ridge", "lda", "logreg", "linear-svm"}


def test_prefer_simple_takes_the_simplest_within_one_standard_error(features):
    best, simple = (
        fit(features, ["centroid", "ridge", "lda", "logreg"], prefer=prefer)
        for prefer in ("best", "simple")
    )
    order = list(heads.CATALOGUE)
    assert order.index(simple.best.name) <= order.index(best.best.name)
    first = max(simple.results, key=lambda result: result.mean)
    assert simple.best.result.mean >= first.mean - first.std / np.sqrt(3)


def test_files(features):
    board = fit(features)
    assert board.folder == features.path.with_suffix(".heads")
    names = {path.name for path in board.folder.iterdir()}
    assert names == {
        *("leaderboard.json", "leaderboard.csv", "out_of_fold.npz"),
        *(f"{name}.skops" for name in ("dummy", *QUICK)),
    }
    with (board.folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [result.name for result in board.results]
    assert float(rows[0]["mean"]) == board.results[0].mean
    saved = json.loads((board.folder / "leaderboard.json").read_text(encoding="utf-8"))
    assert saved["best"] == board.best.name
    assert not list(features.path.parent.glob("*.tmp"))


def test_what_others_put_into_the_folder_stays(features):
    folder = fit(features, ["lda", "ridge"]).folder
    for name in ("notes.txt", "flowers.keras", "figures/one.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    fit(features, ["centroid"])
    names = {path.name for path in folder.iterdir()}
    ours = {"leaderboard.json", "leaderboard.csv", "out_of_fold.npz"}
    ours |= {"centroid.skops", "dummy.skops"}
    assert names == ours | {"notes.txt", "flowers.keras", "figures"}
    assert (folder / "figures" / "one.png").read_text() == "mine"
    (folder / "leaderboard.json").write_text("{")  # nothing says what is ours, but names do
    (folder / "mine.skops").write_text("mine")
    fit(features, ["lda"])
    assert {path.name for path in folder.iterdir()} == names - {"centroid.skops"} | {
        *("lda.skops", "mine.skops")
    }
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(SpecError, match=r"is not a folder of heads \(thesis\.tex\)"):
        fit(features, ["lda"])


def test_a_folder_that_is_a_link_is_written_through(features, tmp_path):
    folder, elsewhere = features.path.with_suffix(".heads"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    for names in (["lda"], ["ridge"]):
        board = fit(features, names)
        assert board.folder == folder
        assert folder.readlink() == elsewhere
        assert leaderboard.load(elsewhere).best.head.outputs(features.X).shape == (21, 3)
    assert not list(tmp_path.glob("elsewhere.*"))


def test_no_room_is_said_before_anything_is_fitted(features, monkeypatch):
    folder = fit(features, ["lda"]).folder
    before = leaderboard.load(folder).to_dict()
    monkeypatch.setattr(disk, "free_bytes", lambda path: 100)
    monkeypatch.setattr(fold_work, "_fit", None)
    message = r"no room for '.*\.heads': No space left on device; it takes 1\.01 kB, and its disk"
    with pytest.raises(DiskError, match=message):
        fit(features, ["ridge"])
    assert leaderboard.load(folder).to_dict() == before
    assert not list(folder.parent.glob("*.tmp"))


def test_loaded_it_is_the_same(features):
    board = fit(features)
    again = leaderboard.load(board.folder)
    assert again.to_dict() == board.to_dict()  # NaN is not equal to itself
    assert again["logreg"].name == "logreg"
    with pytest.raises(SpecError, match="no head 'dense'"):
        again["dense"]


def test_nothing_is_fitted_twice(features, monkeypatch):
    board = fit(features)

    def never(*args):
        raise AssertionError("fitted again")

    monkeypatch.setattr(fold_work, "_fit", never)
    assert fit(features).to_dict() == board.to_dict()


@pytest.mark.parametrize(
    "change",
    [
        *({"seed": 1}, {"cv": 4}, {"names": ["logreg"]}, {"overwrite": True}, {"repeats": 2}),
        *({"metric": "macro-f1"}, {"class_weight": "balanced"}, {"calibrate": "auto"}),
        *({"prefer": "simple"}, {"learning_curve": True}),
    ],
)
def test_another_request_is_fitted(features, change, monkeypatch):
    fit(features)
    monkeypatch.setattr("featcache.selection.parallel.processes", None)
    with pytest.raises(TypeError):
        fit(features, **change)
    assert leaderboard.load(features.path.with_suffix(".heads")).results


def test_a_current_folder_that_changes_does_not_confuse_the_workers(features, monkeypatch):
    for name in ("one", "two"):
        (features.path.parent / name).mkdir()
        monkeypatch.chdir(features.path.parent / name)
        relative = Path("..") / features.path.name
        assert fit(store.Features(relative), ["logreg"], jobs=2, overwrite=True).results


def test_dense_options_replace_its_grid(features):
    options = {"hidden": (8,), "dropout": 0.1, "batch_norm": True}
    board = fit(features, ["dense"], dense=options)
    params = board["dense"].result.params
    shared = {"task": "classification", "class_weight": None, "seed": 0}
    assert params == {"hidden": [8], "dropout": 0.1, "batch_norm": True} | shared
    assert leaderboard.load(board.folder)["dense"].head.outputs(features.X).shape == (21, 3)


def test_heads_with_settings_of_their_own_replace_the_grid(features, tmp_path, monkeypatch):
    logreg = heads.CATALOGUE["logreg"]
    chains = [logreg(preprocessing="l2+standardise"), logreg(preprocessing="standardise+pca")]
    board = fit(features, [*chains, "lda"])
    assert {result.name for result in board.results} == {"dummy", "logreg", "lda"}
    tried = board.request["heads"]["logreg"]
    assert [one["preprocessing"] for one in tried] == ["l2+standardise", "standardise+pca"]
    chosen = leaderboard.load(board.folder)["logreg"]
    assert chosen.result.params in tried
    model = stitching.stitch(chosen, tmp_path / "m.keras", show_progress=False)
    assert model.output_shape == (None, 3)
    again = fit(features, [*chains, "lda", "logreg"])  # the name alone does not undo them
    assert again.request["heads"]["logreg"] == tried
    # the same from a module, for the command line
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chains.py").write_text(
        "from featcache import heads\n"
        "logreg = heads.CATALOGUE['logreg']\n"
        "def both():\n"
        "    return [logreg(preprocessing=p) for p in ('l2+standardise', 'standardise+pca')]\n"
    )
    monkeypatch.setattr(fold_work, "_fit", None)  # it was fitted already
    assert fit(features, ["chains:both", "lda"]).to_dict() == board.to_dict()


def test_prints_as_a_table(features):
    board = fit(features)
    text = str(board)
    assert len(text.splitlines()) == 1 + len(board.results) + len(board.remarks)
    assert "held out" in text
    assert "accuracy (95 %)" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy"])
def test_the_table_never_wraps_in_80_columns(features, metric):
    from rich.console import Console

    forest = heads.CATALOGUE["random-forest"](n_estimators=5)
    board = fit(features, ["centroid", "knn", forest], metric=metric)
    console = Console(width=80)
    lines = list(console.render_lines(board, pad=False))
    text = ["".join(segment.text for segment in line).rstrip() for line in lines]
    for result in board.results:
        (row,) = [line for line in text if line.startswith((f"{result.name} ", f"{result.name}="))]
        assert row.endswith(" s")
        below = [line for line in text if line.startswith(f"* {result.name}: ")]
        assert len(below) == (" * " in row)
    assert any(line.startswith("* random-forest: ") for line in text)


def test_class_names_with_markup_stay_text(tmp_path, extract):
    root = make_photos(tmp_path / "p", classes=("[bold]", "<b>", " "))
    features = extract(root).features
    assert fit(features).class_names == (" ", "<b>", "[bold]")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": ["svm"]}, SpecError, "no head 'svm'; choose from dummy, centroid"),
        ({"seed": -1}, SpecError, "seed must be a whole number, 0 to 4294967295"),
        ({"seed": 2**32}, SpecError, "seed must be a whole number, 0 to"),
        ({"jobs": 0}, SpecError, "jobs must be"),
        ({"dense": {"dropout": 0.1}}, SpecError, "dense is not among the heads"),
        ({"cv": 2}, SpecError, "cv must be a whole number, 3 or more; got 2"),
        ({"repeats": 0}, SpecError, "repeats must be a whole number, 1 or more; got 0"),
        ({"metric": "rmse"}, SpecError, "metric must be one of accuracy, .*; got 'rmse'"),
        ({"prefer": "quick"}, SpecError, "prefer must be one of level, best, simple; got 'quick'"),
        ({"class_weight": "even"}, SpecError, "class_weight must be one of None, balanced"),
        ({"calibrate": "yes"}, SpecError, "calibrate must be one of None, auto, temperature"),
        ({"backend": "threads"}, SpecError, "backend must be one of loky, dask, ray"),
        ({"task": "regression"}, SpecError, "task and groups are for plain arrays"),
        ({"names": ["dummy"]}, SpecError, "No head is left to compare"),
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


def test_a_manifest_without_any_target_says_what_to_fill_in(photos, extract):
    manifest = photos.parent / "prices.csv"
    names = [path.relative_to(photos.parent).as_posix() for path in photos.rglob("*.*")]
    manifest.write_text("path,target\n" + "".join(f"{name},\n" for name in names))
    features = extract(manifest).features
    with pytest.raises(HeadError, match=r"Fill in the column target of its manifest, and extract"):
        fit(features)


def test_a_damaged_head_is_fitted_again(features):
    board = fit(features)
    (board.folder / "logreg.skops").write_bytes(b"")
    assert fit(features)["logreg"].head.outputs(features.X).shape == (21, 3)


def test_a_moved_cache_is_found_again(features, tmp_path):
    folder = fit(features).folder
    moved = (tmp_path / "cache").rename(tmp_path / "moved") / folder.parent.name / folder.name
    assert leaderboard.load(moved).best.features.path == moved.with_suffix(".h5")


@pytest.mark.parametrize(
    "change",
    [
        *({"results": []}, {"request": None}, {"features": 3}, {"features": []}),
        *({"results": [{"params": None}]}, {"left_out": 3, "warnings": 5}),
        *({"class_names": [1]}, {"n_train": "x"}, {"learning_curve": 5}, {"metric": "nope"}),
    ],
)
def test_boards_that_lack_something(features, change):
    folder = fit(features).folder
    saved = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    (folder / "leaderboard.json").write_text(json.dumps(saved | change), encoding="utf-8")
    with pytest.raises(HeadError, match="damaged"):
        leaderboard.load(folder)


def test_a_board_that_was_edited_is_not_believed(features):
    folder = fit(features).folder
    file = folder / "leaderboard.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(saved | {"class_names": saved["class_names"][::-1]}))
    with pytest.raises(HeadError, match=r"leaderboard\.json' was changed since the heads were"):
        leaderboard.load(folder)
    file.write_text(json.dumps({name: saved[name] for name in saved if name != "digest"}))
    assert leaderboard.load(folder).results  # as they were before they had a digest


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


@pytest.mark.parametrize(
    "change",
    [
        *({"mean": "abc"}, {"scores": {}}, {"test": {}}, {"fit_s": []}, {"p_value": "x"}),
        *({"features": 7}, {"scores": {"accuracy": ["x"]}}, {"is_level": None}),
    ],
)
def test_results_of_the_wrong_type(features, change):
    folder = fit(features, ["lda"]).folder
    saved = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    saved["results"][0] |= change
    (folder / "leaderboard.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(HeadError, match="damaged"):
        leaderboard.load(folder)


def test_a_head_of_another_comparison_is_not_taken_for_the_scored_one(features, tmp_path):
    board = fit(features, ["logreg"])
    other = fit(features, ["logreg"], seed=5, folder=tmp_path / "other")
    board.best.path.write_bytes(other.best.path.read_bytes())
    with pytest.raises(HeadError, match="is not the one that its leaderboard scored"):
        board.best.head  # noqa: B018


def test_missing_predictions_are_made_again(features):
    board = fit(features, ["lda"])
    (board.folder / "out_of_fold.npz").unlink()
    assert fit(features, ["lda"]).out_of_fold().rows.shape == (board.n_train,)


def test_images_that_nothing_tells_apart_are_warned_of(features, monkeypatch):
    blocks, n_same = store.Features.blocks, len(features)

    def constant(self, name):
        for block in blocks(self, name):
            same = np.full_like(block, 1.5)
            same[n_same:] = block[n_same:]
            yield same

    monkeypatch.setattr(store.Features, "blocks", constant)
    said = " ".join(fit(features, ["centroid"]).warnings)
    assert "All 21 images have the very features of another image" in said
    n_same = 5
    said = " ".join(fit(features, ["centroid"], overwrite=True).warnings)
    assert "5 of 21 images have the very features of another image" in said
