"""Threads and forked processes that extract: nothing is mixed up, and nobody waits for ever."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
from conftest import make_photos
from PIL import Image

from featcache.core.errors import BackboneError
from featcache.extraction import api


def test_threads_that_extract_at_once_get_what_each_gets_alone(tmp_path, extract):
    one, other = (make_photos(tmp_path / name, n) for name, n in (("one", 3), ("other", 2)))
    namesake = make_photos(tmp_path / "elsewhere" / "one", 4)  # of the first, for the cache folder
    for path in one.rglob("*.png"):  # Pillow decodes these
        Image.open(path).convert("RGBA").save(path)
    sources = [one, one, other, namesake, one, namesake]
    alone = {
        source: extract(source, cache_dir=tmp_path / f"cache {number}").features
        for number, source in enumerate((one, other, namesake))
    }
    done, start = {}, threading.Barrier(len(sources))
    limit, filters, stdout = Image.MAX_IMAGE_PIXELS, list(warnings.filters), sys.stdout
    descriptor = os.fstat(2)

    def go(number):
        start.wait()
        done[number] = extract(sources[number]).features

    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(sources)
    assert len({features.path for features in done.values()}) == 3
    for number, features in done.items():
        expected = alone[sources[number]]
        assert features.metadata.matches(expected.metadata)
        np.testing.assert_array_equal(features.X, expected.X)
    assert not list((tmp_path / "cache").rglob("*.tmp*"))
    assert (limit, filters) == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    assert sys.stdout is stdout
    assert os.path.samestat(os.fstat(2), descriptor)


def test_a_namesake_that_comes_first_meanwhile_keeps_its_folder(tmp_path, extract, monkeypatch):
    one, namesake = make_photos(tmp_path / "a" / "p", 2), make_photos(tmp_path / "b" / "p", 1)
    quicker = []

    def unread(*arguments, unread=api.unread):
        if not quicker:
            quicker.append(True)
            quicker.append(extract(namesake).features)
        return unread(*arguments)

    monkeypatch.setattr(api, "unread", unread)
    features = extract(one).features
    assert quicker[1].path.parent.name == "p"
    assert features.path.parent.name.startswith("p-")
    assert (len(quicker[1].X), len(features.X)) == (3, 6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_forked_after_a_backbone_was_used_says_what_to_do(tmp_path, extract):
    one, other = make_photos(tmp_path / "one", 1), make_photos(tmp_path / "other", 2)
    extract(one)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, f"{extract(one).hit} ".encode())  # which needs no network
            extract(other)
        except BackboneError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        said = b""
        while select.select([reading], [], [], 60)[0] and (some := os.read(reading, 4096)):
            said += some
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
    assert said.startswith(
        b"True This process was forked from one in which TensorFlow had computed"
    )
    assert b"multiprocessing.get_context('spawn')" in said
    assert b"\n" not in said
