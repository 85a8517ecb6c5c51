from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from featcache.core import atomic, disk
from featcache.core.errors import DiskError


def write(path, text):
    """Write a file, or a folder with two files."""
    if path.suffix == ".txt":
        path.write_text(text)
    else:
        path.mkdir()
        for name in ("a", "b"):
            (path / name).write_text(text)


def read(path):
    if path.is_file():
        return path.read_text()
    texts = {one.read_text() for one in path.iterdir()}
    return texts.pop() if len(texts) == 1 else texts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["made.txt", "made"])
def test_what_is_made_takes_the_place_of_what_was_there(tmp_path, name):
    path = tmp_path / name
    for text in ("old", "new"):
        with atomic.replacing(path) as made:
            assert made.parent == tmp_path
            assert made != path
            assert not made.exists()
            write(made, text)
            assert not path.exists() if text == "old" else read(path) == "old"
        assert read(path) == text
        assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["made.txt", "made"])
def test_an_error_leaves_what_was_there_and_no_temporary(tmp_path, name):
    path = tmp_path / name
    write(path, "old")

    def fail():
        with atomic.replacing(path) as made:
            write(made, "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read(path) == "old"
    assert names(tmp_path) == [name]


def test_a_folder_takes_the_place_of_a_file(tmp_path):
    path = tmp_path / "made"
    path.write_text("old")
    with atomic.replacing(path) as made:
        write(made, "new")
    assert read(path) == "new"


@pytest.mark.parametrize("name", ["made.txt", "made"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_written_through(tmp_path, name, is_there):
    path, other = tmp_path / name, tmp_path / "elsewhere" / f"other {name}"
    other.parent.mkdir()
    path.symlink_to(other)
    if is_there:
        write(other, "old")
    with atomic.replacing(path) as made:
        assert made.parent == other.parent  # a rename does not reach another disk
        write(made, "new")
    assert path.readlink() == other
    assert read(path) == read(other) == "new"
    assert names(other.parent) == [other.name]
    assert names(tmp_path) == ["elsewhere", name]


def test_a_link_to_where_no_folder_is_says_so(tmp_path):
    (tmp_path / "f.txt").symlink_to("nowhere/g.txt")
    message = f"'{tmp_path}/nowhere/g.txt' cannot be written: its folder does not exist"
    with pytest.raises(DiskError, match=message):
        atomic.write_text(tmp_path / "f.txt", "x")
    assert (tmp_path / "f.txt").is_symlink()


def test_what_others_put_into_a_folder_stays_when_it_is_made_anew(tmp_path, capsys):
    path = tmp_path / "made"
    write(path, "old")
    (path / "gone").write_text("ours, and in the new one no more")
    (path / "figures" / "empty").mkdir(parents=True)
    for other in ("notes.txt", "figures/one.png", "new"):
        (path / other).write_text("theirs")
    (path / "link").symlink_to("figures")
    with atomic.replacing(path, is_ours=lambda one: one.name in ("a", "b", "gone")) as made:
        write(made, "new")
        (made / "new").write_text("ours")
    assert names(path) == ["a", "b", "figures", "link", "new", "notes.txt"]
    assert (path / "link" / "one.png").read_text() == "theirs"
    assert (path / "figures" / "empty").is_dir()
    assert (path / "new").read_text() == "ours"
    (kept,) = tmp_path.glob("made.before-*")  # nothing is written over either
    assert (kept / "new").read_text() == "theirs"
    assert f"kept in '{kept}'" in capsys.readouterr().err
    atomic.sweep(tmp_path)
    assert kept.exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "no room for '{}': No space left on device; its disk has"),
        (OSError(errno.EDQUOT, "full"), "no room for '{}': Disk quota exceeded; its disk has"),
        (OSError(errno.EFBIG, "large"), r"'{}' cannot be written: File too large\. Raise the"),
        (OSError(errno.EROFS, "read-only"), "'{}' cannot be written: Read-only file system"),
        (OSError(errno.EACCES, "no"), "'{}' cannot be written: Permission denied"),
        (OSError(errno.ENOTDIR, "no"), "'{}' cannot be written: something else than a folder lies"),
    ],
)
@pytest.mark.parametrize("name", ["made.txt", "made"])
def test_what_the_disk_refuses_is_one_line_with_the_path(tmp_path, name, error, message):
    path = tmp_path / name
    write(path, "old")

    def fail():
        with atomic.replacing(path) as made:
            write(made, "new")
            raise error

    with pytest.raises(DiskError, match=message.format(path)) as caught:
        fail()
    assert caught.value.errno == error.errno
    assert read(path) == "old"
    assert names(tmp_path) == [name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("is_link", [False, True])
def test_no_file_takes_the_place_of_a_pipe_or_device(tmp_path, is_link):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    (tmp_path / "link.csv").symlink_to(pipe)

    def write():
        with atomic.replacing(tmp_path / "link.csv" if is_link else pipe) as made:
            made.write_text("new")

    with pytest.raises(DiskError, match=r"pipe\.csv' cannot be written: it is a pipe or device"):
        write()
    assert pipe.is_fifo()


def test_a_full_disk_is_said_of_whatever_library_stumbles_over_it(tmp_path, monkeypatch):
    """As NumPy does: its OSError has no number, and text that says nothing."""
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1000)
    with (
        pytest.raises(DiskError, match=r"it takes 5 MB, and its disk has 1 kB free\. Make room"),
        atomic.replacing(tmp_path / "f.txt", size_bytes=5_000_000),
    ):
        raise OSError("460800 requested and 51168 written")


@pytest.mark.parametrize("error", [ValueError("a bug"), PermissionError(13, "no", "an image.png")])
def test_what_is_not_the_disks_fault_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, atomic.replacing(tmp_path / "f.txt"):
        raise error
    assert caught.value is error


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path, made = tmp_path / "made", tmp_path / "new"
    write(path, "old")
    write(made, "new")
    rename = type(path).replace

    def refused(self, target):
        if self == made:
            raise PermissionError
        return rename(self, target)

    monkeypatch.setattr(type(path), "replace", refused)
    with pytest.raises(PermissionError):
        atomic.put(made, path)
    assert read(path) == "old"
    assert names(tmp_path) == ["made", "new"]


def test_an_ending_is_kept_for_writers_that_look_at_it(tmp_path):
    with atomic.replacing(tmp_path / "m.keras", ending=".keras") as made:
        assert made.name.startswith("m.")
        assert made.suffix == ".keras"
        made.write_text("x")
    assert names(tmp_path) == ["m.keras"]


def test_threads_that_write_one_file_at_once_do_not_collide(tmp_path):
    path, n_threads, start = tmp_path / "f.txt", 8, threading.Barrier(8)
    failed = []

    def go(number):
        start.wait()
        try:
            for _ in range(25):
                atomic.write_text(path, f"{number}" * 5000)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in {f"{number}" * 5000 for number in range(n_threads)}
    assert names(tmp_path) == ["f.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, flushed, fsync = tmp_path / "f.txt", [], os.fsync

    def watched(handle):
        flushed.append((os.fstat(handle).st_ino, path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    with atomic.replacing(path, flush=True) as made:
        made.write_text("x")
    inodes = [path.stat().st_ino, tmp_path.stat().st_ino]
    assert flushed == list(zip(inodes, (False, True), strict=True))


def test_what_dead_processes_left_is_swept_away(tmp_path):
    alive = os.getpid()
    dead = [
        "f.h5.00c0ffee.99999999.tmp",
        "m.00c0ffee.99999999.tmp.keras",
    ]
    # a number alone may be anybody's
    kept = sorted(["notes.tmp", "notes.99999999.tmp", f"f.00c0ffee.{alive}.tmp"])
    for name in (*dead, *kept):
        (tmp_path / name).write_text("x")
    (tmp_path / "f.heads.00c0ffee.99999999.tmp").mkdir()
    left = sorted(path.name for path in atomic.left_behind(tmp_path))
    assert left == sorted([*dead, "f.heads.00c0ffee.99999999.tmp"])
    atomic.sweep(tmp_path)
    assert names(tmp_path) == kept


def test_a_killed_writer_is_swept_up_by_the_next(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")
    code = f"""
import os, signal
from pathlib import Path
from featcache.core import atomic
with atomic.replacing(Path({str(path)!r})) as made:
    made.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code])
    assert path.read_text() == "old"
    assert len(atomic.left_behind(tmp_path)) == len(names(tmp_path)) - 1 == 1
    atomic.write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["f.txt"]
