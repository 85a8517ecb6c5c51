"""A cache folder in a bucket: what a folder gives, from several machines, through every fault."""

from __future__ import annotations

import gc
import json
import shutil
from collections import Counter

import h5py
import numpy as np
import object_storage
import pytest
from conftest import make_image, make_photos

import featcache as fc
from featcache import extraction, store
from featcache.core.errors import FeatcacheError, SpecError, StorageError, StoreError
from featcache.data import retries
from featcache.extraction.repair import repair
from featcache.store import (
    bucket,
    compacting,
    hdf5,
    index,
    marker,
    part_writer,
    parted,
    placeholders,
    uploading,
    working_copy,
)

URL = "s3://caches/of ü"

pytestmark = pytest.mark.slow  # each builds a network, or waits for one that did


@pytest.fixture
def storage(monkeypatch):
    """The server with an empty bucket, whose faults are answered at once."""
    server = object_storage.serve()
    server.put("caches", {})
    server.reset()
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.01)
    yield server
    server.reset()


@pytest.fixture
def on(tmp_path, monkeypatch):
    """Be another machine: one with a home of its own."""

    def be(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / name))
        uploading._uploaded.clear()
        placeholders._beginning.cache_clear()

    be("a")
    return be


@pytest.fixture
def run(tiny_backbone, on, storage, monkeypatch):
    """Extract into the bucket, 5 rows a part."""
    monkeypatch.setattr(part_writer, "PART_ROWS", 5)

    def run(source, cache=URL, **options):
        storage.requests.clear()
        given = {"weights": str(tiny_backbone), "batch_size": 4, "runtime": "tensorflow"}
        options = given | {"show_progress": False} | options
        return extraction.run(source, cache_dir=cache, **options)

    return run


@pytest.fixture(scope="module")
def published(tiny_backbone, tmp_path_factory):
    """The objects of a cache with one feature file in parts, extracted from `photos`."""
    folder = tmp_path_factory.mktemp("published")
    photos = make_photos(folder / "my photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_writer, "PART_ROWS", 5)
        extraction.run(
            photos,
            cache_dir=folder / "cache",
            weights=str(tiny_backbone),
            batch_size=4,
            runtime="openvino",
            assemble_up_to=0,
            show_progress=False,
        )
    return photos, folder / "cache"


@pytest.fixture
def filled(published, storage, on):
    """The bucket with that cache; returns images, the local cache and the feature file's URL."""
    photos, cache = published
    files = [path for path in cache.glob("my photos/**/*") if path.is_file()]
    objects = {f"of ü/{path.relative_to(cache).as_posix()}": path.read_bytes() for path in files}
    storage.put("caches", objects)
    storage.reset()
    (path,) = cache.glob("*/*.h5")
    return photos, path, f"{URL}/{path.relative_to(cache).as_posix()}"


def keys(storage):
    """The keys in the bucket, below the cache folder."""
    found = storage.client.list_objects_v2(Bucket="caches").get("Contents", ())
    return {one["Key"].removeprefix("of ü/") for one in found}


def parts(storage):
    return {key for key in keys(storage) if "/part-" in key}


def done(storage):
    """What was asked of the server: L is a listing."""
    return Counter("L" if one.is_listing else one.method[0] for one in storage.requests)


def same(one, other):
    assert one.ids == other.ids
    assert one.digests.tobytes() == other.digests.tobytes()
    assert one.X.tobytes() == other.X.tobytes()


def failing(request, n_before):
    """Let the first of each request fail, each in a way of its own."""
    if n_before:
        return None
    return ("503", "slow", "cut", "lost")[sum(request.path.encode()) % 4]


class TestExtraction:
    def test_a_bucket_gives_what_a_folder_gives_and_a_second_run_asks_for_two_listings(
        self, run, photos, storage, tmp_path
    ):
        storage.put(
            "photos",
            {f"{path.parent.name}/{path.name}": path.read_bytes() for path in photos.rglob("*.*")},
        )
        far = run("s3://photos", runtime="openvino").features
        puts = [one.key.removeprefix("of ü/") for one in storage.requests if one.method == "PUT"]
        local = run("s3://photos", tmp_path / "local", runtime="openvino").features
        same(far, local)
        assert far.path.is_relative_to(tmp_path / "home" / "a" / "featcache")
        assert len(parts(storage)) > 2
        assert keys(storage) - parts(storage) == {"photos/source.json", f"photos/{far.path.name}"}
        assert puts[0] == "photos/source.json"  # and the feature file after all that it needs
        assert puts[-1] == f"photos/{far.path.name}"
        again = run("s3://photos")
        assert again.hit
        assert done(storage) == {"L": 2}

    def test_another_machine_finds_it_and_computes_what_is_new_alone(
        self, run, photos, storage, on
    ):
        first = run(photos)
        on("b")
        second = run(photos)
        assert second.hit
        assert done(storage).keys() == {"L", "G"}  # nothing is written
        storage.reset()
        same(second.features, first.features)
        make_image(photos / "pear" / "new.png", (1, 2, 3), 999, (40, 40))
        more = run(photos)
        assert (more.n_computed, more.n_reused) == (1, len(first.features))
        on("a")
        known = run(photos)
        assert known.hit
        same(known.features, more.features)
        (photos / "pear" / "new.png").unlink()
        fewer = run(photos)
        assert (fewer.n_computed, fewer.n_removed) == (0, 1)
        assert len(parts(storage)) == len(parted.names_of(fewer.features.path))

    @pytest.mark.parametrize("fault", ["mixed", "503", "cut", "lost"])
    def test_faults_cost_nothing_but_time(self, run, photos, storage, on, fault):
        def faulty(request, n_before):
            if fault == "mixed":
                return failing(request, n_before)
            return None if n_before else fault

        storage.fault = faulty
        first = run(photos)
        on("b")
        second = run(photos)
        assert second.hit
        same(second.features, first.features)
        assert len(parts(storage)) == len(parted.names_of(first.features.path))

    def test_machines_that_publish_at_once_lose_and_repeat_nothing(
        self, run, photos, storage, on, monkeypatch, images_run
    ):
        n = len(run(photos).features)
        images_run.clear()
        make_image(photos / "pear" / "x.png", (1, 2, 3), 998, (40, 40))
        push, others = uploading._push_features, []

        def late(*arguments):
            """Have another machine add an image, and publish, before this one does."""
            if not others:
                others.append(True)
                make_image(photos / "pear" / "y.png", (1, 2, 3), 999, (40, 40))
                on("b")
                others.append(run(photos))
                on("a")
            return push(*arguments)

        monkeypatch.setattr(uploading, "_push_features", late)
        done = run(photos)
        assert len(done.features) == n + 2
        assert (done.n_computed, done.n_reused) == (1, n + 1)
        assert len(others[1].features) == n + 2
        assert sum(images_run) == 2  # x was found in its part before it was published
        on("c")
        last = run(photos)
        assert last.hit
        same(last.features, done.features)

    def test_a_machine_that_is_always_late_says_so_and_keeps_what_it_computed(
        self, run, photos, storage, monkeypatch
    ):
        def refused(url, data, replaces=None, put=bucket.put):
            if url.endswith(".h5") and "/part-" not in url:
                raise bucket.BehindError(url)
            return put(url, data, replaces)

        with monkeypatch.context() as patch:
            patch.setattr(bucket, "put", refused)
            with pytest.raises(StoreError, match=r"by another machine meanwhile\. Run the same"):
                run(photos)
        assert parts(storage)
        again = run(photos)
        assert again.n_computed == 0
        assert f"my photos/{again.features.path.name}" in keys(storage)

    def test_what_was_computed_before_a_machine_died_is_found_by_another(
        self, run, photos, storage, on, monkeypatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr(uploading, "push", lambda path: None)
            n = len(run(photos).features)
        assert keys(storage) == parts(storage) | {"my photos/source.json"}
        on("b")
        done = run(photos)
        assert (done.n_computed, done.n_reused) == (0, n)

    def test_images_that_another_source_has_are_not_computed_again(
        self, run, photos, storage, on, tmp_path
    ):
        first = run(photos).features
        other = tmp_path / "others"
        shutil.copytree(photos, other)
        on("b")
        done = run(other)
        assert (done.n_computed, done.n_reused) == (0, len(first))
        assert done.features.X.tobytes() == first.X.tobytes()
        assert {key.partition("/")[0] for key in parts(storage)} == {"my photos", "others"}

    def test_ctrl_c_leaves_what_was_computed_in_the_bucket(
        self, run, photos, storage, on, monkeypatch
    ):
        def interrupted(part, upload=uploading.upload):
            upload(part)
            if len(parts(storage)) == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(index, "upload", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(photos)
        assert keys(storage) == parts(storage) | {"my photos/source.json"}
        on("b")
        done = run(photos)
        assert done.n_reused >= 5
        assert done.n_computed + done.n_reused == len(done.features)

    def test_unfinished_parts_of_others_stay_until_they_are_old(
        self, run, photos, storage, on, monkeypatch
    ):
        features = run(photos).features
        (name, *_) = sorted(parts(storage))
        strange = f"{name.rpartition('/')[0]}/part-{'f' * 32}.h5"
        data = (features.path.parents[1] / name).read_bytes()
        storage.client.put_object(Bucket="caches", Key=f"of ü/{strange}", Body=data)
        make_image(photos / "pear" / "x.png", (1, 2, 3), 998, (40, 40))
        run(photos)
        assert strange in keys(storage)
        monkeypatch.setattr(uploading, "IN_THE_MAKING_S", -1.0)
        make_image(photos / "pear" / "y.png", (1, 2, 3), 999, (40, 40))
        run(photos)
        assert strange not in keys(storage)

    def test_two_sources_of_a_name_get_folders_of_their_own(
        self, run, tmp_path, storage, on, monkeypatch
    ):
        one, two = (make_photos(tmp_path / name / "photos", 3) for name in "xy")
        others = []

        def late(part, upload=uploading.upload):
            """Have another machine take the folder before this one puts its first part there."""
            if not others:
                others.append(True)
                on("b")
                others.append(run(one))
                on("a")
            upload(part)

        monkeypatch.setattr(index, "upload", late)
        done = run(two)
        assert done.features.provenance["source"] == str(two)
        owners = [key for key in keys(storage) if key.endswith("source.json")]
        bodies = [storage.client.get_object(Bucket="caches", Key=f"of ü/{key}") for key in owners]
        origins = {json.loads(one["Body"].read())["origin"] for one in bodies}
        assert origins == {str(one), str(two)}
        on("b")
        assert run(two).hit
        assert run(one).hit

    def test_where_the_disk_is_nearly_full_parts_give_way(
        self, run, photos, storage, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(placeholders, "FREE", 2.0)
        far = run(photos, runtime="openvino").features
        same(far, run(photos, tmp_path / "local", runtime="openvino").features)
        assert all(map(placeholders.is_one, parted.lenders(far.path)))

    def test_who_may_not_write_is_told_in_one_line(self, run, photos, storage):
        storage.fault = lambda request, n_before: "403" if request.method == "PUT" else None
        with pytest.raises(StorageError, match=r"may not be written: Access Denied\. Log in"):
            run(photos)
        assert keys(storage) == set()
        storage.reset()
        done = run(photos)
        assert done.n_reused > 0  # the part that could not be put there is here
        assert parts(storage) == {
            f"my photos/{done.features.path.name}.parts/{name}"
            for name in parted.names_of(done.features.path)
        }

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("gs://caches/x", "cannot be a cache folder"),
            ("https://caches/x", "cannot be a cache folder"),
            ("s3://no-such-bucket-here/x", "the bucket does not exist"),
            ("ftp://x/y", "Nothing is read from"),
        ],
    )
    def test_what_cannot_be_a_cache_is_told(self, run, photos, url, said, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FeatcacheError, match=said):
            run(photos, url)
        with pytest.raises(FeatcacheError, match=r"need one on a disk|Nothing"):
            fc.Embedder(cache_dir=url).fit(["x.png"])
        with pytest.raises(SpecError, match="Leave out --assemble-up-to"):
            run(photos, assemble_up_to=1)
        assert not list(tmp_path.glob("*:*"))


class TestReading:
    def test_heads_are_fitted_with_each_part_read_once_and_found_by_others(
        self, filled, storage, on
    ):
        _, path, url = filled
        board = fc.fit_heads(url, ["lda"], cv=3, jobs=1, report=False, show_progress=False)
        got = Counter(key for key in storage.got() if "/part-" in key)
        assert set(got.values()) == {1}
        assert len(got) == len(parted.names_of(path))
        made = {key for key in keys(storage) if ".heads/" in key}
        assert {key.rpartition("/")[2] for key in made} >= {"leaderboard.json"}
        on("b")
        storage.reset()
        again = fc.fit_heads(url, ["lda"], cv=3, jobs=1, report=False, show_progress=False)
        assert again.results == board.results
        assert "P" not in done(storage)
        fc.fit_heads(url, ["ridge"], cv=3, jobs=1, report=False, show_progress=False)
        heads = {key.rpartition("/")[2] for key in keys(storage) if ".heads/" in key}
        assert not {name for name in heads if "lda" in name}

    def test_large_parts_are_read_by_ranges_and_whole_after_half(
        self, filled, storage, monkeypatch
    ):
        _, path, url = filled
        monkeypatch.setattr(placeholders, "WHOLE_BYTES", 0)
        monkeypatch.setattr(placeholders, "BLOCK_BYTES", 512)
        expected = store.Features(path)
        features = fc.Features(url)
        for row in range(len(features)):
            assert features.read_rows(row).tobytes() == expected.read_rows(row).tobytes()
        same(features, expected)
        assert not any(map(placeholders.is_one, parted.lenders(features.path)))

    def test_no_garbage_is_collected_while_hdf5_waits_for_the_bucket(self, filled, monkeypatch):
        """In the client's thread that would wait for HDF5's lock, and it for the client."""
        _, _, url = filled
        seen = []

        def watched(*arguments, get=bucket.get, **options):
            seen.append(gc.isenabled())
            return get(*arguments, **options)

        features = fc.Features(url)
        monkeypatch.setattr(bucket, "get", watched)
        for part in parted.lenders(features.path):
            with hdf5.reading(part, peeks=True) as file:
                assert len(file["digests"])
        assert seen
        assert not any(seen)
        assert gc.isenabled()

    def test_of_a_part_that_lends_digests_its_beginning_is_read(self, filled, storage):
        _, _path, url = filled
        features = fc.Features(url)
        storage.reset()
        rows = store.Rows(parted.lenders(features.path))
        assert (rows.find(features.digests) >= 0).all()
        assert all(map(placeholders.is_one, parted.lenders(features.path)))

    def test_large_parts_in_a_bucket_have_pages(self, filled, monkeypatch):
        _, path, url = filled
        monkeypatch.setattr(index, "PAGED_BYTES", 100)
        local = fc.Features(url)
        done = compacting.compact(local.path)
        (part,) = parted.lenders(done.features.path)
        with h5py.File(part) as file:
            made = file.id.get_create_plist()
            assert made.get_file_space_page_size() == hdf5.PAGE_BYTES
        same(done.features, store.Features(path))

    def test_readers_go_on_while_another_machine_compacts(self, filled, storage, on):
        _, path, url = filled
        features = fc.Features(url)
        on("b")
        compacting.compact(working_copy.pulled(url))
        assert len(parts(storage)) == 1
        same(features, store.Features(path))

    def test_a_part_that_is_gone_is_named_and_mended(self, run, photos, storage, on):
        features = run(photos, runtime="openvino").features
        url = f"{URL}/my photos/{features.path.name}"
        X = features.X.copy()
        gone = sorted(parts(storage))[0]
        storage.client.delete_object(Bucket="caches", Key=f"of ü/{gone}")
        on("b")
        with pytest.raises(StoreError, match=r"is gone\. Run `featcache verify --repair`"):
            fc.Features(url).read_rows(slice(None))
        local = working_copy.pulled(url, afresh=True)
        damage, n = repair(local, show_progress=False)
        assert n > 0
        assert damage
        on("c")
        np.testing.assert_allclose(fc.Features(url).X, X, rtol=1e-4, atol=1e-5)

    def test_a_part_that_is_out_of_reach_is_not_computed_again(
        self, run, filled, storage, monkeypatch
    ):
        photos, _, _ = filled
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        storage.reset = lambda: None
        try:
            storage.fault = lambda request, n_before: "503" if "/part-" in request.path else None
            with pytest.raises(
                StorageError, match=r"cannot be read: .* Run the same command again"
            ):
                run(photos)
        finally:
            del storage.reset
            storage.reset()


class TestFolder:
    def test_what_others_put_there_is_left_alone(self, filled, storage, tmp_path):
        odd = [
            "x.h5",
            "../up/source.json",
            "./a-12345678.h5",
            "my photos/../../b-12345678.h5",
            ".locks/source.json",
            ".locks/a-12345678.h5",
            "my photos/sub/c-12345678.h5",
            "my photos/other.h5",
            "my photos/a\\b-12345678.h5",
            "nobody's/d-12345678.h5",
            "nobody's/e.heads/report.html",
            "my photos/d-12345678.h5.parts/part-1.h5",
            "//etc/source.json",
            "my photos/",
        ]
        for key in odd:
            storage.client.put_object(Bucket="caches", Key=f"of ü/{key}", Body=b"-")
        _, path, _url = filled
        storage.reset()
        root = working_copy.pulled(URL)
        assert not [key for key in storage.got() if key.removeprefix("of ü/") in odd]
        made = {path for path in root.rglob("*.h5") if path.is_file()}
        assert {one.name for one in made if one.parent.suffix != ".parts"} == {path.name}
        assert not (tmp_path / "home" / "a" / "up").exists()

    def test_clean_removes_in_the_bucket_and_nothing_that_is_needed(self, filled, storage, cli, on):
        _, path, _url = filled
        ran = cli("info", URL)
        assert ran.returncode == 0, ran.stderr
        assert path.name[:10] in ran.stdout
        before = keys(storage)
        assert "nothing to remove" in cli("clean", URL, "--yes").stdout
        assert keys(storage) == before
        on("b")
        ran = cli("clean", URL, "--max-size", "0", "--yes")
        assert ran.returncode == 0, ran.stderr
        assert keys(storage) == set()
        on("a")
        root = working_copy.pulled(URL)
        assert not (root / "my photos").exists()

    @pytest.mark.parametrize("fault", ["503", "cut", "lost"])
    def test_every_verb_gets_through_faults(self, filled, storage, cli, fault, on):
        _, path, url = filled
        storage.fault = lambda request, n_before: None if n_before else fault
        X = store.Features(path).X
        assert fc.Features(url).X.tobytes() == X.tobytes()
        fc.fit_heads(url, ["ridge"], cv=3, jobs=1, report=False, show_progress=False)
        assert cli("compact", url).returncode == 0
        on("b")
        assert fc.Features(url).X.tobytes() == X.tobytes()
        assert cli("clean", URL, "--max-size", "0", "--yes").returncode == 0
        assert not [key for key in keys(storage) if ".h5" in key]

    def test_heads_that_cannot_be_put_there_are_kept_here_and_put_there_later(
        self, filled, storage, capsys
    ):
        _, _, url = filled
        how = {"cv": 3, "jobs": 1, "report": False}
        storage.fault = lambda request, n_before: "403" if request.method == "PUT" else None
        board = fc.fit_heads(url, ["lda"], **how)
        assert f"Kept in '{board.folder}' alone: " in capsys.readouterr().err
        assert not [key for key in keys(storage) if ".heads/" in key]
        storage.reset()
        assert fc.fit_heads(url, ["lda"], **how).results == board.results
        assert [key for key in keys(storage) if ".heads/" in key]

    def test_files_that_vanish_here_are_no_deletions(self, filled, storage):
        _, path, url = filled
        root = working_copy.pulled(URL)
        before = keys(storage)
        shutil.rmtree(root / "my photos")
        uploading.push(root)
        with uploading.removing(root):
            pass
        assert keys(storage) == before
        assert fc.Features(url).X.tobytes() == store.Features(path).X.tobytes()

    def test_verbs_take_urls(self, filled, storage, cli, on):
        _, _path, url = filled
        ran = cli("verify", url)
        assert (ran.returncode, ran.stderr) == (0, "")
        ran = cli("compact", url)
        assert ran.returncode == 0, ran.stderr
        assert len(parts(storage)) == 1
        assert "Leave out --one-file" in cli("compact", url, "--one-file").stderr
        ran = cli("compact", f"{URL}/my photos/none-12345678.h5")
        assert f"'{URL}/my photos/none-12345678.h5' does not exist" in ran.stderr
        storage.client.delete_object(Bucket="caches", Key=f"of ü/{parts(storage).pop()}")
        ran = cli("verify", url)
        assert ran.returncode == 1
        assert "is damaged" in ran.stderr

    def test_a_damaged_marker_costs_looking_again(self, filled, storage):
        _, path, url = filled
        root = working_copy.pulled(URL)
        (root / marker.MARKER).write_text("{")
        assert fc.Features(url).X.tobytes() == store.Features(path).X.tobytes()
