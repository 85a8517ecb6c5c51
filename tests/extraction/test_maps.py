"""Unpooled maps in the store: whole, in order, computed once, and no head's business."""

from __future__ import annotations

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from conftest import parse_single_json

import featcache as fc
from featcache import extraction, store
from featcache.core.errors import HeadError, StoreError
from featcache.core.tensorflow import import_keras
from featcache.data import loading, openers
from featcache.data.listing import list_images
from featcache.extraction.repair import repair
from featcache.networks import backbones
from featcache.store import hdf5, integrity

MAP = (7, 7, 12)  # of the tiny backbone


@pytest.fixture
def maps(photos, extract):
    return extract(photos, pooling="none").features


@pytest.fixture
def small_chunks(monkeypatch):
    """Four maps a chunk."""
    monkeypatch.setattr(hdf5, "MAP_CHUNK_BYTES", 4 * 4 * int(np.prod(MAP)))


def expected_maps(tiny_backbone, photos, features):
    """What plain Keras gives for each image, in the order of the file's ids."""
    keras = import_keras()
    model = keras.models.load_model(tiny_backbone, compile=False)
    samples = openers.open_source(photos)
    assert samples.ids == features.ids
    listing, rows = list_images(samples), range(len(samples))
    found = np.zeros((len(samples), *MAP), np.float32)
    for batch in loading.batches(listing, rows, specs=[features.spec], batch_size=5):
        found[batch.rows] = model(batch.clean, training=False)
    return found


def test_row_i_is_the_map_of_image_i(maps, tiny_backbone, photos):
    assert maps.shape == (21, *MAP)
    expected = expected_maps(tiny_backbone, photos, maps)
    np.testing.assert_allclose(maps.X, expected, rtol=1e-4, atol=1e-5)
    for rows in ([20, 3, 4, 5, 3, 0], [7], []):
        rows = np.array(rows, int)
        np.testing.assert_array_equal(maps.read_rows(rows), maps.X[rows])
    mask = np.arange(21) % 2 == 0
    for rows in ([0, 1], range(3), (4, 2), -1, [-1, 0], slice(18, None), [], mask, np.uint8(3)):
        picked = list(rows) if isinstance(rows, (range, tuple)) else rows
        expected_rows = maps.X[np.array(picked, int) if isinstance(picked, list) else picked]
        np.testing.assert_array_equal(maps.read_rows(rows), expected_rows)
    with h5py.File(maps.path) as file:
        assert file["features"].shape == (21, *MAP)
        assert file["features"].fletcher32


def test_pooling_them_gives_the_features(maps, photos, extract):
    pooled = extract(photos).features
    np.testing.assert_allclose(maps.X.mean(axis=(1, 2)), pooled.X, rtol=1e-4, atol=1e-5)
    assert maps.fingerprint != pooled.fingerprint


def test_nothing_is_computed_twice(maps, photos, extract, images_run):
    assert extract(photos, pooling="none").hit
    assert extract(photos, pooling="none", views=3).n_computed == 21  # the other views
    assert sum(images_run) == 42
    assert extract(photos, pooling="none", views=2).n_computed == 0
    copied = photos.parent / "copied"
    shutil.copytree(photos, copied)
    assert extract(copied, pooling="none").n_computed == 0
    assert sum(images_run) == 42


def test_views_and_half_precision(photos, extract):
    features = extract(photos, pooling="none", views=3, augment="flip", dtype="float16").features
    assert features.views.shape == (21, 3, *MAP)
    assert features.views.dtype == np.float16
    np.testing.assert_array_equal(features.views[:, 0], features.X)
    rows = np.array([7, 2, 19])
    for view in range(3):
        np.testing.assert_array_equal(features.read_rows(rows, view), features.views[rows, view])
    # a view is the image or its mirror image
    assert not np.array_equal(features.views[:, 1], features.views[:, 0])


def test_a_given_network_is_extracted_with_its_spec(
    photos, extract, tiny_backbone, tmp_path, capsys
):
    extract(photos)
    resolved = backbones.resolve(None, weights=str(tiny_backbone), layer="relu_1", pooling="none")
    built = backbones.build(resolved.spec.backbone, resolved.weights, resolved.spec.image_size)
    given = backbones.Resolved(resolved.spec, "a model", built)
    options = {"cache_dir": tmp_path / "cache", "show_progress": False}
    done = extraction.extract_network(photos, given, **options)
    assert done.n_computed == 21
    assert done.features.shape == (21, 15, 15, 8)
    assert extraction.extract_network(photos, given, **options).hit
    assert "No cached features" not in capsys.readouterr().err
    assert extract(photos, layer="relu_1", pooling="none").hit  # the same file by its name


def test_damage_is_named_and_mended(small_chunks, maps, images_run):
    before = maps.X.copy()
    with h5py.File(maps.path) as file:
        dataset = file["features"].id
        offsets = [dataset.get_chunk_info(chunk).byte_offset for chunk in (1, 3)]
    with maps.path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset + 100)
            file.write(b"\xff\xff\xff")
    damaged = store.Features(maps.path)
    rows = "4\u20137, 12\u201315"  # all of the file's, whichever was wanted
    for row in (5, 13):
        with pytest.raises(StoreError, match=f"checksum of rows {rows} does not match"):
            damaged.read_rows(np.array([20, row, 0]))
    np.testing.assert_array_equal(damaged.read_rows(np.array([20, 0])), before[[20, 0]])
    images_run.clear()
    damage = store.Damage(((4, 7), (12, 15)), ())
    assert repair(maps.path, show_progress=False) == (damage, 8)
    assert sum(images_run) == 8
    np.testing.assert_allclose(store.Features(maps.path).X, before, rtol=1e-5, atol=1e-6)


def test_what_is_whole_is_saved_in_few_parts(small_chunks, maps, monkeypatch):
    written = []
    monkeypatch.setattr(store.Parts, "write", lambda self, keys, rows: written.append((keys, rows)))
    parts = store.Parts(maps.path, maps.spec, "photos")
    store.salvage(maps, store.Damage(((4, 7), (16, 19)), ()), parts)
    assert [len(rows) for _, rows in written] == [4, 8, 1]
    keys, rows = (np.concatenate(column) for column in zip(*written, strict=True))
    kept = [*range(4), *range(8, 16), 20]
    np.testing.assert_array_equal(keys, maps.digests[kept])
    np.testing.assert_array_equal(rows, maps.X[kept])
    written.clear()
    monkeypatch.setattr(integrity, "BLOCK_BYTES", hdf5.MAP_CHUNK_BYTES)  # a chunk a part
    store.salvage(maps, store.Damage(((4, 7),), ()), parts)
    assert [len(rows) for _, rows in written] == [4, 4, 4, 4, 1]


def test_chunks_of_maps_are_small():
    chunk_shape = hdf5.chunk_shape
    assert chunk_shape((5000, 14, 14, 96), "float16") == (6, 14, 14, 96)
    assert chunk_shape((5000, 112, 112, 64), "float32") == (1, 112, 112, 64)
    assert chunk_shape((5000, 1280), "float32") == (1024, 1280)


def test_heads_refuse_them_in_one_line(maps, photos, extract, cli, tmp_path):
    ran = cli("fit-heads", maps.path)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    with pytest.raises(HeadError, match=r"holds maps of 7 x 7 x 12.*--pooling avg"):
        fc.fit_heads(maps, ["lda"], show_progress=False)
    # what is newest is the newest file of vectors
    pooled = extract(photos).features
    maps.path.touch()
    assert store.newest_features(tmp_path / "cache") == pooled.path


def test_the_command_line_says_what_they_are(photos, tiny_backbone, cli):
    options = ("--weights", tiny_backbone, "--pooling", "none")
    ran = cli("extract", photos, *options)
    assert ran.returncode == 0, ran.stderr
    assert "21 images of 3 classes, a map of 7 x 7 x 12 each" in ran.stdout
    said = parse_single_json(cli("extract", photos, *options, "--json").stdout)
    assert said["shape"] == [21, *MAP]
    ran = cli("info", said["features"])
    assert "7 x 7 x 12 float32" in ran.stdout
    assert "7 x 7 x 12" in cli("info", "cache").stdout


@pytest.mark.parametrize(
    ("n_views", "times"), [(1, 2), (4, 9)], ids=["parts and file", "views, and the clean one twice"]
)
def test_room_for_a_file_in_the_making(n_views, times):
    assert store.size_of(100, (7, 7, 320), "float16", n_views) == 100 * 7 * 7 * 320 * 2 * times


def test_too_little_room_is_one_line(tmp_path, monkeypatch):
    store.check_room(tmp_path / "not" / "yet", 1000, None, "These")
    with pytest.raises(StoreError, match=r"These take 2 GB .* --max-cache-gb allows 1\."):
        store.check_room(tmp_path, 2_000_000_000, 1_000_000_000, "These")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: usage._replace(free=10**9))
    with pytest.raises(StoreError, match="has 1 GB free") as caught:
        store.check_room(tmp_path / "not" / "yet", 2_000_000_000, None, "These")
    assert "\n" not in str(caught.value)


def test_what_a_killed_run_left_takes_no_more_room(photos, extract, tmp_path, monkeypatch):
    extracted = extract(photos, pooling="none", overwrite=True).features
    spec, cache = extracted.spec, tmp_path / "cache"
    parts = store.Parts(extracted.path, spec, str(extracted.provenance["source"]))
    parts.write(extracted.digests, extracted.X)
    (left,) = parts.paths()
    size = store.size_of(len(extracted), MAP, "float32", 1)
    usage = shutil.disk_usage(tmp_path)
    free = size - left.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda where: usage._replace(free=free))
    store.check_room(cache, size, None, "These", spec)
    for other in (None, replace(spec, views=2, augment=("flip",))):
        with pytest.raises(StoreError, match="These take"):
            store.check_room(cache, size, None, "These", other)
    with pytest.raises(StoreError, match=r"GB of it there already, and '.*' has"):
        store.check_room(cache, size + 1, None, "These", spec)
