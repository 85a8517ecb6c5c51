"""Feature files whose rows stay in parts: read like any other, and never zeros for what is gone."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from conftest import make_photos

import featcache as fc
from featcache import extraction, store
from featcache.core.errors import StoreError
from featcache.extraction.repair import repair
from featcache.store import cleaning, hdf5, part_writer, parted
from featcache.store.compacting import compact

VIEWS = {"views": 2, "augment": "flip"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("parted") / "photos")


@pytest.fixture(scope="module")
def run(photos, tiny_backbone):
    """Extract, 5 rows a part."""

    def run(cache, source=photos, **options):
        given = {"runtime": "tensorflow", "show_progress": False}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part_writer, "PART_ROWS", 5)
            usual = {"weights": str(tiny_backbone), "batch_size": 4, "assemble_up_to": 0}
            return extraction.run(source, cache_dir=cache, **given, **usual | options)

    return run


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """A cache with one file in parts, and the same file in one piece."""
    folder = tmp_path_factory.mktemp("made")
    both = [run(folder / name, assemble_up_to=at, **VIEWS) for name, at in (("in", 0), ("one", 4))]
    return tuple(done.features for done in both)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the cache, to be damaged."""
    shutil.copytree(made[0].path.parent.parent, tmp_path / "cache")
    return store.Features(tmp_path / "cache" / made[0].path.parent.name / made[0].path.name)


def n_parts(features):
    return len(parted.names_of(features.path))


def part_of(features, row, view=0):
    """Return the path of the part that has a row."""
    with hdf5.reading(features.path) as file:
        names, of_row = parted.where(file)
    return parted.folder_of(features.path) / names[of_row[row, view]]


class TestReading:
    def test_every_way_gives_what_one_file_gives(self, made):
        in_parts, whole = made
        assert n_parts(in_parts) > 3
        assert n_parts(whole) == 0
        assert in_parts.shape == whole.shape
        assert in_parts.dtype == whole.dtype
        for name in ("ids", "digests", "labels", "X", "views"):
            np.testing.assert_array_equal(getattr(in_parts, name), getattr(whole, name))
        for name in ("features", "views"):
            blocks = [np.concatenate(list(one.blocks(name))) for one in made]
            np.testing.assert_array_equal(*blocks)
        for rows in ([3], [9, 2, 2, -1], slice(1, 8, 3), range(4), 5):
            for view in (0, 1):
                np.testing.assert_array_equal(*(one.read_rows(rows, view) for one in made))
        assert in_parts.content == whole.content
        assert not store.verify(in_parts)

    def test_chunks_between_rows_are_not_read(self, made, monkeypatch):
        """Of maps they are large, and training asks for rows all over a file."""
        with hdf5.reading(made[0].path) as file:
            of_row, place = file["parts/of_row"][:, 0], file["parts/place"][:, 0]
        some = np.flatnonzero(of_row == of_row[0])
        ends = some[[place[some].argmin(), place[some].argmax()]]
        assert np.ptp(place[ends]) > 1
        spans = []
        monkeypatch.setattr(hdf5, "CHUNK_ROWS", 1)

        def span(rows, part, first, stop, read=parted.PartedRows._span):
            spans.append(stop - first)
            return read(rows, part, first, stop)

        monkeypatch.setattr(parted.PartedRows, "_span", span)
        np.testing.assert_array_equal(made[0].read_rows(ends), made[1].X[ends])
        assert spans == [1, 1]

    def test_plain_h5py_reads_it_as_one_file(self, made, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with h5py.File(made[0].path) as file:
            np.testing.assert_array_equal(file["features"][:], made[1].X)
            np.testing.assert_array_equal(file["views"][:], made[1].views)

    def test_plain_h5py_does_where_the_name_has_a_percent_sign(
        self, run, photos, tiny_backbone, tmp_path
    ):
        odd = shutil.copyfile(tiny_backbone, tmp_path / "of 100%b.keras")
        features = run(tmp_path, weights=str(odd)).features
        assert "%" in features.path.name
        with h5py.File(features.path) as file:
            np.testing.assert_array_equal(file["features"][:], features.X)

    def test_parts_are_named_by_what_is_in_them(self, run, made, tmp_path):
        again = run(tmp_path, **VIEWS).features
        names = parted.names_of(made[0].path)
        assert parted.names_of(again.path) == names
        assert {path.name for path in parted.folder_of(again.path).iterdir()} == names

    def test_heads_learn_the_same(self, made, tmp_path):
        boards = [
            fc.fit_heads(one, ["centroid"], folder=tmp_path / str(i), report=False, jobs=1, cv=3)
            for i, one in enumerate(made)
        ]
        np.testing.assert_equal(boards[0].results[0].scores, boards[1].results[0].scores)


class TestExtracting:
    def test_the_second_run_finds_it(self, run, copied):
        again = run(copied.path.parent.parent, **VIEWS)
        assert again.hit
        np.testing.assert_array_equal(again.features.X, copied.X)

    def test_images_that_come_and_go(self, run, photos, tmp_path):
        root = shutil.copytree(photos, tmp_path / "photos")
        run(tmp_path / "cache", root)
        first = sorted(root.glob("*/*.jpg"))[0]
        (first.parent / "zz.jpg").write_bytes(first.read_bytes() + b"\0")
        first.unlink()
        again = run(tmp_path / "cache", root)
        assert (again.n_computed, again.n_removed) == (1, 1)
        whole = run(tmp_path / "other", root, assemble_up_to=4).features
        np.testing.assert_array_equal(again.features.digests, whole.digests)
        np.testing.assert_allclose(again.features.X, whole.X, atol=1e-6)

    def test_another_source_takes_its_rows(self, run, copied, photos, tmp_path):
        other = shutil.copytree(photos, tmp_path / "others")
        cache = copied.path.parent.parent
        for at in (4, 0):  # into one file, and into parts of its own
            done = run(cache, other, assemble_up_to=at, overwrite=False, **VIEWS)
            assert done.n_computed == 0
            np.testing.assert_array_equal(np.sort(done.features.X, 0), np.sort(copied.X, 0))
            done.features.path.unlink()
            shutil.rmtree(parted.folder_of(done.features.path), ignore_errors=True)

    def test_overwrite_computes_every_row(self, run, copied):
        before = copied.X
        done = run(copied.path.parent.parent, overwrite=True, **VIEWS)
        assert done.n_computed == len(before)
        np.testing.assert_array_equal(done.features.X, before)
        assert not store.verify(done.features)

    def test_what_a_run_left_that_died_before_it_tidied_up(self, run, copied):
        stray = copied.path.parent / "stray"
        parts = store.Parts(copied.path, copied.spec, copied.provenance["source"])
        stray = parts.write(copied.digests[:1], copied.X[:1])
        assert run(copied.path.parent.parent, **VIEWS).hit
        assert not stray.exists()
        assert not store.verify(copied)

    def test_from_one_file_to_parts_and_back(self, run, tmp_path, photos):
        root = shutil.copytree(photos, tmp_path / "photos")
        first = sorted(root.glob("*/*.jpg"))[0]
        for number, at in enumerate((4, 0, 4)):
            (first.parent / f"zz{number}.jpg").write_bytes(
                first.read_bytes() + b"\0" * (1 + number)
            )
            done = run(tmp_path / "cache", root, assemble_up_to=at)
            assert done.n_computed == (1 if number else len(done.features))
            assert (n_parts(done.features) > 0) == (at == 0)
            assert parted.folder_of(done.features.path).exists() == (at == 0)


class TestDamage:
    """Never fill values in the place of a part."""

    def gone(self, features):
        part_of(features, 7).unlink()

    def flipped(self, features):
        path = part_of(features, 7)
        data = bytearray(path.read_bytes())
        with hdf5.reading(path) as file:
            at = file["features"].id.get_chunk_info(0).byte_offset
        data[at] ^= 1
        path.write_bytes(bytes(data))

    def swapped(self, features):
        """Another part under its name: each chunk is as it was written."""
        one = part_of(features, 7)
        other = next(path for path in parted.folder_of(features.path).iterdir() if path != one)
        shutil.copyfile(other, one)

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            ("gone", r"its part '.*' is gone"),
            ("flipped", "checksum of rows"),
            ("of_other_rows", "checksum of rows"),
        ],
    )
    def test_reading_says_what_is_damaged(self, copied, damage, said):
        getattr(self, damage)(copied)
        match = rf"^Feature file '.*' is damaged: {said}.* Run `featcache verify --repair`"
        for read in (
            lambda: store.Features(copied.path).X,
            lambda: copied.read_rows([7]),
            lambda: list(copied.blocks()),
            lambda: store.Features(copied.path).views,
        ):
            with pytest.raises(StoreError, match=match):
                read()
        assert len(copied.read_rows([0])) == 1  # which lies elsewhere

    def of_other_rows(self, features):
        """What is in its place has one row."""
        with h5py.File(part_of(features, 7), "r+") as file:
            row = file["features"][:1]
            del file["features"]
            file.create_dataset("features", data=row, chunks=True)

    @pytest.mark.parametrize("damage", ["gone", "flipped", "swapped", "of_other_rows"])
    def test_verify_names_the_rows_and_repair_computes_them(self, copied, damage):
        whole = copied.X
        with hdf5.reading(copied.path) as file:
            _, of_row = parted.where(file)
        lost = np.flatnonzero((of_row == of_row[7, 0]).any(axis=1))
        getattr(self, damage)(copied)
        found = store.verify(store.Features(copied.path))
        rows = [row for first, last in found.rows for row in range(first, last + 1)]
        assert rows == lost.tolist()
        _, n_computed = repair(copied.path, show_progress=False)
        assert n_computed == len(lost)
        mended = store.Features(copied.path)
        assert not store.verify(mended)
        np.testing.assert_allclose(mended.X, whole, atol=1e-6)

    def test_overwrite_writes_it_anew(self, run, copied):
        self.flipped(copied)
        done = run(copied.path.parent.parent, overwrite=True, **VIEWS)
        assert not store.verify(done.features)

    # the features of parts that stay are not read to publish them: `verify` does that
    @pytest.mark.parametrize(("column", "at"), [("digests", 0), ("digests", 4), ("features", 4)])
    def test_a_part_that_a_run_left_is_computed_again(self, run, copied, column, at):
        """Once: what is computed has the name of what was damaged."""
        part = part_of(copied, 7)
        with h5py.File(part, "r+") as file:
            n_lost, chunk = len(file["digests"]), file[column].id.get_chunk_info(0)
        data = bytearray(part.read_bytes())
        data[chunk.byte_offset] ^= 1
        part.write_bytes(bytes(data))
        copied.path.unlink()
        done = run(copied.path.parent.parent, assemble_up_to=at, **VIEWS)
        assert 0 < done.n_computed <= n_lost
        assert not store.verify(done.features)

    def test_a_copy_without_its_parts_says_so(self, copied, tmp_path):
        alone = shutil.copyfile(copied.path, tmp_path / "alone.h5")
        with pytest.raises(StoreError, match=r"put the folder 'alone\.h5\.parts' there"):
            _ = store.Features(alone).X

    def test_parts_stay_while_it_is_not_known_which_are_needed(self, run, copied):
        """The column of their names is damaged."""
        with h5py.File(copied.path) as file:
            at = file["parts/name"].id.get_chunk_info(0).byte_offset
        data = bytearray(copied.path.read_bytes())
        data[at] ^= 1
        copied.path.write_bytes(bytes(data))
        assert cleaning.removable(copied.path.parent.parent) == []
        store.Parts(copied.path, copied.spec, "").clear()
        assert run(copied.path.parent.parent, **VIEWS).n_computed == 0

    def test_a_part_that_is_none_of_ours_is_not_read(self, copied, tmp_path):
        secret = tmp_path / "secret.h5"
        shutil.copyfile(part_of(copied, 7), secret)
        with h5py.File(copied.path, "r+") as file:
            names = [f"../../../{secret.name}".encode()] * n_parts(copied)
            del file["parts/name"]
            file["parts/name"] = names
        with pytest.raises(StoreError, match="in files that are no parts"):
            store.Features(copied.path)


class TestCleaning:
    def test_parts_that_are_needed_stay(self, copied):
        cache = copied.path.parent.parent
        before = sorted(parted.folder_of(copied.path).iterdir())
        assert cleaning.removable(cache) == []
        cleaning.remove(cleaning.removable(cache))
        assert sorted(parted.folder_of(copied.path).iterdir()) == before

    def test_they_go_with_their_file(self, copied):
        cache = copied.path.parent.parent
        (old,) = cleaning.removable(cache, older_than_s=-1)
        assert old.path == copied.path
        assert old.size_bytes == parted.bytes_of(copied.path) > copied.X.nbytes
        cleaning.remove([old])
        assert not copied.path.exists()
        assert not parted.folder_of(copied.path).exists()


class TestCompacting:
    def test_few_parts_with_the_same_rows(self, copied):
        before = set(parted.folder_of(copied.path).iterdir())
        views, old = copied.views, store.Features(copied.path)
        next(blocks := old.blocks())
        done = compact(copied.path)
        assert (done.n_before, done.n_after) == (len(before), 2)  # one of each view
        assert not before & set(parted.folder_of(copied.path).iterdir())
        np.testing.assert_array_equal(store.Features(copied.path).views, views)
        np.testing.assert_array_equal(old.X, copied.views[:, 0])  # opened before
        assert list(blocks) == []
        assert not store.verify(done.features)
        assert done.features.content == copied.content

    def test_into_one_file(self, copied):
        views = copied.views
        assert compact(copied.path, into_one=True).n_after == 0
        assert not parted.folder_of(copied.path).exists()
        np.testing.assert_array_equal(store.Features(copied.path).views, views)

    def test_a_reader_goes_on_meanwhile(self, copied):
        """It opened the file before, and reads a part that is gone by then."""
        X = copied.X
        reader = store.Features(copied.path)
        with pytest.MonkeyPatch.context() as patch:

            def slow(found, rows, view, read=parted.taken):
                patch.undo()
                compact(copied.path)
                return read(found, rows, view)

            patch.setattr(parted, "taken", slow)
            np.testing.assert_array_equal(reader.read_rows(range(len(X))), X)

    @pytest.mark.parametrize("into_one", [False, True])
    @pytest.mark.parametrize("damage", [TestDamage.gone, TestDamage.flipped])
    def test_what_is_damaged_is_said(self, copied, into_one, damage):
        damage(None, copied)
        with pytest.raises(StoreError, match=r"Run `featcache verify --repair`"):
            compact(copied.path, into_one=into_one)

    @pytest.mark.parametrize("is_there", [False, True])
    def test_nothing_is_written_where_there_is_no_cache(self, made, tmp_path, is_there):
        path = tmp_path / "mine" / "moved.h5"
        path.parent.mkdir()
        if is_there:
            shutil.copyfile(made[0].path, path)
        with pytest.raises(StoreError, match=r"does not (exist|lie in the cache folder)"):
            compact(path)
        assert list(tmp_path.iterdir()) == [path.parent]

    def test_a_file_of_one_piece_has_none(self, made):
        assert compact(made[1].path).n_before == 0


def test_rows_of_a_chunk_are_read_at_once():
    """HDF5 reads a whole chunk for each call, so scattered rows must not be a call each."""

    class Counted:
        shape, dtype, chunks = (1000, 3), np.dtype(np.float32), (100, 3)
        n_calls = 0

        def __getitem__(self, rows):
            self.n_calls += 1
            return values[rows]

    values = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    rows = np.random.default_rng(0).permutation(1000)[:600]
    found = Counted()
    np.testing.assert_array_equal(parted.taken(found, rows, 0), values[rows])
    assert found.n_calls == 10
