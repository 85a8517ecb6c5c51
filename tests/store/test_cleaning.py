from __future__ import annotations

import functools
import os
import shutil
from dataclasses import replace

import h5py
import pytest
from conftest import make_image, parse_single_json, wrap_runs

from featcache import store
from featcache.store import cleaning, part_writer


@pytest.fixture
def extract(extract):
    """Without a runtime that keeps converted models: there is a test of these."""
    return functools.partial(extract, runtime="tensorflow")


@pytest.fixture
def cut_short(photos, extract, monkeypatch):
    """A run that was interrupted after its first parts; returns their folder."""
    done = []

    def failing(run, batch):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return run(batch)

    with monkeypatch.context() as patch:
        wrap_runs(patch, failing)
        patch.setattr(part_writer, "PART_ROWS", 4)
        with pytest.raises(KeyboardInterrupt):
            extract(photos)
    (folder,) = photos.parent.glob("cache/*/*.parts")
    return folder


def age(path, days):
    then = path.stat().st_mtime - days * 86400
    os.utime(path, (then, then))


def test_unfinished_parts_are_kept_unless_they_are_old(cut_short, tmp_path, extract, photos):
    cache = tmp_path / "cache"
    assert cleaning.removable(cache) == []
    parts = sorted(cut_short.iterdir())
    age(parts[0], 10)
    (old,) = cleaning.removable(cache, older_than_s=7 * 86400)
    assert old.path == parts[0]
    assert old.why == "written 10.0 days ago"
    assert cleaning.remove([old]) == [old]
    done = extract(photos)
    assert done.n_reused == 4 * (len(parts) - 1)


def test_what_nothing_needs_is_found(cut_short, tmp_path, extract, photos):
    kept = tmp_path / "kept"
    shutil.copytree(cut_short, kept)
    features = extract(photos).features
    shutil.copytree(kept, cut_short)  # as if a run had died between publishing and tidying up
    (cut_short / f"part-{'0' * 32}.h5").write_bytes(b"damaged")
    spec = replace(features.spec, pooling="max")
    other = store.Parts(features.path, spec, features.provenance["source"])
    other.write(features.digests[:2], features.X[:2])
    dead = features.path.with_name(f"{features.path.name}.00c0ffee.999999.tmp")
    dead.write_bytes(b"half a file")
    found = cleaning.removable(tmp_path / "cache")
    assert sorted(one.why for one in found) == [
        "a part of another spec",
        "a part that cannot be read",
        *["a part whose rows are all in the feature file"] * len(list(kept.iterdir())),
        "left by a process that died",
    ]
    assert len(cleaning.remove(found)) == len(found)
    assert sorted(path.name for path in features.path.parent.iterdir()) == [
        "source.json",
        features.path.name,
    ]
    assert extract(photos).hit


def test_the_size_limit_takes_the_oldest(extract, photos, tmp_path):
    whole, few = extract(photos).features.path, extract(photos, limit=6).features.path
    age(whole, 1)
    size = few.stat().st_size
    (one,) = cleaning.removable(tmp_path / "cache", max_bytes=size)
    assert one.path == whole
    assert len(cleaning.removable(tmp_path / "cache", max_bytes=0)) == 2
    assert cleaning.removable(tmp_path / "cache", max_bytes=10 * size) == []


def test_what_another_process_works_on_stays(extract, photos, tmp_path):
    path = extract(photos).features.path
    found = cleaning.removable(tmp_path / "cache", older_than_s=0)
    with store.locked(path, True, print):
        assert cleaning.remove(found) == []
    assert path.exists()
    assert len(cleaning.remove(found)) == 1
    assert not path.parent.exists()  # nothing was left in it but whose it was


def test_what_died_beside_the_sources_goes_and_nothing_is_made_outside(extract, photos, tmp_path):
    cache = extract(photos).features.path.parent.parent
    outside = sorted(tmp_path.iterdir())
    dead = [
        cache / ".weights.json.00c0ffee.999999.tmp",
        cache / "my photos" / "source.json.00c0ffee.999999.tmp",
    ]
    for path in dead:
        path.write_text("{")
    assert [one.path for one in cleaning.remove(cleaning.removable(cache))] == dead
    assert not any(path.exists() for path in dead)
    heads = cache / "my photos" / "a.heads.scratch.00c0ffee.999999.tmp"
    heads.mkdir()
    (heads / "0.npy").write_bytes(b"0" * 1000)
    (one,) = cleaning.remove(cleaning.removable(cache))
    assert (one.path, one.size_bytes) == (heads, 1000)
    assert not heads.exists()
    assert sorted(tmp_path.iterdir()) == outside  # no lock or .gitignore beside the cache folder


def test_stamps_go_with_their_feature_file(extract, photos, tmp_path):
    cache = tmp_path / "cache"
    for image in photos.rglob("*.*"):
        age(image, 1)
    path = extract(photos).features.path
    (kept,) = cache.glob(".stamps/*/*")
    dead = kept.with_name(f"{kept.name}.00c0ffee.999999.tmp")
    dead.write_text("half")
    assert [one.path for one in cleaning.remove(cleaning.removable(cache))] == [dead]
    cleaning.remove(cleaning.removable(cache, older_than_s=0))
    assert not (cache / ".stamps").exists()
    extract(photos)
    path.unlink()
    (gone,) = cleaning.remove(cleaning.removable(cache))
    assert (gone.path, gone.why) == (kept, "stamps for a feature file that is gone")
    assert not (cache / ".stamps").exists()


def test_converted_models_go_by_age_and_size(extract, photos, tmp_path):
    extract(photos, runtime="openvino")
    cache = tmp_path / "cache"
    (model,) = cache.glob(".models/*/*")
    assert cleaning.removable(cache) == []
    age(model, 10)
    (old,) = cleaning.removable(cache, older_than_s=7 * 86400)
    assert old.path == model
    assert old.size_bytes == sum(file.stat().st_size for file in model.iterdir())
    dead = model.with_name(f"{model.name}.00c0ffee.999999.tmp")
    dead.mkdir()
    (dead / "model.xml").write_text("half")
    assert {one.path for one in cleaning.removable(cache, older_than_s=7 * 86400)} == {model, dead}
    cleaning.remove(cleaning.removable(cache, older_than_s=7 * 86400))
    assert not (cache / ".models").exists()
    make_image(photos / "pear" / "new.png", (1, 2, 3), 902, (30, 30))
    assert extract(photos, runtime="openvino").n_computed == 1


def test_compiled_programs_go_by_age_and_size(tmp_path):
    folder = tmp_path / "cache" / ".models" / "xla" / "00ff"
    folder.mkdir(parents=True)
    old, new = (folder / f"xla_compile_cache__{n}__XLA_GPU_JIT.pb" for n in (1, 2))
    for path in (old, new):
        path.write_bytes(b"program")
    assert cleaning.removable(tmp_path / "cache") == []
    age(old, 10)
    (found,) = cleaning.removable(tmp_path / "cache", older_than_s=7 * 86400)
    assert (found.path, found.size_bytes) == (old, 7)
    assert [one.path for one in cleaning.removable(tmp_path / "cache", max_bytes=7)] == [old]
    cleaning.remove([found])
    assert list(folder.iterdir()) == [new]
    cleaning.remove(cleaning.removable(tmp_path / "cache", max_bytes=0))
    assert not (tmp_path / "cache" / ".models").exists()


def test_what_featcache_did_not_write_stays(cut_short, extract, photos, tmp_path):
    features = extract(photos, runtime="openvino").features.path
    cut_short.mkdir()
    (model,) = (tmp_path / "cache").glob(".models/*/*")
    mine = [
        features.with_name("notes.99999999.tmp"),
        features.with_name("weights.h5"),
        cut_short / "part-of-my-notes.h5",
        cut_short / "notes.tmp",
        model / "notes.txt",
    ]
    for path in mine:
        path.write_text("mine")
    with h5py.File(features.with_name("mine-0123abcd.h5"), "w") as file:
        file["a"] = 1
    mine.append(features.with_name("mine-0123abcd.h5"))
    store.Parts(features, store.Features(features).spec, "").clear()
    cleaning.remove(cleaning.removable(tmp_path / "cache", older_than_s=0))
    assert all(path.exists() for path in mine)
    assert not features.exists()
    assert sorted(path.name for path in model.iterdir()) == ["notes.txt"]


def test_heads_and_models_stay(extract, photos, tmp_path):
    path = extract(photos).features.path
    (path.with_suffix(".heads")).mkdir()
    (path.with_suffix(".heads") / "leaderboard.json").write_text("{}")
    cleaning.remove(cleaning.removable(tmp_path / "cache", older_than_s=0))
    assert (path.with_suffix(".heads") / "leaderboard.json").exists()
    assert not path.exists()


def test_the_verb_shows_and_only_removes_when_told(extract, photos, tmp_path, cli):
    path = extract(photos).features.path
    make_image(photos / "pear" / "new.png", (1, 2, 3), 902, (30, 30))
    nothing = cli("clean")
    assert (nothing.returncode, nothing.stdout) == (0, "There is nothing to remove in 'cache'.\n")
    shown = cli("clean", "--older-than", "0")
    assert "Removed nothing. To remove 1 file run again with --yes." in shown.stdout
    assert path.exists()
    assert parse_single_json(cli("clean", "--older-than", "0", "--json").stdout)["removed"] == []
    done = parse_single_json(cli("clean", "--max-size", "0", "--yes", "--json").stdout)
    assert done["removed"] == [os.path.relpath(path, tmp_path)]
    assert done["freed_bytes"] > 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "Cache folder 'nowhere' does not exist"),
        ([".", "--older-than", "-1"], "older_than must be 0 or more; got -1"),
        ([".", "--max-size", "nan"], "max_size must be 0 or more; got nan"),
    ],
)
def test_wrong_use(cli, arguments, message):
    ran = cli("clean", *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
