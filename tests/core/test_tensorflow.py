from __future__ import annotations

import os
import subprocess
import sys

import pytest

from featcache.core import process, tensorflow


def test_start_up_is_silent_in_our_own_process():
    code = (
        "from featcache.core import process, tensorflow\n"
        "with process.owned():\n"
        "    tensorflow.import_tensorflow().constant(1); tensorflow.import_keras()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""


def test_errors_are_not_silenced(capfd):
    with process.owned(), tensorflow._without_chatter():
        os.write(2, b"I0000 00:00:1.1 1 cudart_stub.cc:31] Could not find cuda drivers\n")
        os.write(2, b"2026-01-01 00:00:00.1: W tensorflow/core/x.cc] slow\n")
        os.write(2, b"E0000 00:00:1.1 1 file.cc:1] something broke\n")
        os.write(2, b"Traceback\n")
    assert capfd.readouterr().err == "E0000 00:00:1.1 1 file.cc:1] something broke\nTraceback\n"


def test_nothing_is_swapped_where_we_are_guests(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup2", lambda *_: pytest.fail("a descriptor was swapped"))
        found = tensorflow._imported.__wrapped__()
    assert found is tensorflow.import_tensorflow()


def test_a_failing_cuda_is_chatter_only_without_a_driver(monkeypatch):
    line = b"E0000 00:00:1.1 1 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)"
    for has_driver in (True, False):
        monkeypatch.setattr(tensorflow.Path, "exists", lambda path, there=has_driver: there)
        assert tensorflow._is_chatter(line) is not has_driver
