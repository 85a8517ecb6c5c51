"""Every command and program in the README, docs/format.md, anomalies.md and open-set.md runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import object_storage
import pytest
from conftest import REPOSITORY, make_photos

from featcache import heads
from featcache.core.tensorflow import import_keras
from featcache.extraction.executors import Inline, dask, ray
from featcache.heads import dense_training
from featcache.models import stitching
from featcache.networks import initial_weights
from featcache.networks.providers import efficientnet_lite

pytestmark = pytest.mark.slow

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FORMAT = (REPOSITORY / "docs" / "format.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


COMMANDS = [line for block in blocks(README, "sh") for line in block.splitlines()]
MAKE = [shlex.split(line)[1] for line in COMMANDS if line.startswith("make ")]
SHOWS = {
    "pipelines/compare_heads.py": "disagree on",
    "pipelines/hybrid_finetune.py": "then 20 layers",
}
PYTHON = [shlex.split(line, comments=True) for line in COMMANDS if line.startswith("python ")]


def test_every_command_is_of_a_kind_that_runs_here():
    assert len(COMMANDS) == len(MAKE) + len(PYTHON)
    assert MAKE == ["demo", "test"]


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory):
    """Where a reader types all of the README: its photos, two manifests of them, one cache.

    The photos are in a bucket, too.
    """
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(REPOSITORY / "pipelines", folder / "pipelines")
    root = make_photos(folder / "photos")
    ids = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    labelled = [f"{id_},{id_.split('/')[0]},group {n % 9}" for n, id_ in enumerate(ids)]
    files = {f"photos/{id_}": (root / id_).read_bytes() for id_ in ids}
    object_storage.serve().put("bucket", files)
    (folder / "photos.csv").write_text("\n".join(["path,label,group", *labelled]))
    priced = [{"path": f"photos/{id_}", "price": n, "weight": 1.5} for n, id_ in enumerate(ids)]
    (folder / "prices.jsonl").write_text("\n".join(map(json.dumps, priced)))
    return folder


@pytest.fixture
def one_core(monkeypatch):
    """Heads are fitted in this process, which has TensorFlow; each chooses between few settings."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # what `--jobs -1` counts
    monkeypatch.setattr(dense_training, "_MIN_STEPS", 1)
    for kind in heads.CATALOGUE.values():
        few = classmethod(lambda cls, task, whole=kind.grid: whole(task)[:2])
        monkeypatch.setattr(kind, "grid", few)
    short = classmethod(lambda cls, task: ({"hidden": (), "epochs": 3},))
    monkeypatch.setattr(heads.CATALOGUE["dense"], "grid", short)


@pytest.fixture
def short_network(monkeypatch, eager_steps):
    """The default network with stages 1 and 5 alone, which have layers of every kind that it has.

    Most of the time goes into tracing layers. Its name, its files' names and the names of its
    layers stay; `test_demo` and the tests of the clip art have all of it, with its weights.
    The others are one layer each; `test_keras_applications` builds them whole.
    """
    n_blocks = efficientnet_lite.STAGES[4][0]  # what is tapped is the last of them
    none = (0, 3, 1, 1, 8)
    shorten(monkeypatch, ((1, 3, 2, 1, 8), none, none, none, (n_blocks, 5, 4, 6, 8), none, none))
    keras = import_keras()

    def one_layer(weights, include_top, input_shape):
        inputs = keras.Input(input_shape)
        return keras.Model(inputs, keras.layers.Conv2D(8, 3, strides=8)(inputs))

    for factory in ("MobileNet", "MobileNetV2"):
        monkeypatch.setattr(keras.applications, factory, one_layer)


@pytest.fixture
def whole_stages(monkeypatch):
    """The default network with thin stages up to the fifth, of whose layers there are maps."""
    none = (0, 3, 1, 1, 8)
    shorten(
        monkeypatch,
        ((1, 3, 2, 1, 8), none, (2, 3, 2, 1, 8), none, (3, 3, 2, 1, 8), none, none),
    )


def shorten(monkeypatch, stages):
    """Give the default network other stages, and random weights."""

    def random_weights(model, name, path):
        initial_weights.put(model, name, "random")

    monkeypatch.setattr(efficientnet_lite, "STAGES", stages)
    monkeypatch.setattr(efficientnet_lite, "load_weights", random_weights)


@pytest.fixture
def clusters(monkeypatch):
    """Dask's scheduler is one in this process, wherever it is said to be; Ray is nobody."""
    from distributed import Client

    @contextlib.contextmanager
    def client(scheduler, **workers):
        here = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
        with Client(dashboard_address=":0", **here) as made:
            yield made

    @contextlib.contextmanager
    def inline(address):
        yield Inline()

    monkeypatch.setattr(dask, "client", client)
    monkeypatch.setattr(ray, "opened", inline)


@pytest.mark.xdist_group("readme")
@pytest.mark.filterwarnings("ignore")  # whatever Dask says while it comes and goes
def test_verbs_and_recipes(
    reader_folder, cli, monkeypatch, capsys, one_core, short_network, clusters
):
    for _, first, *rest in PYTHON:
        if first == "-m":
            assert rest.pop(0) == "featcache"
            done = cli(*rest, folder=reader_folder)
            assert done.returncode == 0, (rest, done.stderr)
        else:
            monkeypatch.chdir(reader_folder)
            monkeypatch.setattr(sys, "argv", [first, *rest])
            runpy.run_path(first, run_name="__main__")
            assert SHOWS[first] in capsys.readouterr().out


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize(
    ("program", "printed"),
    list(
        zip(
            blocks(README, "python"),
            [
                "held out.*\nphotos/pear",
                r"array\(\[1, 0\]\)",
                r"gaussiannb.*\['palace' 'flower'\]",
            ],
            strict=True,
        )
    ),
)
def test_python(program, printed, reader_folder, monkeypatch, capsys, short_network):
    monkeypatch.chdir(reader_folder)
    exec(compile(program, "README.md", "exec"), {})
    assert re.search(printed, capsys.readouterr().out, re.DOTALL)


GUIDES = {  # what its program prints
    "anomalies": r"held-out good images.*\(1, \d+, \d+\)",
    "open-set": r"says unknown by.*\n-?\d.*\n\[.*\]",
}


@pytest.fixture(scope="module")
def guide_folder(tmp_path_factory):
    """Photos under the names that the guides give them: good parts and defects, known and new."""
    folder = tmp_path_factory.mktemp("guides")
    make_photos(folder / "parts", a_class=12, classes=("good", "scratch", "dent"))
    make_photos(folder / "photos", a_class=12)
    make_photos(folder / "new", a_class=3, classes=("pear", "moss"))
    return folder


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("name", GUIDES)
def test_guides(name, guide_folder, cli, monkeypatch, capsys, one_core, whole_stages):
    text = (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for line in "".join(blocks(text, "sh")).splitlines():
        python, flag, package, *rest = shlex.split(line)
        assert (python, flag, package) == ("python", "-m", "featcache")
        done = cli(*rest, folder=guide_folder)
        assert done.returncode == 0, (rest, done.stderr)
    (program,) = blocks(text, "python")
    monkeypatch.chdir(guide_folder)
    exec(compile(program, f"{name}.md", "exec"), {})
    assert re.search(GUIDES[name], capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize("program", blocks(FORMAT, "python"))
def test_plain_h5py(program, tmp_path, monkeypatch, extract, capsys):
    assert len(program.splitlines()) <= 12
    features = extract(make_photos(tmp_path / "photos")).features
    shutil.copy(features.path, tmp_path / "FEATURES.h5")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "format.md", "exec"), {})
    assert capsys.readouterr().out == "(21, 12) 21 2 ['apple', 'pear', 'quince'] 0\n"


def test_demo(clipart, clipart_board, tmp_path, cli, monkeypatch):
    """What `make demo` runs, on features and heads that are there already."""
    monkeypatch.setattr(stitching.parity, "MAX_PARITY_IMAGES", 60)
    cache = tmp_path / "cache"
    shutil.copytree(clipart.path.parent.parent, cache)
    heads = cache / clipart_board.folder.relative_to(clipart.path.parent.parent)
    fitted = (heads / "leaderboard.json").stat().st_mtime_ns
    done = cli(*demo_of_make(f"--cache-dir {cache}"))
    assert done.returncode == 0, done.stderr
    assert "0 computed, 543 from the cache" in done.stdout
    assert (heads / "leaderboard.json").stat().st_mtime_ns == fitted
    assert (heads / "report.html").is_file()
    assert "same class for 60 of 60 images" in done.stdout
    assert "of 12 right." in done.stdout


def demo_of_make(arguments):
    """Return with what `make demo` runs featcache; nothing is run or installed here."""
    venv = Path(sys.prefix)
    assert (venv / "bin" / "python").exists()
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo", f"VENV={venv}", f"ARGS={arguments}"],
        cwd=REPOSITORY,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    python, *rest = shlex.split(done.stdout.splitlines()[-1])
    assert [python, *rest[:2]] == [f"{venv}/bin/python", "-m", "featcache"]
    return rest[2:]


def test_make_knows_the_targets():
    for target in (*MAKE, "quick", "lint"):
        subprocess.run(
            ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, check=True
        )
