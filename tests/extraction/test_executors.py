"""What every executor does, whoever runs the shards, and that a shard can be run anywhere."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photos

from featcache.core.errors import EngineError, SpecError
from featcache.core.running import EVERY, Running
from featcache.core.spec import MAX_PIXELS
from featcache.data import openers
from featcache.extraction import api, executors
from featcache.extraction.executors import Inline, dask, futures, ray, worker
from featcache.extraction.executors.futures import Futures
from featcache.extraction.listing import look
from featcache.extraction.options import parted
from featcache.extraction.run import PartRows, run
from featcache.extraction.shards import Machine, networks_of, shards_of
from featcache.networks import backbones

pytestmark = pytest.mark.xdist_group("executors")  # so that other processes are started once
N_IMAGES = 22  # of which one is broken


@pytest.fixture(scope="module")
def pool():
    """A process that shares nothing with this one."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        yield pool


@pytest.fixture(scope="module")
def dask_cluster():
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def ray_cluster():
    """Two workers: a node each, as far as Ray is concerned."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for folder in Path(__file__).parents[:2]:  # its workers unpickle what is in this file
            patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **RAY_NODE})
        cluster.add_node(num_cpus=1, **RAY_NODE)
    yield cluster.address
    cluster.shutdown()


RAY_NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


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


@pytest.fixture(
    params=[
        "inline",
        "threads",
        "processes",
        pytest.param("dask", marks=pytest.mark.slow),
        pytest.param("ray", marks=pytest.mark.slow),
    ]
)
def executor(request):
    """Each executor, which does the contract's tests by its line here."""
    if request.param == "inline":
        yield Inline()
    elif request.param == "threads":
        with ThreadPoolExecutor(2) as pool:
            yield Futures(pool)
    elif request.param == "processes":
        yield Futures(request.getfixturevalue("pool"))
    else:
        module = {"dask": dask, "ray": ray}[request.param]
        with module.opened(request.getfixturevalue(f"{request.param}_cluster")) as made:
            yield made


class TestExecutors:
    """The contract."""

    def test_it_gives_every_row_of_every_shard_once(self, executor, shards, expected):
        assert gathered(executor.map(run, shards)) == expected

    def test_it_changes_no_shard(self, executor, shards):
        before = pickle.dumps(shards)
        list(executor.map(_nothing, shards))
        assert pickle.dumps(shards) == before

    def test_closing_it_begins_no_more(self, executor, shards, tmp_path):
        parts = executor.map(functools.partial(_note, str(tmp_path)), list(shards) * 20)
        next(parts)
        parts.close()
        n_begun = _once_quiet(tmp_path)
        # each of at most two workers had one in work and one waiting
        assert n_begun <= (1 if isinstance(executor, Inline) else 1 + 2 * 2)

    def test_what_goes_wrong_in_a_shard_comes_up(self, executor, shards):
        with pytest.raises(ZeroDivisionError):
            list(executor.map(_fail, shards))

    def test_nothing_to_do_gives_nothing(self, executor):
        assert list(executor.map(run, [])) == []


def _nothing(shard, networks=None):
    return iter(())


def _once_quiet(folder, seconds=1.0):
    """How many files are in a folder once no more are added; what had begun takes its time."""
    n_files, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.05)
        if (now := len(list(folder.iterdir()))) != n_files:
            n_files, since = now, time.monotonic()
    return n_files


def _note(folder, shard, networks=None):
    with tempfile.NamedTemporaryFile(dir=folder, delete=False):
        time.sleep(0.05)
    yield _NO_ROWS


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


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Photos with a broken one, copies far apart, and such as Pillow alone reads."""
    root = make_photos(tmp_path_factory.mktemp("odd") / "photos")
    (root / "apple" / "broken.jpg").write_bytes(b"\xff\xd8no image")
    (root / "pear" / "broken.jpg").write_bytes(b"\xff\xd8no image")
    first = sorted(root.glob("*/*.jpg"))[0]
    (root / "zebra").mkdir()
    (root / "zebra" / "copy.jpg").write_bytes(first.read_bytes())
    from PIL import Image

    grey = np.arange(40 * 50, dtype=np.uint8).reshape(40, 50)
    Image.fromarray(grey).save(root / "zebra" / "grey.gif")
    Image.fromarray(grey.astype(np.uint16) * 200).save(root / "zebra" / "deep.png")
    return root


class TestExtract:
    """`extract` with an executor."""

    def options(self, tiny_backbone):
        # which gives an image the same bits in any batch; TensorFlow's last bits may differ
        return {"weights": str(tiny_backbone), "show_progress": False, "runtime": "openvino"}

    @pytest.mark.parametrize("is_known", [False, True])
    def test_files_are_the_same_whoever_did_the_shards(
        self, odd, tiny_backbone, tmp_path, monkeypatch, is_known
    ):
        """`is_known`: some rows are there, so that images are read before and not in passing."""
        monkeypatch.setattr(futures, "TASK_IMAGES", 8)
        options = self.options(tiny_backbone)
        made = []
        for name in ("inline", "threads"):
            cache = tmp_path / name
            if is_known:
                api.run(odd, cache_dir=cache, limit=5, **options)
            with ThreadPoolExecutor(2) as pool:
                more = {"executor": pool} if name == "threads" else {}
                made.append(api.run(odd, cache_dir=cache, **more, **options))
        inline, other = made
        assert other.features.failures == inline.features.failures
        assert len(other.features.failures) == 2
        for column in ("ids", "X", "digests", "labels"):
            np.testing.assert_array_equal(
                getattr(other.features, column), getattr(inline.features, column)
            )
        # of copies in shards that are read on their way each is computed
        assert other.n_computed - inline.n_computed == (0 if is_known else 1)
        assert other.features.provenance["executor"] == "ThreadPoolExecutor"
        assert "executor" not in inline.features.provenance

    def test_what_one_computed_the_other_finds(self, odd, tiny_backbone, tmp_path):
        options = self.options(tiny_backbone) | {"cache_dir": tmp_path}
        with ThreadPoolExecutor(2) as pool:
            api.run(odd, executor=pool, **options)
            assert api.run(odd, **options).hit

    def test_rows_of_finished_shards_are_kept(self, odd, tiny_backbone, tmp_path, monkeypatch):
        """Whatever ends the run: here an engine that is gone after the first shard."""
        monkeypatch.setattr(futures, "TASK_IMAGES", 8)
        options = self.options(tiny_backbone) | {"cache_dir": tmp_path}
        with pytest.raises(EngineError, match=r"Fading is gone .* run the same command again"):
            api.run(odd, executor=Fading(), **options)
        again = api.run(odd, **options)
        assert again.n_reused >= 8

    def test_images_in_memory(self, tiny_backbone, tmp_path, monkeypatch):
        monkeypatch.setattr(futures, "TASK_IMAGES", 4)
        images = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), np.uint8)
        options = self.options(tiny_backbone)
        inline = api.run(images, cache_dir=tmp_path / "a", **options)
        with ThreadPoolExecutor(2) as pool:
            other = api.run(images, cache_dir=tmp_path / "b", executor=pool, **options)
        np.testing.assert_array_equal(other.features.X, inline.features.X)

    def test_a_model_of_this_process_is_refused(self, odd, tiny_backbone, tmp_path):
        import keras

        model = keras.models.load_model(tiny_backbone)
        with ThreadPoolExecutor(1) as pool, pytest.raises(EngineError, match="give its path"):
            api.run(odd, model, cache_dir=tmp_path, executor=pool, show_progress=False)


class Fading(concurrent.futures.Executor):
    """Does one task, and breaks."""

    def __init__(self):
        self.n_done = 0

    def submit(self, function, /, *args, **options):
        self.n_done += 1
        future = concurrent.futures.Future()
        if self.n_done == 1:
            future.set_result(function(*args, **options))
        else:
            future.set_exception(concurrent.futures.BrokenExecutor("it broke"))
        return future


@pytest.mark.parametrize(
    ("n_workers", "says"), [(lambda: 0, True), (lambda: 1, False), (None, False)]
)
def test_an_engine_without_workers_says_that_it_waits(shards, capfd, n_workers, says):
    with ThreadPoolExecutor(1) as pool:
        list(Futures(pool, "Spark", n_workers).map(_nothing, shards))
    assert ("Spark has no workers yet" in capfd.readouterr().err) == says


class TestWorker:
    """What a worker makes sure of before it computes."""

    @pytest.mark.parametrize("package", ["featcache", "keras"])
    def test_another_version_is_refused(self, shards, package):
        with pytest.raises(EngineError, match=rf"^Worker '.*' has {package} .*, and this process"):
            worker.do(worker.packed(run, shards[0]), worker.versions() | {package: "0.1"})

    def test_versions_are_compared_before_anything_is_unpickled(self):
        with pytest.raises(EngineError, match="Install the same version"):
            worker.do(b"of another version", worker.versions() | {"keras": "0.1"})

    def test_other_weights_under_the_same_name_are_refused(self, shards):
        (one, *more) = shards[0].passes
        specs = tuple(replace(spec, weights="0" * 32) for spec in one.network.specs)
        passes = (replace(one, network=replace(one.network, specs=specs)), *more)
        packed = worker.packed(run, replace(shards[0], passes=passes))
        with pytest.raises(EngineError, match=r"has another backbone under the name .*: weights"):
            worker.do(packed, worker.versions())

    def test_weights_that_are_not_there_are_named(self, shards):
        (one, *more) = shards[0].passes
        plan = replace(one.network, weights="/nowhere/weights.h5")
        packed = worker.packed(run, replace(shards[0], passes=(replace(one, network=plan), *more)))
        with pytest.raises(EngineError, match=r"cannot have the backbone: .*/nowhere/weights.h5"):
            worker.do(packed, worker.versions())


class TestPieces:
    def test_they_have_every_image_once(self, shards):
        for size in (1, 3, 8, 1000):
            pieces = [one for shard in shards for one in shard.pieces(size)]
            assert max(map(len, pieces)) <= size
            assert np.concatenate([one.rows for one in pieces]).tolist() == [
                row for shard in shards for row in shard.rows.tolist()
            ]

    def test_they_give_the_rows_of_the_whole(self, shards, expected):
        pieces = (part for shard in shards for one in shard.pieces(5) for part in run(one))
        rows, *others = gathered(pieces)
        assert others == list(expected[1:])
        assert rows.keys() == expected[0].keys()
        for key, row in rows.items():  # batches are others, which may change the last bits
            one, other = (np.frombuffer(each, np.float32) for each in (row, expected[0][key]))
            np.testing.assert_allclose(one, other, atol=1e-6)


class TestAsked:
    """Which executor an extraction is given, and what is said where it cannot be had."""

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"scheduler": "tcp://host:8786"}, "Say --engine dask"),
            ({"engine": "dask", "address": "auto"}, "Say --engine ray"),
            ({"engine": "spark"}, "inline, dask, ray"),
            ({"executor": 3}, "submit"),
            ({"executor": Fading(), "engine": "ray"}, "Leave one out"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, root, tmp_path, options, said):
        with pytest.raises(SpecError, match=said):
            api.run(root, cache_dir=tmp_path, **options)
        assert not list(tmp_path.iterdir())

    def test_whoever_computes_must_have_the_runtime(self, monkeypatch):
        monkeypatch.setattr("featcache.networks.engines.choice._has_openvino", lambda: False)
        given = {name: one.default for name, one in EVERY.items()} | {"runtime": "openvino"}
        with pytest.raises(SpecError, match="it is not installed"):
            parted(given)
        parted(given | {"executor": Fading()})
        parted(given | {"engine": "dask"})

    @pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray", "ray")])
    def test_a_missing_package_is_named(self, monkeypatch, engine, package):
        monkeypatch.setitem(sys.modules, package, None)
        with (
            pytest.raises(EngineError, match=rf"pip install 'featcache\[{engine}\]'"),
            executors.opened(Running(engine=engine)),
        ):
            pass

    @pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:9", "nonsense", "tcp://nowhere:x"])
    def test_a_scheduler_that_does_not_answer_is_named(self, monkeypatch, scheduler):
        pytest.importorskip("distributed")
        monkeypatch.setattr(dask, "ANSWERS_WITHIN_S", 0.5)
        with (
            pytest.raises(EngineError, match=f"No Dask scheduler answers at '{scheduler}'"),
            executors.opened(Running(engine="dask", scheduler=scheduler)),
        ):
            pass

    def test_a_ray_cluster_that_does_not_answer_is_named(self):
        pytest.importorskip("ray")
        with (
            pytest.raises(EngineError, match=r"No Ray cluster answers at '127\.0\.0\.1:9'"),
            executors.opened(Running(engine="ray", address="127.0.0.1:9")),
        ):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_images_with_which_workers_die_are_named_and_the_rest_is_done(
    request, engine, shards, tmp_path
):
    address = request.getfixturevalue(f"{engine}_cluster")
    deadly = int(shards[1].rows[0])
    with {"dask": dask, "ray": ray}[engine].opened(address) as executor:
        parts, dies = [], functools.partial(_die, deadly)
        with pytest.raises(EngineError, match=r"Workers died 4 times with the images"):
            parts.extend(executor.map(dies, shards))
    done = {row for part in parts for row in part.rows.tolist()}
    assert deadly not in done
    assert done >= set(shards[0].rows.tolist())


def _die(row, shard, networks=None):
    if row in shard.rows:
        os._exit(1)
    yield replace(_NO_ROWS, rows=shard.rows)


_NO_ROWS = PartRows(0, 0, np.zeros(0, np.int64), np.zeros((0, 16), np.uint8), np.zeros(0))
