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
