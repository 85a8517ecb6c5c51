from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image
from PIL import Image

import featcache as fc
from featcache.core.errors import SourceError, SpecError
from featcache.core.tensorflow import import_keras, import_tensorflow
from featcache.data import decoding, openers

RNG = np.random.default_rng(0)
ARRAYS = RNG.integers(0, 256, (9, 20, 30, 3)).astype(np.uint8)
LABELS = np.arange(9) % 3


def test_arrays_with_labels(extract):
    source = fc.open_source(ARRAYS, labels=LABELS, class_names=["a", "b", "c"], name="mine")
    done = extract(source)
    features = done.features
    assert features.ids == tuple("012345678")
    assert features.labels.tolist() == LABELS.tolist()
    assert features.class_names == ("a", "b", "c")
    assert features.path.parent.name == "mine"
    assert extract(source).hit
    # the same images elsewhere, in another order: nothing is computed
    turned = extract(fc.open_source(ARRAYS[::-1].copy()))
    assert turned.n_computed == 0
    np.testing.assert_array_equal(turned.features.X, features.X[::-1])


def test_every_kind_of_images_gives_the_same_rows(extract, tmp_path):
    tf = import_tensorflow()
    paths = []
    for number, pixels in enumerate(ARRAYS):
        paths.append(tmp_path / "p" / f"{number}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(paths[-1])
    dataset = tf.data.Dataset.from_tensor_slices((ARRAYS, LABELS))
    kinds = {
        "array": ARRAYS,
        "arrays": list(ARRAYS),
        "pictures": [Image.fromarray(pixels) for pixels in ARRAYS],
        "files": paths,
        "dataset": dataset,
        "batched": dataset.batch(4),
        "floats": dataset.map(lambda image, label: (tf.cast(image, tf.float32), label)).batch(4),
        "no labels": dataset.map(lambda image, label: image),
    }
    rows = {}
    for name, what in kinds.items():
        done = extract(what, cache_dir=tmp_path / f"cache of {name}")
        assert done.n_computed == 9, name
        assert done.features.annotations.is_known.all() == (
            name in ("dataset", "batched", "floats")
        )
        rows[name] = done.features.X
        assert extract(what, cache_dir=tmp_path / f"cache of {name}").hit, name
    for name, X in rows.items():
        np.testing.assert_allclose(X, rows["array"], rtol=1e-5, atol=1e-5, err_msg=name)


def test_pictures_in_memory_are_seen_as_files_are(extract, tmp_path):
    layer = Image.fromarray(np.dstack([ARRAYS[0], np.full((20, 30), 90, np.uint8)]))
    turned = Image.fromarray(ARRAYS[1])
    turned.getexif()[0x0112] = 6
    palette = Image.fromarray(ARRAYS[2]).convert("P")
    files = []
    for number, (image, options) in enumerate(
        [(layer, {}), (turned, {"exif": turned.getexif()}), (palette, {})]
    ):
        files.append(tmp_path / f"{number}.png")
        image.save(files[-1], **options)
    from_files = extract(files, cache_dir=tmp_path / "a").features.X
    from_memory = extract([layer, turned, palette], cache_dir=tmp_path / "b").features.X
    np.testing.assert_allclose(from_memory, from_files, rtol=1e-5, atol=1e-5)


def test_the_background_lies_under_arrays_with_four_channels(extract):
    clear = np.zeros((1, 8, 8, 4), np.uint8)
    white, black = (extract(clear, background=colour).features.X for colour in ("white", "#000000"))
    solid = np.stack([np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)])
    np.testing.assert_allclose(np.vstack([white, black]), extract(solid).features.X, rtol=1e-5)


def test_given_ids_sort_everything(extract):
    source = fc.open_source(ARRAYS[:3], ids=["c", "a", "b"], labels=["x", "y", "x"])
    assert source.ids == ("a", "b", "c")
    assert source.labels.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(source.get(0), ARRAYS[1])
    features = extract(source).features
    straight = extract(ARRAYS[:3]).features
    np.testing.assert_array_equal(features.X, straight.X[[1, 2, 0]])


def test_lists_of_paths(photos, extract):
    paths = sorted(photos.rglob("*.jpg"))
    source = fc.open_source(paths, labels=[path.parent.name for path in paths])
    assert source.ids == tuple(sorted(path.relative_to(photos).as_posix() for path in paths))
    assert source.class_names == ("apple", "pear", "quince")
    first = extract(source)
    assert first.features.path.parent.name.startswith("my photos-list-")
    whole = extract(photos)
    assert whole.n_reused == len(paths)
    assert extract(source).hit
    missing = extract([*paths, photos / "gone.jpg"])
    assert [failure.id for failure in missing.features.failures] == ["gone.jpg"]


@pytest.mark.parametrize(
    ("labels", "expected", "names", "task"),
    [
        ([2, 0, -1], [1, 0, -1], ("0", "2"), "classification"),
        (["b", "a", None], [1, 0, -1], ("a", "b"), "classification"),
        (np.eye(3), [0, 1, 2], ("0", "1", "2"), "classification"),
        ([[1, 1], [0, 1], [0, 0]], [[1, 1], [0, 1], [0, 0]], ("0", "1"), "multi-label"),
        ([["b"], ["a", "b"], []], [[0, 1], [1, 1], [0, 0]], ("a", "b"), "multi-label"),
    ],
)
def test_labels_of_every_kind(labels, expected, names, task):
    about = fc.open_source(ARRAYS[:3], labels=labels).annotations
    assert about.labels.tolist() == expected
    assert about.class_names == names
    assert about.task == task


def test_targets(extract):
    source = fc.open_source(ARRAYS, targets=np.arange(18).reshape(9, 2), splits=["train"] * 9)
    features = extract(source).features
    assert features.task == "regression"
    assert features.arrays()[1].shape == (9, 2)
    assert features.annotations.target_names == ("target_0", "target_1")


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        ([], {}, "sequence is empty"),
        (ARRAYS[0], {}, r"must be \(n, height, width, 3\); got \(20, 30, 3\)"),
        (ARRAYS[..., :1], {}, r"Image 0 must be \(height, width, 3\); got \(20, 30, 1\)"),
        (ARRAYS / 255, {}, "must be uint8, 0 to 255; got float64"),
        ([ARRAYS[0], ARRAYS[1].astype(int)], {}, "Image 1 must be uint8"),
        (ARRAYS, {"labels": [0, 1]}, "labels has 2 entries for 9 images"),
        (ARRAYS, {"ids": ["a"] * 9}, "Two images have the id 'a': row 0 and row 1"),
        (ARRAYS, {"ids": ["a"]}, "ids has 1 entries"),
        (ARRAYS, {"splits": ["dev"] * 9}, "split in row 0 must be"),
        (ARRAYS, {"labels": np.linspace(0, 1, 9)}, "Numbers to predict are targets"),
        (ARRAYS, {"labels": LABELS, "class_names": ["a"]}, "class 2, but 1 class_names"),
        (ARRAYS, {"labels": ["x"] * 9, "class_names": ["a"]}, "'x' in row 0 is none of"),
        (ARRAYS, {"targets": [[1]] * 9, "target_names": ["a", "b"]}, "2 names for 1 target"),
        (ARRAYS, {"name": "a/b"}, "name becomes a folder's name"),
        (ARRAYS, {"name": "\ud800"}, "name becomes a folder's name"),
        (ARRAYS, {"labels": LABELS % 2, "class_names": ["a", ""]}, "has an empty name"),
        (ARRAYS, {"labels": LABELS[:, None] % 2}, "without their second dimension"),
        (ARRAYS, {"targets": [[1, 2]] * 9, "target_names": ["a", "a"]}, "'a' is there twice"),
        (["a.png", ARRAYS[0]], {}, "image 0 is of the paths, image 1 of the arrays"),
        ([ARRAYS[0], Image.fromarray(ARRAYS[0])], {}, "image 1 of the pictures"),
        ([Image.new("RGB", (0, 5))], {}, r"Image 0 has no pixels, \(0, 5\)"),
        (ARRAYS, {"label": LABELS}, "knows no 'label'; it knows labels"),
        ("example:digits", {"labels": LABELS}, "says itself what is known"),
        (7, {}, "an array or a tf.data.Dataset; got 7"),
    ],
)
def test_what_is_wrong_is_said(images, given, message):
    with pytest.raises((SourceError, SpecError), match=message) as caught:
        fc.open_source(images, **given)
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(ARRAYS[0]).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with Image.open(path) as image, pytest.raises(SourceError, match="Image 1 cannot be read"):
        fc.open_source([Image.fromarray(ARRAYS[0]), image])


def test_a_dataset_that_shuffles_is_refused():
    tf = import_tensorflow()
    dataset = tf.data.Dataset.from_tensor_slices(ARRAYS).shuffle(9, seed=1)
    with pytest.raises(SourceError, match=r"gives other images each time.*shuffle=False"):
        fc.open_source(dataset)


def test_a_dataset_that_changes_later_fails_by_row(extract):
    tf = import_tensorflow()
    calls = []

    def images():
        calls.append(1)
        for number, image in enumerate(ARRAYS):
            yield ARRAYS[0] if number == 5 and len(calls) > 1 else image

    dataset = tf.data.Dataset.from_generator(
        images, output_signature=tf.TensorSpec((20, 30, 3), tf.uint8)
    )
    features = extract(dataset).features
    assert [failure.id for failure in features.failures] == ["5"]
    assert "gave another image this time" in features.failures[0].reason
    # that says nothing about the image itself, which gets another chance
    calls[:] = []
    assert not extract(dataset).hit


def test_one_dimension_of_objects_is_a_list(photos):
    paths = sorted(photos.rglob("*.*"))
    assert fc.open_source(np.array(list(map(str, paths)))).ids == fc.open_source(paths).ids
    arrays = np.empty(9, object)
    arrays[:] = list(ARRAYS)
    np.testing.assert_array_equal(fc.open_source(arrays).digests, fc.open_source(ARRAYS).digests)


def test_names_that_no_file_holds_are_escaped(extract):
    labels = ["\ud800x" if row % 2 else "y" for row in range(9)]
    assert extract(fc.open_source(ARRAYS, labels=labels)).features.class_names == ("\\ud800x", "y")


def test_a_black_image_among_floats_is_an_image():
    tf = import_tensorflow()
    floats = ARRAYS.astype(np.float32)
    floats[4] = 0
    assert len(fc.open_source(tf.data.Dataset.from_tensor_slices(floats))) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda tf: tf.data.Dataset.from_tensor_slices(ARRAYS / 255),
            "values 0 to 255; got float32 from 0",
        ),
        (lambda tf: tf.data.Dataset.from_tensor_slices(ARRAYS[:, :0]), "must have pixels"),
        (lambda tf: tf.data.Dataset.range(3), "must give images"),
        (lambda tf: tf.data.Dataset.from_tensor_slices(ARRAYS).take(0), "is empty"),
    ],
)
def test_datasets_of_something_else(make, message):
    with pytest.raises(SourceError, match=message):
        fc.open_source(make(import_tensorflow()))


def test_keras_own_dataset_brings_its_class_names(photos, extract):
    keras = import_keras()
    dataset = keras.utils.image_dataset_from_directory(
        photos, image_size=(32, 32), shuffle=False, batch_size=4, verbose=False
    )
    features = extract(dataset).features
    assert features.class_names == ("apple", "pear", "quince")
    assert features.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7


def test_images_from_memory_cannot_be_opened_again_by_name(extract):
    features = extract(ARRAYS).features
    with pytest.raises(SourceError, match="were given from Python; give them again"):
        openers.reopen(features.provenance)
    assert openers.reopen(features.provenance, ARRAYS).ids == features.ids


def test_colours():
    assert decoding.colour("white") == "#ffffff"
    assert decoding.colour("Black") == "#000000"
    assert decoding.colour("rgb(1, 2, 3)") == "#010203"
    for text in ("", "hellgrün", "#12"):
        with pytest.raises(SpecError, match="background must be a colour"):
            decoding.colour(text)


def test_a_source_is_returned_as_it_is(photos):
    source = fc.open_source(photos)
    assert fc.open_source(source) is source
    assert isinstance(source, fc.Source)
    assert Path(source.origin) == photos


def test_threads_that_share_a_pillow_image_load_it_one_after_the_other(tmp_path):
    paths = [make_image(tmp_path / f"{n}.png", (9, 90, 9), n, (60, 60)) for n in range(20)]
    images = [Image.open(path) for path in paths]

    def digests(_):
        return openers.open_source(images).digests

    with ThreadPoolExecutor(8) as pool:
        every = list(pool.map(digests, range(8)))
    assert all(np.array_equal(one, every[0]) for one in every)
