"""Small images, a tiny backbone, and the clip art's features, shared by the tests.

`clipart` computes the real features once a session; tests that use it run in one process.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import known_graphs
import numpy as np
import pytest
import quick
from PIL import Image

from featcache.networks.engines import Compiled

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# as `import_tensorflow` does, for tests that import Keras themselves: every process adds up alike
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
REPOSITORY = Path(__file__).parent.parent

CLASSES = ("apple", "pear", "quince")
HUES = {"apple": (200, 60, 40), "pear": (70, 180, 60), "quince": (60, 90, 200)}


# What keeps files through a power cut waits for the disk, and no test cuts the power.
os.fsync = lambda handle: None
# of the millions of objects of TensorFlow few are garbage, and to look through them often takes a
# twentieth of the time
gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, and -m the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if {"clipart", "clipart_board"} & needs:
            item.add_marker(pytest.mark.xdist_group("clipart"))
        if {"clipart", "clipart_board", "browser"} & needs or quick.name_of(item) in quick.named():
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    quick.running = item
    quick.watch()
    known_graphs.keep()
    remember_what_keras_skips()


@functools.cache
def patched(saving: Any) -> None:
    saving.get_attr_skipset = functools.cache(saving.get_attr_skipset)


def remember_what_keras_skips() -> None:
    """Have Keras, once it is there, list the attributes of a layer that it does not save once.

    It means to, but looks under another name, and makes a layer for every one that it walks over:
    a twentieth of the time of tests that save and load.
    """
    if saving := sys.modules.get("keras.src.saving.saving_lib"):
        patched(saving)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    quick.running = nextitem


def make_image(path: Path, hue: tuple[int, int, int], seed: int, size: tuple[int, int]) -> Path:
    """Write a noisy image of one hue; every seed gives other bytes."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-50, 50, (size[1], size[0], 3))
    pixels = np.clip(np.array(hue) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_photos(root: Path, a_class: int = 7, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write `a_class` images for each class: JPEG and PNG, odd names, differing sizes."""
    for number, name in enumerate(classes):
        for i in range(a_class):
            file = f"{name} ü{i}.{'jpg' if i % 3 else 'png'}"
            size = (40 + 3 * i, 50 - 2 * i)
            hue = HUES.get(name, (30 * number, 200 - 20 * number, 90))
            make_image(root / name / file, hue, 100 * number + i, size)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 21 images in three classes; 21 is no multiple of any batch size used."""
    return make_photos(tmp_path / "my photos")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick .keras backbone of 32 x 32 images: two convolutions with batch normalisation."""
    from featcache.core.tensorflow import import_keras

    keras = import_keras()
    rng = np.random.default_rng(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv_1")(x)
    x = keras.layers.BatchNormalization(name="bn_1")(x)
    x = keras.layers.ReLU(name="relu_1")(x)
    x = keras.layers.Conv2D(12, 3, strides=2, name="conv_2")(x)
    x = keras.layers.BatchNormalization(name="bn_2")(x)
    x = keras.layers.ReLU(name="relu_2")(x)
    model = keras.Model(inputs, x, name="tiny")
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            variable.assign(0.3 * rng.standard_normal(variable.shape))
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def lent_models(
    tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`stitched_models.make_model` into a folder: each kind is made once, and copied."""
    from stitched_models import make_model

    folder, made = tmp_path_factory.mktemp("models"), {}

    def lend(path: Path, **options: Any) -> Path:
        kind = repr(sorted(options.items()))
        if kind not in made:
            made[kind] = make_model(folder / f"{len(made)}.keras", tiny_backbone, **options)
        for file in folder.glob(f"{made[kind].stem}.*"):
            shutil.copy(file, path.with_name(path.stem + file.name.removeprefix(made[kind].stem)))
        return path

    return lend


@pytest.fixture
def two_backbones(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The registry with a made-up family of two quick networks, of 40 and 56 pixels."""
    from featcache.core.tensorflow import import_keras
    from featcache.networks import initial_weights, registry
    from featcache.networks.providers.base import Entry, Provider

    keras = import_keras()
    filters = {"small-5": 5, "small-6": 6}

    def build(name: str, weights: str, image_size: tuple[int, int]) -> Any:
        inputs = keras.Input((*image_size, 3))
        x = keras.layers.Conv2D(filters[name], 3, strides=3, name="first")(inputs)
        model = keras.Model(inputs, keras.layers.ReLU(name="second")(x), name=name)
        initial_weights.put(model, name, weights)
        return model

    entries = {"small-5": Entry(40, "tf"), "small-6": Entry(56, "tf")}
    family = Provider(entries, build)
    for name in entries:
        monkeypatch.setitem(registry.CATALOGUE, name, family)
    return ["small-5", "small-6"]


@pytest.fixture
def extract(tiny_backbone: Path, tmp_path: Path) -> Callable[..., Any]:
    """`extraction.run` with the tiny backbone and a cache folder of the test's own."""
    from featcache import extraction

    def run(source: Path | str, **options: Any) -> Any:
        settings = {
            "weights": str(tiny_backbone),
            "cache_dir": tmp_path / "cache",
            "batch_size": 4,
            "show_progress": False,
        }
        return extraction.run(source, **(settings | options))

    return run


@pytest.fixture(scope="session")
def lender(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the features of images like `photos`, computed once."""
    from featcache import extraction

    folder = tmp_path_factory.mktemp("lender")
    extraction.run(
        make_photos(folder / "the same photos"),
        weights=str(tiny_backbone),
        cache_dir=folder / "cache",
        show_progress=False,
    )
    return folder / "cache"


@pytest.fixture
def features(photos: Path, extract: Callable[..., Any], lender: Path, tmp_path: Path) -> Any:
    """The features of `photos`, for tests of what comes after; the rows are lent, not computed."""
    cache = tmp_path / "cache"
    shutil.copytree(lender, cache, ignore=shutil.ignore_patterns(".locks", ".models"))
    done = extract(photos)
    assert done.n_computed == 0
    shutil.rmtree(cache / "the same photos")
    return done.features


@pytest.fixture
def read_only(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Have a folder that may not be written to until the test ends."""

    def mount(*arguments: str | Path) -> bool:
        return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0

    def make(folder: Path) -> None:
        if os.geteuid():
            paths = [folder, *folder.rglob("*")]
            modes = [path.stat().st_mode for path in paths]
            for path, mode in zip(paths, modes, strict=True):
                path.chmod(mode & ~0o222)
                request.addfinalizer(functools.partial(path.chmod, mode))
        elif mount("--bind", folder, folder):  # rights do not bind root
            request.addfinalizer(lambda: subprocess.run(["umount", str(folder)], check=True))
            assert mount("-o", "remount,ro,bind", folder)
        else:
            pytest.skip("root may write everywhere, and mount nothing")

    return make


class Inline(Compiled):
    """A function of a batch that gives a tuple of outputs, run where it is started."""

    name, where, ahead = "inline", "CPU", 1

    def __init__(self, run: Callable[[Any], Any]):
        self.run = run

    def start(self, images: Any) -> Callable[[], Any]:
        outputs = self.run(images)
        return lambda: outputs


@pytest.fixture
def eager_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the steps of training as they stand: to compile them takes longer than they do here."""
    from featcache.core.tensorflow import import_keras

    model = import_keras().Model
    plainly = functools.partialmethod(model.compile, run_eagerly=True)
    monkeypatch.setattr(model, "compile", plainly)


@pytest.fixture
def images_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what goes through a backbone: one entry a batch, its number of images."""
    counted: list[int] = []

    def count(run: Any, images: Any) -> Any:
        counted.append(len(images))
        return run(images)

    wrap_runs(monkeypatch, count)
    return counted


def wrap_runs(
    monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[Any], Any], Any], Any]
) -> None:
    """Have `around(run, images)` called instead of `run(images)` for every batch of a backbone.

    Batches are run one after the other, and the comparison with Keras is left out.
    """
    from featcache.networks import engines

    compile_frozen = engines.compile_frozen
    perfect = engines.Closeness(0.0, 1.0)
    monkeypatch.setattr(engines, "agree", lambda compiled, *others: (compiled, perfect))

    def wrapped(*arguments: Any, **options: Any) -> Any:
        run = compile_frozen(*arguments, **options)
        return Inline(lambda images: around(run, images))

    monkeypatch.setattr(engines, "compile_frozen", wrapped)


@pytest.fixture(scope="session")
def clipart(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The features of example:clipart by efficientnet-lite0 with its real weights."""
    import featcache as fc

    return fc.extract(cache_dir=tmp_path_factory.mktemp("clipart"), show_progress=False)


@pytest.fixture(scope="session")
def clipart_board(clipart: Any) -> Any:
    """The quick heads on the clip art, beside its features, where `featcache demo` finds them."""
    import featcache as fc

    return fc.fit_heads(clipart, jobs=1, report=False, show_progress=False)


@pytest.fixture(scope="session")
def clipart_slow_board(clipart: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The other heads on the clip art; the search of the SVM alone, the quickest, is done."""
    import featcache as fc
    from featcache import heads

    forest = heads.CATALOGUE["random-forest"](n_estimators=40, min_samples_leaf=5)
    return fc.fit_heads(
        clipart,
        ["rbf-svm", forest, "dense"],
        dense={"hidden": (), "dropout": 0.8},
        jobs=1,
        folder=tmp_path_factory.mktemp("clipart heads") / "slow.heads",
        report=False,
        show_progress=False,
    )


@dataclass
class Ran:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command line in the test's folder or another, in this process that has TensorFlow."""
    from featcache.cli import main

    def run(*arguments: str | Path, folder: Path = tmp_path) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["featcache", *map(str, arguments)])
            with pytest.raises(SystemExit) as exited:
                main()
        return Ran(int(exited.value.code or 0), out.getvalue(), err.getvalue())

    return run


def parse_single_json(stdout: str) -> Any:
    """Return the one JSON object that is all of stdout."""
    assert stdout.count("\n") == 1
    return json.loads(stdout)
