from __future__ import annotations

import errno
import threading

import pytest

from featcache.core import locks
from featcache.core.errors import DiskError


def test_who_comes_second_is_told_and_waits(tmp_path):
    order, told = [], threading.Event()

    def second():
        with locks.locked(tmp_path / "lock", lambda: (order.append("told"), told.set())):
            order.append("second")

    with locks.locked(tmp_path / "lock", lambda: order.append("never")):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        order.append("first is done")
    thread.join(10)
    assert order == ["told", "first is done", "second"]


def test_who_will_not_wait_raises(tmp_path):
    def busy():
        raise BlockingIOError("held")

    with (
        locks.locked(tmp_path / "lock", busy),
        pytest.raises(BlockingIOError, match="held"),
        locks.locked(tmp_path / "lock", busy),
    ):
        pass
    with locks.locked(tmp_path / "lock", busy):
        pass


def test_a_folder_that_may_not_be_written_to_is_one_line(tmp_path, monkeypatch):
    def acquire(self, blocking=True):
        raise OSError(errno.EROFS, "Read-only file system", self.lock_file)

    monkeypatch.setattr(locks.FileLock, "acquire", acquire)
    with (
        pytest.raises(DiskError, match=f"'{tmp_path}' cannot be written: Read-only file system"),
        locks.locked(tmp_path / "lock", lambda: None),
    ):
        pass


def test_an_error_inside_releases_it(tmp_path):
    def busy():
        raise AssertionError

    for _ in range(2):
        with pytest.raises(KeyError), locks.locked(tmp_path / "lock", busy):
            raise KeyError


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    """A made-up one: HDF5 on it would be written by two at once."""
    fcntl = pytest.importorskip("fcntl")

    def flock(file, how):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(DiskError, match=r"keeps no locks that other machines see .* --cache-dir"),
        locks.locked(tmp_path / "lock", lambda: None),
    ):
        pass


@pytest.mark.parametrize("option", ["nolock", "local_lock=all", "localflock"])
def test_a_network_folder_whose_locks_are_of_this_machine(tmp_path, monkeypatch, option):
    mounts = tmp_path / "mounts"
    folder = tmp_path.resolve()
    mounts.write_text(
        f"none / ext4 rw 0 0\nhost:/share {folder} nfs rw,vers=3,{option} 0 0\n"
        f"host:/other {folder}/other nfs4 rw 0 0\n"
    )
    monkeypatch.setattr(locks, "_MOUNTS", mounts)
    (tmp_path / "other").mkdir()
    with locks.locked(tmp_path / "other" / "lock", lambda: None):
        pass
    with (
        pytest.raises(DiskError, match=f"it is mounted with '{option}'"),
        locks.locked(tmp_path / "lock", lambda: None),
    ):
        pass
