from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image, make_photos

import featcache as fc
from featcache import card, heads, images, quiet, sources, stitching
from featcache.errors import SourceError, SpecError, StitchError

PLAIN_KERAS = """
import sys
sys.modules["featcache"] = None  # importing it raises
import keras, numpy as np
images, *models = sys.argv[1:]
for path in models:
    model = keras.models.load_model(path)
    np.save(path + ".npy", model(np.load(images), training=False))
    kinds = {type(layer).__module__.split(".")[0] for layer in model._flatten_layers()}
    assert kinds == {"keras"}, kinds
"""


STITCHED = [name for name, kind in heads.CATALOGUE.items() if kind.stitches]


def in_plain_keras(models: list[Path], batch: np.ndarray, folder: Path) -> list[np.ndarray]:
    """The models' outputs in a process that cannot import featcache."""
    np.save(folder / "images.npy", batch)
    subprocess.run(
        [sys.executable, "-c", PLAIN_KERAS, folder / "images.npy", *models],
        check=True,
        capture_output=True,
    )
    return [np.load(f"{path}.npy") for path in models]


def test_clipart_same_class_for_every_image_and_the_same_in_plain_keras(
    clipart, clipart_board, tmp_path, monkeypatch
):
    source = sources.open_source("example:clipart").limit(9)
    rows = [clipart.ids.index(id_) for id_ in source.ids]
    decoded = [images.pixels(source, row, clipart.spec) for row in range(len(source))]
    batch = np.stack([images.resize(one, (224, 224), "bilinear") for one in decoded])
    paths, outputs = [], []
    for name in STITCHED:
        # every image through the best model, a good part of them through the others
        n_images = 543 if name == clipart_board.best.name else 60
        monkeypatch.setattr(stitching, "MAX_PARITY_IMAGES", n_images)
        paths.append(tmp_path / f"{name}.keras")
        model = fc.stitch(clipart_board[name], paths[-1], show_progress=False)
        parity = card.read(paths[-1]).parity
        assert parity["n_images"] == parity["n_same_class"] == n_images
        assert parity["largest_difference"] <= parity["tolerance"] <= 2e-3
        outputs.append(model(batch, training=False))
    everywhere = in_plain_keras(paths, batch, tmp_path)
    for name, got, expected in zip(STITCHED, everywhere, outputs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        head = clipart_board[name].head
        np.testing.assert_array_equal(got.argmax(axis=1), head.predict(clipart.X[rows]))


def fit(features, names=("logreg", "linear-svm", "rbf-svm")):
    return fc.fit_heads(features, names, cv=3, jobs=1, report=False, show_progress=False)


@pytest.fixture
def features(photos, extract):
    return extract(photos).features


@pytest.fixture
def board(features):
    return fit(features)


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        ("ab", {}),
        ("abcd", {}),
        ("abc", {"dtype": "float16"}),
        ("abc", {"pooling": "flatten"}),
        ("ab", {"layer": "conv_1"}),
    ],
)
def test_small_models_of_every_kind(tmp_path, extract, classes, options):
    features = extract(make_photos(tmp_path / "p", classes=tuple(classes)), **options).features
    board = fit(features, STITCHED)
    for name in STITCHED:
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
    monkeypatch.setattr(stitching, "stitch", None)
    assert stitching.run(board.best, out, show_progress=False).hit
    with pytest.raises(TypeError):
        stitching.run(board[board.results[1].head], out, show_progress=False)
    out.write_bytes(b"touched")
    with pytest.raises(TypeError):
        stitching.run(board.best, out, show_progress=False)


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
    parity = stitching.check_parity(model, board["logreg"], features, show_progress=False)
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
    keras = quiet.keras()
    model = keras.models.load_model(mine)
    model.layers[2].set_weights([w + 1 for w in model.layers[2].get_weights()])
    model.save(mine)
    with pytest.raises(StitchError, match="weights are not those of the features"):
        fc.stitch(board.best, show_progress=False)


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
        with pytest.raises(StitchError, match=rf"{name} cannot become Keras layers.*: lda\."):
            fc.stitch(board[name], tmp_path / "m.keras")
    board = fit(features, ["random-forest"])
    with pytest.raises(StitchError, match="none of this comparison can"):
        fc.stitch(board["random-forest"])


@pytest.mark.parametrize("calibrate", ["temperature", "platt", "isotonic"])
def test_calibration_is_in_the_model(features, photos, tmp_path, calibrate):
    board = fc.fit_heads(
        *(features, ["logreg", "linear-svm"]),
        cv=3,
        calibrate=calibrate,
        jobs=1,
        report=False,
        show_progress=False,
    )
    for name in ("logreg", "linear-svm"):
        out = tmp_path / f"{name}.keras"
        fc.stitch(board[name], out, show_progress=False)
        described = card.read(out)
        assert described.output == "probabilities"
        assert described.calibration["kind"] == calibrate
        X = features.X[[features.ids.index("pear/pear ü1.jpg")]]
        (one,) = fc.load(out).predict(photos / "pear" / "pear ü1.jpg", top=3, show_progress=False)
        expected = np.sort(board[name].head.outputs(X)[0])[::-1]
        np.testing.assert_allclose(one.scores, expected, atol=1e-3)
        assert fc.finetune(
            *(out,), out=tmp_path / "t.keras", unfreeze=1, epochs=1, show_progress=False
        )
