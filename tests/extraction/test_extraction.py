from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CLASSES, make_image, wrap_runs

from featcache import extraction, store
from featcache.core.errors import DiskError, SourceError, SpecError, StoreError
from featcache.core.geometry import Geometry
from featcache.data import decoding, image_ops, listing, loading, sources
from featcache.data.sources.contents import Files
from featcache.networks import backbones
from featcache.store import part_writer, stamps


def one_by_one(root, ids, backbone_path):
    """The features of each image on its own, straight from Pillow and Keras."""
    resolved = backbones.resolve(weights=str(backbone_path))
    backbone = backbones.build("tiny.keras", str(backbone_path), (32, 32))
    extractor = backbones.frozen_extractor(backbone, resolved.spec)
    rows = []
    for id_ in ids:
        pixels = decoding.decode((Path(root) / id_).read_bytes())
        rows.append(extractor(image_ops.resize(pixels, Geometry((32, 32), "bilinear"))[None])[0])
    return np.stack(rows)


def test_row_i_is_image_i(photos, extract, tiny_backbone):
    done = extract(photos)
    features = done.features
    assert (done.n_computed, done.n_reused, done.n_failed, done.hit) == (21, 0, 0, False)
    assert features.ids == tuple(sorted(features.ids))
    np.testing.assert_allclose(
        features.X, one_by_one(photos, features.ids, tiny_backbone), rtol=1e-4, atol=1e-5
    )
    for id_, label in zip(features.ids, features.labels, strict=True):
        assert CLASSES[label] == id_.split("/")[0]


def test_rows_stay_aligned_around_what_cannot_be_read(photos, extract, tiny_backbone):
    whole = (photos / "apple" / "apple ü1.jpg").read_bytes()
    (photos / "apple" / "a cut.jpg").write_bytes(whole[:400])
    (photos / "pear" / "m empty.png").write_bytes(b"")
    (photos / "pear" / "z text.jpg").write_text("no image")
    done = extract(photos)
    features = done.features
    assert {failure.id for failure in features.failures} == {
        "apple/a cut.jpg",
        "pear/m empty.png",
        "pear/z text.jpg",
    }
    assert all(failure.reason for failure in features.failures)
    assert done.n_failed == 3
    assert len(features) == 21
    assert not set(features.ids) & {failure.id for failure in features.failures}
    np.testing.assert_allclose(
        features.X, one_by_one(photos, features.ids, tiny_backbone), rtol=1e-4, atol=1e-5
    )


def test_again_is_a_hit_and_runs_nothing(photos, extract, images_run):
    (photos / "pear" / "broken.jpg").write_bytes(b"broken")
    first = extract(photos)
    assert sum(images_run) == 21
    before = first.features.path.stat().st_mtime_ns
    second = extract(photos)
    assert second.hit
    assert sum(images_run) == 21
    assert second.n_computed == 0
    assert second.features.path.stat().st_mtime_ns == before


def test_a_hit_decodes_nothing_and_does_not_import_tensorflow(photos, extract, tiny_backbone):
    path = extract(photos).features.path
    code = f"""
import sys
from featcache import extraction
from featcache.data import decoding, loading
decoding.decode = loading.batches = None
done = extraction.run(
    {str(photos)!r}, weights={str(tiny_backbone)!r}, cache_dir={str(path.parent.parent)!r}
)
assert done.hit and done.n_computed == 0
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_what_is_new_is_computed(photos, extract, images_run):
    extract(photos)
    first = extract(photos).features
    assert first.X is first.X  # read now; afterwards there is another file
    images_run.clear()
    # rename, move to another class, copy, remove, change, add
    (photos / "apple" / "apple ü1.jpg").rename(photos / "apple" / "renamed.jpg")
    (photos / "apple" / "apple ü2.jpg").rename(photos / "pear" / "moved.jpg")
    shutil.copy(photos / "pear" / "pear ü1.jpg", photos / "quince" / "copy.jpg")
    (photos / "pear" / "pear ü4.jpg").unlink()
    make_image(photos / "pear" / "pear ü5.jpg", (1, 2, 3), 900, (30, 30))
    make_image(photos / "quince" / "new.png", (1, 2, 3), 901, (30, 30))
    done = extract(photos)
    assert sum(images_run) == done.n_computed == 2
    assert done.n_reused == len(done.features) - 2 == 20
    old = dict(zip((d.tobytes() for d in first.digests), first.X, strict=True))
    for digest, row in zip(done.features.digests, done.features.X, strict=True):
        if digest.tobytes() in old:
            np.testing.assert_array_equal(row, old[digest.tobytes()])


def test_a_file_written_anew_is_not_mixed_with_the_one_that_was_opened(photos, extract):
    first = extract(photos).features
    assert len(first.ids) == 21
    (photos / "pear" / "pear ü4.jpg").unlink()
    extract(photos)
    with pytest.raises(StoreError, match="was written anew since it was opened"):
        first.arrays()


def old(*paths):
    """Make files look as if they had been written an hour ago."""
    for path in paths:
        os.utime(path, ns=(path.stat().st_mtime_ns - 3600 * 10**9,) * 2)


def test_files_that_did_not_change_are_not_read_again(photos, extract, monkeypatch):
    old(*photos.rglob("*.*"))
    extract(photos)
    make_image(photos / "pear" / "pear ü2.jpg", (9, 9, 9), 500, (30, 30))
    (photos / "pear" / "pear ü1.jpg").touch()
    looked_at = []
    digest = listing.digest
    monkeypatch.setattr(listing, "digest", lambda data: looked_at.append(1) or digest(data))
    done = extract(photos)
    assert len(looked_at) == 2
    assert done.n_computed == 1
    looked_at.clear()
    assert extract(photos, check="content").hit
    assert len(looked_at) == 21


@pytest.mark.parametrize("how", ["renamed over it", "written over it"])
def test_another_file_of_the_same_size_and_time_is_seen(photos, extract, tmp_path, how):
    path = make_image(photos / "pear" / "flat.bmp", (200, 10, 10), 1, (30, 30))
    old(*photos.rglob("*.*"))
    before, then = extract(photos).features.X, path.stat()
    new = make_image(tmp_path / "new.bmp", (10, 10, 200), 2, (30, 30))
    assert new.stat().st_size == then.st_size
    if how == "renamed over it":
        os.utime(new, ns=(then.st_mtime_ns, then.st_mtime_ns))
        new.replace(path)
    else:
        path.write_bytes(new.read_bytes())
        os.utime(path, ns=(then.st_mtime_ns, then.st_mtime_ns))
    done = extract(photos)
    assert (done.hit, done.n_computed) == (False, 1)
    (row,) = np.flatnonzero(np.any(before != done.features.X, axis=1))
    assert done.features.ids[row] == "pear/flat.bmp"


@pytest.mark.parametrize("how", ["copied", "linked", "another mode"])
def test_files_whose_inode_or_change_time_alone_changed_are_read_once(
    photos, extract, monkeypatch, tmp_path, how
):
    old(*photos.rglob("*.*"))
    extract(photos)
    if how == "copied":  # to another disk, with its times
        shutil.copytree(photos, tmp_path / "copy")
        photos.rename(tmp_path / "original")
        (tmp_path / "copy").rename(photos)
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        if how == "linked":
            (tmp_path / f"link {number}").hardlink_to(path)
        elif how == "another mode":
            path.chmod(0o600)
    digests, digest = [], listing.digest
    monkeypatch.setattr(listing, "digest", lambda raw: digests.append(1) or digest(raw))
    for n_read in (21, 0):
        done = extract(photos)
        assert (done.hit, done.n_computed) == (True, 0)
        assert len(digests) == n_read
        digests.clear()


def test_what_is_known_of_files_is_no_more_than_what_was_kept(photos, extract, monkeypatch):
    """A cache folder made before change times were kept; and one where they got lost or damaged."""
    old(*photos.rglob("*.*"))
    path = stamps.path_of(extract(photos).features.path)
    monkeypatch.setattr(Files, "get", lambda self, row: pytest.fail("it was read"))
    for data in (None, b"", path.read_bytes()[:-200], path.read_bytes()):
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        assert extract(photos).hit
        assert stamps.known(store.Features(extract(photos).features.path)).min() > 0


def test_what_happens_to_a_file_but_its_content_during_a_run_is_no_failure(
    photos, extract, monkeypatch
):
    path, other = photos / "pear" / "pear ü1.jpg", photos / "pear" / "pear ü2.jpg"
    old(*photos.rglob("*.*"))
    batches = loading.batches

    def changing(*arguments, **options):
        path.chmod(0o600)
        then = other.stat()
        other.write_bytes(bytes(reversed(other.read_bytes())))
        os.utime(other, ns=(then.st_mtime_ns, then.st_mtime_ns))
        return batches(*arguments, **options)

    monkeypatch.setattr(loading, "batches", changing)
    (failure,) = extract(photos).features.failures
    assert failure.id == "pear/pear ü2.jpg"


def test_a_file_written_just_now_is_not_trusted_to_look_the_same(photos, extract):
    path = photos / "pear" / "pear ü1.jpg"
    first = extract(photos)
    stamp = path.stat()
    row = first.features.ids.index("pear/pear ü1.jpg")
    assert first.features.stamps[row].tolist() == [-1, -1]
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert not extract(photos).hit


def test_removed_rows_are_counted(photos, extract):
    extract(photos)
    (photos / "pear" / "pear ü1.jpg").unlink()
    done = extract(photos)
    assert (done.n_removed, done.n_computed, len(done.features)) == (1, 0, 20)


def test_two_at_once_compute_once(photos, tiny_backbone, tmp_path):
    command = [sys.executable, "-m", "featcache", "extract", str(photos), "--json"]
    command += ["--weights", str(tiny_backbone), "--cache-dir", str(tmp_path / "cache")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    assert sum(json.loads(stdout)["computed"] for stdout, _ in outcomes) == 21
    assert any("Another process is extracting" in stderr for _, stderr in outcomes)


def test_no_wait(photos, extract):
    path = extract(photos).features.path
    make_image(photos / "pear" / "new.png", (1, 2, 3), 902, (30, 30))
    with (
        store.locked(path, True, print),
        pytest.raises(StoreError, match="Another process is extracting into"),
    ):
        extract(photos, wait=False)
    assert extract(photos, wait=False).n_computed == 1


def test_copies_are_computed_once(photos, extract, images_run):
    for i in range(5):
        shutil.copy(photos / "pear" / "pear ü1.jpg", photos / "quince" / f"copy {i}.jpg")
    done = extract(photos)
    assert len(done.features) == 26
    assert sum(images_run) == 21


def test_copies_of_a_broken_image_all_fail(photos, extract):
    for name in ("apple/x.jpg", "pear/y.jpg"):
        (photos / name).write_bytes(b"broken")
    done = extract(photos)
    assert [failure.id for failure in done.features.failures] == ["apple/x.jpg", "pear/y.jpg"]


def test_a_second_dataset_shares_rows(photos, extract, images_run, tmp_path):
    extract(photos)
    images_run.clear()
    shutil.copytree(photos / "pear", tmp_path / "elsewhere" / "my photos" / "birne")
    done = extract(tmp_path / "elsewhere" / "my photos")
    assert done.n_computed == 0
    assert not images_run
    assert done.features.path.parent.name.startswith("my photos-")


def test_an_interrupted_run_goes_on_where_it_was(photos, extract, monkeypatch, images_run):
    monkeypatch.setattr(part_writer, "PART_ROWS", 4)
    undisturbed = extract(photos, cache_dir=photos.parent / "other").features.X
    images_run.clear()

    def failing(run, batch):
        if sum(images_run) >= 12:
            raise KeyboardInterrupt
        return run(batch)

    with monkeypatch.context() as patch:
        wrap_runs(patch, failing)
        with pytest.raises(KeyboardInterrupt):
            extract(photos)
    assert not list(photos.parent.glob("cache/*/*.h5"))
    done = extract(photos)
    assert done.n_reused == 12
    assert sum(images_run) == 21
    np.testing.assert_array_equal(done.features.X, undisturbed)
    assert sorted(path.name for path in done.features.path.parent.iterdir()) == sorted(
        [done.features.path.name, "source.json"]
    )


def test_parts_left_after_publishing_go_with_the_next_hit(photos, extract, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store.Parts, "clear", lambda self: None)  # as if killed right there
        path = extract(photos).features.path
    folder = path.with_name(path.name + ".parts")
    assert list(folder.iterdir())
    with store.locked(path, True, print):
        assert extract(photos).hit
    assert list(folder.iterdir())  # another process has the lock and may need them
    assert extract(photos).hit
    assert not folder.exists()


def test_a_damaged_file_is_made_again(photos, extract):
    path = extract(photos).features.path
    path.write_bytes(path.read_bytes()[:1000])
    done = extract(photos)
    assert done.n_computed == 21
    assert len(store.Features(path)) == 21


def test_nothing_readable_is_an_error_and_leaves_no_file(tmp_path, extract):
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        (tmp_path / "p" / name / "x.jpg").write_bytes(b"broken " + name.encode())
    with pytest.raises(SourceError, match="None of 2 images"):
        extract(tmp_path / "p")
    assert not list((tmp_path / "cache").glob("[!.]*"))


def test_limit_has_its_own_file(photos, extract, images_run):
    whole = extract(photos)
    few = extract(photos, limit=6)
    assert len(few.features) == 6
    assert set(few.features.labels.tolist()) == {0, 1, 2}
    assert few.features.path != whole.features.path
    assert few.n_computed == 0
    assert len(store.Features(whole.features.path)) == 21


def test_half_precision(photos, extract):
    whole = extract(photos).features
    half = extract(photos, dtype="float16").features
    assert half.X.dtype == np.float16
    assert half.fingerprint != whole.fingerprint
    np.testing.assert_array_equal(half.X, whole.X.astype(np.float16))


def test_features_that_are_not_finite_are_failures(photos, extract, monkeypatch):
    def huge(run, batch):
        (outputs,) = run(batch)
        return (outputs * np.where(np.arange(len(batch)) == 0, 1e8, 1)[:, None],)

    wrap_runs(monkeypatch, huge)
    features = extract(photos, dtype="float16").features
    assert 0 < len(features.failures) < 21
    assert all("not finite in float16" in failure.reason for failure in features.failures)
    assert np.isfinite(features.X).all()


def test_digits_come_from_memory(extract):
    done = extract("example:digits", limit=50, batch_size=32)
    assert len(done.features) == 50
    assert done.features.class_names == tuple("0123456789")
    assert [int(id_[0]) for id_ in done.features.ids] == done.features.labels.tolist()
    assert extract("example:digits", limit=50).hit


def test_given_splits_are_kept(tmp_path, extract):
    for part, seed in (("train", 0), ("val", 10), ("test", 20)):
        for name in ("a", "b"):
            for i in range(3):
                make_image(
                    tmp_path / "p" / part / name / f"{i}.png",
                    (9, 9, 9),
                    seed + i + 50 * (name == "b"),
                    (9, 9),
                )
    features = extract(tmp_path / "p").features
    assert features.splits == ("test",) * 6 + ("train",) * 6 + ("val",) * 6
    assert features.rows("val").tolist() == list(range(12, 18))


@contextmanager
def changed_late(monkeypatch, image, other):
    """Have an image replaced by another one when the first batch is asked for."""
    batches = loading.batches

    def change_first(*args, **options):
        image.write_bytes(other.read_bytes())
        yield from batches(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "batches", change_first)
        yield


def test_what_is_read_once_is_what_it_was_when_it_was_read(
    photos, extract, tiny_backbone, monkeypatch
):
    changing = photos / "pear" / "pear ü1.jpg"
    before = changing.read_bytes()
    with changed_late(monkeypatch, changing, photos / "apple" / "apple ü2.jpg"):
        done = extract(photos)
    assert (done.n_computed, done.n_failed) == (20, 0)  # it is a copy by now
    expected = one_by_one(photos, done.features.ids, tiny_backbone)
    np.testing.assert_allclose(done.features.X, expected, rtol=1e-4, atol=1e-5)
    changing.write_bytes(before)
    assert extract(photos).n_computed == 1


def test_files_are_read_once_where_nothing_can_be_found_by_what_they_are(
    photos, extract, monkeypatch
):
    reads = Counter()
    get = Files.get

    def counted_get(self, row):
        reads[self.paths[row]] += 1
        return get(self, row)

    monkeypatch.setattr(Files, "get", counted_get)
    monkeypatch.setattr(loading, "_decoded_by_tensorflow", lambda *args: pytest.fail("read again"))
    features = extract(photos).features
    assert set(reads.values()) == {1}
    assert len(reads) == len(features) == 21
    digests = [sources.digest((photos / id_).read_bytes()) for id_ in features.ids]
    assert [digest.tobytes() for digest in features.digests] == digests


def test_an_image_that_changes_meanwhile_gets_no_row_of_its_old_digest(
    photos, extract, tiny_backbone, monkeypatch
):
    extract(photos, limit=3)  # rows that may be those of an image, so all are read to find them
    changing = photos / "pear" / "pear ü1.jpg"
    before = changing.read_bytes()
    with changed_late(monkeypatch, changing, photos / "apple" / "apple ü1.jpg"):
        features = extract(photos).features
    assert [failure.reason for failure in features.failures] == ["it changed while it was read"]
    changing.write_bytes(before)
    done = extract(photos)
    assert done.n_computed == 1
    expected = one_by_one(photos, done.features.ids, tiny_backbone)
    np.testing.assert_allclose(done.features.X, expected, rtol=1e-4, atol=1e-5)


def test_a_damaged_lender_is_passed_by(photos, extract, tmp_path):
    lender = extract(photos).features.path
    with h5py.File(lender) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(lender.read_bytes())
    data[offset + 8] ^= 1
    lender.write_bytes(data)
    shutil.copytree(photos, tmp_path / "copy")
    done = extract(tmp_path / "copy")
    assert done.n_computed == 21
    assert np.isfinite(done.features.X).all()


def test_parts_that_disappear_are_made_again(photos, extract, monkeypatch, images_run):
    write = store.Parts.write
    lost = []

    def lose_the_first(self, *args):
        write(self, *args)
        if not lost:
            lost.append(shutil.rmtree(self.folder))

    monkeypatch.setattr(store.Parts, "write", lose_the_first)
    assert len(extract(photos).features) == 21
    assert sum(images_run) == 42


def test_a_backbone_file_named_like_a_known_one_is_itself(photos, extract, tiny_backbone, tmp_path):
    named = shutil.copy(tiny_backbone, tmp_path / "mobilenet-v2.keras")
    features = extract(photos, weights=str(named)).features
    assert features.spec.backbone == "mobilenet-v2.keras"
    assert features.shape[1] == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be auto or a whole number, 1 or more"),
        ({"limit": 0}, "limit must be a whole number, 1 or more"),
        ({"device": "tpu"}, "device must be one of auto, cpu, gpu"),
        ({"pooling": "mean"}, "pooling must be one of"),
        ({"image_size": 0}, "image_size"),
        ({"backbone": "mobilnet-v2", "weights": "random"}, "mobilenet-v2"),
    ],
)
def test_wrong_use_is_said_before_anything_is_made(photos, extract, tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        extract(photos, **options)
    assert not (tmp_path / "cache").exists()


def test_provenance_is_recorded_but_not_fingerprinted(photos, extract):
    features = extract(photos).features
    assert features.provenance["source"] == os.fspath(photos.resolve())
    assert {"keras", "tensorflow", "created"} <= set(features.provenance)
    with h5py.File(features.path) as file:
        assert b"created" not in file.attrs["spec"]


def test_names_as_long_as_a_disk_takes(photos, extract, tiny_backbone, tmp_path):
    long = photos.rename(photos.with_name("ü" * 120))
    weights = tmp_path / f"{'w' * 249}.keras"
    shutil.copy(tiny_backbone, weights)
    assert extract(long, weights=str(weights)).n_computed == 21
    assert extract(long, weights=str(weights)).hit
    copy = shutil.copytree(long, tmp_path / "copy")
    assert extract(copy, weights=str(weights)).n_computed == 0


def test_a_file_that_cannot_be_read_is_made_anew_and_said_so(photos, extract, capsys):
    path = extract(photos).features.path
    path.write_bytes(path.read_bytes()[:5000])
    assert not extract(photos, show_progress=True).hit
    assert f"'{path}' cannot be read; made anew." in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_somebody_has_open_is_read(photos, extract, mode):
    path = extract(photos).features.path
    with h5py.File(path, mode):
        assert extract(photos).hit


def test_a_file_that_is_being_changed_is_not_called_damaged(tmp_path):
    with h5py.File(tmp_path / "open.h5", "w", libver="latest") as file:
        file.flush()
        shutil.copy(tmp_path / "open.h5", tmp_path / "copy.h5")
    with pytest.raises(StoreError, match="is open for writing in this program, or in another"):
        assert store.Features(tmp_path / "copy.h5").metadata


def test_a_file_in_place_of_the_cache_folder(photos, extract, tmp_path):
    (tmp_path / "cache").write_text("x")
    for folder in (tmp_path / "cache", tmp_path / "cache" / "deep"):
        with pytest.raises(DiskError, match="something else than a folder lies there"):
            extract(photos, cache_dir=folder)


def test_no_features_are_put_among_the_images(photos, extract):
    before = sorted(photos.rglob("*"))
    done = extract(photos, cache_dir=photos.parent)
    assert done.features.path.parent.name.startswith("my photos-")
    assert sorted(photos.rglob("*")) == before


def test_a_keras_file_is_a_backbone_by_its_path(tmp_path, photos, tiny_backbone):
    options = {"cache_dir": tmp_path, "show_progress": False}
    before = extraction.run(photos, weights=str(tiny_backbone), **options).features
    for given in (str(tiny_backbone), tiny_backbone):
        assert extraction.run(photos, given, **options).hit
    tapped = extraction.run(photos, tiny_backbone, layer="relu_1", **options).features
    assert tapped.spec.weights == before.spec.weights
    assert tapped.spec.layer == "relu_1"
    with pytest.raises(SpecError, match=r"There is no file 'none\.keras'\. Give the path of a"):
        extraction.run(photos, "none.keras", **options)
    with pytest.raises(SpecError, match=r"brings its own weights; leave 'random' out"):
        extraction.run(photos, str(tiny_backbone), weights="random", **options)
