"""What every executor does, whoever runs the shards, and that a shard can be run anywhere."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from conftest import make_photos

from featcache.core.spec import MAX_PIXELS
from featcache.data import openers
from featcache.extraction import api
from featcache.extraction.executors import Inline
from featcache.extraction.listing import look
from featcache.extraction.run import run
from featcache.extraction.shards import Machine, networks_of, shards_of
from featcache.networks import backbones

pytestmark = pytest.mark.xdist_group("executors")  # so that the other process is started once
N_IMAGES = 22  # of which one is broken


def _all_of(run, shard):
    return list(run(shard))


class OtherProcess:
    """Shards done by a process that shares nothing with this one; the tests share it."""

    pool: ProcessPoolExecutor

    def map(self, run, shards):
        for shard in shards:
            yield from self.pool.submit(_all_of, run, shard).result()


@pytest.fixture(scope="module", autouse=True)
def pool():
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as OtherProcess.pool:
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_photos(tmp_path_factory.mktemp("shards") / "photos")
    (root / "apple" / "broken.jpg").write_bytes(b"\xff\xd8no image")
    return root


@pytest.fixture(scope="module")
def resolved(tiny_backbone):
    weights = str(tiny_backbone)
    return [
        backbones.resolve(weights=weights, views=2, augment=("flip",)),
        backbones.resolve(
            weights=weights, layer="relu_1", pooling="max", views=2, augment=("flip",)
        ),
    ]


@pytest.fixture(scope="module")
def shards(root, resolved):
    """The work of two files that lack different things, in several shards."""
    listing = look(openers.open_source(root), MAX_PIXELS, None, False)
    missing = [np.ones((N_IMAGES, 2), bool) for _ in resolved]
    missing[0][8:14, 1] = False
    missing[1][8:14, 1] = False
    missing[1][15] = False
    networks = networks_of(resolved, Machine(batch_size=8, runtime="tensorflow"))
    made = list(shards_of(listing, networks, missing))
    assert len(made) == 2
    return made


def gathered(parts):
    """All rows by file and key, what failed, and how many images were done."""
    rows, failed, n_images = {}, {}, 0
    for part in parts:
        for key, row in zip(part.keys, part.features, strict=True):
            assert (part.file, key.tobytes()) not in rows  # none comes twice
            rows[part.file, key.tobytes()] = row.tobytes()
        failed.update({(part.file, row): why.reason for row, why in part.failures.items()})
        n_images += part.n_images
    return rows, failed, n_images


@pytest.fixture(scope="module")
def expected(shards):
    return gathered(part for shard in shards for part in run(shard))


@pytest.fixture(params=[Inline, OtherProcess])
def executor(request):
    return request.param()


class TestExecutors:
    """The contract: each executor inherits it by its line in `executor`."""

    def test_it_gives_every_row_of_every_shard_once(self, executor, shards, expected):
        assert gathered(executor.map(run, shards)) == expected

    def test_it_changes_no_shard(self, executor, shards):
        before = pickle.dumps(shards)
        list(executor.map(run, shards))
        assert pickle.dumps(shards) == before

    def test_closing_it_begins_no_more(self, executor, shards):
        asked = []

        def watched():
            for shard in shards:
                asked.append(shard)
                yield shard

        parts = executor.map(run, watched())
        next(parts)
        parts.close()
        assert len(asked) == 1

    def test_what_goes_wrong_in_a_shard_comes_up(self, executor, shards):
        with pytest.raises(ZeroDivisionError):
            list(executor.map(_fail, shards))

    def test_nothing_to_do_gives_nothing(self, executor):
        assert list(executor.map(run, [])) == []


def _fail(shard, networks=None):
    raise ZeroDivisionError(len(shard))


def test_rows_are_those_that_were_missing(root, expected):
    rows, failed, n_images = expected
    n_good = N_IMAGES - 1
    assert sum(file == 0 for file, _ in rows) == 2 * n_good - 6
    assert sum(file == 1 for file, _ in rows) == 2 * n_good - 6 - 2
    assert {row for _, row in failed} == {openers.open_source(root).ids.index("apple/broken.jpg")}
    assert n_images == n_good


def test_a_shard_in_another_process_gives_the_same_bytes(shards, expected, tmp_path):
    given, got = tmp_path / "shards.pickle", tmp_path / "rows.pickle"
    given.write_bytes(pickle.dumps(shards))
    code = (
        "import pathlib, pickle, sys\n"
        "from featcache.extraction.run import run\n"
        "shards = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "parts = [part for shard in shards for part in run(shard)]\n"
        "pathlib.Path(sys.argv[2]).write_bytes(pickle.dumps(parts))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(given), str(got)], check=True)
    assert gathered(pickle.loads(got.read_bytes())) == expected


def test_files_are_the_same_whoever_did_the_shards(root, tiny_backbone, tmp_path, monkeypatch):
    options = {"weights": str(tiny_backbone), "show_progress": False, "runtime": "tensorflow"}
    inline = api.run(root, cache_dir=tmp_path / "a", **options)
    monkeypatch.setattr(api, "Inline", OtherProcess)
    other = api.run(root, cache_dir=tmp_path / "b", **options)
    assert other.n_computed == inline.n_computed == N_IMAGES - 1
    assert other.features.failures == inline.features.failures
    np.testing.assert_array_equal(other.features.X, inline.features.X)
    np.testing.assert_array_equal(other.features.digests, inline.features.digests)
