from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image, make_photos, parse_single_json

import featcache as fc
from featcache import heads
from featcache.core.errors import SourceError, SpecError, StitchError
from featcache.core.geometry import Geometry
from featcache.core.tensorflow import import_keras
from featcache.data import image_ops, loading, openers
from featcache.heads.dense import Dense
from featcache.models import card, stitching
from featcache.models.stitching import distilling
from featcache.networks import backbones

PLAIN_KERAS = """
import sys
sys.modules["featcache"] = None  # importing it raises
sys.modules["sklearn"] = None  # Keras imports it for its wrappers, in a third of the time
import keras, numpy as np
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    np.save(path + ".npy", model(np.load(path + ".in.npy"), training=False))
    kinds = {type(layer).__module__.split(".")[0] for layer in model._flatten_layers()}
    assert kinds == {"keras"}, kinds
"""


STITCHED = [name for name, kind in heads.CATALOGUE.items() if kind.stitches]


def in_plain_keras(batches: dict[Path, np.ndarray]) -> list[np.ndarray]:
    """The models' outputs for their inputs in a process that cannot import featcache."""
    for path, batch in batches.items():
        np.save(f"{path}.in.npy", batch)
    subprocess.run(
        [sys.executable, "-c", PLAIN_KERAS, *batches],
        check=True,
        capture_output=True,
    )
    return [np.load(f"{path}.npy") for path in batches]


def test_clipart_same_class_for_every_image_and_the_same_in_plain_keras(
    clipart, clipart_board, clipart_slow_board, tmp_path, monkeypatch
):
    """One head is stitched, and all take the features that its model makes: one forward pass.

    The one is the SVM, the least linear; `make demo` stitches the best of the quick ones.
    """
    keras = import_keras()
    boards = {
        result.name: board
        for board in (clipart_board, clipart_slow_board)
        for result in board.results
    }
    heads_of = {name: boards[name][name].head for name in STITCHED}
    monkeypatch.setattr(stitching.parity, "MAX_PARITY_IMAGES", 60)
    paths = [tmp_path / "rbf-svm.keras", tmp_path / "all.keras"]
    svm = fc.stitch(clipart_slow_board["rbf-svm"], paths[0], show_progress=False)
    parity = card.read(paths[0]).parity
    assert parity["n_images"] == parity["n_same_class"] == 60
    assert parity["largest_difference"] <= parity["tolerance"] == 1e-3
    backbone = keras.Model(svm.inputs[0], stitching.features_of(svm))
    features, beside = keras.Input(backbone.output_shape[1:]), []
    for name, head in heads_of.items():
        inputs = keras.Input(features.shape[1:])
        # a model of its own, since layers of several heads have the same names
        beside.append(keras.Model(inputs, head.to_keras_layers(inputs), name=name)(features))
    model = keras.Model(features, beside)
    model.save(paths[1])

    source = openers.open_source("example:clipart")
    rows = np.linspace(0, len(source) - 1, 60).round().astype(int).tolist()
    X = clipart.X[[clipart.ids.index(source.ids[row]) for row in rows]]
    decoded = [loading.pixels(source, row, clipart.spec) for row in rows]
    images = np.stack([image_ops.resize(one, Geometry((224, 224), "bilinear")) for one in decoded])
    made = np.asarray(backbone(images, training=False))
    outputs = [np.asarray(one) for one in model(made, training=False)]
    for head, got in zip(heads_of.values(), outputs, strict=True):
        np.testing.assert_array_equal(got.argmax(axis=1), head.predict(X))
        expected = head.outputs(X)
        assert np.abs(got - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())
    inputs = images[:9], made[:9]
    alone, together = in_plain_keras(dict(zip(paths, inputs, strict=True)))
    np.testing.assert_allclose(alone, svm(images[:9], training=False), rtol=1e-5, atol=1e-6)
    for got, expected in zip(together, outputs, strict=True):
        np.testing.assert_allclose(got, expected[:9], rtol=1e-5, atol=1e-5)


SMALL = {
    "random-forest": {"n_estimators": 10},
    "dense": {"hidden": (8,), "batch_norm": True, "epochs": 2},
}


def fit(features, names=("logreg", "linear-svm", "rbf-svm"), **options):
    """Heads with the first setting of their grids, or a small one: none is chosen here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in heads.CATALOGUE.keys() & {one for one in names if isinstance(one, str)}:
            kind = heads.CATALOGUE[name]

            def first(cls, task, name=name, grid=kind.grid):
                return (SMALL[name],) if name in SMALL else grid(task)[:1]

            patch.setattr(kind, "grid", classmethod(first))
        settings = {"cv": 3, "jobs": 1, "report": False, "show_progress": False}
        return fc.fit_heads(features, names, **(settings | options))


@pytest.fixture(scope="module")
def lent_heads(lender, tmp_path_factory):
    """Heads of the features that are lent, fitted once; what they learnt from is gone."""
    path = shutil.copy(next(lender.rglob("*.h5")), tmp_path_factory.mktemp("lent"))
    folder = Path(fit(path).folder)
    Path(path).unlink()
    return folder


@pytest.fixture
def board(features, lent_heads):
    """Heads of `features`: the request is the same, so nothing is fitted."""
    folder = features.path.with_suffix(".heads")
    shutil.copytree(lent_heads, folder)
    board = fit(features)
    saved = "leaderboard.json"
    assert (folder / saved).stat().st_mtime_ns == (lent_heads / saved).stat().st_mtime_ns
    return board


@pytest.mark.parametrize(
    ("classes", "options", "names"),
    [
        # two classes are a case of their own in most heads; the clip art has many
        ("ab", {}, STITCHED),
        ("abcd", {}, ["logreg", "rbf-svm", "knn"]),
        # what the features are is the same to every head
        ("abc", {"dtype": "float16"}, ["linear-svm", "centroid"]),
        ("abc", {"pooling": "flatten"}, ["ridge", "dense"]),
        ("ab", {"layer": "conv_1"}, ["lda", "logreg"]),
    ],
)
def test_small_models_of_every_kind(tmp_path, extract, classes, options, names):
    features = extract(make_photos(tmp_path / "p", classes=tuple(classes)), **options).features
    board = fit(features, names)
    for name in names:
        model = fc.stitch(board[name], show_progress=False)
        assert model.output_shape == (None, len(classes))


def test_output_says_what_it_is(board, tmp_path):
    for name in ("logreg", "linear-svm"):
        out = tmp_path / f"{name}.keras"
        model = fc.stitch(board[name], out, show_progress=False)
        assert model.layers[-1].name == card.read(out).output == heads.CATALOGUE[name]().output


def test_uint8_and_float_images(board):
    model = fc.stitch(board["logreg"], show_progress=False)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        model.predict(pixels, verbose=0), model.predict(pixels.astype(np.float32), verbose=0)
    )


def test_nothing_is_stitched_twice(board, tmp_path, monkeypatch):
    out = tmp_path / "m.keras"
    assert not stitching.run(board.best, out, show_progress=False).hit
    monkeypatch.setattr(stitching.api, "stitch", None)
    assert stitching.run(board.best, out, show_progress=False).hit
    with pytest.raises(TypeError):
        stitching.run(board[board.results[1].head], out, show_progress=False)
    labels = stitching.labels_path(out)
    text = labels.read_text()
    labels.write_text("".join(reversed(text.splitlines(True))))
    with pytest.raises(TypeError):
        stitching.run(board.best, out, show_progress=False)
    labels.write_text(text)
    out.write_bytes(b"weeks of training")
    with pytest.raises(SpecError, match="is not the model that its card describes"):
        stitching.run(board.best, out, show_progress=False)
    assert out.read_bytes() == b"weeks of training"
    with pytest.raises(TypeError):
        stitching.run(board.best, out, overwrite=True, show_progress=False)


def test_a_model_that_predicts_otherwise_is_an_error_and_no_file(board, tmp_path, monkeypatch):
    fitted = board["logreg"]
    model = fitted.head.pipeline_[1]
    to_keras_layers = type(fitted.head).to_keras_layers

    def off_by_a_little(self, features):
        kept = model.intercept_
        model.intercept_ = kept + np.array([0.01, 0, 0])
        try:
            return to_keras_layers(self, features)
        finally:
            model.intercept_ = kept

    monkeypatch.setattr(type(fitted.head), "to_keras_layers", off_by_a_little)
    out = tmp_path / "m.keras"
    with pytest.raises(StitchError, match=r"largest difference .*No file was written"):
        fc.stitch(fitted, out, show_progress=False)
    assert not list(tmp_path.glob("m.*"))


def test_ties_are_told_from_errors():
    parity = stitching.Parity(10, 9, 0, 1e-6, 1e-4, "scores", 0)
    assert not parity.holds
    assert replace(parity, n_ties=1).holds
    assert not replace(parity, n_same_class=10, largest_difference=1.0).holds


def test_changed_and_missing_images_are_left_out_and_counted(board, photos):
    (photos / "apple" / "apple ü1.jpg").unlink()
    make_image(photos / "pear" / "pear ü0.png", (5, 5, 5), 77, (20, 20))
    features = fc.Features(board.best.features.path)
    model = fc.stitch(board["logreg"], show_progress=False)
    parity = stitching.check_parity(model, board["logreg"].head, features, show_progress=False)
    assert (parity.n_images, parity.n_left_out) == (19, 2)
    assert "2 changed or missing left out" in str(parity)


def test_heads_from_before_a_change_are_refused(board, photos, extract):
    make_image(photos / "ant" / "1.png", (9, 9, 9), 5, (20, 20))
    extract(photos)
    with pytest.raises(StitchError, match=r"fitted before .* changed"):
        fc.stitch(board.best, show_progress=False)


def test_a_file_that_is_no_card_is_not_overwritten(board, tmp_path):
    (tmp_path / "package.json").write_text('{"name": "web"}')
    with pytest.raises(SpecError, match=r"would overwrite .*package\.json"):
        fc.stitch(board.best, tmp_path / "package.keras")


def test_images_that_moved_need_to_be_named(board, photos, tmp_path):
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(SourceError, match=r"my photos'.*\(--source\)"):
        fc.stitch(board.best, show_progress=False)
    fc.stitch(board.best, source=moved, show_progress=False)
    shutil.rmtree(moved)
    make_photos(moved, a_class=3, classes=("x", "y"))
    with pytest.raises(StitchError, match=r"None of the cached images .* unchanged"):
        fc.stitch(board.best, source=moved, show_progress=False)


def test_weights_that_changed_since_are_an_error(tmp_path, photos, extract, tiny_backbone):
    mine = shutil.copy(tiny_backbone, tmp_path / "mine.keras")
    board = fit(extract(photos, weights=str(mine)).features)
    keras = import_keras()
    model = keras.models.load_model(mine)
    model.layers[2].set_weights([w + 1 for w in model.layers[2].get_weights()])
    model.save(mine)
    before = board.features[0].spec.fingerprint
    now = backbones.resolve(None, weights=str(mine)).spec.fingerprint
    assert before != now
    with pytest.raises(StitchError, match=rf"has fingerprint {before}, .* now gives {now}\."):
        fc.stitch(board.best, tmp_path / "m.keras", show_progress=False)
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize(
    ("out", "message"), [("m.h5", "must end in .keras"), ("no/m.keras", "does not exist")]
)
def test_where_it_cannot_be_written(board, tmp_path, out, message):
    with pytest.raises(SpecError, match=message):
        fc.stitch(board.best, tmp_path / out)


def test_images_from_memory_are_given_again(extract, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    source = fc.open_source(pixels, labels=np.arange(20) % 2)
    board = fit(extract(source).features, ["logreg"])
    with pytest.raises(SourceError, match=r"no longer where they were .*memory:arrays-"):
        fc.stitch(board.best, show_progress=False)
    fc.stitch(board.best, tmp_path / "m.keras", source=source, show_progress=False)
    assert card.read(tmp_path / "m.keras").source == source.origin


def test_heads_that_cannot_be_stitched_name_those_that_can(features, tmp_path):
    from sklearn.naive_bayes import GaussianNB

    board = fit(features, ["random-forest", "lda", GaussianNB()])
    for name in ("random-forest", "gaussiannb"):
        with pytest.raises(
            StitchError, match=rf"{name} cannot become Keras layers.*: lda; or .*\(--distil\)\.$"
        ):
            fc.stitch(board[name], tmp_path / "m.keras")
    board = fit(features, ["random-forest"])
    with pytest.raises(StitchError, match="none of this comparison can; or have a dense head"):
        fc.stitch(board["random-forest"])
    assert not list(tmp_path.glob("m.*"))


TASKS = {
    "multi-label": ("labels", {}, ("odd", "red", "warm")),
    "regression": ("target", {"target": "target,weight"}, ("target", "weight")),
}


def features_of(task, photos, extract, folder):
    """Features of several labels, or of two targets that hang on the pixels."""
    rng = np.random.default_rng(0)
    rows = ["path,labels" if task == "multi-label" else "path,target,weight"]
    for number, file in enumerate(sorted(photos.rglob("*.*"))):
        kind = file.parent.name
        labels = [name for name, there in (
            ("odd", number % 2), ("red", kind == "apple"), ("warm", kind != "quince")
        ) if there]  # fmt: skip
        targets = len(kind) * 1e4 + rng.normal(), -1e-3 * len(labels)
        columns = ["|".join(labels) or "|"] if task == "multi-label" else map(str, targets)
        rows.append(",".join([file.relative_to(photos).as_posix(), *columns]))
    manifest = folder / f"{task}.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    _, options, names = TASKS[task]
    return extract(manifest, root=photos, **options).features, names


def test_several_labels_and_targets(photos, extract, tmp_path):
    source = openers.open_source(photos)
    paths, expected = [], []
    for task in TASKS:
        features, names = features_of(task, photos, extract, tmp_path)
        able = [name for name in STITCHED if features.task in heads.CATALOGUE[name].tasks]
        board = fit(features, able)
        rows = [0, 9, 17]
        places = [source.ids.index(features.ids[row]) for row in rows]
        decoded = [loading.pixels(source, place, features.spec) for place in places]
        batch = np.stack([image_ops.resize(one, Geometry((32, 32), "bilinear")) for one in decoded])
        for name in able:
            paths.append(tmp_path / f"{task} {name}.keras")
            fc.stitch(board[name], paths[-1], show_progress=False)
            described, head = card.read(paths[-1]), board[name].head
            assert (described.task, described.class_names) == (task, names)
            assert described.output == head.output
            assert described.parity["n_images"] == 21
            assert described.parity["largest_difference"] <= described.parity["tolerance"] == 1e-3
            labels = paths[-1].with_suffix(".labels.txt").read_text(encoding="utf-8")
            assert labels.splitlines() == list(names)
            expected.append(head.outputs(features.X[rows]))
        best = card.read(tmp_path / f"{task} {board.best.name}.keras")
        assert best.test == board.best.result.test
        assert best.test_accuracy is None
    for got, wanted in zip(in_plain_keras(dict.fromkeys(paths, batch)), expected, strict=True):
        scale = np.maximum(1.0, np.abs(wanted).max(axis=0))
        np.testing.assert_allclose(got / scale, wanted / scale, atol=1e-3)


def quick_dense(monkeypatch):
    def grid(cls, task):
        return {"hidden": (), "epochs": 2}, {"hidden": (8,), "epochs": 2}

    monkeypatch.setattr(Dense, "grid", classmethod(grid))


@pytest.mark.parametrize("task", TASKS)
def test_a_forest_of_labels_and_of_targets_is_distilled(
    task, photos, extract, tmp_path, monkeypatch
):
    features, names = features_of(task, photos, extract, tmp_path)
    board = fit(features, ["random-forest"])
    quick_dense(monkeypatch)
    out = tmp_path / "m.keras"
    model = fc.stitch(board["random-forest"], out, distil=True, show_progress=False)
    described = card.read(out)
    assert (described.head, described.task, described.class_names) == (
        "dense",
        features.task,
        names,
    )
    assert model.output_shape == (None, len(names))
    agreement = described.distilled["agreement"]
    assert agreement["n_images"] == board.n_test
    assert (agreement["same"] is None) == (features.task == "regression")
    assert set(described.test) == set(described.distilled["teacher_test"])
    assert described.distilled["teacher_test"] == board.best.result.test


def test_a_forest_is_distilled_and_its_student_is_what_is_stitched(
    features, photos, tmp_path, monkeypatch
):
    board = fit(features, ["random-forest", "lda"], calibrate="temperature")
    forest, out = board["random-forest"], tmp_path / "m.keras"
    quick_dense(monkeypatch)
    asked = []
    learnt = Dense.fit
    monkeypatch.setattr(
        Dense, "fit", lambda self, X, y, *more: asked.append(len(X)) or learnt(self, X, y, *more)
    )
    done = stitching.run(forest, out, distil=True, show_progress=False)
    described = done.card
    # a part of the training rows is held back from the two candidates, none from the chosen
    n_train = board.n_train
    assert asked[0] == asked[1] < asked[2] == n_train + 10 * n_train
    assert described.params["hidden"] in ([], [8])
    assert described.distilled["teacher"] == "random-forest"
    assert described.distilled["params"] == forest.result.params
    assert described.calibration is None
    assert described.head == "dense"
    assert described.parity["n_same_class"] == 21
    # both are scored on the held-out images
    X, y = features.arrays("test", board.seed)
    accuracy = np.mean(forest.head.predict(X) == y)
    assert described.distilled["teacher_test"]["accuracy"] == pytest.approx(accuracy)
    said = fc.load(out, cache_dir=None).predict(
        [photos / features.ids[row] for row in features.rows("test", board.seed)],
        show_progress=False,
    )
    ours = [features.class_names.index(one.classes[0]) for one in said]
    assert described.test["accuracy"] == pytest.approx(np.mean(ours == y))
    agreement = described.distilled["agreement"]
    assert agreement["same"] == pytest.approx(np.mean(ours == forest.head.predict(X)))
    assert (agreement["n_images"], agreement["part"]) == (len(y), "held-out")
    with pytest.raises(StitchError, match="cannot become Keras layers"):
        stitching.run(forest, out, show_progress=False)
    monkeypatch.setattr(stitching.api, "stitch", None)
    assert stitching.run(forest, out, distil=True, show_progress=False).hit
    with pytest.raises(TypeError):
        stitching.run(board["lda"], out, show_progress=False)


def test_where_nothing_is_held_out_agreement_is_of_what_was_held_back(
    features, tmp_path, monkeypatch
):
    board = fit(features, ["random-forest"])
    quick_dense(monkeypatch)
    fitted = board["random-forest"]
    rows = board.out_of_fold()
    nothing = replace(rows, test_rows=rows.test_rows[:0])
    monkeypatch.setattr(type(board), "out_of_fold", lambda self: nothing)
    fc.stitch(fitted, tmp_path / "m.keras", distil=True, show_progress=False)
    described = card.read(tmp_path / "m.keras")
    assert described.test is described.distilled["teacher_test"] is None
    assert described.distilled["agreement"]["part"] == "held-back"


def test_targets_that_float32_cannot_hold_are_not_stitched(photos, extract, tmp_path):
    paths = sorted(photos.rglob("*.*"))
    sources = [
        fc.open_source(
            np.stack([np.full((32, 32, 3), 9 * row, np.uint8) for row in range(len(paths))]),
            targets=offset + np.arange(float(len(paths))),
            name=f"far from {offset:g}",
        )
        for offset in (1e9, 1e4)
    ]
    far, near = (fit(extract(source).features, ["ridge"]) for source in sources)
    said = "The target 'target_0' lies near 1,000,000,000 and varies by"
    assert any(warning.startswith(said) for warning in far.warnings)
    with pytest.raises(StitchError, match=f"{said}.* has steps of 64. Subtract 1,000,000,000"):
        fc.stitch(far["ridge"], tmp_path / "m.keras", source=sources[0], show_progress=False)
    assert not list(tmp_path.glob("m.*"))
    assert not any(warning.startswith("The target") for warning in near.warnings)
    fc.stitch(near["ridge"], source=sources[1], show_progress=False)


def test_a_head_that_stitches_is_not_distilled(board, tmp_path):
    with pytest.raises(SpecError, match="logreg becomes Keras layers exactly"):
        fc.stitch(board["logreg"], tmp_path / "m.keras", distil=True)
    assert not list(tmp_path.glob("m.*"))


def test_an_estimator_of_ones_own_with_scores_is_distilled(features, tmp_path, monkeypatch):
    from sklearn.linear_model import RidgeClassifier

    board = fit(features, [RidgeClassifier()])
    quick_dense(monkeypatch)
    out = tmp_path / "m.keras"
    fc.stitch(board["ridgeclassifier"], out, distil=True, show_progress=False)
    assert card.read(out).output == "probabilities"


def test_clipart_forest_and_its_student_agree_mostly(clipart, clipart_slow_board, monkeypatch):
    one = {"hidden": (), "dropout": 0.5}  # which is the best student is asked of small features
    monkeypatch.setattr(Dense, "grid", classmethod(lambda cls, task: (one,)))
    agreement = distilling.distil(clipart_slow_board["random-forest"], clipart).agreement
    assert agreement.same > 0.55  # of 12 classes
    assert agreement.mean_difference < 0.04


def test_the_card_and_the_labels_say_what_the_model_is(board, tmp_path):
    out = tmp_path / "m.keras"
    fc.stitch(board.best, out, show_progress=False)
    described = card.read(out)
    assert described.test == {
        name: None if np.isnan(score) else score for name, score in board.best.result.test.items()
    }
    assert described.test_accuracy == described.test["accuracy"]
    assert set(described.provenance) == {
        *(
            "created",
            "featcache",
            "keras",
            "tensorflow",
            "numpy",
            "scikit-learn",
            "taught",
            "weights",
        )
    }
    assert described.provenance["created"].endswith("+00:00")
    assert described.provenance["featcache"] == fc.__version__
    assert (tmp_path / "m.labels.txt").read_text() == "apple\npear\nquince\n"
    assert "NaN" not in (tmp_path / "m.json").read_text()


def test_labels_of_a_stranger_or_of_another_model_stay(board, tmp_path):
    mine = tmp_path / "labels.txt"
    mine.write_text("mine")
    fc.stitch(board["logreg"], tmp_path / "a.keras", show_progress=False)
    fc.stitch(board["linear-svm"], tmp_path / "b.keras", show_progress=False)
    assert mine.read_text() == "mine"
    assert len(list(tmp_path.glob("?.labels.txt"))) == 2
    (tmp_path / "c.labels.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"would overwrite .*c\.labels\.txt"):
        fc.stitch(board["logreg"], tmp_path / "c.keras")
    assert (tmp_path / "c.labels.txt").read_text() == "mine"
    fc.stitch(board["linear-svm"], tmp_path / "a.keras", show_progress=False)  # its own


def test_a_model_that_was_not_stitched_stays(board, tmp_path):
    mine = tmp_path / "m.keras"
    mine.write_bytes(b"weeks of training")
    with pytest.raises(SpecError, match=r"m\.keras' is there and has no card"):
        fc.stitch(board["logreg"], mine, show_progress=False)
    assert mine.read_bytes() == b"weeks of training"


def test_a_name_is_no_head(tmp_path):
    with pytest.raises(SpecError, match=r"one of a leaderboard, as `board\.best`; got 'logreg'"):
        fc.stitch("logreg", tmp_path / "m.keras")


def test_a_class_is_one_line_of_the_labels(extract, tmp_path):
    photos = make_photos(tmp_path / "p", classes=("a\nb", "c"))
    board = fit(extract(photos).features, ["lda"])
    fc.stitch(board["lda"], tmp_path / "m.keras", show_progress=False)
    assert (tmp_path / "m.labels.txt").read_text() == "a b\nc\n"


def test_the_features_of_a_stitched_model_are_found(features, board, photos, tmp_path):
    keras = import_keras()
    out = tmp_path / "m.keras"
    made = fc.stitch(board["rbf-svm"], out, show_progress=False)
    source = openers.open_source(photos)
    row = features.ids.index("pear/pear ü1.jpg")
    pixels = loading.pixels(source, source.ids.index("pear/pear ü1.jpg"), features.spec)
    batch = np.asarray(image_ops.resize(pixels, Geometry((32, 32), "bilinear")))[None]
    for model in (made, keras.models.load_model(out)):
        inner = keras.Model(model.inputs[0], stitching.features_of(model))
        np.testing.assert_allclose(
            inner(batch, training=False), features.X[[row]], rtol=1e-4, atol=1e-4
        )
    foreign = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(StitchError, match="neither a pooling layer nor a backbone"):
        stitching.features_of(foreign)


def test_features_without_pooling_are_those_of_the_backbone(extract, photos, tmp_path):
    keras = import_keras()
    flat = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()], name="flat")
    flat.save(tmp_path / "flat.keras")
    features = extract(photos, weights=str(tmp_path / "flat.keras")).features
    model = fc.stitch(fit(features, ["centroid"])["centroid"], show_progress=False)
    assert stitching.features_of(model).shape == (None, 3072)


DAMAGES = {
    "a head that is cut short": ("head", lambda file: file.write_bytes(file.read_bytes()[:200])),
    "a head that is gone": ("head", Path.unlink),
    "features that are cut short": ("file", lambda file: file.write_bytes(b"\x89HDF")),
    "features that are gone": ("file", Path.unlink),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_one_line_and_no_file(board, tmp_path, cli, what):
    fitted = board["logreg"]
    which, harm = DAMAGES[what]
    harm(fitted.path if which == "head" else fitted.features.path)
    done = cli("stitch", board.folder, "--head", "logreg", "--out", "m.keras")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("m.*"))


def test_a_folder_is_no_place_for_a_model(board, tmp_path):
    (tmp_path / "m.keras").mkdir()
    with pytest.raises(SpecError, match=r"m\.keras' is a folder"):
        fc.stitch(board.best, tmp_path / "m.keras")


def test_stitch_says_what_it_did(features, cli, monkeypatch):
    fit(features, ["lda", "random-forest"])
    done = cli("stitch", "--head", "lda", "--out", "m.keras")
    assert "to probabilities of 3 classes.\nParity: same class for 21 of 21 images" in done.stdout
    quick_dense(monkeypatch)
    done = cli("stitch", "--head", "random-forest", "--distil", "--out", "f.keras")
    for part in ("Distilled from random-forest: same answer for ", "Held out, accuracy: random-f"):
        assert part in done.stdout
    again = parse_single_json(
        cli(*["stitch", "--head", "random-forest", "--distil", "--out", "f.keras", "--json"]).stdout
    )
    assert again["hit"]
    assert again["labels"] == "f.labels.txt"
    assert again["distilled"]["teacher"] == "random-forest"
    wrong = cli("stitch", "--input", "text")
    assert wrong.returncode == 2
    assert "input must be one of image, bytes; got 'text'" in wrong.stderr


@pytest.mark.parametrize(
    ("calibrate", "names"),
    [
        ("temperature", ["logreg", "linear-svm"]),
        # a map is the same layer behind every head
        ("platt", ["linear-svm"]),
        ("isotonic", ["logreg"]),
    ],
)
def test_calibration_is_in_the_model(features, photos, tmp_path, calibrate, names):
    board = fit(features, names, calibrate=calibrate)
    for name in names:
        out = tmp_path / f"{name}.keras"
        fc.stitch(board[name], out, show_progress=False)
        described = card.read(out)
        assert described.output == "probabilities"
        assert described.calibration["kind"] == calibrate
        X = features.X[[features.ids.index("pear/pear ü1.jpg")]]
        (one,) = fc.load(out, cache_dir=None).predict(
            photos / "pear" / "pear ü1.jpg", top=3, show_progress=False
        )
        expected = np.sort(board[name].head.outputs(X)[0])[::-1]
        np.testing.assert_allclose(one.scores, expected, atol=1e-3)
