from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import json
import os
import shutil
import sys
import tarfile

import bad_values
import numpy as np
import pytest
from conftest import CLASSES, make_image, parse_single_json
from PIL import Image
from stitched_models import make_model, outputs_of

import featcache as fc
from featcache.core.errors import SourceError, SpecError
from featcache.core.tensorflow import import_tensorflow
from featcache.data import openers
from featcache.inference import predict
from featcache.inference.predict import model, writing
from featcache.models import card, judged_on

LABELS = ("round", "red", "ripe", "small")
TARGETS = ("price", "error")  # one is a column of its own
NO_CACHE = {"cache_dir": None}


@pytest.fixture
def model_path(lent_models, tmp_path):
    return lent_models(tmp_path / "m.keras")


@pytest.fixture
def labels_path(lent_models, tmp_path):
    return lent_models(tmp_path / "l.keras", task="multi-label", names=LABELS)


@pytest.fixture
def targets_path(lent_models, tmp_path):
    options = {"task": "regression", "output": "values", "names": TARGETS}
    return lent_models(tmp_path / "r.keras", **options)


LOADED = {}  # models by their digest: most tests have a copy of the same


def run(path, what, **options):
    digest = card.read(path).model_digest
    if digest not in LOADED:
        LOADED[digest] = fc.load(path, **NO_CACHE)
    return LOADED[digest].predict(what, show_progress=False, **options)


def files_of(photos):
    return sorted(path for path in photos.rglob("*") if path.is_file())


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_lines(path):
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def test_what_a_folder_has_beside_images_is_said(model_path, photos, capsys):
    (photos / "pear" / "@eaDir").mkdir()
    shutil.copy(files_of(photos)[0], photos / "pear" / "@eaDir" / "thumb.jpg")
    (photos / "pear" / "1.heic").write_bytes(b"x")
    assert len(fc.load(model_path, **NO_CACHE).predict(photos)) == 21
    assert capsys.readouterr().err.splitlines()[:3] == [
        "Note: Passed over 1 other file: 1 .heic.",
        "Note: Left out folders that are hidden, or made by file managers and servers: 1 @eaDir.",
        "Note: Pictures in .heic are not read; convert them to JPEG or PNG.",
    ]
    (photos / "pear" / "1.heic").unlink()
    assert len(run(model_path, photos)) == 21
    assert capsys.readouterr().err == ""


def test_predictions_are_those_of_the_head(photos, extract, tmp_path):
    features = extract(photos).features
    board = fc.fit_heads(features, ["logreg"], cv=3, jobs=1, report=False, show_progress=False)
    fc.stitch(board.best, tmp_path / "s.keras", show_progress=False)
    predictions = run(tmp_path / "s.keras", photos, top=3)
    assert [one.path for one in predictions] == [str(photos / id_) for id_ in features.ids]
    expected = board.best.head.outputs(features.X)
    for one, row in zip(predictions, expected, strict=True):
        order = np.argsort(-row)
        assert one.classes == tuple(features.class_names[label] for label in order)
        np.testing.assert_allclose(one.scores, row[order], rtol=1e-4, atol=1e-5)


def test_a_folder_is_any_folder_and_sorted(model_path, photos, tmp_path):
    shutil.move(photos / "pear", photos / "apple" / "deep")
    make_image(photos / "stray.png", (9, 9, 9), 1, (40, 40))
    (photos / "notes.txt").write_text("x")
    found = run(model_path, photos)
    paths = sorted(photos.rglob("*.[jp][pn]g"))
    assert [one.path for one in found] == sorted(map(str, paths))
    assert len(found) == 22
    expected = outputs_of(model_path, [photos / one.path for one in found])
    assert [one.classes[0] for one in found] == [CLASSES[c] for c in expected.argmax(1)]


def test_a_list_keeps_its_order_and_repetitions(model_path, photos):
    files = [str(path) for path in files_of(photos)]
    wanted = [files[9], files[2], "gone.jpg", files[9], files[0]]
    found = run(model_path, wanted)
    assert [one.path for one in found] == wanted
    assert [one.error for one in found] == ["", "", "No such file or directory", "", ""]
    assert found[0] == found[3]
    assert found[2].classes == ()
    again = run(model_path, iter(map(type(photos), wanted)))
    assert again == found


def test_blocks_are_restored_to_the_order_that_was_given(model_path, photos, monkeypatch):
    # Pillow's images come after TensorFlow's within a block, so both kinds are mixed here
    for path in files_of(photos)[::4]:
        Image.open(path).convert("RGBA").save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    (photos / "apple" / "broken.jpg").write_bytes(b"x")
    wanted = np.random.default_rng(3).permutation(files_of(photos)).tolist()
    whole = run(model_path, wanted, features=True)
    monkeypatch.setattr(model, "BLOCK_ROWS", 5)
    seen = []
    look = judged_on.list_images
    monkeypatch.setattr(
        judged_on,
        "list_images",
        lambda source, *more, **options: seen.append(len(source)) or look(source, *more, **options),
    )
    stream = fc.load(model_path, **NO_CACHE).stream(wanted, features=True, show_progress=False)
    first = next(stream)
    assert len(seen) <= 2  # of what is to come, no more than the next block is looked at
    parts = [first, *stream]
    assert seen == [5, 5, 5, 5, 2]
    assert [one.path for one in parts] == list(map(str, wanted))
    assert [one.classes for one in parts] == [one.classes for one in whole]
    assert sum(bool(one.error) for one in parts) == 1
    for one, other in zip(parts, whole, strict=True):
        if not one.error:
            np.testing.assert_allclose(one.features, other.features, rtol=1e-5)


def test_manifests_are_read_in_their_order(model_path, photos, tmp_path):
    ids = [str(path.relative_to(photos)) for path in files_of(photos)]
    wanted = [ids[5], ids[1], ids[5], "apple/gone.jpg"]
    table = "path,label,split\n" + "".join(f"{id_},whatever,dev\n" for id_ in wanted)
    (photos / "list.csv").write_text(table, encoding="utf-8")
    lines = "".join(json.dumps({"path": id_}) + "\n" for id_ in wanted)
    (tmp_path / "list.jsonl").write_text(lines, encoding="utf-8")
    found = run(model_path, photos / "list.csv")
    assert [one.path for one in found] == wanted
    assert [bool(one.error) for one in found] == [False, False, False, True]
    assert run(model_path, tmp_path / "list.jsonl", root=photos) == found
    both = run(model_path, [photos / ids[0], photos / "list.csv", photos / "pear"])
    assert [one.path for one in both][:5] == [str(photos / ids[0]), *wanted]
    assert len(both) == 1 + 4 + 7


def test_tar_files_and_examples(model_path, photos, tmp_path):
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in files_of(photos)[:3]:
            tar.add(path, path.name)
    paths = [one.path for one in run(model_path, [tmp_path / "some.tar", photos / "pear"])]
    assert len(paths) == 10
    assert all(path.startswith("some.tar/") for path in paths[:3])
    assert run(model_path, "example:digits")[0].path == "0/0000"


def test_images_from_python(model_path, photos):
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in files_of(photos)[::3]]
    expected = run(model_path, files_of(photos)[::3])
    for given in (arrays, [Image.fromarray(one) for one in arrays], fc.open_source(arrays)):
        found = run(model_path, given)
        assert [one.path for one in found] == list("0123456")
        assert [one.classes for one in found] == [one.classes for one in expected]
    tf = import_tensorflow()
    same = np.stack([arrays[0], arrays[0][::-1]])
    dataset = tf.data.Dataset.from_tensor_slices(same).batch(2)
    assert [one.classes for one in run(model_path, dataset)] == [
        one.classes for one in run(model_path, same)
    ]


def test_labels_are_those_above_the_threshold(labels_path, photos, tmp_path):
    expected = outputs_of(labels_path, files_of(photos))
    found = run(labels_path, photos)
    assert len({len(one.classes) for one in found}) > 1
    for one, row in zip(found, expected, strict=True):
        assert set(one.classes) == {LABELS[i] for i in np.flatnonzero(row >= 0.5)}
        assert list(one.scores) == sorted(one.scores, reverse=True)
    ranked = run(labels_path, photos, top=3)
    assert [len(one.classes) for one in ranked] == [3] * 21
    assert [one.classes[0] for one in ranked] == [LABELS[i] for i in expected.argmax(1)]


def test_no_label_at_all_is_a_lone_separator(tiny_backbone, photos, tmp_path, cli):
    options = {"task": "multi-label", "output": "scores", "names": LABELS}
    path = make_model(tmp_path / "s.keras", tiny_backbone, **options)
    model = fc.load(path, **NO_CACHE)
    (photos / "apple" / "broken.png").write_bytes(b"x")
    wanted = predict.Wanted(model.card)
    with predict.writer(tmp_path / "out.csv", wanted) as put:
        for one in model.stream(photos, show_progress=False):
            put(dataclasses.replace(one, classes=(), scores=()) if "apple" in one.path else one)
    rows = read_csv(tmp_path / "out.csv")
    assert [row["labels"] for row in rows if "apple" in row["path"]] == [*["|"] * 7, ""]
    # a manifest reads it so, too: an empty cell is unknown, a lone | is no label
    again = fc.open_source(tmp_path / "out.csv", root="/")
    assert again.annotations.task == "multi-label"
    assert np.count_nonzero(~again.annotations.is_known) == 1


def test_values(targets_path, photos, cli, tmp_path):
    expected = outputs_of(targets_path, files_of(photos))
    found = run(targets_path, photos)
    np.testing.assert_allclose(
        [list(one.outputs.values()) for one in found], expected, rtol=1e-4, atol=1e-3
    )
    assert found[0].to_dict().keys() == {"path", "values", "error"}
    done = cli("predict", targets_path, photos, "--out", "v.csv")
    assert "price" in done.stdout
    rows = read_csv(tmp_path / "v.csv")
    assert list(rows[0]) == ["path", "price", "value:error", "error"]
    assert float(rows[3]["price"]) == pytest.approx(expected[3, 0], rel=1e-4)
    for options in ({"top": 1}, {"probabilities": True}):
        with pytest.raises(SpecError, match="every value is given anyway"):
            run(targets_path, photos, **options)


def test_csv_has_the_same_columns_whatever_happens(model_path, photos, cli, tmp_path):
    (photos / "pear" / 'a, "b"\n.jpg').write_bytes(b"broken")
    done = cli("predict", "m.keras", photos / "pear", "--out", "o.csv", "--top", "2")
    assert done.stderr.startswith("unreadable: ")
    assert "8 images, 1 unreadable" in done.stdout
    rows = read_csv(tmp_path / "o.csv")
    assert list(rows[0]) == ["path", "class", "score", "class_2", "score_2", "error"]
    assert rows[0]["path"] == str(photos / "pear" / 'a, "b"\n.jpg')
    assert [*rows[0].values()][1:] == ["", "", "", "", "no known image format"]
    assert [row["error"] for row in rows[1:]] == [""] * 7
    cli("predict", "m.keras", photos / "apple", "--out", "o.csv", "--probabilities", "--top", "9")
    rows = read_csv(tmp_path / "o.csv")
    assert list(rows[0])[-4:] == ["p:apple", "p:pear", "p:quince", "error"]
    expected = outputs_of(model_path, files_of(photos / "apple"))
    got = [[float(row[f"p:{name}"]) for name in CLASSES] for row in rows]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
    assert [row["class_3"] for row in rows] == [CLASSES[i] for i in expected.argmin(1)]
    assert not list(tmp_path.glob("*.tmp"))


def test_json_lines_and_parquet_keep_the_embedding(
    model_path, photos, extract, cli, tmp_path, monkeypatch
):
    parquet = pytest.importorskip("pyarrow.parquet")
    features = extract(photos).features
    (photos / "apple" / "apple ü1.jpg").write_bytes(b"x")
    monkeypatch.setattr(writing, "GROUP_BYTES", 3000)
    for name in ("o.jsonl", "o.parquet"):
        done = cli("predict", "m.keras", photos, "--features", "--no-cache", "--out", name)
        assert done.returncode == 0, done.stderr
    lines = read_lines(tmp_path / "o.jsonl")
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.column_names == ["path", "class", "score", "features", "error"]
    assert parquet.ParquetFile(tmp_path / "o.parquet").num_row_groups > 1
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    assert [row["class"] for row in rows] == [(line["classes"] or [None])[0] for line in lines]
    (broken,) = (number for number, line in enumerate(lines) if line["error"])
    assert rows[broken]["class"] is rows[broken]["features"] is None
    assert "features" not in lines[broken]
    for number, id_ in enumerate(features.ids):
        if number != broken:
            assert lines[number]["path"].endswith(id_)
            np.testing.assert_allclose(rows[number]["features"], features.X[number], rtol=1e-4)
            np.testing.assert_allclose(lines[number]["features"], features.X[number], rtol=1e-4)


def test_labels_in_json_lines_and_parquet(labels_path, photos, cli, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("o.jsonl", "o.parquet"):
        cli("predict", "l.keras", photos / "pear", "--probabilities", "--out", name)
    lines = read_lines(tmp_path / "o.jsonl")
    rows = parquet.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["labels"] for row in rows] == [line["labels"] for line in lines]
    assert list(lines[0]) == ["path", "labels", "scores", "outputs", "error"]
    for row, line in zip(rows, lines, strict=True):
        assert row["p:ripe"] == pytest.approx(line["outputs"]["ripe"])


def test_a_path_that_is_no_text_is_named_so_that_it_can_be_opened_again(
    model_path, photos, cli, tmp_path, monkeypatch
):
    folder = tmp_path / os.fsdecode(b"f\xe9")
    folder.mkdir()
    shutil.copy(files_of(photos)[0], folder / os.fsdecode(b"caf\xe9 \\.png"))
    assert cli("predict", "m.keras", folder, "--out", "o.csv").returncode == 0
    (one,) = read_csv(tmp_path / "o.csv")
    assert one["path"].endswith(r"/f\xe9/caf\xe9 \x5c.png")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(one["path"].encode())))
    for again in (one["path"], "o.csv", "-", r"f\xe9"):
        said = parse_single_json(cli("predict", "m.keras", again, "--json").stdout)["predictions"]
        assert [(said[0]["classes"], said[0]["error"])] == [([one["class"]], "")]
        assert said[0]["path"].endswith(r"f\xe9/caf\xe9 \x5c.png")
    (tmp_path / "m.csv").write_text(f"path,label\n{one['path']},apple\n")
    (id_,) = openers.open_source(tmp_path / "m.csv").ids
    (path,) = openers.open_source([tmp_path / id_]).paths
    assert path == os.fspath(folder / os.fsdecode(b"caf\xe9 \\.png"))
    done = cli("predict", "m.keras", r"f\xe9", "--out", r"f\xe9/o.jsonl", "--json")
    assert parse_single_json(done.stdout)["file"] == r"f\xe9/o.jsonl"
    assert (folder / "o.jsonl").is_file()


def test_stdin_is_a_list(model_path, photos, cli, monkeypatch):
    files = [str(path) for path in files_of(photos)]
    for listed, wanted in (
        ("\n".join([files[4], "", files[1]]), [files[4], files[1]]),
        ("\0".join([files[3], files[3], ""]), [files[3], files[3]]),
    ):
        encoded = codecs.BOM_UTF8 + listed.encode()  # as Windows's Notepad has it
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded)))
        done = cli("predict", "m.keras", "-", "--json")
        found = parse_single_json(done.stdout)
        assert [one["path"] for one in found["predictions"]] == wanted
        assert found["images"] == 2
    for listed, message in (
        (b"\n", "No paths came on stdin; give one per line."),
        (files[0].encode("utf-16"), "The list on stdin is UTF-16; give it as UTF-8."),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
        done = cli("predict", "m.keras", "-")
        assert (done.returncode, done.stderr) == (1, f"Error: {message}\n")


def test_the_manifest_that_the_model_is_from_is_not_replaced(model_path, photos, cli, tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n")
    dataclasses.replace(card.read(model_path), source=str(manifest)).write(model_path)
    done = cli("predict", "m.keras", photos, "--out", "list.csv")
    assert done.returncode == 2
    assert "'list.csv' lists the images, and would be replaced" in done.stderr
    assert manifest.read_text() == "path\n"


def test_paths_and_images_are_not_mixed(model_path, photos):
    file = files_of(photos)[0]
    with pytest.raises(SourceError, match="item 1 is a path, item 0 is a ndarray"):
        run(model_path, [np.zeros((8, 8, 3), np.uint8), file])


def test_json_does_not_repeat_what_is_in_the_file(model_path, photos, cli):
    done = cli("predict", "m.keras", photos, "--json", "--out", "o.jsonl")
    found = parse_single_json(done.stdout)
    assert (found["file"], found["images"], "predictions" in found) == ("o.jsonl", 21, False)


def test_top_beyond_the_classes_gives_them_all(model_path, photos):
    (one,) = run(model_path, photos / "pear" / "pear ü1.jpg", top=9)
    assert len(one.classes) == 3
    assert sum(one.scores) == pytest.approx(1)


def test_bad_requests(model_path, photos, tmp_path, monkeypatch):
    model = fc.load(model_path, **NO_CACHE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.csv").write_text("path\n")
    (tmp_path / "hole.csv").write_text("path,label\n,x\n")
    for what, options, kind, message in (
        (photos, {"top": 0}, SpecError, "top must be a whole number, 1 or more; got 0"),
        (photos, {"root": tmp_path}, SpecError, "root is an option of manifests"),
        (tmp_path / "nowhere.jpg", {}, SourceError, "nowhere.jpg' does not exist"),
        (tmp_path / "empty", {}, SourceError, "no images"),
        ([], {}, SourceError, "the list is empty"),
        (["a\0b"], {}, SourceError, "is no path"),
        ([""], {}, SourceError, "is no path"),
        (tmp_path / "no.csv", {}, SourceError, "lists no images"),
        (tmp_path / "hole.csv", {}, SourceError, "no path in line 2"),
        (tmp_path / "no.csv", {"root": tmp_path / "x"}, SourceError, "Root folder"),
        (5, {}, SpecError, "images must be"),
        (["gone.jpg", "gone too.jpg"], {}, SourceError, "None of 2 images could be read"),
    ):
        with pytest.raises(kind, match=message) as caught:
            model.predict(what, show_progress=False, **options)
        assert "\n" not in str(caught.value)


def test_files_that_cannot_be_written(model_path, photos, tmp_path, cli, monkeypatch):
    (tmp_path / "list.csv").write_text("path\nx.jpg\n")
    before = sorted(tmp_path.iterdir())
    for arguments, message in (
        (["list.csv", "--out", "list.csv"], "lists the images, and would be replaced"),
        (["--out", "o.xlsx"], "must end in .csv or .jsonl or .parquet"),
        (["--out", "no/o.csv"], "lies in none that exists"),
        (["--out", "o.csv", "--features"], "CSV has no cell for an embedding"),
        (["--features"], "give --out or --json"),
    ):
        done = cli("predict", "m.keras", photos, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = cli("predict", "m.keras", photos, "--out", "o.parquet")
    assert (done.returncode, "pip install 'featcache[parquet]'" in done.stderr) == (2, True)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl", "o.parquet"])
def test_what_fails_leaves_the_file_that_was_there(model_path, tmp_path, cli, name):
    (tmp_path / name).write_text("earlier")
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / f"{name}.00c0ffee.999999999.tmp").write_text("of one that was killed")
    done = cli("predict", "m.keras", "x.jpg", "--out", name)
    assert done.returncode == 1
    assert "None of 1 image could be read; the first, 'x.jpg'" in done.stderr
    assert (tmp_path / name).read_text() == "earlier"
    assert not list(tmp_path.glob("*.tmp"))


def test_what_is_given_by_mistake(model_path, tmp_path):
    """As in test_arguments.py, of a model that is there."""
    loaded = fc.load(model_path, **NO_CACHE)
    (folder := tmp_path / "empty").mkdir()
    image = make_image(tmp_path / "a.png", (200, 60, 40), 0, (40, 40))
    calls = {  # what is called, and the values that are good for it
        "predict": (loaded.predict, set()),
        "predict([])": (lambda value: loaded.predict([value]), {"text"}),
        **{
            name: (lambda value, name=name: loaded.predict(image, **{name: value}), good)
            for name, good in {"top": {"None", "int"}, "probabilities": {"true"}}.items()
        },
        "root": (lambda value: loaded.predict(image, root=value), {"None"}),
        "split": (lambda value: fc.evaluate(model_path, str(folder), split=value), set()),
        "at_least": (lambda value: fc.evaluate(model_path, at_least=value), {"None"}),
        "device": (lambda value: fc.load(model_path, device=value), set()),
        "cache_dir": (
            lambda value: fc.load(model_path, cache_dir=value),
            {"None", "text", "directory"},
        ),
    }
    for call, good in calls.values():
        bad_values.check(call, good, folder)
