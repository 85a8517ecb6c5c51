from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest
from conftest import make_image
from PIL import Image

import featcache as fc
from featcache import extraction, store
from featcache.core import progress
from featcache.core.errors import SourceError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.data import levels, loading, sources
from featcache.data.sources.contents import Files
from featcache.extraction.output import OutputFile
from featcache.networks import engines
from featcache.store import part_writer


def test_overwrite_computes_everything_again(photos, extract, images_run, tmp_path):
    before = extract(photos).features.X
    shutil.copytree(photos, tmp_path / "copy")
    extract(tmp_path / "copy")  # this file could lend its rows, and must not
    images_run.clear()
    done = extract(photos, overwrite=True)
    assert sum(images_run) == done.n_computed == 21
    assert not done.hit
    np.testing.assert_array_equal(done.features.X, before)
    assert extract(photos).hit


def test_overwrite_starts_afresh_from_parts_too(photos, extract, images_run, monkeypatch):
    monkeypatch.setattr(part_writer, "PART_ROWS", 4)
    write = store.Parts.write

    def stop_after_one(self, *args):
        write(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Parts, "write", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            extract(photos)
    images_run.clear()
    assert extract(photos, overwrite=True).n_computed == 21
    assert sum(images_run) == 21


def test_the_background_is_part_of_the_numbers(tmp_path, extract):
    path = tmp_path / "p" / "a" / "clear.png"
    path.parent.mkdir(parents=True)
    Image.new("RGBA", (9, 9), (200, 0, 0, 0)).save(path)
    make_image(tmp_path / "p" / "b" / "solid.png", (9, 9, 9), 1, (9, 9))
    white, black = extract(tmp_path / "p"), extract(tmp_path / "p", background="black")
    assert white.features.fingerprint != black.features.fingerprint
    assert black.features.spec.background == "#000000"
    assert np.abs(white.features.X[0] - black.features.X[0]).max() > 1e-3
    np.testing.assert_array_equal(white.features.X[1], black.features.X[1])
    assert extract(tmp_path / "p", background="#FFF").hit


def test_images_over_the_limit_are_failures_until_it_is_raised(photos, extract, images_run):
    make_image(photos / "pear" / "large.jpg", (9, 9, 9), 1, (100, 90))
    make_image(photos / "pear" / "large.gif", (9, 9, 9), 2, (100, 90))
    few = extract(photos, max_pixels=8999)
    assert [one.id for one in few.features.failures] == ["pear/large.gif", "pear/large.jpg"]
    assert {one.reason for one in few.features.failures} == {"100 x 90 pixels are more than 8999"}
    assert extract(photos, max_pixels=8999).hit
    images_run.clear()
    all_in = extract(photos, max_pixels=9000)
    assert all_in.n_computed == sum(images_run) == 2
    assert not all_in.features.failures


def test_a_limit_beyond_pillows_own_holds(tmp_path, extract, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    path = tmp_path / "p" / "large.gif"
    path.parent.mkdir()
    Image.new("RGB", (20, 20), (9, 9, 200)).save(path)  # eight times what Pillow would allow
    assert len(extract(tmp_path / "p").features) == 1
    assert Image.MAX_IMAGE_PIXELS == 50


@pytest.mark.parametrize("name", ["a empty.jpg", "z broken.gif"])
def test_stop_at_the_first_failure(photos, extract, images_run, name):
    (photos / "pear" / name).write_bytes(b"" if "empty" in name else b"broken")
    with pytest.raises(SourceError, match=f"Image 'pear/{name}' cannot be used: .*on-error skip"):
        extract(photos, on_error="stop")
    kept = sum(images_run)
    done = extract(photos)
    assert done.n_reused == kept
    assert done.n_failed == 1
    with pytest.raises(SourceError, match="cannot be used"):  # also where all is cached
        extract(photos, on_error="stop")
    (photos / "pear" / name).unlink()
    assert not extract(photos, on_error="stop").features.failures


def test_stop_before_anything_is_computed_where_a_file_is_gone(photos, extract, images_run):
    (photos / "pear" / "link.jpg").symlink_to(photos / "nowhere")
    with pytest.raises(SourceError, match=r"link\.jpg' cannot be used: No such file"):
        extract(photos, on_error="stop")
    assert not images_run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be one of skip, stop"),
        ({"check": "time"}, "check must be one of stat, content"),
        ({"max_pixels": 0}, "max_pixels must be a whole number, 1 or more"),
        ({"background": "clear"}, "background must be a colour"),
        ({"target": "age"}, "target is an option of manifests"),
    ],
)
def test_wrong_use(photos, extract, tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        extract(photos, **options)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_vanishes_before_it_is_read_is_a_failure_and_comes_back(
    photos, extract, monkeypatch
):
    gone = photos / "apple" / "apple ü1.jpg"
    data = gone.read_bytes()
    batches = loading.batches

    def vanish_first(*args, **options):
        gone.unlink()
        yield from batches(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "batches", vanish_first)
        done = extract(photos)
    assert [one.id for one in done.features.failures] == ["apple/apple ü1.jpg"]
    assert "No such file" in done.features.failures[0].reason
    gone.write_bytes(data)
    assert extract(photos).n_computed == 1


@pytest.mark.skipif(os.name != "posix", reason="file modes are of POSIX systems")
def test_a_cache_folder_that_cannot_be_written_is_one_line(photos, tiny_backbone, tmp_path, cli):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o500)
    if os.access(cache, os.W_OK):
        cache.rmdir()  # root may write everywhere but where no folder can be
        cache.write_text("a file")
    ran = cli("extract", photos, "--weights", tiny_backbone, "--cache-dir", cache)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") <= 2
    assert str(cache) in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_disk_that_is_full_keeps_the_parts_and_resumes(photos, extract, monkeypatch, images_run):
    monkeypatch.setattr(part_writer, "PART_ROWS", 4)
    fallocate = os.posix_fallocate
    written = []

    def full_after_three(handle, offset, size_bytes):
        written.append(1)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        fallocate(handle, offset, size_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full_after_three)
        with pytest.raises(OSError, match="No space left"):
            extract(photos)
    assert not list(photos.parent.glob("cache/**/*.tmp*"))
    done = extract(photos)
    assert done.n_reused == 12
    assert done.n_computed == 9


def test_ten_thousand_images_are_walked_without_tensorflow(tmp_path, monkeypatch, extract):
    """Also that nothing is read again: reading one would raise."""
    root = tmp_path / "p"
    for number in range(40):
        path = make_image(root / f"{number % 4}" / f"{number}.png", (9, 9, 9), number, (9, 9))
        os.utime(path, (1_000_000, 1_000_000 + number))
    extract(root)
    monkeypatch.setattr(engines, "compile_frozen", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(Files, "get", lambda self, row: pytest.fail("it was read"))
    assert extract(root).hit


def test_the_runtime_is_not_part_of_the_numbers(photos, extract, images_run):
    one = extract(photos, runtime="openvino")
    assert one.features.provenance["runtime"].startswith("inline")  # as the counter wraps it
    make_image(photos / "pear" / "new.png", (1, 2, 3), 902, (30, 30))
    other = extract(photos, runtime="tensorflow")
    assert (other.n_computed, other.n_reused) == (1, 21)
    assert other.features.fingerprint == one.features.fingerprint


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_the_run_is_compared_with_keras_and_says_so(photos, extract, capsys, name):
    features = extract(photos, runtime=name, cache_dir=photos.parent / name).features
    provenance = features.provenance
    assert provenance["runtime"].startswith(f"{name} on CPU")
    assert 0 <= provenance["difference_to_keras"] < 1e-4
    assert provenance["cosine_to_keras"] == pytest.approx(1)
    assert "Warning" not in capsys.readouterr().err


def test_lower_precision_is_another_fingerprint_and_its_distance_is_said(
    photos, extract, images_run, capsys
):
    exact = extract(photos)
    lower = extract(photos, precision="bfloat16", runtime="tensorflow")
    assert lower.n_computed == 21
    assert lower.features.fingerprint != exact.features.fingerprint


def test_how_near_bfloat16_comes(photos, extract, capsys):
    features = extract(photos, precision="bfloat16", runtime="tensorflow").features
    message = capsys.readouterr().err
    assert message.startswith("bfloat16 by tensorflow: cosine similarity to float32 ")
    assert 0.99 < features.provenance["cosine_to_keras"] < 1


def test_a_runtime_that_is_wrong_is_left_for_tensorflow(photos, extract, monkeypatch, capsys):
    right = extract(photos, cache_dir=photos.parent / "right").features
    compile_frozen = engines.compile_frozen

    class Wrong(engines.Compiled):
        name, where = "openvino", "CPU"

        def __init__(self, inner):
            self.inner = inner

        def start(self, images):
            outputs = tuple(1.01 * one for one in self.inner(images))
            return lambda: outputs

    monkeypatch.setattr(engines, "compile_frozen", lambda *a, **o: Wrong(compile_frozen(*a, **o)))
    features = extract(photos).features
    np.testing.assert_allclose(features.X, right.X, rtol=1e-4, atol=1e-5)
    assert features.provenance["runtime"] == "tensorflow on CPU"
    assert "Warning: openvino gives other numbers than Keras here" in capsys.readouterr().err


def test_progress_says_what_is_waited_for(photos, extract, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    done = extract(photos, show_progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "Extracting" in line]
    assert lines
    assert all("bound by decoding" in line or "bound by the backbone" in line for line in lines)
    assert set(done.waited_s) == {"decoding", "backbone"}
    assert 0 <= done.waited_s["decoding"] + done.waited_s["backbone"] <= done.computing_s + 0.01
    assert done.computing_s < done.seconds


def test_a_keras_model_from_python_is_a_backbone(photos, tiny_backbone, tmp_path):
    model = import_keras().models.load_model(tiny_backbone, compile=False)
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    done = extraction.run(photos, model, **options)
    assert done.n_computed == 21
    assert extraction.run(photos, backbone=model, **options).hit
    named = extraction.run(photos, weights=str(tiny_backbone), **options).features
    np.testing.assert_allclose(done.features.X, named.X, rtol=1e-4, atol=1e-5)
    (features,) = fc.extract_all(photos, [model], **options)
    assert features.path == done.features.path
    tapped = fc.extract(photos, model, layer="relu_1", **options)
    assert tapped.shape == (21, 8)


def test_an_option_that_is_misspelt(photos):
    with pytest.raises(SpecError, match=r"extract knows no option 'poolin'.*mean pooling\?"):
        fc.extract(photos, poolin="max")


@pytest.mark.parametrize("name", ["backbone", "layer"])
@pytest.mark.parametrize("value", [5, {"relu_1"}, ["relu_1", "relu_2"], iter(["relu_1"])])
def test_one_file_is_of_one_name(photos, name, value):
    with pytest.raises(SpecError, match=f"{name} must be one name; got .*use extract_all"):
        fc.extract(photos, **{name: value})


def test_stopping_keeps_the_rows_of_every_file(photos, extract, tiny_backbone, tmp_path):
    (photos / "pear" / "pear ü3.jpg").write_bytes(b"")
    options = {"weights": str(tiny_backbone), "cache_dir": tmp_path / "cache", "batch_size": 4}
    options |= {"layer": ["relu_1", "relu_2"], "show_progress": False}
    with pytest.raises(SourceError, match="pear ü3"):
        extraction.run_all(photos, on_error="stop", **options)
    first, second = extraction.run_all(photos, **options)
    assert first.n_computed == second.n_computed < 20


def write_deep(root, values, suffix="tif"):
    """Write images of one channel, (n, height, width) of any type, in two classes."""
    for number, one in enumerate(values):
        path = root / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path)
    return root


GREY = np.random.default_rng(0).integers(0, 256, (4, 20, 30))


def test_floats_of_0_to_1_are_the_pictures_that_viewers_show(tmp_path, extract):
    floats = extract(write_deep(tmp_path / "f", (GREY / 255).astype(np.float32)))
    eight = extract(write_deep(tmp_path / "e", GREY.astype(np.uint8), "png"))
    assert (floats.n_failed, floats.n_same) == (0, 0)
    np.testing.assert_array_equal(floats.features.X, eight.features.X)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_range_that_nobody_says_is_a_failure_until_it_is_declared(tmp_path, extract, dtype):
    root = write_deep(tmp_path / "p", GREY.astype(dtype))
    make_image(root / "a" / "photo.jpg", (9, 9, 9), 1, (30, 20))
    unsaid = extract(root)
    assert (unsaid.features.ids, unsaid.n_failed) == (("a/photo.jpg",), 4)
    assert "--value-range LOW HIGH" in unsaid.features.failures[0].reason
    said = extract(root, value_range=(0, 255))
    eight = extract(write_deep(tmp_path / "e", GREY.astype(np.uint8), "png"))
    np.testing.assert_array_equal(said.features.X[[0, 1, 3, 4]], eight.features.X)
    assert said.features.spec.value_range == (0.0, 255.0)
    assert extract(root, value_range=[0.0, 255.0]).hit


def test_twelve_bits_in_sixteen_are_dark_and_said_so(tmp_path, extract, cli, tiny_backbone):
    root = write_deep(tmp_path / "p", (GREY * 16).astype(np.uint16))
    make_image(root / "a" / "black.gif", (0, 0, 0), 1, (1, 1))  # of 8 bits
    ran = cli("extract", root, "--weights", tiny_backbone)
    assert "dark: 4 image(s) of more than 8 bits" in ran.stderr
    assert "--value-range 0 4095" in ran.stderr
    assert extract(root, value_range=(0, 4095)).n_dark == 0


def test_rows_of_black_pictures_of_floats_are_not_taken_for_theirs(tmp_path, extract, monkeypatch):
    """As from a version before: under the digest of the bytes, and it did not say which it was."""
    root = write_deep(tmp_path / "p", (GREY / 255).astype(np.float32))
    write_deep(root, GREY.astype(np.uint8), "png")
    for path in root.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    provenance = OutputFile.provenance

    def of_before(self):
        return {name: one for name, one in provenance(self).items() if name != "featcache"}

    with monkeypatch.context() as patch:
        patch.setattr(OutputFile, "provenance", of_before)
        patch.setattr(levels, "was_misread", lambda data: False)
        patch.setattr(levels.Samples, "pixels", lambda *_: np.zeros((20, 30, 3), np.uint8))
        before = extract(root)
    assert (before.n_same, before.features.provenance.get("featcache")) == (4, None)
    after = extract(root)
    assert (after.hit, after.n_computed, after.n_reused, after.n_same) == (False, 4, 4, 8)
    np.testing.assert_array_equal(after.features.X[::2], after.features.X[1::2])
    monkeypatch.setattr(sources.Source, "get", None)
    assert extract(root).hit  # by stamps alone


def test_images_with_the_same_features_are_counted(tmp_path, extract, cli):
    keras = import_keras()
    inputs = keras.Input((32, 32, 3))
    every = keras.layers.Rescaling(0.0, 1.5)(keras.layers.Conv2D(5, 3)(inputs))
    keras.Model(inputs, every, name="same").save(tmp_path / "same.keras")
    root = write_deep(tmp_path / "p", GREY.astype(np.uint8), "png")
    shutil.copy(root / "a" / "0.png", root / "a" / "copy.png")
    ran = cli("extract", root, "--weights", tmp_path / "same.keras")
    assert "All 5 images have the very features of another image" in ran.stdout
    shutil.copy(root / "a" / "0.png", root / "a" / "0 again.png")
    Image.open(root / "a" / "0.png").save(root / "a" / "0.bmp")
    assert extract(root).n_same == 4  # the picture as PNG three times, and as BMP
    assert extract(root).n_same == 4  # a hit, too
