"""Fine-tuning from the cached boundary: what changes, what is kept, what is refused."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CLASSES, make_photos, parse_single_json

import featcache as fc
from featcache import heads, store
from featcache.core.errors import SourceError, SpecError, StitchError, StoreError
from featcache.core.tensorflow import import_keras
from featcache.extraction.repair import repair
from featcache.finetuning import boundary, objective, resuming, training
from featcache.heads.dense import Dense
from featcache.models import card
from featcache.models.taught import parts_of_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_backbone):
    """Photos, a cache with their features, and a function that stitches a head, each once."""
    from featcache import extraction

    folder = tmp_path_factory.mktemp("made")
    photos = make_photos(folder / "my photos")
    done = extraction.run(
        photos, weights=str(tiny_backbone), cache_dir=folder / "cache", show_progress=False
    )

    @functools.cache
    def stitch(name):
        with pytest.MonkeyPatch.context() as patch:
            settings = {"hidden": (), "epochs": 20}  # one will do
            patch.setattr(Dense, "grid", classmethod(lambda cls, task: (settings,)))
            board = fc.fit_heads(
                done.features,
                [name],
                cv=3,
                jobs=1,
                report=False,
                folder=folder / f"{name}.heads",
                show_progress=False,
            )
        fc.stitch(board[name], folder / f"{name}.keras", show_progress=False)

    return folder, stitch


@pytest.fixture
def photos(made):
    return made[0] / "my photos"


@pytest.fixture
def stitched(made, tmp_path):
    """A function that puts a stitched model, and the cache, into the test's folder."""
    folder, make = made
    shutil.copytree(folder / "cache", tmp_path / "cache")

    def stitch(name):
        make(name)
        for file in folder.glob(f"{name}.*"):
            if file.is_file():
                shutil.copy(file, tmp_path)
        return tmp_path / f"{name}.keras"

    return stitch


def digest_of(file):
    return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()


def flip(path):
    """Damage the first chunk of a feature file."""
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 3] ^= 1
    path.write_bytes(data)


def weights(path):
    model = import_keras().models.load_model(path)
    backbone = next(layer for layer in model.layers if isinstance(layer, import_keras().Model))
    return {v.path: v.numpy() for layer in backbone.layers for v in layer.weights}


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def tune(path, out, **options):
    """Fine-tune for one epoch, which changes every weight that is unfrozen, and not once more."""
    settings = {
        "unfreeze": 2,
        "learning_rate": 1e-2,
        "epochs": 1,
        "patience": None,
        "refit": False,
        "cache_dir": path.parent / "cache",
        "show_progress": False,
    }
    return fc.finetune(path, out=out, **(settings | options))


@pytest.fixture
def compiled_steps():
    """Have Keras compile the steps of training, as it does for users."""


@pytest.fixture(autouse=True)
def eager_unless_compiled(request):
    if "compiled_steps" not in request.fixturenames:
        request.getfixturevalue("eager_steps")


@pytest.fixture
def loss_falls(monkeypatch):
    """Let every epoch look better than the last, so that the last one's weights are kept."""
    losses = iter(range(10_000, 0, -1))
    monkeypatch.setattr(
        objective.Objective, "judge", lambda self, y, outputs: (float(next(losses)), 1.0)
    )


def predicted(path):
    """What plain Keras gives for four images."""
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    return np.asarray(import_keras().models.load_model(path)(pixels, training=False))


def check_that_only_the_last_layers_changed(path, out, done):
    assert done.unfrozen == ("conv_2", "bn_2")  # relu_2 holds no weights and is not counted
    assert done.boundary == "relu_1"
    names = changed(weights(path), weights(out))
    assert names
    assert names == {"conv_2/kernel", "conv_2/bias", "bn_2/gamma", "bn_2/beta"}
    assert done.parity["n_images"] == 21


# a dense one is in `test_the_new_model_predicts_and_is_frozen`
@pytest.mark.parametrize("head", ["logreg", "linear-svm", "ridge", "centroid"])
@pytest.mark.usefixtures("loss_falls")
def test_only_the_last_layers_change_and_batch_norm_keeps_its_statistics(stitched, head, tmp_path):
    path = stitched(head)
    # the second training is the same for every head
    done = tune(path, tmp_path / "t.keras", epochs=2, refit=head == "logreg")
    check_that_only_the_last_layers_changed(path, tmp_path / "t.keras", done)


@pytest.mark.parametrize(
    ("options", "boundary"),
    [
        ({"unfreeze": 2, "views": 3}, "layer"),
        ({"unfreeze": 0}, "the features"),
        ({"unfreeze": "all"}, "the images"),
    ],
)
def test_a_dry_run_says_what_would_be_trained_and_leaves_nothing(
    stitched, tmp_path, options, boundary
):
    path = stitched("logreg")
    before = set(tmp_path.rglob("*"))
    (stage,) = tune(path, tmp_path / "t.keras", dry_run=True, **options).stages
    assert set(tmp_path.rglob("*")) == before
    network = import_keras().models.load_model(path)
    total = sum(np.prod(weight.shape) for weight in network.weights)
    assert 0 < stage.trained_parameters < stage.all_parameters == total
    assert f"{stage.trained_parameters:,} of {total:,} parameters" in str(stage)
    assert (stage.boundary in ("the features", "the images")) == (boundary != "layer")
    assert (stage.cache_bytes > 0) == (boundary == "layer")
    if boundary == "the images":
        assert stage.multiply_adds == stage.all_multiply_adds
    else:
        assert stage.multiply_adds < stage.all_multiply_adds
    if not options["unfreeze"]:
        assert stage.trained_parameters == card.read(path).size["head_parameters"]


@pytest.mark.usefixtures("loss_falls")
def test_zero_trains_the_head_alone_from_the_features_themselves(stitched, tmp_path):
    path = stitched("logreg")
    files = set((tmp_path / "cache").rglob("*.h5"))
    done = tune(path, tmp_path / "t.keras", unfreeze=0)
    assert (done.unfrozen, done.boundary) == ((), "the features")
    assert set((tmp_path / "cache").rglob("*.h5")) == files
    assert not changed(weights(path), weights(tmp_path / "t.keras"))
    assert not np.allclose(predicted(path), predicted(tmp_path / "t.keras"))


def test_features_that_it_made_again_can_be_stitched(stitched, tmp_path):
    path = stitched("logreg")
    shutil.rmtree(tmp_path / "cache")
    tune(path, tmp_path / "t.keras")
    features = store.newest_features(tmp_path / "cache")
    board = fc.fit_heads(features, ["logreg"], cv=3, jobs=1, report=False, show_progress=False)
    fc.stitch(board.best, tmp_path / "again.keras", show_progress=False)
    assert card.read(tmp_path / "again.keras").spec == card.read(path).spec


def test_the_prefix_runs_once(stitched, tmp_path, images_run):
    path = stitched("logreg")
    del images_run[:]
    tune(path, tmp_path / "t.keras", refit=True)
    assert sum(images_run) == 21  # up to the boundary, for training, judging and the held-out part
    tune(path, tmp_path / "t2.keras", learning_rate=1e-3, epochs=2, seed=4)
    assert sum(images_run) == 21
    tune(path, tmp_path / "t3.keras", dtype="float16")
    assert sum(images_run) == 42  # other numbers


@pytest.mark.usefixtures("loss_falls", "compiled_steps")
def test_the_cached_boundary_trains_as_the_images_do(stitched, tmp_path):
    """The suffix from the cache, and the whole network on images in the same batches."""
    path = stitched("logreg")
    options = {"warmup": 0.0, "epochs": 4}
    cached = tune(path, tmp_path / "cached.keras", **options)
    live = tune(path, tmp_path / "live.keras", end_to_end=True, augment="none", **options)
    assert live.boundary == cached.boundary
    for one, other in zip(cached.stages, live.stages, strict=True):
        np.testing.assert_allclose(one.training_loss, other.training_loss, atol=1e-4)
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3))
    load = import_keras().models.load_model
    a, b = (load(tmp_path / f"{n}.keras").predict(pixels, verbose=0) for n in ("cached", "live"))
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.usefixtures("loss_falls")
def test_stages_unfreeze_more_and_more(stitched, tmp_path):
    path = stitched("logreg")
    done = tune(path, tmp_path / "t.keras", unfreeze=None, stages="1,2,all", refit=True)
    assert len(done.stages) == len(done.refit) == 3
    assert done.unfrozen == ("conv_1", "bn_1", "conv_2", "bn_2")
    assert done.boundary == "the images"
    names = changed(weights(path), weights(tmp_path / "t.keras"))
    assert {"conv_1/kernel", "conv_2/kernel", "bn_2/gamma"} <= names


def test_views_are_cached_and_learnt_from(stitched, tmp_path, images_run):
    path = stitched("logreg")
    del images_run[:]
    tune(path, tmp_path / "t.keras", views=3, augment="flip")
    assert sum(images_run) == 63
    (file,) = (
        file for file in (tmp_path / "cache").rglob("*.h5") if store.Features(file).spec.views == 3
    )
    features = store.Features(file)
    assert (features.spec.layer, features.spec.pooling) == ("relu_1", "none")
    assert features.spec.augment == ("flip",)
    tune(path, tmp_path / "t2.keras")  # the clean view is among them
    assert sum(images_run) == 63


def test_discriminative_rates(stitched, tmp_path, loss_falls):
    path = stitched("logreg")
    plain = tune(path, tmp_path / "a.keras", unfreeze="all")
    slow = tune(path, tmp_path / "b.keras", unfreeze="all", lr_decay=1e-6)
    assert plain.improved
    assert slow.improved
    start, a, b = (weights(tmp_path / f) for f in ("logreg.keras", "a.keras", "b.keras"))
    for name in start:
        moved = np.abs(b[name] - start[name]).max()
        assert moved <= 1e-4 * max(np.abs(a[name] - start[name]).max(), 1e-6) + 1e-6


def test_the_best_epoch_is_kept(stitched, tmp_path, monkeypatch):
    path = stitched("logreg")
    losses = iter([(1.0, 0.5), (2.0, 0.75), (0.7, 0.5), (2.5, 0.75)])  # before, three epochs
    monkeypatch.setattr(objective.Objective, "judge", lambda self, y, outputs: next(losses))
    options = {"schedule": "constant", "warmup": 0.0}
    done = tune(path, tmp_path / "t.keras", epochs=3, **options)
    assert done.best_epochs == (1,)
    assert done.stages[0].validation_loss == [1.0, 2.0, 0.7, 2.5]
    once = iter([1.0, 0.5])
    monkeypatch.setattr(objective.Objective, "judge", lambda self, y, outputs: (next(once), 1.0))
    tune(path, tmp_path / "once.keras", **options)
    a, b = weights(tmp_path / "t.keras"), weights(tmp_path / "once.keras")
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)


def test_patience_ends_a_stage_early(stitched, tmp_path, monkeypatch):
    path = stitched("logreg")
    losses = iter([1.0, 0.5, 0.7, 0.9, 0.3])
    monkeypatch.setattr(objective.Objective, "judge", lambda self, y, outputs: (next(losses), 1.0))
    done = tune(path, tmp_path / "t.keras", epochs=9, patience=2)
    assert done.stages[0].n_epochs == 3


@pytest.mark.parametrize(
    ("losses", "metrics"),
    [([1.0, 3.0, 2.0], [0.5] * 3), ([1.0, 0.9, 0.8], [0.5, 0.4, 0.4])],
    ids=["a higher loss", "a worse metric"],
)
def test_never_worse_by_accident(stitched, tmp_path, monkeypatch, cli, losses, metrics):
    path = stitched("logreg")
    pairs = iter(zip(losses, metrics, strict=True))
    monkeypatch.setattr(objective.Objective, "judge", lambda self, y, outputs: next(pairs))
    ran = cli("finetune", path, "--out", tmp_path / "t.keras", "--epochs", 2, "--unfreeze", 2,
              "--patience", 0, "--json")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = parse_single_json(ran.stdout)
    assert said["improved"] is False
    assert said["after"] == said["before"]
    assert not changed(weights(path), weights(tmp_path / "t.keras"))
    np.testing.assert_array_equal(predicted(path), predicted(tmp_path / "t.keras"))
    was, now = card.read(path), card.read(tmp_path / "t.keras")
    assert replace(now, model_digest=was.model_digest) == was


def test_the_head_did_not_learn_from_what_judges_it(stitched, tmp_path, monkeypatch):
    """The loss before training is that of a head fitted without the validation images.

    The held-out part is that of the stitched head.
    """
    path = stitched("logreg")
    rows = []
    fit = heads.CATALOGUE["logreg"].fit

    def watched(self, X, y, groups=None):
        rows.append(len(X))
        return fit(self, X, y, groups)

    monkeypatch.setattr(heads.CATALOGUE["logreg"], "fit", watched)
    done = tune(path, tmp_path / "t.keras", refit=True)
    assert rows == [done.n_train]
    assert done.n_train + done.n_validation + done.n_test == 21
    assert done.before["accuracy"] == card.read(path).test_accuracy
    assert card.read(tmp_path / "t.keras").test_accuracy == done.after["accuracy"]


@pytest.mark.usefixtures("loss_falls")
def test_the_new_model_predicts_and_is_frozen(stitched, photos, tmp_path):
    path = stitched("dense")
    done = tune(path, tmp_path / "t.keras", refit=True)
    check_that_only_the_last_layers_changed(path, tmp_path / "t.keras", done)
    assert (
        len(fc.load(tmp_path / "t.keras", cache_dir=None).predict(photos, show_progress=False))
        == 21
    )
    assert not import_keras().models.load_model(tmp_path / "t.keras").trainable_variables
    about = card.read(tmp_path / "t.keras").finetuned
    assert about["plan"]["learning_rate"] == 1e-2
    assert about["changed"] == ["bn_2", "conv_2"]
    assert about["stages"][0]["validation_loss"] == done.stages[0].validation_loss
    assert not list(tmp_path.glob(".t.training*"))


@pytest.mark.usefixtures("loss_falls")
def test_a_fine_tuned_model_has_a_boundary_of_its_own(stitched, tmp_path, images_run):
    """What another training changed before the boundary must not come from the cache."""
    path = stitched("logreg")
    tune(path, tmp_path / "all.keras", unfreeze="all")
    del images_run[:]
    tune(tmp_path / "all.keras", tmp_path / "again.keras", unfreeze=2)
    assert sum(images_run) == 21
    (kept,) = [
        file for file in tmp_path.glob("cache/*/*.h5") if "model" in fc.Features(file).provenance
    ]
    before = fc.Features(kept)
    assert before.provenance["model"] == str(tmp_path / "all.keras")
    expected = before.X
    flip(kept)
    assert repair(kept, False, boundary.network_of)[1] == 21
    np.testing.assert_allclose(fc.Features(kept).X, expected, rtol=1e-5, atol=1e-6)
    assert fc.Features(kept).provenance["model"] == before.provenance["model"]
    flip(kept)
    (tmp_path / "all.keras").rename(tmp_path / "moved.keras")
    with pytest.raises(StoreError, match=r"is of the model '.*all\.keras', which is gone"):
        repair(kept, False, boundary.network_of)
    for suffix in ("keras", "json"):  # whose last layers alone were trained
        shutil.copy(tmp_path / f"again.{suffix}", tmp_path / f"all.{suffix}")
    repair(kept, False, boundary.network_of)
    flip(kept)
    for suffix in ("keras", "json"):
        shutil.copy(path.with_suffix(f".{suffix}"), tmp_path / f"all.{suffix}")
    with pytest.raises(StoreError, match="which is another one by now"):
        repair(kept, False, boundary.network_of)
    kept.unlink()
    tune(path, tmp_path / "last.keras", unfreeze=2)
    del images_run[:]
    tune(tmp_path / "last.keras", tmp_path / "more.keras", unfreeze=2)
    assert not images_run  # nothing before that boundary had changed


@pytest.mark.parametrize("task", ["multi-label", "regression"])
@pytest.mark.usefixtures("loss_falls")
def test_other_tasks(extract, tmp_path, task):
    photos = make_photos(tmp_path / "photos")
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    manifest = photos / "list.jsonl"
    rng = np.random.default_rng(0)
    said = [
        {"path": id_, "labels": ["a"] * bool(n % 2) + ["b"] * bool(rng.integers(2))}
        if task == "multi-label"
        else {"path": id_, "price": float(n % 5), "size": 1000.0 * (n % 3)}
        for n, id_ in enumerate(ids)
    ]
    manifest.write_text("\n".join(map(json.dumps, said)))
    target = "price,size" if task == "regression" else None
    features = extract(manifest, target=target).features
    board = fc.fit_heads(features, ["ridge"], cv=3, jobs=1, report=False, show_progress=False)
    path = tmp_path / "m.keras"
    fc.stitch(board.best, path, show_progress=False)
    done = tune(path, tmp_path / "t.keras")
    assert done.improved
    assert set(done.before) == set(done.after)
    assert done.parity["n_same_class"] + done.parity["n_ties"] == 21


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unfreeze": -1}, SpecError, "unfreeze must be 0 or more"),
        ({"unfreeze": 5}, SpecError, "unfreeze is 5, but tiny has 4 layers that hold weights"),
        ({"unfreeze": "some"}, SpecError, "must be a number of layers or all"),
        ({"unfreeze_from": "conv_1"}, SpecError, "unfreeze and unfreeze_from say the same"),
        ({"unfreeze": None, "stages": "4,2"}, SpecError, "must unfreeze more than the one before"),
        ({"unfreeze": None, "unfreeze_from": "conv"}, SpecError, "has no layer 'conv'. Nearest"),
        ({"epochs": 0}, SpecError, "epochs must be a whole number, 1 or more"),
        ({"patience": 0}, SpecError, "patience must be 1 or more"),
        ({"learning_rate": 0.0}, SpecError, "learning_rate must lie between 0 and 1"),
        ({"lr_decay": 1.5}, SpecError, "lr_decay must lie in 0 to 1"),
        ({"dropout": 1.0}, SpecError, "dropout must lie in 0 to 1"),
        ({"schedule": "step"}, SpecError, "schedule must be one of cosine, constant"),
        ({"dtype": "int8"}, SpecError, "dtype must be one of float32, float16"),
        ({"views": 2, "end_to_end": True}, SpecError, "there are none to keep"),
        ({"augment": "flip"}, SpecError, "nothing to augment"),
        ({"augment": "turn"}, SpecError, "augment must be one of"),
        ({"unfreeze": "³"}, SpecError, "must be a number of layers or all"),
        ({"unfreeze": None, "unfreeze_from": "all"}, SpecError, "must be the name of a layer"),
        ({"max_cache_gb": 0.0}, SpecError, "max_cache_gb must be a number above 0"),
        ({"max_cache_gb": float("nan")}, SpecError, "max_cache_gb must be a number above 0"),
        ({"max_cache_gb": 1e-6}, StoreError, "max-cache-gb"),
        ({"source": "example:digits"}, SourceError, "do not have the same classes"),
    ],
)
def test_bad_requests_leave_nothing(stitched, tmp_path, options, error, message):
    path = stitched("logreg")
    with pytest.raises(error, match=message):
        tune(path, tmp_path / "t.keras", **options)
    assert not [*tmp_path.glob("t.*"), *tmp_path.glob(".t.*")]
    assert not [file for file in (tmp_path / "cache").rglob("*.h5") if "relu" in file.name]


def test_no_room_on_the_disk(stitched, tmp_path, monkeypatch):
    path = stitched("logreg")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: usage._replace(free=10_000))
    with pytest.raises(StoreError, match="relu_1") as caught:
        tune(path, tmp_path / "t.keras")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("t.*"))


@pytest.mark.parametrize("head", ["linear-svm"])
def test_label_smoothing_is_of_probabilities(stitched, tmp_path, head):
    with pytest.raises(SpecError, match="label_smoothing is of probabilities"):
        tune(stitched(head), tmp_path / "t.keras", label_smoothing=0.1)


def test_the_model_itself_is_not_overwritten(stitched):
    path = stitched("logreg")
    with pytest.raises(SpecError, match="another file than the model itself"):
        tune(path, path)


def test_votes_have_no_gradient(stitched, tmp_path):
    with pytest.raises(StitchError, match="--head logreg"):
        tune(stitched("rbf-svm"), tmp_path / "t.keras")


def test_other_classes(stitched, tmp_path):
    make_photos(tmp_path / "other", classes=("apple", "pear", "plum"))
    path = stitched("logreg")
    with pytest.raises(SourceError, match=r"only the source has plum, only the model quince\."):
        tune(path, tmp_path / "t.keras", source=tmp_path / "other")


def test_divergence_is_an_error(stitched, tmp_path, monkeypatch):
    path = stitched("logreg")
    loss = objective.Objective.loss
    monkeypatch.setattr(
        objective.Objective, "loss", lambda self, wanted, outputs: loss(self, wanted, outputs) / 0.0
    )
    with pytest.raises(StitchError, match="Training diverged in epoch 1"):
        tune(path, tmp_path / "t.keras")
    assert not list(tmp_path.glob("t.*"))


def test_a_manifest_brings_its_splits_groups_and_root(photos, extract, tmp_path):
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    rows = [
        f"{id_},{id_.split('/')[0]},{'test' if number % 7 == 6 else 'train'},{number // 2}"
        for number, id_ in enumerate(ids)
    ]
    manifest = tmp_path / "lists" / "photos.csv"
    manifest.parent.mkdir()
    manifest.write_text("\n".join(["path,label,split,group", *rows]))
    features = extract(manifest, root=photos).features
    board = fc.fit_heads(features, ["logreg"], cv=3, jobs=1, report=False, show_progress=False)
    path = tmp_path / "m.keras"
    fc.stitch(board.best, path, show_progress=False)  # finds the root again by itself
    assert card.read(path).source_options == {"root": str(photos)}
    done = tune(path, tmp_path / "t.keras")
    assert done.n_test == 3
    assert done.n_train + done.n_validation == 18


COMMAND = [
    *("--unfreeze", "2", "--learning-rate", "0.003", "--epochs", "8", "--patience", "0"),
    *("--dropout", "0.2", "--views", "2", "--no-refit", "--json"),
]


@pytest.mark.usefixtures("compiled_steps")
def test_killed_and_started_again_it_ends_where_it_would_have(stitched, tmp_path, cli):
    path = stitched("logreg")
    whole = cli("finetune", path, "--out", tmp_path / "whole.keras", *COMMAND)
    assert whole.returncode == 0, whole.stderr
    expected = parse_single_json(whole.stdout)

    command = [sys.executable, "-m", "featcache", "finetune", path, "--out", "killed.keras"]
    victim = subprocess.Popen(
        [*map(str, command), *COMMAND], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    history = tmp_path / ".killed.training" / "fine-tuning-0" / training.HISTORY
    while victim.poll() is None:
        if history.exists() and len(json.loads(history.read_text())["training_loss"]) >= 3:
            break
        time.sleep(0.005)
    victim.kill()
    _, errors = victim.communicate()
    assert victim.returncode == -signal.SIGKILL, errors
    assert not (tmp_path / "killed.keras").exists()

    again = cli("finetune", path, "--out", tmp_path / "killed.keras", *COMMAND)
    assert again.returncode == 0, again.stderr
    assert "Going on with the training" in again.stderr
    got = parse_single_json(again.stdout)
    assert len(got["stages"][0]["training_loss"]) == 8
    np.testing.assert_allclose(
        got["stages"][0]["validation_loss"], expected["stages"][0]["validation_loss"], atol=1e-3
    )
    assert got["after"] == pytest.approx(expected["after"], abs=1e-3)
    assert not list(tmp_path.glob(".killed.training*"))


def test_a_backup_that_was_cut_short_is_not_read(stitched, tmp_path, monkeypatch):
    """Killed while the very first backup is written, and while a later one is."""
    path = stitched("logreg")
    options = {"dropout": 0.2, "epochs": 2}
    expected = tune(path, tmp_path / "whole.keras", **options)
    save = import_keras().Model.save_weights
    for n_whole in (0, 1):
        saves = iter(range(9))

        def cut(self, filepath, *args, n_whole=n_whole, saves=saves, **kwargs):
            save(self, filepath, *args, **kwargs)
            if next(saves) == n_whole:
                with Path(filepath).open("r+b") as file:
                    file.truncate(96)
                raise KeyboardInterrupt

        monkeypatch.setattr(import_keras().Model, "save_weights", cut)
        with pytest.raises(KeyboardInterrupt):
            tune(path, tmp_path / "t.keras", **options)
        assert (tmp_path / ".t.training").exists() == (n_whole > 0)
        monkeypatch.setattr(import_keras().Model, "save_weights", save)
        got = tune(path, tmp_path / "t.keras", **options)
        assert got.stages[0].validation_loss == pytest.approx(expected.stages[0].validation_loss)
        assert got.after == pytest.approx(expected.after, nan_ok=True)
        assert not list(tmp_path.glob(".t.training*"))


@pytest.mark.usefixtures("loss_falls")
def test_what_taught_the_model_does_not_judge_it(stitched, tmp_path, photos, capsys):
    """Another source may hold out what the head was fitted on."""
    path = stitched("logreg")
    parts = parts_of_model(card.read(path), tmp_path / "cache")
    files = sorted(photos.rglob("*.*"))
    files = {digest_of(file): file for file in files}
    taught = [files[digest] for digest in sorted(parts["train"])]
    rows = dict.fromkeys(files.values(), "train")
    rows[files[min(parts["test"])]] = "test"
    for name in CLASSES:  # and of each class one that taught the model
        rows[next(file for file in taught if file.parent.name == name)] = "test"
    lines = [f"{file},{file.parent.name},{part}" for file, part in rows.items()]
    other = tmp_path / "other.csv"
    other.write_text("\n".join(["path,label,split", *lines]).replace(f"{photos}/", ""))
    done = tune(path, tmp_path / "t.keras", source=other, root=photos, show_progress=True)
    assert "3 images that were to judge taught the model" in capsys.readouterr().err
    assert done.n_test == 1
    described = card.read(tmp_path / "t.keras")
    assert (described.source, described.source_options) == (str(other), {"root": str(photos)})
    judged = fc.evaluate(tmp_path / "t.keras", cache_dir=tmp_path / "cache", show_progress=False)
    assert (judged.part, judged.n_images, judged.n_trained_on) == ("test", 1, 0)
    assert judged.accuracy == done.after["accuracy"]


def test_images_that_came_since_make_it_unknown_what_taught_the_model(
    stitched, tmp_path, photos, capsys
):
    path = stitched("logreg")
    elsewhere = tmp_path / "photos"
    shutil.copytree(photos, elsewhere)
    replace(card.read(path), source=str(elsewhere)).write(path)
    tune(path, tmp_path / "t.keras", unfreeze=0, show_progress=True)
    assert "changed since" not in capsys.readouterr().err
    found = fc.evaluate(path, cache_dir=tmp_path / "cache", show_progress=False)
    assert found.n_trained_on == 0
    make_photos(tmp_path / "more", a_class=12)
    for file in (tmp_path / "more").rglob("*.*"):
        file.rename(elsewhere / file.parent.name / f"new {file.name}")
    tune(path, tmp_path / "t.keras", unfreeze=0, show_progress=True)
    assert "The images changed since the head was fitted" in capsys.readouterr().err
    found = fc.evaluate(path, cache_dir=tmp_path / "cache", show_progress=False)
    assert found.n_trained_on is None


@pytest.mark.parametrize(
    "edit", [{"head": "nosuch"}, {"params": {"C": "x"}}, {"params": {"nosuch": 1}}]
)
def test_a_card_that_was_edited_is_one_line(stitched, tmp_path, edit):
    path = stitched("logreg")
    replace(card.read(path), **edit).write(path)
    with pytest.raises(StitchError, match="cannot be fitted again with the settings"):
        tune(path, tmp_path / "t.keras")


def test_another_request_starts_afresh(stitched, tmp_path, monkeypatch):
    path = stitched("logreg")
    train = training.train

    def stop(*arguments):
        train(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("featcache.finetuning.training.train", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(path, tmp_path / "t.keras")
    assert (tmp_path / ".t.training" / "fine-tuning-0" / training.HISTORY).exists()
    monkeypatch.setattr("featcache.finetuning.training.train", train)
    done = tune(path, tmp_path / "t.keras", epochs=2)
    assert done.stages[0].n_epochs == 2
    assert not list(tmp_path.glob(".t.training*"))


def test_files_of_others_in_the_folder_of_a_training_stay(tmp_path):
    ours = [
        *("request.json", "fine-tuning-0/history.json", "fine-tuning-0/best-12.npz"),
        *("fine-tuning-0/backup/whole.weights.h5", "on all training images-1/history.json"),
        "whole.00c0ffee.99999999.tmp.keras",
    ]
    theirs = ["fine-tuning-0/notes.txt", "history.json", "figures/best-1.npz", "best-1.npz"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    resuming._clear(tmp_path)
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(left) == sorted([*theirs, "fine-tuning-0", "figures"])


def test_rows_are_looked_up_by_what_the_image_is(stitched, tmp_path, photos):
    """An image that changed has no activations of its old content."""
    from featcache.finetuning import training_images

    path = stitched("logreg")
    described = card.read(path)
    given = training_images.open_training_images(described, photos)
    features = store.Features(next((tmp_path / "cache").rglob("*.h5")))
    rows = boundary.rows_in(features, given)
    assert rows.tolist() == list(range(21))
    digests = given.listing.digests.copy()
    digests[3] += 1
    other = replace(given, listing=replace(given.listing, digests=digests))
    assert boundary.rows_in(features, other)[3] == -1
