from __future__ import annotations

import json
import math

import numpy as np
import pytest

from featcache.core.errors import HeadError, SpecError
from featcache.core.tensorflow import import_keras
from featcache.heads import calibration
from featcache.scoring import metrics

KINDS = [
    ("temperature", "probabilities"),
    ("temperature", "scores"),
    ("platt", "probabilities"),
    ("platt", "scores"),
    ("isotonic", "probabilities"),
    ("isotonic", "scores"),
]


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def logits_and_classes(n=3000, n_classes=3, seed=0):
    """Logits of which the softmax is the very probability of the class."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((n, n_classes))
    drawn = softmax(logits).cumsum(axis=1) > rng.random((n, 1))
    return logits, drawn.argmax(axis=1)


def outputs_of(output_kind, logits, sharper=3.0):
    """Overconfident probabilities, or scores on another scale."""
    return softmax(sharper * logits) if output_kind == "probabilities" else 7 * logits - 2


def log_loss(y, p):
    return metrics.score_one("log-loss", "classification", y, p, "probabilities")


def model_of(calibrator, n_classes, name="probabilities"):
    keras = import_keras()
    inputs = keras.Input((n_classes,))
    return keras.Model(inputs, calibrator.to_keras_layers(inputs, name))


def same(left, right):
    outputs = outputs_of("scores", logits_and_classes(n_classes=3)[0])
    np.testing.assert_array_equal(left.transform(outputs), right.transform(outputs))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_found(temperature):
    logits, y = logits_and_classes(20_000)
    found = calibration.Temperature().fit(softmax(logits * temperature), y)
    assert found.temperature_ == pytest.approx(temperature, rel=0.05)
    scores = calibration.Temperature(logits=True).fit(logits * temperature, y)
    # but for probabilities under the floor
    assert scores.temperature_ == pytest.approx(found.temperature_, rel=0.02)


@pytest.mark.parametrize("scale", [1e-5, 1e6])
def test_temperature_of_scores_on_any_scale(scale):
    logits, y = logits_and_classes()
    found = calibration.Temperature(logits=True).fit(logits * scale, y)
    assert found.temperature_ / scale == pytest.approx(1, rel=0.1)


def test_temperature_is_of_least_log_loss():
    logits, y = logits_and_classes()
    found = calibration.Temperature().fit(softmax(2 * logits), y)
    best = found.temperature_
    losses = []
    for found.temperature_ in (0.99 * best, best, 1.01 * best):
        losses.append(log_loss(y, found.transform(softmax(2 * logits))))
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize("output_kind", ["probabilities", "scores"])
def test_temperature_keeps_the_class(output_kind):
    logits, y = logits_and_classes(n_classes=7)
    outputs = outputs_of(output_kind, logits)
    found = calibration.fit("temperature", outputs, y, output_kind).transform(outputs)
    np.testing.assert_array_equal(found.argmax(axis=1), outputs.argmax(axis=1))


@pytest.mark.parametrize(("kind", "output_kind"), KINDS)
def test_log_loss_of_new_rows_is_near_the_least_possible(kind, output_kind):
    logits, y = logits_and_classes()
    new_logits, new_y = logits_and_classes(seed=1)
    calibrator = calibration.fit(kind, outputs_of(output_kind, logits), y, output_kind)
    outputs = outputs_of(output_kind, new_logits)
    found = calibrator.transform(outputs)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    least = log_loss(new_y, softmax(new_logits))
    before = log_loss(new_y, outputs if output_kind == "probabilities" else softmax(outputs))
    assert before > 1.5 * least
    assert log_loss(new_y, found) < 1.25 * least


def test_platt_solves_its_equations():
    logits, y = logits_and_classes(300)
    scores = 40 * logits + 1000
    found = calibration.Platt().fit(scores, y)
    p = 1 / (1 + np.exp(-(scores * found.slopes_ + found.intercepts_)))
    for column in range(3):
        positive = y == column
        n = positive.sum()
        targets = np.where(positive, (n + 1) / (n + 2), 1 / (300 - n + 2))
        residual = p[:, column] - targets
        assert abs(residual.mean()) < 1e-8
        assert abs(np.mean(residual * logits[:, column])) < 1e-8


def test_platt_of_two_classes_is_one_sigmoid():
    logits, y = logits_and_classes(400, n_classes=2)
    score = logits[:, 1] - logits[:, 0]
    outputs = np.stack([-score, score], axis=1)
    found = calibration.Platt().fit(outputs, y)
    sigmoid = 1 / (1 + np.exp(-(score * found.slopes_[1] + found.intercepts_[1])))
    np.testing.assert_allclose(found.transform(outputs)[:, 1], sigmoid, atol=1e-6)


def test_platt_of_separated_and_of_constant_scores():
    y = np.repeat([0, 1], 50)
    outputs = np.stack([1.0 - 2 * y, 2.0 * y - 1], axis=1)
    found = calibration.Platt().fit(outputs, y).transform(outputs)
    np.testing.assert_allclose(found[np.arange(100), y], 51 / 52, rtol=1e-6)
    constant = calibration.Platt().fit(np.ones((100, 2)), y).transform(np.ones((3, 2)))
    np.testing.assert_allclose(constant, 0.5)


def test_isotonic_is_scikit_learns_on_each_class():
    from sklearn.isotonic import IsotonicRegression

    logits, y = logits_and_classes(500)
    scores, new = logits.astype(np.float32), 2 * logits_and_classes(100, seed=1)[0]
    found = calibration.Isotonic().fit(scores, y).transform(new.astype(np.float32))
    # of 500 rows none is certain
    bounds = {"y_min": 1 / 502, "y_max": 1 - 1 / 502}
    curves = [IsotonicRegression(out_of_bounds="clip", **bounds) for _ in range(3)]
    expected = np.stack(
        [
            curve.fit(scores[:, k].astype(float), y == k).predict(
                new[:, k].astype(np.float32).astype(float)
            )
            for k, curve in enumerate(curves)
        ],
        axis=1,
    )
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_isotonic_without_any_probability_is_uniform():
    y = np.arange(40) % 4
    outputs = np.eye(4)[y]
    found = calibration.Isotonic().fit(outputs, y)
    np.testing.assert_allclose(found.transform(np.full((2, 4), -1.0)), 0.25)
    certain = np.where(outputs == 1, 41 / 42, 1 / 42)  # as certain as 40 rows can make it
    expected = certain / certain.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.transform(outputs), expected, atol=1e-6)
    layers = model_of(found, 4)
    np.testing.assert_allclose(layers(np.full((2, 4), -1.0, np.float32)), 0.25, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize(("kind", "output_kind"), KINDS)
def test_keras_layers_give_what_transform_gives(kind, output_kind, n_classes, tmp_path):
    keras = import_keras()
    logits, y = logits_and_classes(1500, n_classes)
    outputs = outputs_of(output_kind, logits).astype(np.float32)
    calibrator = calibration.fit(kind, outputs, y, output_kind)
    new = outputs_of(output_kind, 2 * logits_and_classes(257, n_classes, seed=1)[0])
    new = np.concatenate([new, outputs, np.eye(n_classes)]).astype(np.float32)
    expected = calibrator.transform(new)
    assert expected.std(axis=0).min() > 0.05
    model = model_of(calibrator, n_classes, "calibrated")
    assert model.layers[-1].name == "calibrated"
    np.testing.assert_allclose(model(new), expected, rtol=0, atol=1e-5)
    model.save(tmp_path / "map.keras")
    again = keras.models.load_model(tmp_path / "map.keras")
    np.testing.assert_allclose(again(new), expected, rtol=0, atol=1e-5)
    from_json = calibration.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    np.testing.assert_allclose(model_of(from_json, n_classes)(new), model(new), atol=1e-6)


def test_a_steep_isotonic_map_is_the_same_in_keras():
    # scores near 1000 that float32 tells apart by 6e-5, with a jump between every two of them
    rng = np.random.default_rng(0)
    scores = 1000 + 1e-3 * rng.random((400, 2))
    y = (rng.random(400) < (scores[:, 1] - 1000) * 1000).astype(int)
    calibrator = calibration.Isotonic().fit(scores, y)
    for outputs in (scores, scores.astype(np.float32)):
        expected = calibrator.transform(outputs)
        found = model_of(calibrator, 2)(outputs.astype(np.float32))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_layers_follow_a_head_that_has_used_the_name():
    keras = import_keras()
    calibrator = calibration.fit("platt", *logits_and_classes(), "probabilities")
    inputs = keras.Input((5,))
    p = keras.layers.Dense(3, activation="softmax", name="probabilities")(inputs)
    model = keras.Model(inputs, calibrator.to_keras_layers(p, "calibrated"))
    X = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    between = keras.Model(inputs, model.get_layer("probabilities").output)
    np.testing.assert_allclose(model(X), calibrator.transform(between(X)), atol=1e-5)


@pytest.mark.parametrize(
    ("output_kind", "n", "found"),
    [
        ("probabilities", 2000, calibration.Temperature),
        ("scores", 9_999, calibration.Platt),
        ("scores", 10_000, calibration.Isotonic),
    ],
)
def test_auto(output_kind, n, found):
    logits, y = logits_and_classes(n)
    outputs = outputs_of(output_kind, logits)
    assert type(calibration.fit("auto", outputs, y, output_kind)) is found


@pytest.mark.parametrize(("kind", "output_kind"), KINDS)
def test_a_class_that_is_absent(kind, output_kind):
    logits, y = logits_and_classes(400)
    logits = np.concatenate([logits, np.full((400, 1), -8.0)], axis=1)
    outputs = outputs_of(output_kind, logits)
    calibrator = calibration.fit(kind, outputs, y, output_kind)
    found = calibrator.transform(outputs)
    assert np.isfinite(found).all()
    assert found[:, 3].max() < (1e-6 if kind == "platt" else 0.05)
    np.testing.assert_allclose(model_of(calibrator, 4)(outputs), found, rtol=0, atol=1e-5)
    alone = calibration.fit(kind, outputs, np.zeros(400, int), output_kind).transform(outputs)
    assert np.isfinite(alone).all()


@pytest.mark.parametrize(("kind", "output_kind"), KINDS)
def test_one_row(kind, output_kind):
    outputs = np.array([[0.2, 0.5, 0.3]])
    found = calibration.fit(kind, outputs, np.array([1]), output_kind).transform(outputs)
    assert found.argmax() == 1


@pytest.mark.parametrize(("kind", "output_kind"), KINDS)
def test_through_json_it_is_the_same(kind, output_kind):
    logits, y = logits_and_classes()
    calibrator = calibration.fit(kind, outputs_of(output_kind, logits), y, output_kind)
    described = calibrator.to_dict()
    assert described["kind"] == kind
    again = calibration.from_dict(json.loads(json.dumps(described)))
    assert type(again) is type(calibrator)
    same(calibrator, again)
    assert again.to_dict() == described


X_Y = {"x": [0.0, 1.0], "y": [0.0, 0.5]}


TEMPERATURE = {"kind": "temperature", "temperature": 1.0, "floor": 0.1, "logits": False}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "kind must be one of temperature, platt, isotonic; got 'None'"),
        ([], "kind must be"),
        ({}, "kind must be"),
        ({"kind": "beta"}, "got 'beta'"),
        ({"kind": ["platt"]}, "kind must be"),
        ({"kind": "temperature"}, "it must have kind, temperature, floor, logits and no more"),
        (
            TEMPERATURE | {"x": 1},
            "and no more",
        ),
        (TEMPERATURE | {"temperature": 0}, "above 0"),
        (
            TEMPERATURE | {"temperature": math.nan},
            "above 0",
        ),
        (TEMPERATURE | {"temperature": True}, "above 0"),
        (TEMPERATURE | {"temperature": "1"}, "above 0"),
        (TEMPERATURE | {"temperature": 10**400}, "above 0"),
        (TEMPERATURE | {"logits": 0}, "true or false"),
        (TEMPERATURE | {"floor": 0}, "floor must lie between 0 and 1"),
        (TEMPERATURE | {"floor": 2.0}, "floor must lie between 0 and 1"),
        ({"kind": "platt", "slopes": [1.0, 1.0]}, "it must have kind, slopes, intercepts"),
        ({"kind": "platt", "slopes": [1.0, 1.0], "intercepts": [0.0]}, "one for each"),
        ({"kind": "platt", "slopes": [1.0], "intercepts": [0.0]}, "two classes or more"),
        ({"kind": "platt", "slopes": [1.0, None], "intercepts": [0.0, 0.0]}, "finite numbers"),
        ({"kind": "platt", "slopes": [1.0, math.inf], "intercepts": [0, 0]}, "finite numbers"),
        ({"kind": "platt", "slopes": "ab", "intercepts": [0.0, 0.0]}, "finite numbers"),
        ({"kind": "isotonic", "knots": X_Y}, "knots must be one entry for each"),
        ({"kind": "isotonic", "knots": [X_Y]}, "two classes or more"),
        ({"kind": "isotonic", "knots": [X_Y, 3]}, "must have x and y"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [0.0]}]}, "must have x and y"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [], "y": []}]}, "finite numbers"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [0, 1], "y": [0.5]}]}, "x must increase"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [1, 0], "y": [0, 1]}]}, "x must increase"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [1, 1 + 1e-9], "y": [0, 1]}]}, "x must incr"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [0, 1], "y": [1, 0]}]}, "y must rise"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [0, 1], "y": [-0.1, 0]}]}, "y must rise"),
        ({"kind": "isotonic", "knots": [X_Y, {"x": [0, 1], "y": [0, 1.1]}]}, "y must rise"),
    ],
)
def test_a_malformed_description(values, reason):
    with pytest.raises(HeadError, match=r"calibration map is damaged.*Run `featcache") as caught:
        calibration.from_dict(values)
    assert reason in str(caught.value)


def test_what_cannot_be_fitted():
    logits, y = logits_and_classes(60)
    with pytest.raises(SpecError, match="calibration must be one of auto, temperature, platt, iso"):
        calibration.fit("beta", logits, y, "scores")
    with pytest.raises(HeadError, match="probabilities or scores; got values"):
        calibration.fit("auto", logits, y, "values")
    for outputs, classes, message in (
        (logits[:50], y, r"shapes \(50, 3\) and \(60,\)"),
        (logits[:, 0], y, "got shapes"),
        (logits[:, :1], y, "got shapes"),
        (logits[:0], y[:0], "got shapes"),
        (logits, y + 1, "classes from 0 to 2; got 1 to 3"),
        (logits, y - 1, "got -1 to 1"),
        (np.where(logits > 1, np.nan, logits), y, "needs finite outputs"),
    ):
        for kind in calibration.KINDS:
            with pytest.raises(HeadError, match=message):
                calibration.fit(kind, outputs, classes, "scores")


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_outputs_of_other_classes_are_refused(kind):
    logits, y = logits_and_classes(60)
    calibrator = calibration.fit(kind, logits, y, "scores")
    with pytest.raises(HeadError, match=r"is of 3 classes; got outputs of shape \(60, 1\)"):
        calibrator.transform(logits[:, :1])
