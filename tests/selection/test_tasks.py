"""What can be learnt from feature files and arrays: tasks, weights, warnings, odd input."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_image, make_photos

import featcache as fc
from featcache import heads
from featcache.core.errors import HeadError, SpecError, StitchError
from featcache.scoring import leaderboard
from featcache.selection import nested_cv

LIGHT = ["centroid", "ridge", "lda", "logreg", "knn"]


def fit(features, names=None, **options):
    given = {"cv": 3, "jobs": 1, "report": False, "show_progress": False} | options
    return fc.fit_heads(features, names, **given)


def arrays(n=90, d=10, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 2 * rng.standard_normal((n_classes, d))[y] + rng.standard_normal((n, d)), y


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Forests of few trees, and a dense head with and without a hidden layer."""
    forest, dense = heads.CATALOGUE["random-forest"], heads.CATALOGUE["dense"]

    def of_few_trees(cls, task, grid=forest.grid):
        return tuple({"n_estimators": 20, **settings} for settings in grid(task))

    def of_both_shapes(cls, task, grid=dense.grid):
        return grid(task)[1:]

    monkeypatch.setattr(forest, "grid", classmethod(of_few_trees))
    monkeypatch.setattr(dense, "grid", classmethod(of_both_shapes))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "arrays.heads"


def test_plain_arrays(folder):
    X, y = arrays()
    board = fit((X, np.array(["ant", "bee", "cow"])[y]), folder=folder)
    assert board.class_names == ("ant", "bee", "cow")
    assert board.best.result.mean > 0.9
    assert board.n_train + board.n_test == 90
    said = board.out_of_fold()
    np.testing.assert_array_equal(said.y, y[said.rows])
    assert np.mean(board.best.head.predict(X) == y) > 0.9
    with pytest.raises(StitchError, match="plain arrays, so there is no backbone"):
        fc.stitch(board.best)


def test_arrays_have_a_place_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = fit(arrays(), ["lda"])
    assert board.folder.parent.parent.name == "cache"
    assert (tmp_path / "cache" / ".gitignore").exists()
    assert fit(arrays(), ["lda"]).results[0].fit_s == board.results[0].fit_s  # found again


def test_several_labels(folder):
    X, y = arrays()
    labels = np.stack([y == 0, y != 1, y == 2], axis=1).astype(int)
    board = fit((X, labels), "all", folder=folder, dense={"epochs": 30})
    assert (board.task, board.metric) == ("multi-label", "map")
    assert board.left_out == dict.fromkeys(["centroid", "lda", "rbf-svm"], "cannot do multi-label")
    assert board.best.result.mean > 0.95
    assert set(board.best.result.scores) == {"map", "micro-f1", "macro-f1"}
    assert board["dummy"].result.mean < 0.6
    again = fit((X, labels), ["logreg"], folder=folder, metric="micro-f1")
    predicted = again.best.head.predict(X)
    assert predicted.shape == labels.shape
    assert np.mean(predicted == labels) > 0.9


@pytest.mark.parametrize("n_targets", [1, 2])
def test_targets(folder, n_targets):
    X, _ = arrays(120)
    targets = X @ np.random.default_rng(1).standard_normal((10, n_targets)) + 100
    board = fit(
        (X, targets[:, 0] if n_targets == 1 else targets),
        "all",
        folder=folder,
        cv=5,
        dense={"epochs": 30},
    )
    assert (board.task, board.metric) == ("regression", "rmse")
    assert set(board.left_out) >= {"centroid", "lda", "logreg", "linear-svm"}
    assert board.best.name == "ridge"
    assert board.best.result.scores["r2"][0] > 0.98
    errors = [result.mean for result in board.results]
    assert errors == sorted(errors)
    assert board.best.head.predict(X).shape == (120, n_targets)
    assert board["dummy"].result.p_value < 0.001
    assert not board["dummy"].result.is_level


def test_targets_far_from_zero_are_told_apart(folder):
    """What is learnt of 1e9 + y is what is learnt of y; float32 has steps of 64 there."""
    X, _ = arrays(60)
    y = np.round(X[:, 0] + X[:, 1], 3)
    names = ["ridge", "knn", heads.CATALOGUE["random-forest"](n_estimators=5), "dense"]
    near, far = (
        fit(
            (X, offset + y),
            names,
            folder=folder / str(offset),
            dense={"epochs": 3, "hidden": (4,), "dropout": 0.0},
            seed=1,
        )
        for offset in (0, 10**9)
    )
    for one in near.results:
        other = far[one.name].result
        # splits that part equally well are told by the last bits
        rel, abs_ = (0.1, 2.0) if one.name == "random-forest" else (1e-3, 1e-2)
        assert other.mean == pytest.approx(one.mean, rel=rel), one.name
        # as they were written, and are read again
        shipped = far[one.name].head.predict(X) - 1e9
        assert shipped == pytest.approx(near[one.name].head.predict(X), abs=abs_), one.name
        kept = far.out_of_fold().outputs[one.name] - 1e9
        assert kept == pytest.approx(near.out_of_fold().outputs[one.name], abs=abs_), one.name


def test_a_target_too_large_is_named_before_anything_is_fitted(extract, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
    y = np.arange(12.0)
    y[3] = 1e300
    targets = extract(fc.open_source(pixels, targets=y, name="t")).features
    monkeypatch.setattr(nested_cv, "search_and_fit", None)
    with pytest.raises(HeadError, match=r"The target 1e\+300 of '03' in .* is too large to learn"):
        fit(targets, ["ridge"])
    with pytest.raises(HeadError, match=r"y must be finite numbers below 1e\+15, which row 3 has"):
        fit((np.ones((12, 2)), y), ["ridge"])


@pytest.mark.parametrize("metric", ["rmse", "r2"])
def test_a_constant_target_says_so(folder, metric):
    X, _ = arrays(60)
    same = X, np.full(60, 0.1)
    board = fit(same, ["ridge", "knn"], folder=folder, metric=metric, report=True)
    assert board.warnings == (
        "The target 'target 0' is 0.1 for all training images: there is nothing to learn, and R2 "
        "is undefined.",
    )
    assert all(np.isnan(result.scores["r2"]).all() for result in board.results)
    assert board.best.result.scores["rmse"][0] < 1e-8
    assert " 1.000 " not in str(board).split("held out")[1].split("\n")[1]
    assert (folder / "report.html").is_file()


def test_tasks_come_from_the_feature_file(extract):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    targets = extract(fc.open_source(pixels, targets=np.arange(24.0), name="t")).features
    board = fit(targets, ["ridge"])
    assert (board.task, board.class_names) == ("regression", targets.annotations.target_names)
    source = fc.open_source(pixels, labels=[["a", "b"], ["a"]] * 12, name="l")
    labels = extract(source).features
    board = fit(labels, ["ridge", "lda"])
    assert (board.task, board.class_names) == ("multi-label", ("a", "b"))
    assert board.left_out == {"lda": "cannot do multi-label"}
    model = fc.stitch(board["ridge"], source=source, show_progress=False)
    assert model.output_shape == (None, 2)


def test_the_task_can_be_said(folder):
    X, _ = arrays()
    ages = np.round(50 + 10 * X[:, 0]).astype(int)
    assert fit((X, ages), ["ridge"], task="regression", folder=folder).task == "regression"


def test_balanced_classes_and_their_warning(folder):
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(300, int), np.ones(12, int)]
    X = rng.standard_normal((312, 5)) + 0.8 * y[:, None]
    plain = fit((X, y), ["logreg"], folder=folder)
    assert "Class '1' has 10 training images, '0' has 240" in plain.warnings[0]
    assert "--class-weight balanced" in plain.warnings[0]
    even = fit((X, y), ["logreg"], folder=folder, class_weight="balanced")
    recalls = [np.mean(one["logreg"].result.scores["balanced-accuracy"]) for one in (plain, even)]
    assert recalls[1] > recalls[0] + 0.1
    assert not fit(arrays(), ["lda"], folder=folder).warnings
    (small,) = fit(arrays(30), ["lda"], folder=folder).warnings
    assert small == "Class '0' has 8 training images: what is said of it is uncertain."


def test_copies_that_say_something_else_are_told(folder):
    X, y = arrays()
    X, y = np.concatenate([X, X[:2]]), np.concatenate([y, [y[0], 1 - y[1]]])
    (said,) = fit((X, y), ["lda"], folder=folder).warnings
    assert said.startswith("1 copy of an image says other classes than the first one: row 1 and")


def test_labels_that_no_image_has(extract):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 9, 9, 3)).astype(np.uint8)
    features = extract(fc.open_source(pixels, labels=[[]] * 24, name="none")).features
    with pytest.raises(HeadError, match=r"no labelled training images\. Fill in the column labels"):
        fit(features, ["ridge"])


def test_given_splits_that_share_images_are_named(tmp_path, extract):
    root = tmp_path / "p"
    for split in ("train", "test"):
        make_photos(root / split, a_class=4)
    for image in (root / "test").rglob("*.*"):  # other images than those of train
        make_image(image, (90, 90, 90), hash(image.name) % 10_000, (31, 30))
    (small,) = fit(extract(root).features, ["lda"]).warnings
    assert "has 4 training images" in small
    copy = root / "test" / "pear" / "again.png"
    copy.write_bytes(next((root / "train" / "pear").glob("*.png")).read_bytes())
    _, warning = fit(extract(root).features, ["lda"]).warnings
    assert "1 of the given test images" in warning
    assert "'test/pear/again.png' is 'train/pear/" in warning


def test_a_users_own_estimator(folder):
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.naive_bayes import GaussianNB

    own = [GaussianNB(), ("boosted", GradientBoostingClassifier(n_estimators=5))]
    board = fit(arrays(), ["lda", *own], folder=folder)
    assert {result.name for result in board.results} == {"dummy", "lda", "gaussiannb", "boosted"}
    again = leaderboard.load(folder)
    X, y = arrays()
    assert np.mean(again["gaussiannb"].head.predict(X) == y) > 0.9
    assert again["gaussiannb"].result.mean > 0.9


def test_a_factory_in_a_module(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_heads.py").write_text(
        "from sklearn.svm import NuSVC\n"
        "def nu(): return NuSVC(nu=0.2)\n"
        "def both(): return {'low': NuSVC(nu=0.1), 'high': NuSVC(nu=0.3)}\n"
        "def broken(): raise KeyError('x')\n"
        "def nothing(): return 3\n"
    )
    board = fit(arrays(), ["my_heads:nu", "my_heads:both"], folder=folder)
    assert {result.name for result in board.results} == {"dummy", "nu", "low", "high"}
    for text, message in (
        ("my_heads:none", "cannot be imported as module:factory"),
        ("no_such_module:x", "cannot be imported as module:factory"),
        ("my_heads:broken", "'my_heads:broken' raised KeyError: 'x'"),
        ("my_heads:nothing", "must be a name, a head of the catalogue"),
    ):
        with pytest.raises(SpecError, match=message):
            fit(arrays(), [text], folder=folder)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (3, "must be a name, a head of the catalogue"),
        (heads.CATALOGUE["logreg"], r"LogisticRegression is a class; give one"),
        (heads.CATALOGUE["logreg"](C=-1), "Head 'logreg' cannot be fitted with these settings"),
        (heads.CATALOGUE["logreg"](preprocessing=None), "preprocessing must be one of none"),
        (("logreg", heads.CATALOGUE["lda"]()), "'logreg' is a head of the catalogue"),
        (("a/b", heads.CATALOGUE["lda"]()), "'a/b' is not a valid name for a head"),
    ],
)
def test_what_is_no_head(folder, own, message):
    with pytest.raises(SpecError, match=message):
        fit(arrays(), [own], folder=folder)


def test_a_regressor_for_classes(folder):
    from sklearn.linear_model import Lasso

    with pytest.raises(SpecError, match="Lasso is no classifier, which a classification task"):
        fit(arrays(), [Lasso()], folder=folder)


def test_several_feature_files(photos, extract, tmp_path):
    files = [extract(photos, pooling=pooling).features for pooling in ("avg", "max")]
    board = fit(files, ["lda", "centroid"])
    names = {result.name for result in board.results}
    stems = [file.path.stem for file in files]
    assert names == {f"{stem}/{head}" for stem in stems for head in ("lda", "centroid", "dummy")}
    # the selected head's features come first, and it is fitted on them
    assert board.best.features == board.features[0]
    chosen = next(file for file in files if file.path.resolve() == board.best.features.path)
    said = board.out_of_fold()
    np.testing.assert_array_equal(said.y, chosen.labels[said.rows])
    again = leaderboard.load(board.folder)
    assert again.best.head.outputs(chosen.X).shape == (21, 3)
    assert fc.stitch(again.best, show_progress=False).output_shape == (None, 3)


def test_files_that_share_some_images(photos, extract):
    first = extract(photos).features
    (photos / "pear" / "new.png").write_bytes(
        make_image(photos / "x.png", (1, 2, 3), 77, (30, 30)).read_bytes()
    )
    (photos / "x.png").unlink()
    next((photos / "apple").glob("*.jpg")).unlink()
    second = extract(photos, pooling="max").features
    board = fit([first.path, second.path], ["lda"])
    assert board.n_train + board.n_test == 20


def test_files_of_other_images(photos, extract, tmp_path):
    other = make_photos(tmp_path / "o", a_class=3, classes=("x", "y"))
    with pytest.raises(HeadError, match="do not have the same classes"):
        fit([extract(photos).features, extract(other).features], ["lda"])


def odd(name):
    X, y = arrays()
    if name == "nan":
        X[17, 3] = np.nan
    elif name == "huge":
        X[17, 3] = 1e30
    elif name == "infinite":
        X[17, 3] = np.inf
    elif name == "one sample":
        X, y = np.r_[X, X[:1] + 1], np.r_[y, 3]
    elif name == "one class":
        y = np.zeros(90, int)
    elif name == "lengths":
        y = y[:-1]
    elif name == "one dimension":
        X = X[:, 0]
    elif name == "nan target":
        y = np.where(np.arange(90) == 3, np.nan, X[:, 0])
    return X, y


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, r"X must be finite numbers below 1e\+15, which row 17 has not")
            for name in ("huge", "nan", "infinite")
        ),
        ("one sample", r"Class '3' has \d different training images?, fewer than the 3 folds"),
        ("one class", "A head needs two classes or more"),
        ("lengths", "X has 90 rows and y has 89"),
        ("one dimension", r"X must be numbers in \(n_samples, n_features\)"),
        ("nan target", r"y must be finite numbers below 1e\+15, which row 3 has not"),
    ],
)
def test_odd_arrays_get_one_clear_line(name, message, folder):
    with pytest.raises(HeadError, match=message) as raised:
        fit(odd(name), LIGHT, folder=folder)
    assert "\n" not in str(raised.value)
    assert not folder.exists()
    assert not list(folder.parent.glob("*.tmp"))


def test_nan_in_a_feature_file_names_the_image(photos, extract):
    import h5py

    features = extract(photos).features
    with h5py.File(features.path, "r+") as file:
        file["features"][4, 2] = np.nan
    with pytest.raises(HeadError, match=f"The features of '{features.ids[4]}' in '.*' are not all"):
        fit(fc.Features(features.path), ["lda"])


@pytest.mark.parametrize("n_features", [5, 400])
def test_constant_features_and_more_features_than_samples(folder, n_features):
    X, y = arrays(60, n_features)
    X[:, ::4] = 7.0
    board = fit((X, y), "all", folder=folder, dense={"epochs": 40, "learning_rate": 0.01})
    for result in board.results:
        if result.head != "dummy":
            assert result.mean > 0.8, result.name
        assert np.isfinite(board[result.name].head.outputs(X)).all()


def test_rows_that_are_all_the_same(folder):
    X, y = np.ones((60, 4)), np.arange(60) % 2
    with pytest.raises(HeadError, match=r"Class '0' has 1 different training image,"):
        fit((X, y), ["lda"], folder=folder)
    # and those that differ in the last digits alone
    X += 1e-7 * np.arange(60)[:, None]
    board = fit((X, y), ["centroid", "ridge", "lda", "logreg"], folder=folder)
    assert all(0.2 < result.mean < 0.8 for result in board.results)


def test_learning_curve(folder):
    board = fit(arrays(150), ["lda"], learning_curve=True, folder=folder)
    curve = leaderboard.load(folder).learning_curve
    assert curve == board.learning_curve
    assert curve["n_train"] == sorted(curve["n_train"])
    assert np.shape(curve["scores"]) == (len(curve["n_train"]), 3)
    assert curve["scores"][-1] == list(board.best.result.scores["accuracy"])
    assert "more labels" in curve["verdict"]


def test_calibration_is_of_the_shipped_head(folder):
    X, y = arrays(200, n_classes=2)
    X += 3 * np.random.default_rng(5).standard_normal(X.shape)
    plain = fit((X, y), ["logreg", "linear-svm"], folder=folder.with_name("plain"))
    board = fit((X, y), ["logreg", "linear-svm"], calibrate="auto", folder=folder)
    assert {result.output for result in board.results} == {"probabilities"}
    kinds = {one.name: one.calibration["kind"] for one in board.results}
    assert (kinds["logreg"], kinds["linear-svm"]) == ("temperature", "platt")
    assert np.isnan(plain["linear-svm"].result.scores["log-loss"][0])
    said = board.out_of_fold()
    for result in board.results:
        outputs = leaderboard.load(folder)[result.name].head.outputs(X)
        np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-6)
        calibrated = said.calibrated[result.name]
        assert calibrated.shape == said.outputs[result.name].shape
        right = calibrated.argmax(axis=1) == said.y
        per_fold = [right[said.folds == fold].mean() for fold in range(3)]
        np.testing.assert_allclose(per_fold, result.scores["accuracy"])


def test_calibration_is_for_classes(folder):
    X, _ = arrays()
    with pytest.raises(SpecError, match="calibrate is for classification"):
        fit((X, X[:, 0]), ["ridge"], calibrate="auto", folder=folder)


def test_a_folder_of_anything_else_is_never_replaced(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    fit(arrays(), ["lda"], folder=precious)  # empty: nothing to lose
    fit(arrays(), ["lda"], folder=precious, overwrite=True)
    (precious / "thesis.tex").write_text("x")
    fit(arrays(), ["lda"], folder=precious, overwrite=True)
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(SpecError, match=r"is not a folder of heads .*, so none are saved"):
            fit(arrays(), ["lda"], folder=folder, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "x"


def test_held_out_outputs_are_kept_as_they_were_scored(folder):
    X, y = arrays(200, n_classes=2)
    board = fit((X, y), ["linear-svm"], calibrate="auto", folder=folder)
    said = board.out_of_fold()
    np.testing.assert_allclose(said.test_outputs.sum(axis=1), 1, rtol=1e-5)
    right = said.test_outputs.argmax(axis=1) == y[said.test_rows]
    assert right.mean() == board.best.result.test["accuracy"]


def test_copies_do_not_make_a_difference_more_certain(folder):
    """Noise that is there ten times over: nothing can be told from the floor."""
    rng = np.random.default_rng(0)
    X, y = (
        np.repeat(rng.standard_normal((40, 5)), 10, axis=0),
        np.repeat(rng.integers(0, 2, 40), 10),
    )
    for groups in (None, np.repeat(np.arange(40), 10)):
        board = fit((X, y), ["ridge", "centroid", "logreg"], groups=groups, folder=folder)
        assert all(result.p_value > 0.05 for result in board.results[1:])


def test_copies_with_several_labels(folder):
    X, y = arrays(60)
    X, y = np.concatenate([X, X, X]), np.concatenate([y, (y + 1) % 3, (y + 2) % 3])
    assert fit((X, y), ["lda"], folder=folder).best.result.mean < 0.6


def test_heads_come_from_simple_to_flexible_however_they_are_named(folder):
    X, y = arrays()
    chosen = {
        fit((X, y), names, prefer="simple", folder=folder, overwrite=True).best.name
        for names in (["knn", "ridge", "lda", "logreg"], ["logreg", "lda", "ridge", "knn"])
    }
    assert len(chosen) == 1


def test_groups_that_are_none_are_no_group(folder):
    X, y = arrays()
    assert fit((X, y), ["lda"], groups=[None] * 90, folder=folder).best.result.mean > 0.9


def test_given_splits_that_part_a_group_are_named(extract):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    given = {
        "labels": np.arange(40) % 2,
        "splits": ["train", "train", "test", "test"] * 10,
        "groups": [f"group {number // 4}" for number in range(40)],
    }
    board = fit(extract(fc.open_source(pixels, **given, name="g")).features, ["lda"], cv=3)
    assert any("groups are in the given test part" in warning for warning in board.warnings)


def test_held_out_images_like_one_that_is_learnt_from_are_named(extract):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    given = {"labels": np.arange(40) % 2, "splits": ["train"] * 30 + ["test"] * 10}
    pixels[33] = 255 - pixels[7]
    assert fit(extract(fc.open_source(pixels, **given, name="g")).features, ["lda"]).warnings == ()
    pixels[33], pixels[38] = pixels[7] // 2 * 2, pixels[8]  # no copy by its bytes, and one
    board = fit(extract(fc.open_source(pixels, **given, name="h")).features, ["lda"])
    same, near = board.warnings
    assert "1 of the given test images are also among those learnt from" in same
    assert "1 of 9 held-out images looks like one that is learnt from" in near
    assert "too good: '33' like '07'. Remove copies" in near
    assert leaderboard.load(board.folder).warnings == board.warnings


def test_an_own_estimator_that_fails_is_named(folder):
    from sklearn.naive_bayes import GaussianNB, MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier

    with pytest.raises(HeadError, match="Your MultinomialNB failed: Negative values"):
        fit(arrays(), [MultinomialNB()], folder=folder)
    with pytest.raises(SpecError, match="two heads 'gaussiannb'"):
        fit(arrays(), [GaussianNB(), GaussianNB(var_smoothing=0.5)], folder=folder)
    X, y = arrays()
    rare = np.stack([y == 0, np.arange(90) == 3, np.ones(90)], axis=1).astype(int)
    board = fit((X, rare), [KNeighborsClassifier(3)], folder=folder)
    said = board.out_of_fold().outputs["kneighborsclassifier"]
    assert said[:, 1].max() < 0.5
    assert said[:, 2].min() == 1


@pytest.mark.parametrize("value", ["5", 4.5, None])
def test_numbers_of_folds_that_are_none(folder, value):
    with pytest.raises(SpecError, match="cv must be a whole number, 3 or more; got"):
        fit(arrays(), ["lda"], cv=value, folder=folder)
    assert fit(arrays(), ["lda"], cv=np.int64(3), seed=np.int64(2), folder=folder).results


def test_labels_must_be_zero_or_one(folder):
    X, y = arrays()
    with pytest.raises(HeadError, match="must be 0 and 1"):
        fit((X, np.stack([3 * y, y], axis=1)), ["ridge"], task="multi-label", folder=folder)


def test_the_same_features_twice(photos, extract):
    features = extract(photos).features
    with pytest.raises(SpecError, match="The same features were given twice"):
        fit([features, features], ["lda"])
