"""Exports: each format gives what the model gives, or there is no file."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, make_image, make_photos, parse_single_json
from PIL import Image

import featcache as fc
from featcache.core.errors import SourceError, SpecError, StitchError
from featcache.core.geometry import Geometry, crop_of
from featcache.core.tasks import TASKS
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.data import image_ops, loading
from featcache.data.listing import list_images
from featcache.inference import predict
from featcache.models import card
from featcache.models import export as exporting
from featcache.models.export import comparing, writers
from featcache.models.load import load_keras

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export")]
for module in ("onnx", "tf2onnx", "onnxruntime", "ai_edge_litert", "openvino"):
    pytest.importorskip(module)

SUFFIXES = {name: one.suffix for name, one in exporting.FORMATS.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_backbone):
    """Stitched models of photos, each made once, by task and head."""
    from featcache import extraction

    folder = tmp_path_factory.mktemp("export")
    photos = make_photos(folder / "photos")
    rng = np.random.default_rng(0)
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    labels = [["a"] * bool(n % 2) + ["b"] * bool(rng.integers(2)) for n in range(len(ids))]
    lines = [json.dumps({"path": i, "labels": one}) for i, one in zip(ids, labels, strict=True)]
    (photos / "labels.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"path": i, "price": float(n % 5)}) for n, i in enumerate(ids)]
    (photos / "prices.jsonl").write_text("\n".join(lines))
    sources = {
        "classification": (photos, None),
        "multi-label": (photos / "labels.jsonl", None),
        "regression": (photos / "prices.jsonl", "price"),
    }
    known = {}

    def make(task, head, **options):
        key = (task, head, *options.values())
        if key not in known:
            source, target = sources[task]
            features = extraction.run(
                source,
                target=target,
                weights=str(tiny_backbone),
                cache_dir=folder / "cache",
                show_progress=False,
            ).features
            board = fc.fit_heads(
                features,
                [head],
                cv=3,
                jobs=1,
                report=False,
                folder=folder / f"{len(known)}.heads",
                show_progress=False,
                **options,
            )
            known[key] = folder / f"{len(known)}.keras"
            fc.stitch(board[head], known[key], show_progress=False)
        return known[key]

    return make


def copied(path, folder):
    """A model with its card and labels, as flowers.keras in another folder."""
    for file in path.parent.glob(f"{path.stem}.*"):
        if file.is_file():
            shutil.copy(file, folder / f"flowers{file.name.removeprefix(path.stem)}")
    return folder / "flowers.keras"


@pytest.fixture
def model(made, tmp_path):
    """A logistic regression, copied into the test's folder."""
    return copied(made("classification", "logreg"), tmp_path)


@pytest.fixture(scope="module")
def everything(made, tmp_path_factory):
    """A model in every format, and what is known of each."""
    model = copied(made("classification", "logreg"), tmp_path_factory.mktemp("everything"))
    done, failed = exporting.export_all(
        model, list(exporting.FORMATS), min_agreement=0.9, show_progress=False
    )
    assert not failed
    return model, {one.format: one for one in done}


@pytest.fixture
def exported(everything, tmp_path):
    """That model with its exports as onnx and openvino, copied into the test's folder."""
    others = shutil.ignore_patterns("*.tflite", "*.saved-model")
    shutil.copytree(everything[0].parent, tmp_path, dirs_exist_ok=True, ignore=others)
    return tmp_path / everything[0].name


def quietly(model, format, **options):
    return fc.export(model, format, show_progress=False, **options)


@pytest.mark.parametrize("format", list(exporting.FORMATS))
def test_every_format_gives_what_the_model_gives(everything, format):
    model, done = everything
    one = done[format]
    assert one.path == model.with_name(f"flowers{SUFFIXES[format]}")
    assert one.path.exists()
    assert one.n_images == 21
    assert one.agreement == 1.0 or format == "tflite-int8"
    limit = {"tflite-float16": 5e-3, "tflite-int8": 0.3}.get(format, 1e-4)
    assert one.largest_difference <= limit
    assert one.scores["metric"] == "accuracy"
    assert one.scores["model"] == card.read(model).test_accuracy
    assert one.scores["n_images"] == 3  # a fifth of 7 images of each class: those held out
    assert (one.encoded is not None) == (format == "saved-model")
    again = quietly(model, format, min_agreement=0.9)
    assert again == dataclasses.replace(one, hit=True)
    assert not list(model.parent.glob("*.tmp"))
    kept = json.loads((model.parent / "flowers.exports.json").read_text())[format]
    assert kept["agreement"] == one.agreement
    assert kept["model_digest"] == card.read(model).model_digest
    assert kept["versions"]["tensorflow"]


def test_what_was_touched_or_compared_on_other_images_is_written_again(exported, photos):
    model = exported
    assert quietly(model, "onnx").hit
    path = model.with_name("flowers.onnx")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SpecError, match="or was changed since"):
        quietly(model, "onnx")
    assert not quietly(model, "onnx", overwrite=True).hit
    other = quietly(model, "onnx", source=photos, max_images=7)
    assert (other.hit, other.n_images) == (False, 7)
    assert other.scores["n_images"] == 7  # of other images none is held out
    assert quietly(model, "onnx", source=photos).hit
    kept = model.with_name("flowers.exports.json")
    kept.write_text(kept.read_text().replace('"agreement": 1.0', '"agreement": 0.9'))
    assert not quietly(model, "onnx", source=photos).hit


OTHERS = ("onnx", "tflite", "openvino")


@pytest.mark.parametrize(
    ("task", "head", "options", "formats"),
    [
        ("classification", "rbf-svm", {}, OTHERS),
        ("classification", "knn", {}, OTHERS),
        ("classification", "linear-svm", {"calibrate": "isotonic"}, OTHERS),
        # a dense layer whatever the task, as that of `everything`
        ("multi-label", "ridge", {}, ("onnx",)),
        ("regression", "ridge", {}, ("tflite",)),
        # of the operations of classification but the last
        ("multi-label", "knn", {}, ("tflite", "openvino")),
        ("regression", "knn", {}, ("onnx", "openvino")),
    ],
)
def test_heads_of_every_kind(made, task, head, options, formats):
    path = made(task, head, **options)
    done, failed = exporting.export_all(path, formats, show_progress=False)
    if options.get("calibrate") == "isotonic":
        # OpenVINO divides by the widths of steps before it subtracts: steep ones are lost
        assert "The export as openvino gives the same class" in str(failed.pop("openvino"))
        assert not path.with_suffix(".openvino").exists()
    assert not failed
    assert {one.format for one in done} >= {*formats} - {"openvino"}
    for one in done:
        assert one.agreement == 1.0
        assert one.path.exists()
        assert one.scores["metric"] == TASKS[task].default_metric
        assert one.scores["export"] == pytest.approx(one.scores["model"], rel=1e-3)


DECODED = {
    "red.png": np.full((50, 40, 3), (200, 60, 40), np.uint8),
    "clear.png": np.zeros((50, 40, 4), np.uint8),  # what lies under it is white
    "white.png": np.full((50, 40, 3), 255, np.uint8),
    "grey.png": np.full((50, 40), 255, np.uint8),
}
BOTH_SIGNATURES = """
import json, pathlib
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
raw = tf.constant([pathlib.Path(name).read_bytes() for name in sys.argv[2:]])
by_file = loaded.signatures["serve_bytes"](encoded=raw)
red = tf.constant(np.full((1, 32, 32, 3), (200, 60, 40), np.float32))
by_image = loaded.signatures["serving_default"](images=red)
print(json.dumps({
    "labels": [one.decode() for one in by_file["labels"].numpy().tolist()],
    "scores": by_file["scores"].numpy().tolist(),
    "label": by_image["labels"].numpy()[0].decode(),
    "red": by_image["scores"].numpy()[0].tolist(),
}))
"""


@pytest.mark.parametrize(
    ("task", "output", "expected"),
    [
        ("classification", "scores", [b"a", b"b"]),
        ("multi-label", "probabilities", [[b"a", b""], [b"", b"b"]]),
        ("multi-label", "scores", [[b"a", b"b"], [b"", b"b"]]),
        ("regression", "values", [[b"a", b"b"], [b"a", b"b"]]),
    ],
)
def test_labels_of_every_task(model, task, output, expected):
    about = dataclasses.replace(card.read(model), task=task, output=output)
    scores = np.array([[0.5, 0.2], [-0.1, 0.9]], np.float32)
    found = writers.labels(scores, import_tensorflow().constant(["a", "b"]), about)
    assert found.numpy().tolist() == expected


def test_a_saved_model_holds_every_weight_once(everything):
    model, done = everything
    held = import_tensorflow().train.list_variables(
        str(done["saved-model"].path / "variables" / "variables")
    )
    n_held = sum(int(np.prod(shape)) for name, shape in held if "VARIABLE_VALUE" in name)
    assert 0 < n_held <= load_keras(model, card.read(model)).count_params()


def test_turned_files_are_not_asked_of_the_signature_that_does_not_turn(model, tmp_path):
    photos = make_photos(tmp_path / "turned", a_class=3)
    turned = sorted(photos.rglob("*.jpg"))[:2]
    for path in turned:
        with Image.open(path) as image:
            exif = image.getexif()
            exif[0x0112] = 6
            image.save(path, exif=exif)
    about = card.read(model)
    network = load_keras(model, about)
    asked = comparing.sample(network, about, photos, 500, False).files.values()
    assert len(asked) == 9 - 2
    assert not {str(path) for path in turned} & set(asked)


@pytest.mark.parametrize("decode_scale", [False, True])
def test_files_are_decoded_as_the_pipeline_does(tmp_path, extract, decode_scale):
    photos = make_photos(tmp_path / "large", a_class=1)
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        shape = (300 + 10 * number, 280, 3)  # more than four times the 32 pixels a side
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path.with_suffix(".jpg"))
    spec = extract(photos, decode_scale=decode_scale).features.spec
    samples = fc.open_source(photos)
    listing, every = list_images(samples), range(len(samples))
    load = writers.decoder(spec)
    for batch in loading.batches(listing, every, specs=[spec], batch_size=4):
        for row, expected in zip(batch.rows.tolist(), batch.clean, strict=True):
            np.testing.assert_allclose(load(samples.get(row)), expected, atol=1e-3)


def test_too_little_agreement_removes_the_file_and_leaves_the_earlier_one(exported, monkeypatch):
    model = exported
    path = model.with_name("flowers.onnx")
    before = path.read_bytes()
    outputs_of = comparing.outputs_of
    monkeypatch.setattr(
        comparing, "outputs_of", lambda *args: (outputs_of(*args)[0][:, ::-1], None)
    )
    with pytest.raises(
        StitchError, match=r"same class as the model for .*% of 21 images"
    ) as caught:
        quietly(model, "onnx", overwrite=True)
    assert "accuracy" in str(caught.value)
    assert path.read_bytes() == before
    assert not list(model.parent.glob("*.tmp"))
    with pytest.raises(StitchError, match=r"expected 100\.0%"):
        quietly(model, "tflite")
    assert not model.with_name("flowers.tflite").exists()
    assert quietly(model, "tflite", min_agreement=0.0).agreement < 1


def test_a_folder_of_an_earlier_export_is_replaced(exported):
    model = exported
    path = quietly(model, "openvino").path
    (path / "mine.txt").write_text("years of work")
    assert quietly(model, "openvino").hit
    (path / "model.bin").write_bytes(b"")
    with pytest.raises(SpecError, match="or was changed since"):
        quietly(model, "openvino")
    assert not quietly(model, "openvino", overwrite=True).hit
    assert (path / "model.bin").stat().st_size > 0
    assert (path / "mine.txt").read_text() == "years of work"
    assert not [one for one in model.parent.iterdir() if one.name.startswith(f"{path.name}.")]


def test_outputs_that_are_not_finite_or_of_another_shape_are_an_error(model):
    about, expected = card.read(model), np.array([[0.9, 0.1, 0.0]])
    for got, message in (
        (np.array([[0.9, np.nan, 0.0]]), "2 of 3 numbers finite"),
        (expected[:, :2], r"shape \(1, 2\).*expected \(1, 3\)"),
    ):
        with pytest.raises(StitchError, match=message):
            comparing.ExportComparison.of(expected, got, about, writers.FORMATS["onnx"])


def test_what_hangs_on_a_tie_counts_but_not_for_integers(model):
    about = card.read(model)
    expected, got = np.array([[0.50001, 0.49999, 0.0]]), np.array([[0.49999, 0.50001, 0.0]])
    of = comparing.ExportComparison.of
    assert of(expected, got, about, writers.FORMATS["onnx"]).agreement == 1
    assert of(expected, got, about, writers.FORMATS["tflite-int8"]).agreement == 0


def test_a_runtime_that_fails_is_one_line(model, monkeypatch, tmp_path):
    monkeypatch.setattr(comparing, "RUNNER", tmp_path / "runners.py")
    (tmp_path / "runners.py").write_text("import os\nos.abort()\n")
    with pytest.raises(StitchError, match=r"does not run \(onnx\)"):
        quietly(model, "onnx")
    assert not model.with_name("flowers.onnx").exists()


def test_a_converter_that_fails_is_one_line(model, monkeypatch):
    def write(*arguments):
        raise RuntimeError("unsupported\n  op: X")

    broken = writers.Format(".onnx", "onnx", write, (), 1e-3)
    monkeypatch.setitem(writers.FORMATS, "onnx", broken)
    with pytest.raises(StitchError, match="cannot be written as onnx: unsupported op: X"):
        quietly(model, "onnx")


def test_layers_that_onnx_has_no_word_for_are_written_in_others(tmp_path):
    import onnxruntime

    keras = import_keras()
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="gelu")(inputs)  # exact: Erfc
    x = layers.Conv2D(8, 3, groups=2)(layers.Conv2D(8, 3, groups=8)(x))  # functions of XLA
    x = layers.GlobalAveragePooling2D()(layers.Activation("gelu")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    images = np.random.default_rng(0).standard_normal((5, 8, 8, 3)).astype(np.float32)
    writers.write("onnx", model, None, tmp_path / "model.onnx", images)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (scores,) = session.run(["scores"], {"images": images})
    np.testing.assert_allclose(scores, model(images), atol=1e-6)
    assert not import_tensorflow().config.functions_run_eagerly()


@pytest.mark.parametrize(
    ("format", "options", "error", "message"),
    [
        ("onyx", {}, SpecError, "format must be one of saved-model, onnx"),
        ("onnx", {"min_agreement": 2.0}, SpecError, "min_agreement must lie in 0 to 1"),
        ("onnx", {"max_images": 0}, SpecError, "max_images must be a whole number, 1 or more"),
        ("onnx", {"out": "flowers.bin"}, SpecError, "must end in .onnx"),
        ("onnx", {"out": "nowhere/flowers.onnx"}, SpecError, "does not exist"),
        ("onnx", {"source": "nowhere"}, SourceError, "nowhere"),
    ],
)
def test_bad_requests(model, format, options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        quietly(model, format, **options)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("out", ["mine", None])
def test_a_folder_of_anything_else_is_not_replaced(model, tmp_path, out):
    mine = tmp_path / (out or "flowers.saved-model")
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(SpecError, match="is there and is no saved-model"):
        quietly(model, "saved-model", out=out and mine)
    assert (mine / "thesis.txt").exists()


@pytest.mark.parametrize("out", ["mine.onnx", None])
def test_a_file_of_another_model_is_replaced_only_if_asked(model, tmp_path, out):
    mine = tmp_path / (out or "flowers.onnx")
    mine.write_bytes(b"weeks of training")
    with pytest.raises(SpecError, match=r"was not exported from .*flowers\.keras.*--overwrite"):
        quietly(model, "onnx", out=out and mine)
    assert mine.read_bytes() == b"weeks of training"
    assert quietly(model, "onnx", out=out and mine, overwrite=True).agreement == 1
    assert quietly(model, "onnx", out=out and mine).hit


def test_images_without_labels_are_enough_to_compare_on(model, tmp_path):
    make_photos(tmp_path / "more", classes=("one",))
    for file in (tmp_path / "more" / "one").iterdir():
        file.rename(tmp_path / "more" / file.name)
    done = quietly(model, "onnx", source=tmp_path / "more", out=tmp_path / "m.onnx")
    assert (done.agreement, done.n_images, done.scores) == (1, 7, None)


def test_the_card_of_another_model_is_not_written_into(model):
    other = model.with_name("flowers.exports.json")
    shutil.copy(model.with_suffix(".json"), other)
    before = other.read_bytes()
    with pytest.raises(SpecError, match="the card of another model"):
        quietly(model, "onnx")
    assert other.read_bytes() == before
    for text in ('{"mine": 1}', "[1]", "mine"):
        other.write_text(text)
        with pytest.raises(SpecError, match="which says something else"):
            quietly(model, "onnx")
        assert other.read_text() == text


def test_a_folder_that_is_no_text_is_refused_where_runtimes_cannot_open_it(model, tmp_path):
    out = tmp_path / os.fsdecode(b"f\xe9") / "m.onnx"
    with pytest.raises(SpecError, match="in a folder whose name is no UTF-8"):
        quietly(model, "onnx", out=out)


def test_where_nothing_may_be_written_beside_the_model_its_figures_are_not_kept(
    model, tmp_path, read_only, capsys
):
    folder = tmp_path / "of somebody"
    folder.mkdir()
    for file in model.parent.glob("flowers.*"):
        shutil.copy(file, folder)
    read_only(folder)
    done = fc.export(folder / "flowers.keras", "onnx", out=tmp_path / "m.onnx")
    assert (done.agreement, done.path.is_file()) == (1, True)
    assert "The figures of onnx are not kept. '" in capsys.readouterr().err


def test_a_full_disk_is_not_the_fault_of_the_model(model, monkeypatch):
    def write(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writers.FORMATS, "onnx", writers.Format(".onnx", "onnx", write, (), 1e-3))
    with pytest.raises(OSError, match="No space left"):
        quietly(model, "onnx")
    assert not list(model.parent.glob("*onnx*"))


def test_what_is_not_installed_is_named(model, monkeypatch):
    find = writers.importlib.util.find_spec
    monkeypatch.setattr(
        writers.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name)
    )
    with pytest.raises(SpecError, match=r"needs tf2onnx.*pip install 'featcache\[export\]'"):
        quietly(model, "onnx")


@pytest.mark.parametrize("damage", ["truncated", "text", "foreign", "folder"])
def test_a_damaged_or_foreign_model_is_one_line(model, damage, cli):
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:1000])
    elif damage == "text":
        model.write_text("no model")
    elif damage == "folder":
        model.unlink()
        model.mkdir()
    else:
        keras = import_keras()
        inputs = keras.Input((4,))
        keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(model)
    ran = cli("export", model, "--format", "all")
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("Error: Model")
    assert not list(model.parent.glob("*.onnx"))


def test_the_command_line_prints_a_table_and_goes_on_after_a_failure(model, cli, monkeypatch):
    outputs_of = comparing.outputs_of
    monkeypatch.setattr(
        comparing,
        "outputs_of",
        lambda kind, *args: (outputs_of(kind, *args)[0][:, :: -1 if kind == "onnx" else 1], None),
    )
    ran = cli("export", model, "--format", "onnx", "--format", "openvino")
    assert ran.returncode == 1
    assert "openvino" in ran.stdout
    assert "100.0%" in ran.stdout
    assert "The export as onnx gives the same class" in ran.stderr.splitlines()[-1]
    ran = cli("export", model, "--format", "openvino,", "--json")
    said = parse_single_json(ran.stdout)
    assert said["failed"] == {}
    assert said["exports"][0]["hit"]


PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python ?(.*?)\n(.*?)```", PAGE, re.DOTALL))


def test_the_page_has_a_program_for_each_runtime():
    kinds = {one.kind for one in exporting.FORMATS.values()}
    assert set(BLOCKS) == {"", "cropped", *kinds}
    for name, one in exporting.FORMATS.items():
        assert f"`{name}`" in PAGE
        assert f"flowers{one.suffix}`" in PAGE


@pytest.mark.parametrize("size", [(90, 61), (50, 133), (31, 31)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_the_page_crops_as_the_model_was_taught(size, share, tmp_path):
    path = make_image(tmp_path / "photo.png", (90, 120, 60), 3, size)
    page = {"np": np, "Image": Image}
    exec(BLOCKS["cropped"], page)
    geometry = Geometry((28, 24), "bicubic", crop_of(share))
    found = page["load"](path, 28, 24, share=share)
    expected = image_ops.resize(np.asarray(Image.open(path), np.float32), geometry)
    np.testing.assert_allclose(found, expected, atol=2)


def run_program_of_page(kind, everything, *, then="", arguments=()):
    """Run it where featcache cannot be imported; check what it says, and return what `then` says.

    `then` is a program for the same process.
    """
    model, _ = everything
    source = sorted(fc.open_source(card.read(model).source).paths)[-1]
    shutil.copy(source, model.with_name("photo.jpg"))
    (expected,) = predict.Model(model).predict([source])
    program = f"import sys; sys.modules['featcache'] = None\n{BLOCKS['']}\n{BLOCKS[kind]}\n"
    ran = subprocess.run(
        [sys.executable, "-c", f"{program}print('END'){then}", *map(str, arguments)],
        cwd=model.parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    said, _, more = ran.stdout.rpartition("END\n")
    name, score = said.split()[-2:]
    assert name == expected.classes[0]
    assert float(score) == pytest.approx(expected.scores[0], abs=1e-3)
    return more


@pytest.mark.parametrize("kind", sorted(set(BLOCKS) - {"", "cropped", "saved-model"}))
def test_the_programs_of_the_page_say_what_the_model_says(everything, kind):
    run_program_of_page(kind, everything)


def test_both_signatures_of_a_saved_model_and_its_program_of_the_page(everything, tmp_path):
    """One process for both, since it imports TensorFlow."""
    model, done = everything
    for name, pixels in DECODED.items():
        Image.fromarray(pixels).save(tmp_path / name)
    assert done["saved-model"].encoded["agreement"] == 1.0
    assert done["saved-model"].encoded["n_images"] == 21
    assert done["saved-model"].encoded["largest_difference"] < 1e-5
    arguments = [done["saved-model"].path, *(tmp_path / name for name in DECODED)]
    more = run_program_of_page("saved-model", everything, then=BOTH_SIGNATURES, arguments=arguments)
    said = json.loads(more.splitlines()[-1])
    names = card.read(model).class_names
    assert said["label"] == said["labels"][0] == names[int(np.argmax(said["red"]))]
    np.testing.assert_allclose(said["scores"][0], said["red"], atol=1e-5)
    np.testing.assert_allclose(said["scores"][1], said["scores"][2], atol=1e-6)
    np.testing.assert_allclose(said["scores"][3], said["scores"][2], atol=1e-6)
