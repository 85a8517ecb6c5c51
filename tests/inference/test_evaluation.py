from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import CLASSES, make_image, make_photos, parse_single_json
from stitched_models import make_model, outputs_of

import featcache as fc
from featcache.core.errors import SourceError, SpecError
from featcache.inference.evaluate import scoring
from featcache.inference.evaluate.tables import MATRIX_CLASSES
from featcache.scoring import metrics
from featcache.scoring.confusion import most_confused

LABELS = ("round", "red", "ripe")
TARGETS = ("price", "weight")


@pytest.fixture
def model_path(lent_models, tmp_path):
    return lent_models(tmp_path / "m.keras")


def run(path, source=None, **options):
    return fc.evaluate(path, source, **({"show_progress": False, "cache_dir": None} | options))


def files_of(photos):
    return sorted(path for path in photos.rglob("*") if path.suffix in (".jpg", ".png"))


def truth(photos):
    return np.array([CLASSES.index(path.parent.name) for path in files_of(photos)])


def write_manifest(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_numbers_are_those_of_the_outputs(model_path, photos):
    found = run(model_path, photos)
    outputs, y = outputs_of(model_path, files_of(photos)), truth(photos)
    expected = metrics.score("classification", y, outputs, "probabilities")
    assert found.scores == pytest.approx(expected, rel=1e-3)
    predicted = outputs.argmax(axis=1)
    assert found.confusion == [
        [int(np.sum((y == i) & (predicted == j))) for j in range(3)] for i in range(3)
    ]
    recalls = [np.mean(predicted[y == i] == i) for i in range(3)]
    assert [one["recall"] for one in found.each] == pytest.approx(recalls)
    assert [one["support"] for one in found.each] == [7] * 3
    assert found.weakest["name"] == CLASSES[int(np.argmin(recalls))]
    for name, (low, high) in found.intervals.items():
        assert low <= found.scores[name] <= high or name == "ece"
    assert (found.part, found.n_images, found.n_trained_on) == ("all", 21, None)
    assert found.seconds > 0


def test_the_held_out_part_gives_the_score_of_the_leaderboard(photos, extract, tmp_path):
    make_photos(photos, a_class=20)
    features = extract(photos).features
    board = fc.fit_heads(features, ["lda"], cv=3, jobs=1, report=False, show_progress=False)
    fc.stitch(board.best, tmp_path / "s.keras", show_progress=False)
    for cache in (None, tmp_path / "cache"):
        found = run(tmp_path / "s.keras", cache_dir=cache)
        assert found.part == "test"
        assert found.n_images == board.n_test
        assert found.scores == pytest.approx(board.best.result.test, rel=1e-4)
        assert found.n_trained_on == (None if cache is None else 0)
    # images that came since were neither learnt from nor held out
    make_image(photos / "pear" / "new.png", (9, 9, 9), 1, (40, 40))
    assert run(tmp_path / "s.keras", cache_dir=tmp_path / "cache").n_images == board.n_test
    shutil.copytree(photos, tmp_path / "moved")
    found = run(tmp_path / "s.keras", tmp_path / "moved", cache_dir=tmp_path / "cache")
    assert (found.part, found.n_images, found.n_trained_on) == ("all", 61, board.n_train)
    train = run(tmp_path / "s.keras", split="train", cache_dir=tmp_path / "cache")
    assert train.n_images == train.n_trained_on == board.n_train
    with pytest.raises(SourceError, match="no labelled image in its val part"):
        run(tmp_path / "s.keras", split="val")


def test_the_whole_model_runs_not_its_cached_features(
    model_path, photos, extract, tmp_path, images_run
):
    extract(photos)
    images_run.clear()
    run(model_path, photos, cache_dir=tmp_path / "cache")
    assert sum(images_run) == 21


def test_classes_are_matched_by_name(model_path, photos, tmp_path):
    shutil.rmtree(photos / "apple")
    found = run(model_path, photos)
    outputs = outputs_of(model_path, files_of(photos))
    assert found.accuracy == pytest.approx(np.mean(outputs.argmax(axis=1) == truth(photos)))
    assert found.absent == ("apple",)
    assert [one["support"] for one in found.each] == [0, 7, 7]
    assert found.weakest["name"] != "apple"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["each"][0]["recall"] is None
    (photos / "pear").rename(photos / "plum")
    with pytest.raises(SourceError) as caught:
        run(model_path, photos)
    assert str(caught.value) == (
        f"'{photos}' and the model do not have the same classes; only the source has plum, only "
        f"the model apple, pear. Call them as the model does, or leave those images out."
    )


def test_unlabelled_and_unreadable_images_are_counted(model_path, photos, tmp_path):
    ids = [str(path.relative_to(photos)) for path in files_of(photos)]
    (photos / ids[1]).write_bytes(b"broken")
    (photos / ids[8]).unlink()
    rows = [{"path": id_, "label": id_.split("/")[0]} for id_ in ids]
    rows[0]["label"] = rows[20]["label"] = ""
    found = run(model_path, write_manifest(photos / "list.jsonl", rows))
    assert (found.n_images, found.n_unlabelled) == (17, 2)
    assert found.unreadable == {
        ids[1]: "no known image format",
        ids[8]: "No such file or directory",
    }
    kept = [row for row in range(1, 20) if row not in (1, 8)]
    outputs = outputs_of(model_path, [photos / ids[row] for row in kept])
    y = [CLASSES.index(ids[row].split("/")[0]) for row in kept]
    assert found.accuracy == pytest.approx(np.mean(outputs.argmax(axis=1) == y))


def test_given_splits(model_path, photos):
    rows = []
    for number, path in enumerate(files_of(photos)):
        split = ("train", "val", "test")[number % 3]
        rows.append(
            {"path": str(path.relative_to(photos)), "label": path.parent.name, "split": split}
        )
    manifest = write_manifest(photos / "list.jsonl", rows)
    assert run(model_path, manifest).n_images == 21
    outputs, y = outputs_of(model_path, files_of(photos)), truth(photos)
    for place, split in enumerate(("train", "val", "test")):
        found = run(model_path, manifest, split=split)
        right = outputs[place::3].argmax(axis=1) == y[place::3]
        assert (found.n_images, found.accuracy) == (7, pytest.approx(right.mean()))


def test_several_labels(tiny_backbone, photos, tmp_path):
    path = make_model(tmp_path / "l.keras", tiny_backbone, task="multi-label", names=LABELS)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (21, 3))
    y[:, 2] = 0  # nothing is ripe
    rows = [
        {"path": str(file.relative_to(photos)), "labels": [LABELS[i] for i in np.flatnonzero(row)]}
        for file, row in zip(files_of(photos), y, strict=True)
    ]
    found = run(path, write_manifest(photos / "list.jsonl", rows))
    outputs = outputs_of(path, files_of(photos))
    expected = metrics.score("multi-label", y, outputs, "probabilities")
    right = ((outputs >= 0.5) == (y == 1)).all(axis=1)
    assert found.scores == pytest.approx({"accuracy": right.mean()} | expected, rel=1e-3)
    assert found.absent == ("ripe",)
    assert [one["name"] for one in found.each] == list(LABELS)
    assert found.confusion is None
    assert "label" in str(found)
    with pytest.raises(SourceError, match=r"for multi-label, and '.*' is a source for class"):
        run(path, photos)


def test_targets(tiny_backbone, photos, tmp_path):
    options = {"task": "regression", "output": "values", "names": TARGETS}
    path = make_model(tmp_path / "r.keras", tiny_backbone, **options)
    outputs = outputs_of(path, files_of(photos))
    y = outputs + np.random.default_rng(0).standard_normal(outputs.shape)
    rows = [
        {"path": str(file.relative_to(photos)), "weight": row[1], "price": row[0], "label": "x"}
        for file, row in zip(files_of(photos), y.tolist(), strict=True)
    ]
    manifest = write_manifest(photos / "list.jsonl", rows)
    found = run(path, manifest)
    expected = metrics.score("regression", y, outputs, "values")
    assert found.scores == pytest.approx(expected, rel=1e-3)
    assert found.slowest is None
    assert "R2" in str(found)
    with pytest.raises(SourceError, match="only the source has none, only the model price"):
        run(path, manifest, target="weight")
    with pytest.raises(SpecError, match="A model of targets has no accuracy"):
        run(path, manifest, at_least=0.5)


def test_assert_accuracy(model_path, photos, cli, tmp_path):
    accuracy = run(model_path, photos).accuracy
    assert 0 < accuracy < 1
    option = "--assert-accuracy-at-least"
    done = cli("evaluate", "m.keras", photos, option, str(accuracy), "--json")
    assert done.returncode == 0, done.stderr
    assert parse_single_json(done.stdout)["passed"] is True
    done = cli("evaluate", "m.keras", photos, option, "0.999", "--json", "--out", "e.json")
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: accuracy {accuracy:.4g} is below 0.999 on 21 images of '{photos}'.\n"
    )
    found = parse_single_json(done.stdout)
    assert (found["passed"], found["accuracy"]) == (False, pytest.approx(accuracy))
    assert json.loads((tmp_path / "e.json").read_text()) == found


def test_wrong_use_is_one_line(model_path, photos, cli, tmp_path):
    (tmp_path / "plain").mkdir()
    make_image(tmp_path / "plain" / "x.jpg", (1, 2, 3), 0, (20, 20))
    (tmp_path / "bad" / "pear").mkdir(parents=True)
    (tmp_path / "bad" / "pear" / "x.jpg").write_bytes(b"x")
    before = sorted(tmp_path.iterdir())
    for arguments, code, message in (
        ([photos, "--split", "dev"], 2, "split must be one of test, train, val, all"),
        ([photos, "--assert-accuracy-at-least", "70"], 2, "must be from 0 to 1; got 70"),
        ([photos, "--out", "e.csv"], 2, "must end in .json"),
        ([photos, "--out", "no/e.json"], 2, "lies in none that exists"),
        ([photos, "--out", "m.json"], 2, "is the card of a model"),
        ([photos, "--root", "x"], 2, "root is an option of manifests"),
        (["nowhere"], 1, "'nowhere' does not exist"),
        (["plain"], 1, "None of 1 image of"),
        (["bad"], 1, "None of 1 image of"),
    ):
        done = cli("evaluate", "m.keras", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    done = cli("evaluate", "other.keras", photos)
    assert (done.returncode, "'other.keras' does not exist" in done.stderr) == (1, True)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_printed(tiny_backbone, photos, extract, cli, tmp_path):
    make_model(tmp_path / "m.keras", tiny_backbone, source=str(photos))
    extract(photos)
    (photos / "pear" / "bad.jpg").write_bytes(b"x")
    done = cli("evaluate", "m.keras", photos, "--split", "all")
    assert "unreadable: pear/bad.jpg: no known image format\n" in done.stderr
    assert "Note: 18 of 21 images taught the model" in done.stderr
    for part in ("accuracy", "recall", "1 apple", "Lagging behind: ", "Slowest: ", "21 images"):
        assert part in done.stdout
    shutil.rmtree(photos / "quince")
    assert "Note: the source has no quince." in cli("evaluate", "m.keras", photos).stderr


def test_the_slowest_class_is_that_of_the_largest_files(model_path, photos, tmp_path):
    for path in (photos / "quince").iterdir():
        path.unlink()
    for number in range(3):
        make_image(photos / "quince" / f"{number}.png", (60, 90, 200), number, (900, 900))
    found = run(model_path, photos)
    assert (found.slowest["name"], found.slowest["n_timed"]) == ("quince", 3)
    assert found.slowest["ms"] > found.slowest["typical_ms"] > 0
    pixels = [np.zeros((20, 20, 3), np.uint8), np.ones((20, 20, 3), np.uint8)]
    assert run(model_path, fc.open_source(pixels, labels=["pear", "apple"])).slowest is None


def test_of_many_classes_the_commonest_mistakes_are_shown(tiny_backbone, tmp_path):
    names = tuple(f"class {n:02d}" for n in range(MATRIX_CLASSES + 1))
    path = make_model(tmp_path / "m.keras", tiny_backbone, names=names)
    photos = make_photos(tmp_path / "many", a_class=2, classes=names)
    found = run(path, photos)
    text = str(found)
    assert "most often mistaken" in text
    assert "true class" not in text
    (true, predicted, n), *_ = most_confused(np.array(found.confusion))
    assert n == max(
        count for i, row in enumerate(found.confusion) for j, count in enumerate(row) if i != j
    )
    assert found.confusion[true][predicted] == n


def test_copies_are_drawn_together():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    outputs = rng.random((60, 3)) + np.eye(3)[y] * 0.4
    arguments = ("classification", y, outputs, "scores")
    _, alone = scoring.scores(*arguments, np.arange(60))
    twice = [np.concatenate([each, each]) for each in (y, outputs)]
    again = ("classification", *twice, "scores")
    _, copies = scoring.scores(*again, np.tile(np.arange(60), 2))
    assert copies["accuracy"] == alone["accuracy"]
    _, apart = scoring.scores(*again, np.arange(120))
    assert np.ptp(apart["accuracy"]) < np.ptp(alone["accuracy"])


def test_a_large_evaluation_leaves_out_what_takes_minutes(monkeypatch):
    rng = np.random.default_rng(0)
    y, outputs = rng.integers(0, 2, 100), rng.random((100, 2))

    def intervals():
        return set(scoring.scores("classification", y, outputs, "scores", np.arange(100))[1])

    assert intervals() == {
        *("accuracy", "balanced-accuracy", "macro-f1"),
        *("roc-auc", "average-precision", "recall-at-fpr-5"),
    }
    monkeypatch.setattr(scoring, "MOST_OUTPUTS", 199)
    assert intervals() == {"accuracy"}
