from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
from conftest import Inline, make_image
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import featcache as fc
from featcache import extraction, store
from featcache.core.errors import SourceError, SpecError, StoreError
from featcache.extraction.embedder import Embedder
from featcache.networks import engines
from featcache.store import index

# scikit-learn's checks of how tables of numbers are refused, which images are not; whatever else it
# checks must pass, with an image made of each row (see OfTables)
CHECKS_THAT_FEED_NO_IMAGES = {
    "check_complex_data": "pixels are uint8, and no others get this far",
    "check_estimators_empty_data_messages": "wants a ValueError; no images are a SourceError",
    "check_estimators_nan_inf": "a uint8 is never NaN or infinite",
    "check_estimator_sparse_tag": "wants the words for sparse tables; images are never sparse",
    "check_estimator_sparse_array": "wants the words for sparse tables; images are never sparse",
    "check_estimator_sparse_matrix": "wants the words for sparse tables; images are never sparse",
    "check_n_features_in": "counts the columns of a table; an image has height * width * 3 values",
    "check_n_features_in_after_fitting": "wants an error for images of another size; any will do",
    "check_fit1d": "wants an error for a 1-d X; that is a list of paths",
    "check_fit2d_predict1d": "wants an error for a 1-d X; that is a list of paths",
}


@pytest.fixture
def make(tiny_backbone, tmp_path):
    """`Embedder` with the tiny backbone and a cache folder of the test's own."""

    def make(**options):
        settings = {"weights": str(tiny_backbone), "cache_dir": tmp_path / "cache"}
        return Embedder(**(settings | {"batch_size": 4} | options))

    return make


@pytest.fixture
def paths(photos):
    """21 paths in an order that no source has."""
    found = sorted(photos.rglob("*.*"))
    return [found[row] for row in np.random.default_rng(1).permutation(len(found))]


@pytest.fixture
def labels(paths):
    return [path.parent.name for path in paths]


def by_path(extract, photos, tmp_path):
    """Features of an extraction into another cache folder, by path."""
    features = extract(photos, cache_dir=tmp_path / "another").features
    return {photos / id_: row for id_, row in zip(features.ids, features.X, strict=True)}


def h5_files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.h5"))


def test_rows_are_in_the_given_order_with_copies(make, extract, photos, paths, tmp_path):
    expected = by_path(extract, photos, tmp_path)
    copy = tmp_path / "elsewhere" / "copy.jpg"
    copy.parent.mkdir()
    copy.write_bytes(paths[3].read_bytes())
    given = [*paths, paths[0], os.fspath(paths[5]), copy, os.path.relpath(paths[2])]
    features = make().fit_transform(given)
    assert features.dtype == np.float32
    wanted = [*paths, paths[0], paths[5], paths[3], paths[2]]
    np.testing.assert_allclose(features, [expected[path] for path in wanted], rtol=1e-5, atol=1e-6)
    for same, row in ((21, 0), (22, 5), (23, 3), (24, 2)):
        np.testing.assert_array_equal(features[same], features[row])
    one = make().transform([paths[7]])
    np.testing.assert_array_equal(one, features[[7]])


def test_nothing_runs_twice(make, paths, images_run, tmp_path):
    features = make().fit_transform(paths)
    assert sum(images_run) == 21
    images_run.clear()
    rng = np.random.default_rng(0)
    (file,) = h5_files(tmp_path)
    written = file.stat().st_mtime_ns
    for _ in range(5):
        some = rng.choice(21, 8)
        subset = make().fit(paths).transform([paths[row] for row in some])
        np.testing.assert_array_equal(subset, features[some])
    np.testing.assert_array_equal(make().transform(paths), features)
    assert images_run == []
    assert h5_files(tmp_path) == [file]
    assert file.stat().st_mtime_ns == written, "what is there is only read"


def test_the_file_grows_and_keeps_its_rows(make, paths, images_run, tmp_path):
    first = make().transform(paths[:8])
    make().transform(paths[6:15])
    last = make().transform(paths[12:])
    assert sum(images_run) == 21
    (file,) = h5_files(tmp_path)
    features = store.Features(file)
    assert len(features) == 21
    assert list(features.ids) == [digest.tobytes().hex() for digest in features.digests]
    assert list(features.ids) == sorted(features.ids)
    assert not store.verify(features)
    whole = make().transform(paths)
    np.testing.assert_array_equal(whole[:8], first)
    np.testing.assert_array_equal(whole[12:], last)
    assert sum(images_run) == 21
    assert {path.name for path in file.parent.iterdir()} == {file.name, "source.json"}


def test_rows_of_other_feature_files_are_used(make, extract, photos, paths, images_run, tmp_path):
    extract(photos)
    images_run.clear()
    make().transform(paths)
    assert images_run == []
    assert not (tmp_path / "cache" / "embedder").exists()


def test_other_files_use_its_rows(make, extract, photos, paths, images_run):
    make().transform(paths)
    images_run.clear()
    assert extract(photos).n_reused == 21
    assert images_run == []


def test_folder_of_that_name_is_not_touched(make, extract, photos, paths, tmp_path):
    photos = photos.rename(photos.with_name("embedder"))
    paths = [photos / path.relative_to(path.parents[1]) for path in paths]
    extract(photos, pooling="max")
    make().transform(paths)
    extract(fc.open_source([Image.open(path) for path in paths[:4]], name="embedder"))
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").glob("embedder*"))
    assert names == ["embedder"] * 3
    assert [len(store.Features(file)) for file in h5_files(tmp_path)].count(21) == 2


def pixels(paths):
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


class Series:
    """What matters of a pandas Series after rows were left out: numbers are names, not places."""

    def __init__(self, values):
        self.values, self.shape = values, (len(values),)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, name):
        raise KeyError(name)


def test_images_of_every_kind(make, paths):
    arrays = pixels(paths)
    square = np.stack([np.asarray(Image.fromarray(array).resize((24, 24))) for array in arrays])
    objects = np.empty(21, object)
    objects[:] = arrays
    as_paths = [
        paths,
        [os.fspath(path) for path in paths],
        tuple(paths),
        np.array(paths, dtype=object),
        np.array([os.fspath(path) for path in paths]),
        Series(paths),
    ]
    as_pixels = [arrays, objects, [Image.fromarray(array) for array in arrays]]
    for kinds in (as_paths, as_pixels):
        first, *others = [make().fit_transform(kind) for kind in kinds]
        for other in others:
            np.testing.assert_array_equal(other, first)
    stacked = make().fit_transform(square)
    np.testing.assert_array_equal(make().transform(list(square)), stacked)
    np.testing.assert_array_equal(make().transform(square[[3, 3, 1]]), stacked[[3, 3, 1]])


def test_fit_learns_the_size_of_arrays_alone(make, paths):
    square = np.zeros((2, 8, 8, 3), np.uint8)
    transformer = make().fit(square)
    assert transformer.n_features_in_ == 192
    assert not hasattr(transformer.fit(paths), "n_features_in_")


def test_pandas_and_names(make, paths):
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(paths)[5:]
    table = make().set_output(transform="pandas").fit_transform(series)
    assert list(table.columns[:2]) == ["embedder0", "embedder1"]
    np.testing.assert_array_equal(table.to_numpy(), make().transform(paths[5:]))


def test_names_of_features(make, paths, tmp_path):
    expected = [f"embedder{i}" for i in range(12)]
    built = make().get_feature_names_out()
    assert built.dtype == object
    assert list(built) == expected
    assert not h5_files(tmp_path)
    transformer = make().set_output(transform="default")
    assert transformer.fit_transform(paths).shape == (21, 12)
    assert list(transformer.get_feature_names_out()) == expected
    assert list(make_pipeline(make()).get_feature_names_out(["image"])) == expected


def search(make, **options):
    pipeline = make_pipeline(make(), LogisticRegression())
    grid = {"embedder__pooling": ["avg", "max"], "logisticregression__C": [0.01, 1.0, 100.0]}
    return GridSearchCV(pipeline, grid, cv=3, error_score="raise", **options)


def test_grid_search_runs_each_image_once_a_pooling(make, paths, labels, images_run, tmp_path):
    found = search(make).fit(paths, labels)
    assert sum(images_run) == 2 * 21
    assert [len(store.Features(file)) for file in h5_files(tmp_path)] == [21, 21]
    images_run.clear()
    assert found.score(paths, labels) > 0.9
    assert len(cross_val_score(make_pipeline(make(), LogisticRegression()), paths, labels)) == 5
    assert images_run == []


def test_grid_search_in_two_threads(make, paths, labels, images_run, tmp_path):
    with joblib.parallel_backend("threading", n_jobs=2):
        search(make, n_jobs=2).fit(paths, labels)
    assert sum(images_run) == 2 * 21
    assert [len(store.Features(file)) for file in h5_files(tmp_path)] == [21, 21]


def test_grid_search_in_two_processes(make, paths, labels, images_run, tmp_path):
    found = search(make, n_jobs=2).fit(paths, labels)
    files = h5_files(tmp_path)
    assert [len(store.Features(file)) for file in files] == [21, 21]
    assert not any(store.verify(store.Features(file)) for file in files)
    images_run.clear()
    again = search(make).fit(paths, labels)
    assert images_run == []
    assert found.best_params_ == again.best_params_
    for name in ("mean_test_score", "split0_test_score", "split2_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], again.cv_results_[name])


def test_a_file_replaced_while_it_is_read_is_read_again(make, paths, monkeypatch):
    expected = make().transform(paths[:9])
    read = store.Rows.read
    replaced = []

    def slow(rows, numbers):
        if not replaced:
            replaced.append(True)
            make().transform(paths)  # shifts the rows
        return read(rows, numbers)

    monkeypatch.setattr(store.Rows, "read", slow)
    np.testing.assert_array_equal(make().transform(paths[:9]), expected)
    assert replaced


def test_a_lender_that_shrinks_while_it_is_read(make, extract, photos, paths, monkeypatch):
    extract(photos)
    expected = make().transform(paths)
    read = store.Rows.read
    replaced = []

    def slow(rows, numbers):
        if not replaced:
            replaced.append(True)
            for path in paths[:15]:
                path.rename(path.with_suffix(".gone"))
            extract(photos)
            for path in paths[:15]:
                path.with_suffix(".gone").rename(path)
        return read(rows, numbers)

    monkeypatch.setattr(store.Rows, "read", slow)
    np.testing.assert_allclose(make().transform(paths), expected, rtol=1e-5, atol=1e-6)
    assert replaced


def test_rows_that_change_for_ever(make, paths, monkeypatch):
    make().transform(paths)
    changes = iter(range(10_000))
    monkeypatch.setattr(index, "file_state", lambda path: next(changes))
    with pytest.raises(StoreError, match=r"21 images changed in .* 100 times"):
        make().transform(paths)


def test_damaged_rows_are_computed_again(make, paths, images_run, tmp_path):
    import h5py

    expected = make().transform(paths)
    (path,) = h5_files(tmp_path)
    with h5py.File(path, "r") as file:
        place = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 40] ^= 0xFF
    path.write_bytes(data)
    images_run.clear()
    np.testing.assert_allclose(make().transform(paths), expected, rtol=1e-5, atol=1e-6)
    assert sum(images_run) == 21
    assert not store.verify(store.Features(path))


def test_whole_rows_of_a_damaged_file_are_kept(make, paths, images_run, tmp_path, monkeypatch):
    import h5py

    from featcache.store import hdf5

    monkeypatch.setattr(hdf5, "CHUNK_ROWS", 5)
    make().transform(paths)
    (path,) = h5_files(tmp_path)
    with h5py.File(path, "r") as file:
        place = file["features"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 40] ^= 0xFF
    path.write_bytes(data)
    images_run.clear()
    make().transform(paths)
    assert sum(images_run) == 5
    assert len(store.Features(path)) == 21
    make().transform(paths[::-1])
    assert sum(images_run) == 5


def test_what_was_computed_before_a_crash_is_taken_up(make, paths, images_run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make().transform(paths[:9])
    assert sum(images_run) == 9
    make().transform(paths)
    assert sum(images_run) == 21


def test_an_image_that_cannot_be_read_is_named(make, paths, images_run, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(paths[0].read_bytes()[:200])
    given = [*paths[:5], broken, *paths[5:]]
    with pytest.raises(SourceError, match=r"^Image 5 of X '.*broken.jpg' cannot be used: .+") as no:
        make().fit(given).transform(given)
    assert "\n" not in str(no.value)
    assert sum(images_run) == 21, "the others are kept"
    make().transform(paths)
    assert sum(images_run) == 21
    with pytest.raises(SourceError, match=r"Image 1 of X .*gone\.png. cannot be used: No such"):
        make().transform([paths[0], tmp_path / "gone.png"])
    with pytest.raises(SourceError, match=r"Image 0 of X '.*broken\.jpg' cannot be used"):
        make().transform([broken])
    make_image(broken, (1, 2, 3), 5, (30, 30))
    assert make().transform(given).shape == (22, 12)


def test_a_failure_of_the_features_is_named(make, paths, images_run, monkeypatch):
    compile_frozen = engines.compile_frozen

    def compiled(*arguments, **options):
        run = compile_frozen(*arguments, **options)
        return Inline(lambda images: [output * np.nan for output in run.start(images)()])

    monkeypatch.setattr(engines, "compile_frozen", compiled)
    with pytest.raises(SourceError, match=r"Image 0 of X cannot be used: .*not finite in float16"):
        make(dtype="float16").transform(pixels(paths))
    with pytest.raises(SourceError, match=r"Image 0 of X '.*' cannot be used: .* pixels"):
        make(max_pixels=10).transform(paths)


def test_a_file_that_changes_is_read_again(make, photos, paths, images_run):
    old = 1_500_000_000
    for path in paths:
        os.utime(path, (old, old))
    before = make().transform(paths)
    paths[4].write_bytes(paths[9].read_bytes())
    os.utime(paths[4], (old + 5, old + 5))
    after = make().transform(paths)
    np.testing.assert_array_equal(after[4], before[9])
    np.testing.assert_array_equal(np.delete(after, 4, 0), np.delete(before, 4, 0))
    paths[9].write_bytes(bytes(reversed(paths[9].read_bytes())))
    os.utime(paths[9], (old, old))
    with pytest.raises(SourceError, match="Image 9 of X"):
        make().transform(paths)
    assert sum(images_run) == 21


def test_a_file_written_just_now_is_not_trusted(make, tmp_path):
    path = make_image(tmp_path / "new.bmp", (200, 10, 10), 1, (30, 30))
    before, stamp = make().transform([path]), path.stat()
    make_image(path, (10, 10, 200), 2, (30, 30))
    os.utime(path, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert not np.array_equal(make().transform([path]), before)


def test_unchanged_files_are_not_read_again(make, paths, monkeypatch):
    from featcache.data.sources.contents import Files

    for path in paths:
        os.utime(path, (1_500_000_000, 1_500_000_000))
    make().transform(paths)
    monkeypatch.setattr(Files, "get", lambda self, row: pytest.fail("it was read"))
    make().transform(paths)
    clone(make()).transform(paths[3:8])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "X has no images"),
        (np.zeros((0, 8, 8, 3), np.uint8), "X has no images"),
        ("a.jpg", r"must be a list of paths or images.*got str\. Put one image into a list"),
        (7, "got int"),
        (np.zeros((4, 3)), r"got ndarray of shape \(4, 3\)\..* of a table give one"),
        (np.zeros((8, 8, 3), np.uint8), r"got ndarray of shape \(8, 8, 3\)"),
        (["a.jpg", None], "Image 1 of X must be a path, array or Pillow image; got None"),
        ([1.5, 2.5], "Image 0 of X must be a path, array or Pillow image; got float"),
        (
            ["a.jpg", np.zeros((8, 8, 3), np.uint8)],
            "Image 1 of X must be a path, as the first",
        ),
    ],
)
def test_what_is_no_images_is_said_by_fit_and_transform(make, X, message):
    for method in (make().fit, make().transform):
        with pytest.raises(SourceError, match=message) as caught:
            method(X)
        assert "\n" not in str(caught.value)


def test_arrays_of_another_range_are_refused(make):
    with pytest.raises(SourceError, match="must be uint8, 0 to 255; got float64"):
        make().fit_transform(np.zeros((2, 8, 8, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pooling": "mean"},
            "pooling must be one of avg, max, flatten, gram, cls, .*attention; got 'mean'",
        ),
        (
            {"pooling": "none"},
            "pooling must be one of avg, max, flatten, gram, cls, .*attention; got 'none'",
        ),
        ({"backbone": "resnet-50", "weights": "random"}, "There is no backbone 'resnet-50'"),
        ({"backbone": 5}, "backbone must be one name"),
        ({"layer": ["a", "b"]}, "layer must be one name"),
        ({"runtime": "onnx"}, "runtime must be one of"),
        ({"check": "no"}, "check must be one of"),
        ({"batch_size": 0}, "batch_size must be auto or a whole number"),
        ({"batch_size": 2.5}, "batch_size must be auto or a whole number"),
        ({"image_size": 0}, "image_size must be"),
        ({"image_size": 2.5}, "image_size must be"),
        ({"image_size": (3, 4, 5)}, "image_size must be"),
        ({"background": "blau"}, "background must be a colour"),
        ({"dtype": "float64"}, "dtype must be one of"),
    ],
)
def test_what_is_wrong_with_a_parameter_is_said_by_fit(make, paths, options, message):
    with pytest.raises(SpecError, match=message):
        make(**options).fit(paths)
    with pytest.raises(SpecError, match=message):
        make(**options).transform(paths)


def test_options_change_what_comes_out(make, paths):
    halves = make(dtype="float16").fit_transform(paths)
    assert halves.dtype == np.float16
    assert not np.array_equal(make(pooling="max").fit_transform(paths), make().transform(paths))
    same = make(image_size=np.int64(32)).transform(paths)
    np.testing.assert_array_equal(same, make(image_size=[32, 32]).transform(paths))
    assert make(pooling="flatten").transform(paths[:2]).shape == (2, 7 * 7 * 12)
    assert make(layer="relu_1").transform(paths[:2]).shape == (2, 8)


def test_defaults_are_those_of_extract():
    import inspect

    theirs = inspect.signature(extraction.extract).parameters
    for name, value in Embedder().get_params().items():
        assert name == "show_progress" or theirs[name].default == value, name


def test_scikit_learn_manners(make, paths, images_run):
    transformer = make(pooling="max")
    other = clone(transformer)
    assert other is not transformer
    assert other.get_params() == transformer.get_params()
    assert other.set_params(pooling="avg", batch_size=3) is other
    assert (other.pooling, other.batch_size, transformer.pooling) == ("avg", 3, "max")
    features = transformer.fit(paths, None).transform(paths)
    before = dict(vars(transformer))
    np.testing.assert_array_equal(transformer.fit_transform(paths), features)
    assert vars(transformer) == before
    images_run.clear()
    again = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_array_equal(again.transform(paths[::-1]), features[::-1])
    assert images_run == []
    assert "pooling='max'" in repr(transformer)


class OfTables(Embedder):
    """Makes an image of each row of numbers, so that scikit-learn has something to check."""

    def fit(self, X, y=None):
        return super().fit(self.images(X))

    def transform(self, X):
        return super().transform(self.images(X))

    def images(self, X):
        table = np.ascontiguousarray(X, np.float64)
        values = np.pad(table.view(np.uint8), ((0, 0), (0, -8 * table.shape[1] % 3)))
        return values.reshape(len(table), 1, -1, 3)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # else scikit-learn runs none of its checks
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


def test_scikit_learn_checks(tmp_path, tiny_backbone):
    transformer = OfTables(weights=str(tiny_backbone), cache_dir=tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SkipTestWarning: pandas and others are not installed
        results = check_estimator(
            transformer, expected_failed_checks=CHECKS_THAT_FEED_NO_IMAGES, on_fail=None
        )
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    assert failed == {}
    excused = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert excused == set(CHECKS_THAT_FEED_NO_IMAGES), "what passes needs no excuse"
    assert sum(result["status"] == "passed" for result in results) > 30


def test_tags(make):
    from sklearn.utils import get_tags

    tags = get_tags(make())
    assert not tags.requires_fit
    assert not tags.input_tags.two_d_array


def test_tensorflow_is_imported_only_to_compute(make, paths):
    transformer = make()
    make().transform(paths)
    code = (
        "import pickle, sys\n"
        "import featcache.extraction.embedder\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        "transformer, paths = pickle.load(sys.stdin.buffer)\n"
        "assert transformer.fit_transform(paths).shape == (21, 12)\n"
        "assert len(transformer.get_feature_names_out()) == 12\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    given = pickle.dumps((transformer, paths))
    subprocess.run([sys.executable, "-c", code], input=given, check=True)
