from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import bad_values
import h5py
import numpy as np
import pytest
from test_hdf5 import put_elsewhere

from featcache import store
from featcache.core.errors import DiskError, SpecError, StoreError
from featcache.core.labels import Annotations
from featcache.core.spec import ExtractionSpec
from featcache.store.index import DamagedFileError, ReplacedFileError
from featcache.store.layout import claim

SPEC = ExtractionSpec(
    backbone="tiny", weights="00", image_size=(8, 8), preprocessing="tf", dtype="float32"
)
N = 2500  # more than two chunks, and no multiple of one


def metadata(n=N, failures=()):
    rng = np.random.default_rng(0)
    return store.Metadata(
        ids=tuple(f"a/ü {i:05d}.jpg" for i in range(n)),
        digests=rng.integers(0, 256, (n, 16)).astype(np.uint8),
        annotations=Annotations((np.arange(n) % 2).astype(np.int64), ("a", "[b]")),
        failures=tuple(failures),
        stamps=np.arange(2 * n).reshape(n, 2),
    )


def publish(path, rows, features, order=None):
    """Publish features that lie in shuffled parts."""
    parts = store.Parts(path, SPEC, "x")
    order = np.random.default_rng(1).permutation(len(features)) if order is None else order
    for chunk in np.array_split(order, 4):
        parts.write(rows.digests[chunk], features[chunk])
    return store.publish(path, SPEC, rows, store.Rows(parts.paths()), {"source": "x"})


@pytest.fixture
def features():
    return np.random.default_rng(2).standard_normal((N, 5)).astype(np.float32)


@pytest.fixture
def published(tmp_path, features):
    failure = store.Failure("a/bad.jpg", bytes(range(16)), "truncated")
    return publish(tmp_path / "f.h5", metadata(failures=[failure]), features)


def test_row_i_is_image_i_however_the_parts_came(published, features):
    np.testing.assert_array_equal(published.X, features)
    assert published.ids == metadata().ids


def test_plain_h5py_reads_it(published, features):
    with h5py.File(published.path) as file:
        np.testing.assert_array_equal(file["features"][:], features)
        assert file["features"].fletcher32
        assert file["features"].chunks == (1024, 5)
        assert file["ids"].asstr()[1] == "a/ü 00001.jpg"
        assert file["digests"].shape == (N, 16)
        assert file["failures/id"].asstr()[:].tolist() == ["a/bad.jpg"]
        assert json.loads(file.attrs["class_names"]) == ["a", "[b]"]
        assert file.attrs["fingerprint"].decode() == SPEC.fingerprint
        assert file.attrs["complete"]


def test_reading_back(published):
    again = store.Features(published.path)
    assert again.spec == SPEC
    assert again.failures[0].reason == "truncated"
    assert metadata(failures=again.failures).matches(again.metadata)
    assert not metadata().matches(again.metadata)
    assert again.splits is None
    assert again.shape == (N, 5)


def test_arrays(published):
    X, y = published.arrays("train")
    X_test, y_test = published.arrays("test")
    assert len(X) + len(X_test) == N
    assert abs(len(X_test) - N / 5) <= 2
    assert set(y.tolist()) == set(y_test.tolist()) == {0, 1}
    assert published.arrays()[0].shape == (N, 5)
    with pytest.raises(SpecError, match="split must be one of train, val, test"):
        published.arrays("dev")


def test_what_is_given_by_mistake(published, tmp_path):
    """As in test_arguments.py."""
    for call, good in (
        (published.rows, {"None"}),
        (published.arrays, {"None"}),
        (functools.partial(published.rows, "train"), {"int"}),
        (published.read_rows, {"int", "tuple", "empty", "no rows", "no columns"}),
        (functools.partial(published.read_rows, 0), set()),
        (lambda value: list(published.blocks(value)), set()),
    ):
        bad_values.check(call, good, tmp_path)


def test_no_temporary_file_is_left(published):
    published_again = sorted(path.name for path in published.path.parent.iterdir())
    assert published_again == ["f.h5", "f.h5.parts", "source.json"]
    parts = store.Parts(published.path, SPEC, "x")
    parts.paths()[0].write_bytes(b"damaged")
    parts.clear()
    assert sorted(path.name for path in published.path.parent.iterdir()) == ["f.h5", "source.json"]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system has no file-size limit")
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_disk_that_fills_while_writing_is_an_error_and_never_a_crash(
    published, features, monkeypatch, share
):
    limit = int(published.path.stat().st_size * share)
    code = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
import test_store
from featcache.core.errors import DiskError
from featcache.store import hdf5
from pathlib import Path
hdf5._reserve = lambda *args: None  # as on file systems that cannot
parts = test_store.store.Parts(Path({str(published.path)!r}), test_store.SPEC, "x")
rows = test_store.store.Rows(parts.paths())
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    test_store.store.publish(
        parts.target, test_store.SPEC, test_store.metadata(), rows, {{"source": "x"}}
    )
except DiskError as error:
    print(error)
"""
    before = published.path.read_bytes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"'{published.path}' cannot be written: File too large. ")
    assert published.path.read_bytes() == before
    assert not list(published.path.parent.glob("*.tmp"))


def test_a_failed_publishing_leaves_the_old_file(published, features, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.Rows, "read", fail)
    with pytest.raises(OSError, match="No space"):
        publish(published.path, metadata(), features + 1)
    np.testing.assert_array_equal(store.Features(published.path).X, features)
    assert not list(published.path.parent.glob("*.tmp"))


def test_parts_of_another_spec_are_not_used(tmp_path, features):
    store.Parts(tmp_path / "f.h5", SPEC, "x").write(metadata().digests, features)
    assert store.Parts(tmp_path / "f.h5", replace(SPEC, pooling="max"), "x").paths() == []


def test_unfinished_parts_are_deleted(tmp_path, features):
    parts = store.Parts(tmp_path / "f.h5", SPEC, "x")
    parts.write(metadata().digests, features)
    (parts.folder / "part-x.h5.00c0ffee.99999999.tmp").write_bytes(b"half")
    running = parts.folder / f"part-z.h5.00c0ffee.{os.getpid()}.tmp"
    running.write_bytes(b"half")
    (parts.folder / f"part-{'0' * 32}.h5").write_bytes(b"no HDF5")
    assert len(parts.paths()) == 1
    parts.sweep()  # the lock is held, so nobody is writing, whatever number the process had
    assert not list(parts.folder.glob("*.tmp"))


def test_rows_are_found_by_digest(tmp_path, features):
    rows = metadata()
    publish(tmp_path / "f.h5", rows, features)
    kept = store.Rows([tmp_path / "missing.h5", tmp_path / "f.h5"])
    wanted = np.concatenate([rows.digests[[7, 2400, 7]], np.zeros((1, 16), np.uint8)])
    numbers = kept.find(wanted)
    assert numbers[3] == -1
    np.testing.assert_array_equal(kept.read(numbers[:3]), features[[7, 2400, 7]])
    assert store.Rows([]).find(wanted).tolist() == [-1] * 4


def test_half_precision(tmp_path, features):
    spec = ExtractionSpec.from_dict(SPEC.to_dict() | {"dtype": "float16"})
    parts = store.Parts(tmp_path / "h.h5", spec, "x")
    parts.write(metadata().digests, features.astype(np.float16))
    rows = store.Rows(parts.paths())
    got = store.publish(tmp_path / "h.h5", spec, metadata(), rows, {"source": "x"})
    assert got.X.dtype == np.float16


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-5000])


def damage_text(path):
    path.write_text("hello")


def damage_foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = [1]


def damage_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99


def damage_incomplete(path):
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False


def damage_attribute(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["class_names"]


def damage_json(path):
    with h5py.File(path, "r+") as file:
        file.attrs["spec"] = "{not json"


def damage_spec(path):
    with h5py.File(path, "r+") as file:
        spec = json.loads(file.attrs["spec"]) | {"image_size": [0, 0]}
        file.attrs["spec"] = json.dumps(spec)


def damage_features(path):
    with h5py.File(path, "r+") as file:
        del file["features"]
        file.create_group("features")


def damage_length(path):
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file["labels"] = [0, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "truncated or no HDF5"),
        (damage_text, "truncated or no HDF5"),
        (damage_foreign, "no feature file"),
        (damage_version, "format version 99; this featcache reads version 1"),
        (damage_incomplete, "incomplete"),
        (damage_attribute, "damaged: .*attribute"),
        (damage_json, "damaged"),
        (damage_spec, "damaged: image_size"),
        (damage_features, "damaged"),
        (damage_length, "'labels' has 2 rows, not 2500"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_damaged_files_are_refused_by_name(published, damage, message):
    damage(published.path)
    with pytest.raises(StoreError, match=message) as caught:
        store.Features(published.path)
    assert str(published.path) in str(caught.value)


@pytest.mark.parametrize("name", ["labels", "ids", "stamps", "failures/reason", "class_names"])
def test_a_changed_column_is_an_error(published, name):
    with h5py.File(published.path, "r+") as file:
        if name in file:
            file[name][0] = "x" if name in ("ids", "failures/reason") else 7
        else:
            file.attrs[name] = json.dumps(["b", "a"])
    features = store.Features(published.path)
    with pytest.raises(StoreError, match="the checksum of its columns does not match"):
        features.arrays()
    assert store.verify(features).columns == ("columns changed since they were written",)


def test_no_room_on_the_disk_is_said_before_anything_is_written(tmp_path, features, monkeypatch):
    def full(handle, offset, size_bytes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    message = r"for '.*f\.h5\.parts/part-.*': No space left on device; it takes .* kB, and"
    with pytest.raises(DiskError, match=message):
        publish(tmp_path / "f.h5", metadata(), features)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_flipped_bit_is_an_error_not_a_number(published):
    with h5py.File(published.path) as file:
        offset = file["features"].id.get_chunk_info(1).byte_offset
    data = bytearray(published.path.read_bytes())
    data[offset + 100] ^= 1
    published.path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged: checksum of rows 1024–2047 does not match"):
        _ = store.Features(published.path).X


def test_two_sources_of_one_name_get_two_folders(tmp_path):
    cache = tmp_path / "cache"
    first = store.source_folder(cache, "photos", "/home/one/photos")
    assert not first.exists()  # made only when there is something to put there
    claim(first, "/home/one/photos")
    second = store.source_folder(cache, "photos", "/home/two/photos")
    claim(second, "/home/two/photos")
    assert first.name == "photos"
    assert second.name.startswith("photos-")
    assert store.source_folder(cache, "photos", "/home/one/photos") == first
    assert store.source_folder(cache, "photos", "/home/two/photos") == second
    assert (cache / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("owner", [None, "", "{}"])
def test_a_folder_of_nobody_is_taken_over(tmp_path, owner):
    (tmp_path / "photos").mkdir()
    if owner is not None:
        (tmp_path / "photos" / "source.json").write_text(owner)
    folder = store.source_folder(tmp_path, "photos", "/home/nö/photos")
    claim(folder, "/home/nö/photos")
    assert folder == tmp_path / "photos"
    assert store.source_folder(tmp_path, "photos", "/home/nö/photos") == folder


@pytest.mark.parametrize("how", ["external storage", "a virtual data set", "an external link"])
@pytest.mark.parametrize("name", ["features", "ids", "failures/reason"])
def test_a_file_with_data_in_another_one_is_refused(published, name, how):
    put_elsewhere(published.path, name, how)
    message = f"'{name}' does not lie in '.*f.h5' itself: it is {how}"
    with pytest.raises(StoreError, match=message):
        _ = store.Features(published.path).metadata
    with pytest.raises(StoreError, match=message):
        store.verify(published)


def test_it_lends_nothing(published, features):
    rows = store.Rows([published.path])
    put_elsewhere(published.path, "features", "external storage")
    with pytest.raises(ReplacedFileError):
        rows.read(np.array([0]))
    rows = store.Rows([published.path])
    with pytest.raises(DamagedFileError, match="it is external storage"):
        rows.read(np.array([0]))


def test_newest(tmp_path, published):
    with pytest.raises(StoreError, match="no feature file in"):
        store.newest_features(tmp_path / "empty")
    (tmp_path / "cache" / "x").mkdir(parents=True)
    moved = published.path.rename(tmp_path / "cache" / "x" / "f.h5")
    assert store.newest_features(tmp_path / "cache") == moved


def test_rows_of_a_file_that_took_anothers_place_are_never_taken_for_them(published, features):
    rows = store.Rows([published.path])
    numbers = rows.find(metadata().digests)
    order = np.random.default_rng(9).permutation(len(features))
    publish(published.path, metadata(), features, order)  # the same images again
    with pytest.raises(ReplacedFileError, match="was written anew while"):
        rows.read(numbers)
    again = store.Rows([published.path])
    np.testing.assert_array_equal(again.read(again.find(metadata().digests)), features)
