"""Comparing heads that learn from good images alone, from arrays and from feature files."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_photos
from PIL import Image

import featcache as fc
from featcache.core.errors import HeadError, SourceError, SpecError, StitchError
from featcache.scoring import leaderboard

TAPS = {"layer": "relu_1+relu_2", "pooling": "none"}


def fit(features, names=None, **options):
    given = {"cv": 3, "jobs": 1, "report": False, "show_progress": False, "task": "anomaly"}
    return fc.fit_heads(features, names, **given | options)


def arrays(n_good=90, n_others=30, d=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_good + n_others, d)).astype(np.float32)
    X[n_good:] *= 4
    return X, np.array(["good"] * n_good + ["bent", "torn"] * (n_others // 2))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "arrays.heads"


def test_vectors(folder):
    X, y = arrays()
    board = fit((X, y), folder=folder)
    assert board.class_names == ("good", "anomaly")
    assert board.metric == "roc-auc"
    assert set(board.left_out) == {"patch-knn"}
    assert board.best.result.mean > 0.9
    said = board.out_of_fold()
    is_good = np.array(y)[said.rows] == "good"
    np.testing.assert_array_equal(said.y == 0, is_good)
    outputs = said.outputs[board.best.result.name]
    # the threshold of out-of-fold outputs is that of good images out of fold
    assert (outputs[is_good, 1] > 0).mean() <= 0.05
    assert board.best.head.threshold_.n_good == (np.array(y)[said.test_rows] == "good").sum()
    assert any("threshold is set by" in remark for remark in board.remarks)
    assert fit((X, y), folder=folder).folder == board.folder


def test_maps_and_which_class_is_good(folder):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((60, 4, 5, 7)) + np.arange(7)).astype(np.float32)
    X[45:, 1, 2] = 10 * X[45:, 1, 2, ::-1]
    y = np.array(["fine"] * 45 + ["hole"] * 15)
    with pytest.raises(
        SpecError, match=r"Name the class whose images are good \(--good\), of 'fine'"
    ):
        fit((X, y), folder=folder)
    with pytest.raises(SourceError, match="No image is labelled 'fin', the class of good ones"):
        fit((X, y), folder=folder, good="fin")
    board = fit((X, y), ["patch-knn", "knn"], folder=folder, good="fine")
    assert board.class_names == ("fine", "anomaly")
    assert board["patch-knn"].result.mean >= board["knn"].result.mean > 0.9
    head = leaderboard.load(folder).best.head
    assert head.heat_maps(X).shape == (60, 4, 5)


def test_nothing_but_good_images(folder):
    X, y = arrays(n_others=0)
    board = fit((X, y), folder=folder)
    assert np.isnan(board.best.result.mean)
    assert any("nothing but good images" in one for one in board.warnings)
    assert board.best.head.threshold_.promised <= 0.06
    assert np.mean(board.best.head.predict(X)) < 0.2


def test_what_makes_no_sense_is_said(folder):
    X, y = arrays()
    with pytest.raises(SpecError, match="Give that task, too"):
        fit((X, y), folder=folder, task=None, good="good")
    with pytest.raises(SpecError, match="There is no head 'logreg' for anomaly"):
        fit((X, y), "logreg", folder=folder)
    with pytest.raises(SpecError, match="calibrate is for classification"):
        fit((X, y), folder=folder, calibrate="auto")
    with pytest.raises(SpecError, match="false_alarms must be"):
        fit((X, y), folder=folder, false_alarms=5)


@pytest.fixture(scope="module")
def defects(tmp_path_factory, tiny_backbone):
    """Maps of the photographs, one class of which is good, in a manifest with masks."""
    from featcache import extraction

    root = make_photos(tmp_path_factory.mktemp("defects"), a_class=15)
    lines = ["path,label,mask"]
    for path in sorted(root.rglob("*.[jp][pn]g")):
        name = path.relative_to(root).as_posix()
        mask = "" if name.startswith("apple") else f"masks/{len(lines)}.png"
        if mask:
            (root / "masks").mkdir(exist_ok=True)
            with Image.open(path) as image:
                size = image.size
            drawn = np.zeros(size[::-1], np.uint8)
            drawn[: size[1] // 2] = 255
            Image.fromarray(drawn).save(root / mask)
        lines.append(f"{name},{name.split('/')[0]},{mask}")
    (root / "images.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = extraction.run(
        str(root / "images.csv"),
        weights=str(tiny_backbone),
        cache_dir=root / "cache",
        show_progress=False,
        **TAPS,
    )
    return root, made.features


def test_layers_side_by_side_are_resized_to_the_largest(defects):
    _, features = defects
    assert features.shape[1:] == (15, 15, 8 + 12)
    assert features.annotations.masks.count("") == 15


def test_masks_judge_places(defects, tmp_path):
    root, features = defects
    board = fit(features, ["gaussian"], good="apple", folder=tmp_path / "made.heads")
    test = board.best.result.test
    assert 0 <= test["aupro"] <= 1
    assert 0 <= test["pixel-roc-auc"] <= 1
    assert any("Where anomalies are, held out" in remark for remark in board.remarks)
    held_out = board.out_of_fold().test_rows
    masked = [row for row in held_out if features.annotations.masks[row]]
    mask = root / features.annotations.masks[masked[0]]
    before = mask.read_bytes()
    Image.new("L", (3, 4)).save(mask)
    with pytest.raises(HeadError, match=rf"{mask.name}' is 3 x 4 pixels, and its image .* 4"):
        fit(features, ["gaussian"], good="apple", folder=tmp_path / "other.heads")
    mask.unlink()
    with pytest.raises(HeadError, match=f"{mask.name}' of .* does not exist"):
        fit(features, ["gaussian"], good="apple", folder=tmp_path / "other.heads")
    mask.write_bytes(before)


def test_a_classification_of_the_same_file_is_beside_it(defects):
    _, features = defects
    board = fit(features, ["knn"], good="apple")
    assert board.folder.name.endswith(".anomaly.heads")
    with pytest.raises(HeadError, match="heads learn from vectors"):
        fit(features, ["knn"], task=None)


@pytest.mark.slow
def test_the_model_says_how_odd_an_image_is_and_where(defects, tmp_path, cli):
    root, features = defects
    board = fc.fit_heads(features, ["patch-knn"], task="anomaly", good="apple", cv=3, jobs=1)
    page = (board.folder / "report.html").read_text(encoding="utf-8")
    assert "Farthest from the good images" in page
    assert page.count("is unlike good images") > 10
    out = tmp_path / "odd.keras"
    model = fc.stitch(board.best, out)
    assert [tuple(one.shape) for one in model.outputs] == [(None, 2), (None, 32, 32, 1)]
    loaded = fc.load(out, cache_dir=None)
    images = sorted((root / "apple").iterdir())[:3] + sorted((root / "pear").iterdir())[:3]
    found = loaded.predict(images, heat_maps=True, show_progress=False)
    rows = [features.ids.index(path.relative_to(root).as_posix()) for path in images]
    expected = board.best.head.outputs(features.read_rows(rows))
    for one, outputs in zip(found, expected, strict=True):
        assert one.classes == (("apple", "anomaly")[outputs.argmax()],)
        assert one.scores[0] == pytest.approx(outputs.max(), abs=1e-3)
        assert one.heat_map.shape == (32, 32)
        assert one.image.shape == (32, 32, 3)
    known = fc.load(out, cache_dir=root / "cache")
    cached = known.predict(images, heat_maps=True, show_progress=False)
    assert all(one.from_cache for one in cached)
    for one, other in zip(found, cached, strict=True):
        np.testing.assert_allclose(one.heat_map, other.heat_map, atol=1e-3)
    ran = cli("predict", out, root / "pear", "--heatmaps", tmp_path / "maps", "--json")
    assert ran.returncode == 0, ran.stderr
    assert len(list((tmp_path / "maps").rglob("*.png"))) == 15
    done = fc.evaluate(out, cache_dir=root / "cache")
    assert set(done.scores) == {"accuracy", "roc-auc", "average-precision", "recall-at-fpr-5"}
    about = fc.load(out, cache_dir=None).card
    assert about.threshold["n_good"] == board.best.head.threshold_.n_good
    exported = fc.export(out, "onnx")
    assert exported.agreement == 1
    with pytest.raises(StitchError, match="nothing says to what its backbone should be trained"):
        fc.finetune(out, source=str(root), out=tmp_path / "tuned.keras")
