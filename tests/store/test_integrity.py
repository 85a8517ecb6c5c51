from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import make_image, make_photos

from featcache import store
from featcache.core.errors import SourceError, StoreError
from featcache.extraction.repair import repair
from featcache.store import hdf5


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 rows, so that 21 images make six of them."""
    monkeypatch.setattr(hdf5, "CHUNK_ROWS", 4)


def flip(path, chunk, dataset="features"):
    with h5py.File(path) as file:
        offset = file[dataset].id.get_chunk_info(chunk).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 3] ^= 1
    path.write_bytes(data)


def test_a_whole_file(photos, extract):
    damage = store.verify(extract(photos).features)
    assert not damage


@pytest.mark.parametrize("chunk", range(6))
def test_repair_computes_just_the_damaged_rows(photos, extract, small_chunks, images_run, chunk):
    features = extract(photos).features
    before = features.X
    images_run.clear()
    flip(features.path, chunk)
    damaged = store.Features(features.path)
    damage = store.verify(damaged)
    first, last = 4 * chunk, min(4 * chunk + 3, 20)
    assert damage.rows == ((first, last),)
    assert str(damage) == f"features of rows {first}–{last}"
    assert repair(features.path) == (damage, last - first + 1)
    assert sum(images_run) == last - first + 1
    mended = store.Features(features.path)
    np.testing.assert_allclose(mended.X, before, rtol=1e-5, atol=1e-6)
    assert not store.verify(mended)
    assert not list(features.path.parent.glob("*.parts"))


def test_loading_damaged_features_names_the_rows(photos, extract, small_chunks):
    features = extract(photos).features
    flip(features.path, 1)
    flip(features.path, 5)
    message = r"checksum of rows 4–7, 20–20 does not match\. Run `featcache verify --repair`"
    with pytest.raises(StoreError, match=message):
        store.Features(features.path).arrays()


def test_extract_mends_a_damaged_column_by_itself(photos, extract, small_chunks, images_run):
    features = extract(photos).features
    flip(features.path, 0, "labels")
    images_run.clear()
    done = extract(photos)
    assert not done.hit
    assert not images_run
    assert not store.verify(done.features)


def test_damaged_digests_cost_all_rows_and_mend(photos, extract, small_chunks, images_run):
    features = extract(photos).features
    images_run.clear()
    flip(features.path, 0, "digests")
    damaged = store.Features(features.path)
    damage = store.verify(damaged)
    assert damage.columns == ("digests",)
    repair(features.path)
    assert sum(images_run) == 21
    assert not store.verify(store.Features(features.path))


def test_repair_without_the_images_leaves_the_file(photos, extract, tmp_path):
    features = extract(photos).features
    flip(features.path, 0)
    photos.rename(tmp_path / "gone")
    with pytest.raises(SourceError, match="does not exist"):
        repair(features.path)
    assert features.path.exists()


def test_repair_with_other_weights_leaves_the_file(photos, extract, tiny_backbone, tmp_path):
    own = shutil.copy(tiny_backbone, tmp_path / "own.keras")
    features = extract(photos, weights=own).features
    flip(features.path, 0)
    Path(own).write_bytes(Path(own).read_bytes() + b"x")
    with pytest.raises(StoreError, match=r"The weights of .* are no longer the same"):
        repair(features.path)
    assert features.path.exists()


def test_repair_of_a_copy_elsewhere_is_refused(photos, extract, tmp_path):
    features = extract(photos).features
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(features.path, tmp_path / "elsewhere" / "copy.h5")
    flip(Path(copy), 0)
    with pytest.raises(StoreError, match="does not lie in the cache folder it was made for"):
        repair(Path(copy))
    assert not (tmp_path / ".locks").exists()


def test_a_limited_file_is_repaired_with_its_limit(tmp_path, extract):
    root = make_photos(tmp_path / "p")
    features = extract(root, limit=9).features
    flip(features.path, 0)
    repair(features.path)
    assert store.Features(features.path).ids == features.ids


def test_a_repair_keeps_the_limit_whatever_the_folder_has_meanwhile(tmp_path, extract):
    root = make_photos(tmp_path / "p")
    path = extract(root, limit=9).features.path
    for name in ("apple", "pear"):
        (root / name).rename(tmp_path / name)
    flip(path, 0)
    repair(path)
    assert len(store.Features(path)) == 7
    make_photos(root)
    flip(path, 0)
    repair(path)
    assert len(store.Features(path)) == 9


def test_a_repair_that_can_read_no_image_leaves_the_file(photos, extract):
    features = extract(photos).features
    flip(features.path, 0)
    for path in photos.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="could be used"):
        repair(features.path)
    assert features.path.exists()


def test_many_damaged_lenders_are_all_passed_by(photos, extract, tmp_path):
    for i in range(7):
        make_image(tmp_path / f"d{i}" / "a" / "x.png", (1, 2, 3), 1000 + i, (9, 9))
        make_image(tmp_path / "all" / "a" / f"{i}.png", (1, 2, 3), 1000 + i, (9, 9))
        flip(extract(tmp_path / f"d{i}").features.path, 0)
    assert extract(tmp_path / "all").n_computed == 7
