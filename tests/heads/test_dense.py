"""What is the dense head's own: its layers, its training, its weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import special
from test_heads import D, data

from featcache import heads
from featcache.core.errors import HeadError, SpecError
from featcache.core.tensorflow import import_tensorflow
from featcache.heads import dense_training
from featcache.heads.dense import Dense
from featcache.heads.training_rows import mean_and_scale, split_off

QUICK = {"learning_rate": 0.01, "dropout": 0.2, "epochs": 10}


def test_options_make_its_layers():
    head = Dense(**QUICK | {"hidden": (8, 6), "batch_norm": True}).fit(*data())
    kinds = [type(layer).__name__ for layer in head.model_.layers[1:]]
    block = ["Dense", "BatchNormalization", "ReLU", "Dropout"]
    assert kinds == ["Normalization", *block, *block, "Dense", "Softmax"]


@pytest.mark.parametrize("task", Dense.tasks)
def test_hidden_layers_learn_every_task(task):
    X, y = data(task, n=300)
    head = Dense(hidden=(16,), batch_norm=True, task=task, learning_rate=0.01).fit(X, y)
    if task == "regression":
        assert np.mean((head.predict(X) - y) ** 2) < 0.3 * y.var(axis=0).mean()
    else:
        assert np.mean(head.predict(X) == y) > 0.85


def test_values_are_in_the_targets_own_units():
    X, y = data("regression", n=300)
    options = QUICK | {"dropout": 0.0, "task": "regression", "epochs": 60}
    plain = Dense(**options).fit(X, y)
    large = Dense(**options).fit(X, 1000 * y - 7)
    np.testing.assert_allclose(large.outputs(X), 1000 * plain.outputs(X) - 7, rtol=1e-4)
    assert np.mean((plain.predict(X) - y) ** 2) < 0.02 * y.var(axis=0).mean()


def test_a_constant_target_is_met():
    X, y = data("regression")
    y[:, 1] = 4.0
    values = Dense(**QUICK, task="regression").fit(X, y).outputs(X)
    assert np.abs(values[:, 1] - 4).max() < 1.0


def test_it_stops_early_and_keeps_the_best():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, D)).astype(np.float32), np.arange(200) % 2  # nothing to learn
    head = Dense(learning_rate=0.05, dropout=0.0, epochs=500, patience=10).fit(X, y)
    assert head.n_epochs_ < 250


def test_one_that_diverges_says_so():
    with pytest.raises(HeadError, match="Lower the learning rate"):
        Dense(learning_rate=1e38, hidden=(8,)).fit(*data())


def test_one_class_is_nothing_to_learn():
    X, y = data()
    with pytest.raises(HeadError, match="two classes or more; y has only class 2"):
        Dense().fit(X[y == 2], y[y == 2])


def test_one_sample_a_class():
    X, y = data(n=3)
    assert Dense(**QUICK).fit(X, y).outputs(X).shape == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout must lie in 0 to 1, 1 excluded; got 1.0"),
        ({"hidden": (8, 0)}, r"hidden must be positive numbers of units; got \(8, 0\)"),
    ],
)
def test_wrong_parameters_are_named(options, message):
    with pytest.raises(SpecError, match=message):
        Dense(**options).fit(*data())


def test_settings_of_one_shape_share_a_graph():
    X, y = data()
    dense_training.trainer.cache_clear()
    for options in ({}, {"dropout": 0.7}, {"learning_rate": 0.003}, {"batch_size": 16}):
        Dense(**QUICK | options).fit(X, y)
        Dense(**QUICK | options).fit(X[:71], y[:71])
    assert dense_training.trainer.cache_info().misses == 1
    trainer = dense_training.trainer(D, 3, (), False, "classification", False)
    assert trainer.steps.experimental_get_tracing_count() == 1
    assert trainer.loss.experimental_get_tracing_count() == 1


def test_views_of_one_image_are_not_parted():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 3)
    strata = np.repeat(np.arange(20) % 2, 3)
    fit_rows, val_rows = split_off(strata, 0.2, rng, groups)
    assert sorted([*fit_rows, *val_rows]) == list(range(60))
    assert len(val_rows) == 12
    assert not set(groups[fit_rows]) & set(groups[val_rows])


def test_dropout_drops_what_it_says():
    tf = import_tensorflow()
    x = tf.ones((2000, 30))
    dropped = dense_training._drop(x, 0.75 * 256, tf.constant([1, 2])).numpy()
    assert set(np.unique(dropped)) == {0.0, 4.0}
    assert abs(dropped.mean() - 1) < 0.03
    assert np.abs(dropped.mean(axis=0) - 1).max() < 0.25
    np.testing.assert_array_equal(dense_training._drop(x, 0.0, tf.constant([1, 2])), x)


def test_a_file_of_another_task_is_refused(tmp_path):
    head = Dense(**QUICK).fit(*data())
    file = tmp_path / heads.save(head, tmp_path, "dense")
    with pytest.raises(HeadError, match="gives probabilities; a head for regression gives values"):
        heads.load("dense", file, {"task": "regression"})


def test_the_middle_and_the_spread_need_no_copy_of_half_precision():
    X = np.full((5000, 2), 60_000, np.float16)
    X[::2, 1] = 100
    mean, scale = mean_and_scale(X)
    np.testing.assert_allclose(mean, [60_000, 30_050], rtol=1e-3)
    np.testing.assert_allclose(scale, [1, 29_950], rtol=1e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_probabilities_are_learnt_in_place_of_classes(class_weight):
    X, _ = data(n=400)
    logits = X @ np.random.default_rng(3).standard_normal((D, 3)) * 0.5 + [1, 0, -1]
    wanted = special.softmax(logits, axis=1)  # of classes that are not alike in number
    head = Dense(**QUICK | {"dropout": 0.0, "epochs": 60}, class_weight=class_weight)
    outputs = head.fit(X[:300], wanted[:300]).outputs(X[300:])
    np.testing.assert_array_equal(head.classes_, [0, 1, 2])
    assert np.abs(outputs - wanted[300:]).mean() < 0.05


def test_threads_that_fit_heads_of_one_shape_do_not_share_them():
    def fitted(seed):
        return Dense(**QUICK | {"seed": seed}).fit(*data()).weights_

    alone = [fitted(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(fitted, range(4)), alone, strict=True):
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, other)
