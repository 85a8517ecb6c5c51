from __future__ import annotations

import numpy as np
import pytest
from conftest import make_photos

import featcache as fc
from featcache import card, finetuning, quiet
from featcache.errors import SourceError, SpecError, StitchError


@pytest.fixture
def stitched(photos, extract, tmp_path):
    features = extract(photos).features

    def stitch(name):
        board = fc.fit_heads(features, [name], cv=3, jobs=1, report=False, show_progress=False)
        path = tmp_path / f"{name}.keras"
        fc.stitch(board[name], path, show_progress=False)
        return path

    return stitch


def weights(path):
    model = quiet.keras().models.load_model(path)
    backbone = next(layer for layer in model.layers if isinstance(layer, quiet.keras().Model))
    return {v.path.split("/", 1)[-1]: v.numpy() for layer in backbone.layers for v in layer.weights}


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def tune(path, out, **options):
    settings = {"unfreeze": 2, "learning_rate": 1e-2, "epochs": 3, "show_progress": False}
    return fc.finetune(path, out=out, **(settings | options))


def loss_falls(monkeypatch):
    """Let every epoch look better than the last, so that the last one's weights are kept."""
    evaluate = finetuning._evaluate
    losses = iter(range(1000, 0, -1))
    monkeypatch.setattr(
        finetuning, "_evaluate", lambda *args: (float(next(losses)), evaluate(*args)[1])
    )


@pytest.mark.parametrize("head", ["logreg", "linear-svm", "dense"])
def test_only_the_last_layers_change_and_batch_norm_keeps_its_statistics(
    stitched, head, tmp_path, monkeypatch
):
    loss_falls(monkeypatch)
    path = stitched(head)
    done = tune(path, tmp_path / "t.keras")
    assert done.unfrozen == ("conv_2", "bn_2")  # relu_2 holds no weights and is not counted
    names = changed(weights(path), weights(tmp_path / "t.keras"))
    assert names
    assert not {name for name in names if "moving" in name}
    assert not {name for name in names if "_1" in name}
    assert {name.split("/")[-1] for name in names} == {"kernel", "bias", "gamma", "beta"}


def test_zero_trains_the_head_alone(stitched, tmp_path, monkeypatch):
    loss_falls(monkeypatch)
    path = stitched("logreg")
    assert tune(path, tmp_path / "t.keras", unfreeze=0).unfrozen == ()
    assert not changed(weights(path), weights(tmp_path / "t.keras"))
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    load = quiet.keras().models.load_model
    before, after = (load(p).predict(pixels, verbose=0) for p in (path, tmp_path / "t.keras"))
    assert not np.allclose(before, after)


def test_the_best_epoch_is_kept(stitched, tmp_path, monkeypatch):
    path = stitched("logreg")
    evaluate = finetuning._evaluate
    losses = iter([9, 1.0, 0.5, 0.7, 0.9, 9])  # test, before, three epochs, test
    monkeypatch.setattr(finetuning, "_evaluate", lambda *args: (next(losses), evaluate(*args)[1]))
    done = tune(path, tmp_path / "t.keras")
    assert done.best_epoch == 1
    assert done.validation_loss == (1.0, 0.5, 0.7, 0.9)
    once = iter([9, 1.0, 0.5, 9])
    monkeypatch.setattr(finetuning, "_evaluate", lambda *args: (next(once), evaluate(*args)[1]))
    tune(path, tmp_path / "once.keras", epochs=1)
    assert not changed(weights(tmp_path / "t.keras"), weights(tmp_path / "once.keras"))


def test_never_worse_by_accident(stitched, tmp_path):
    path = stitched("logreg")
    done = tune(path, tmp_path / "t.keras", learning_rate=0.9)
    if not done.improved:
        assert not changed(weights(path), weights(tmp_path / "t.keras"))
        assert done.accuracy_after == done.accuracy_before
    assert min(done.validation_loss) == done.validation_loss[done.best_epoch]


def test_the_held_out_part_is_that_of_the_head(stitched, tmp_path):
    path = stitched("logreg")
    done = tune(path, tmp_path / "t.keras")
    assert done.accuracy_before == card.read(path).test_accuracy
    assert card.read(tmp_path / "t.keras").test_accuracy == done.accuracy_after
    assert done.n_train + done.n_validation + done.n_test == 21


def test_the_new_model_predicts_and_is_frozen(stitched, photos, tmp_path):
    tune(stitched("dense"), tmp_path / "t.keras")
    assert len(fc.load(tmp_path / "t.keras").predict(photos, show_progress=False)) == 21
    assert not quiet.keras().models.load_model(tmp_path / "t.keras").trainable_variables


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unfreeze": -1}, SpecError, "unfreeze must be 0 or more"),
        ({"unfreeze": 5}, SpecError, "unfreeze is 5, but tiny has 4 layers that hold weights"),
        ({"epochs": 0}, SpecError, "epochs must be 1 or more"),
        ({"learning_rate": 0.0}, SpecError, "learning_rate must lie between 0 and 1"),
        ({"source": "example:digits"}, SourceError, "do not have the same classes"),
    ],
)
def test_bad_requests_leave_nothing(stitched, tmp_path, options, error, message):
    path = stitched("logreg")
    with pytest.raises(error, match=message):
        tune(path, tmp_path / "t.keras", **options)
    assert not list(tmp_path.glob("t.*"))


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
    with pytest.raises(SourceError, match="plum, quince"):
        tune(path, tmp_path / "t.keras", source=tmp_path / "other")


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
    done = tune(path, tmp_path / "t.keras", epochs=1)
    assert done.n_test == 3
    assert done.n_train + done.n_validation == 18
