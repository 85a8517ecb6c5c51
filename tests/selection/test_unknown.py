"""Heads that say unknown: compared, saved, stitched, judged and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_photos, parse_single_json

import featcache as fc
from featcache import heads
from featcache.core.errors import HeadError, SourceError, SpecError, StitchError
from featcache.core.tensorflow import import_keras
from featcache.heads.open_set import OpenSet
from featcache.scoring import leaderboard
from featcache.selection import open_set


def fit(features, names=("lda",), **options):
    given = {"cv": 3, "jobs": 1, "report": False, "show_progress": False, "unknown": True}
    return fc.fit_heads(features, list(names), **given | options)


def arrays(n=140, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((n_classes, 6))
    y = np.arange(n) % n_classes
    names = np.array([f"class {one}" for one in range(n_classes)])
    return (centres[y] + rng.standard_normal((n, 6))).astype(np.float32), names[y]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "arrays.heads"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return fit(arrays(), folder=tmp_path_factory.mktemp("known") / "arrays.heads")


def test_each_class_is_unknown_in_turn_and_the_best_score_ships(known):
    about = known.open_set
    assert about["groups"] == [[f"class {one}"] for one in range(4)]
    areas = {name: one["auroc"] for name, one in about["scores"].items()}
    assert max(areas.values()) - areas[about["score"]] <= open_set.LEVEL
    assert areas[about["score"]] > 0.8
    for one in about["scores"].values():
        assert one["auroc_low"] <= one["auroc"] <= one["auroc_high"]
        assert one["oscr"] <= one["auroc"] + 1e-9
        assert len(one["each"]) == 4
    assert any("says unknown by" in line for line in known.remarks)
    assert "stranger score" in str(known)
    head = known.best.head
    assert isinstance(head, OpenSet)
    assert known.best.class_names[-1] == "unknown"
    X, _ = arrays()
    assert np.mean(head.predict(X) == 4) < 0.15
    assert np.mean(head.predict(20 * X[::-1, ::-1]) == 4) > 0.5


def test_the_same_request_is_answered_from_the_folder(known):
    saved = leaderboard.load(known.folder)
    assert saved.open_set == json.loads(json.dumps(known.open_set))
    again = fit(arrays(), folder=known.folder)
    X, _ = arrays()
    np.testing.assert_array_equal(again.best.head.outputs(X), known.best.head.outputs(X))
    plain = leaderboard.load_if_same(known.folder, known.request | {"keep_known": 0.9})
    assert plain is None


def test_a_missing_or_changed_score_is_noticed(known, tmp_path):
    import shutil

    folder = tmp_path / "moved.heads"
    shutil.copytree(known.folder, folder)
    board = leaderboard.load(folder)
    file = folder / "open_set.npz"
    file.write_bytes(file.read_bytes() + b"x")
    assert leaderboard.load_if_same(folder, board.request) is None
    with pytest.raises(HeadError, match=r"open_set.npz' is not the one that its leaderboard"):
        _ = leaderboard.load(folder).best.head
    file.unlink()
    with pytest.raises(HeadError, match=r"open_set.npz' is missing or damaged"):
        _ = leaderboard.load(folder).best.head
    assert fit(arrays(), folder=folder).open_set == known.open_set


@pytest.mark.slow
def test_known_images_are_kept_as_asked(folder):
    X, y = arrays(n=700)
    kept = {}
    for share in (0.95, 0.7):
        board = fit((X[:400], y[:400]), folder=folder, keep_known=share, overwrite=True)
        head = board.best.head
        kept[share] = 1 - np.mean(head.predict(X[400:]) == 4)
        low, high = head.threshold.interval
        assert 1 - high - 0.03 <= kept[share] <= 1 - low + 0.03
    assert kept[0.95] > kept[0.7]


@pytest.mark.slow
def test_many_classes_are_left_out_in_groups(folder):
    X, y = arrays(n=150, n_classes=25)
    board = fit((X, y), ["centroid"], folder=folder)
    groups = board.open_set["groups"]
    assert len(groups) == open_set.MOST_GROUPS
    assert sorted(name for group in groups for name in group) == sorted(set(y))


@pytest.mark.slow
def test_the_first_head_that_can_be_stitched_says_unknown(folder):
    X, y = arrays()
    forest = heads.CATALOGUE["random-forest"](n_estimators=5, min_samples_leaf=5)
    board = fit((X, y), ["centroid", forest], folder=folder, prefer="best")
    assert board.open_set["head"] == "centroid"
    assert isinstance(board["centroid"].head, OpenSet)
    other = board["random-forest"]
    assert not isinstance(other.head, OpenSet)
    assert other.class_names == board.class_names
    tested = board["centroid"].result.test
    assert (board.open_set["test"] is None) == (tested is None)
    with pytest.raises(HeadError, match=r"None of the heads compared .* becomes Keras layers"):
        fit((X, y), [forest], folder=folder)


@pytest.mark.slow
def test_calibrated_heads_say_unknown(folder):
    board = fit(arrays(), folder=folder, calibrate="temperature")
    X, _ = arrays()
    np.testing.assert_allclose(board.best.head.outputs(X).sum(axis=1), 1)


def test_what_makes_no_sense_is_said(folder):
    X, y = arrays()
    with pytest.raises(SpecError, match="say --unknown"):
        fit((X, y), folder=folder, unknown=False, keep_known=0.9)
    with pytest.raises(SpecError, match="keep_known must be above 0 and below 1"):
        fit((X, y), folder=folder, keep_known=1.0)
    with pytest.raises(SpecError, match="unknown is for classification; the task here is regr"):
        fit((X, X[:, 0].astype(float)), ["ridge"], folder=folder)
    with pytest.raises(SourceError, match="A class is called 'unknown'"):
        fit((X, np.where(y == "class 0", "unknown", y)), folder=folder)
    two = np.where(y == "class 0", "one", "two")
    with pytest.raises(HeadError, match=r"takes 3 classes or more .* there are 2: 'one', 'two'"):
        fit((X, two), folder=folder)
    assert not folder.exists()


@pytest.mark.slow
def test_the_model_says_unknown(tiny_backbone, tmp_path, cli):
    from featcache import extraction

    names = ("apple", "pear", "quince", "rose")
    root = make_photos(tmp_path / "photos", a_class=15, classes=names)
    strange = make_photos(tmp_path / "others", a_class=4, classes=("apple", "moss"))
    features = extraction.run(
        str(root), weights=str(tiny_backbone), cache_dir=tmp_path / "cache", show_progress=False
    ).features
    cache = ("--cache-dir", tmp_path / "cache")
    options = ("--heads", "lda,random-forest", "--cv", "3", "--jobs", "1")
    ran = cli("fit-heads", features.path, "--unknown", "--keep-known", "0.9", *options, *cache)
    assert ran.returncode == 0, ran.stderr
    assert "lda says unknown by" in ran.stdout
    board = leaderboard.load(features.path.with_suffix(".heads"))
    page = (board.folder / "report.html").read_text(encoding="utf-8")
    assert "How well" in page
    assert 'id="strangers"' in page
    out = tmp_path / "fruit.keras"
    ran = cli("stitch", board.folder, "--head", "lda", "--out", out, *cache)
    assert ran.returncode == 0, ran.stderr
    assert "known images like these are kept on average" in ran.stdout
    assert cli("stitch", board.folder, "--head", "lda", "--out", out, *cache).stdout.startswith(
        "Found"
    )
    assert out.with_suffix(".labels.txt").read_text().split() == [*names, "unknown"]
    assert "unknown" in cli("info", out).stdout

    images = [*sorted((root / "pear").iterdir())[:3], *sorted((strange / "moss").iterdir())]
    for cache_dir in (None, tmp_path / "cache"):  # the whole network, and the head alone
        found = fc.load(out, cache_dir=cache_dir).predict(images, show_progress=False)
        head = board["lda"].head
        rows = [features.ids.index(f"pear/{path.name}") for path in images[:3]]
        expected = head.stranger_scores(features.read_rows(rows))
        assert [one.stranger for one in found[:3]] == pytest.approx(expected, abs=1e-3)
        for one in found:
            assert (one.classes == ("unknown",)) == (one.stranger > head.threshold.value)
    assert found[0].from_cache
    keras = import_keras()
    (last,) = keras.models.load_model(out).outputs
    assert last.shape == (None, 5)
    csv = tmp_path / "said.csv"
    assert cli("predict", out, strange, "--out", csv, *cache).returncode == 0
    assert csv.read_text().splitlines()[0] == "path,class,score,stranger,error"
    said = parse_single_json(cli("predict", out, strange, "--json", *cache).stdout)
    assert all("stranger" in one for one in said["predictions"])
    assert "unknown above" in cli("predict", out, strange, *cache).stdout

    done = fc.evaluate(out, str(strange), cache_dir=None)
    assert done.strangers == ("moss",)
    assert done.each[-1]["name"] == "unknown"
    assert done.each[-1]["support"] == 4
    assert "unknown" not in done.absent
    own = fc.evaluate(out, cache_dir=tmp_path / "cache")
    assert own.strangers == ()
    if board.open_set["test"] is not None:
        assert own.accuracy == pytest.approx(fc.load(out, cache_dir=None).card.test["accuracy"])
    ran = cli("evaluate", out, strange)
    assert "the model did not learn 'moss'; their images count as unknown" in ran.stderr
    assert fc.export(out, "onnx").agreement == 1
    with pytest.raises(
        StitchError, match=r"which fine-tuning changes\. Fit heads without --unknown"
    ):
        fc.finetune(out, source=str(root), out=tmp_path / "tuned.keras")
