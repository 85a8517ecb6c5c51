"""A model's images are opened in one place, and read by everyone as its card says."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import shutil

import numpy as np
import pytest
from conftest import REPOSITORY, make_image, make_photos
from PIL import Image
from stitched_models import make_model

import featcache as fc
from featcache import store
from featcache.core.errors import StitchError
from featcache.core.running import RUNNING
from featcache.core.spec import MAX_PIXELS
from featcache.models import card, stitching

LOW, HIGH = 3_000, 10_000  # pixels; the photos have up to 2,204, the large ones 7,200


def replaced(defaults):
    """Return the default values of a function with LOW in place of the limit."""
    if isinstance(defaults, dict):
        return {name: LOW if value == MAX_PIXELS else value for name, value in defaults.items()}
    return tuple(LOW if value == MAX_PIXELS else value for value in defaults)


@pytest.fixture
def low_limit(monkeypatch):
    """Lower the limit that holds wherever none is given, so that small images are beyond it."""
    option = dataclasses.replace(RUNNING["max_pixels"], default=LOW)
    monkeypatch.setitem(RUNNING, "max_pixels", option)
    for found in pkgutil.walk_packages(fc.__path__, "featcache."):
        if found.name.endswith(("__main__", "runners", "faults")):
            continue
        module = importlib.import_module(found.name)
        if vars(module).get("MAX_PIXELS") == MAX_PIXELS:
            monkeypatch.setattr(module, "MAX_PIXELS", LOW)
        mine = [
            one for one in vars(module).values() if getattr(one, "__module__", "") == found.name
        ]
        methods = [f for one in mine if inspect.isclass(one) for f in vars(one).values()]
        for function in filter(inspect.isfunction, mine + methods):
            for name in ("__defaults__", "__kwdefaults__"):
                before = getattr(function, name)
                if before and replaced(before) != before:
                    monkeypatch.setattr(function, name, replaced(before))
        if "max_pixels" in vars(vars(module).get("Card", object)):
            monkeypatch.setattr(module.Card, "max_pixels", LOW)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_backbone):
    """Photos, three of which are beyond the low limit, and for both limits a cache and heads."""
    folder = tmp_path_factory.mktemp("made")
    photos = make_photos(folder / "photos")
    make_image(photos / "apple" / "large.jpg", (200, 60, 60), 901, (90, 80))
    large = make_image(photos / "quince" / "large.png", (200, 180, 60), 902, (90, 80))
    with Image.open(large) as image:
        image.convert("P").save(large)  # a palette goes through Pillow
    make_image(photos / "pear" / "large.png", (60, 180, 60), 903, (90, 80))
    boards = {}
    for limit in (LOW, HIGH):
        features = fc.extract(
            photos,
            weights=str(tiny_backbone),
            max_pixels=limit,
            cache_dir=folder / f"cache-{limit}",
            show_progress=False,
        )
        boards[limit] = fc.fit_heads(
            features, ["logreg"], cv=3, jobs=1, report=False, show_progress=False
        )
        fc.stitch(boards[limit].best, folder / f"{limit}.keras", show_progress=False)
    return folder, boards


def parity_of(folder, limit, board):
    fc.stitch(board.best, folder / "again.keras", show_progress=False)
    return card.read(folder / "again.keras").parity["n_images"]


def judged(folder, limit, board):
    found = fc.evaluate(folder / f"{limit}.keras", split="all", cache_dir=None, show_progress=False)
    assert len(found.unreadable) == 24 - found.n_images
    assert found.slowest["n_timed"] == found.n_images / 3
    return found.n_images


def predicted(folder, limit, board):
    loaded = fc.load(folder / f"{limit}.keras", cache_dir=None)
    return sum(not one.error for one in loaded.predict(folder / "photos", show_progress=False))


def exported(folder, limit, board):
    pytest.importorskip("openvino")
    done = fc.export(folder / f"{limit}.keras", "openvino", overwrite=True, show_progress=False)
    return done.n_images


def tuned(folder, limit, board, **options):
    done = fc.finetune(
        folder / f"{limit}.keras",
        out=folder / "t.keras",
        cache_dir=folder / f"cache-{limit}",
        unfreeze=1,
        epochs=1,
        refit=False,
        show_progress=False,
        **options,
    )
    return done.n_train + done.n_validation + done.n_test


VERBS = {
    "stitch": parity_of,
    "evaluate": judged,
    "predict": predicted,
    "export": exported,
    "finetune": tuned,
    "finetune end to end": functools.partial(tuned, end_to_end=True),
}


SLOW = ("export", "finetune", "finetune end to end")  # they train, or write other formats


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=pytest.mark.slow if v in SLOW else ()) for v in VERBS]
)
@pytest.mark.usefixtures("low_limit", "eager_steps")
def test_images_that_a_model_learnt_from_are_read_whatever_their_size(made, verb):
    folder, boards = made
    assert VERBS[verb](folder, HIGH, boards[HIGH]) == 24
    # and nobody extracted them again with another limit
    features = store.Features(boards[HIGH].best.features.path)
    assert (len(features), features.provenance["max_pixels"]) == (24, HIGH)


@pytest.mark.parametrize("verb", ["stitch", "evaluate", "predict"])
def test_images_that_were_too_large_to_learn_from_are_so_afterwards(made, verb):
    folder, boards = made
    assert VERBS[verb](folder, LOW, boards[LOW]) == 21
    assert len(store.Features(boards[LOW].best.features.path)) == 21


def test_a_card_keeps_the_limit_only_where_it_is_not_the_default(tiny_backbone, tmp_path):
    model = make_model(tmp_path / "m.keras", tiny_backbone)
    file = tmp_path / "m.json"
    before = file.read_bytes()
    assert b"max_pixels" not in before  # as cards were before they kept it
    described = card.read(model)
    assert described.max_pixels == MAX_PIXELS
    described.write(model)
    assert file.read_bytes() == before
    other = dataclasses.replace(described, max_pixels=HIGH)
    other.write(model)
    assert card.read(model) == other
    assert json.loads(file.read_text())["card_version"] == card.CARD_VERSION


@pytest.mark.parametrize("value", ["10", 0, -1, True, 1.5, None])
def test_a_limit_that_is_no_number_of_pixels_is_said(tiny_backbone, tmp_path, value):
    model = make_model(tmp_path / "m.keras", tiny_backbone)
    file = tmp_path / "m.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_pixels": value}))
    with pytest.raises(StitchError, match="is damaged: max_pixels is no number of pixels"):
        card.read(model)


def test_a_model_whose_card_lacks_the_limit_of_its_features_is_stitched_again(made, tmp_path):
    folder, boards = made
    for name in (f"{HIGH}.keras", f"{HIGH}.json", f"{HIGH}.labels.txt"):
        shutil.copy(folder / name, tmp_path)
    file = tmp_path / f"{HIGH}.json"
    model = file.with_suffix(".keras")
    again = functools.partial(stitching.run, boards[HIGH].best, model, show_progress=False)
    assert again().hit
    values = json.loads(file.read_text())
    del values["max_pixels"]
    file.write_text(json.dumps(values))
    assert not again().hit
    assert again().card.max_pixels == HIGH


def test_values_are_black_and_white_as_where_the_model_was_made(lent_models, tmp_path):
    """Whatever is done with a model reads images by its card."""
    model = lent_models(tmp_path / "deep.keras")
    about = card.read(model)
    spec = dataclasses.replace(about.spec, value_range=(0, 4095))
    dataclasses.replace(about, spec=spec).write(model)
    grey = np.random.default_rng(0).integers(0, 256, (20, 30))
    deep = Image.fromarray((grey * (4095 / 255)).astype(np.float32))
    deep.save(tmp_path / "deep.tif")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "eight.png")
    loaded = fc.load(model, cache_dir=None)
    paths = [tmp_path / "deep.tif", tmp_path / "eight.png"]
    given = loaded.predict(paths, features=True, show_progress=False)
    given += loaded.predict([deep], features=True, show_progress=False)
    first, *others = [one.features for one in given]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-6)
    assert not any(one.error for one in given)


def test_nothing_else_opens_or_reads_the_images_of_a_model():
    """Only `judged_on` knows all that belongs to it.

    Beside it, one opens what is to be predicted.
    """
    package = REPOSITORY / "src" / "featcache"
    ways = {"list_images", "loading", "openers", "open_source", "plain_orientation"}
    found = {}
    for room in ("models", "inference", "finetuning"):
        for file in sorted((package / room).rglob("*.py")):
            names = {part for name in imported(file) for part in name.split(".")}
            if names & ways:
                found[file.relative_to(package).as_posix()] = names & ways
    assert found == {
        "models/judged_on.py": {"list_images", "loading", "openers"},
        "inference/predict/inputs.py": {"openers"},
    }


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
