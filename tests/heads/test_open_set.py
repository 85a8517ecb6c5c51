"""Scores of strangers against their formulas, and heads that say unknown against Keras."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import ledoit_wolf

from featcache.core.errors import HeadError
from featcache.core.tensorflow import import_keras
from featcache.heads import CATALOGUE, Calibrated, calibration
from featcache.heads.anomaly import Threshold
from featcache.heads.open_set import (
    STRANGER_SCORES,
    OpenSet,
    kept,
    logits_of,
    put_together,
    scores_for,
    strangeness,
)

D = 8


def blobs(n=90, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((n_classes + 1, D))
    y = np.arange(n) % (n_classes + 1)
    X = (centres[y] + rng.standard_normal((n, D)) + 2).astype(np.float32)
    return X, y


@pytest.fixture(scope="module")
def known():
    X, y = blobs()
    is_known = y < 4
    return X[is_known], y[is_known], X[~is_known]


def fitted(name, known, score, **params):
    X, y, _ = known
    head = CATALOGUE[name](**params).fit(X, y)
    return put_on(head, known, score)


def put_on(head, known, score):
    X, y, _ = known
    bare = head.head if isinstance(head, Calibrated) else head
    logits = logits_of(bare, X)
    learnt = STRANGER_SCORES[score]().fit(X, y, logits)
    found = learnt.scores(X, logits)
    return OpenSet(head, learnt, Threshold.of(found, 0.1), float(np.median(found)), 4)


def test_scores_are_what_their_sources_say(known):
    X, y, strange = known
    head = CATALOGUE["logreg"](C=1.0).fit(X, y)
    logits, said = logits_of(head, X), logits_of(head, strange)
    np.testing.assert_allclose(special.softmax(said, axis=1), head.outputs(strange), rtol=1e-4)
    found = {
        name: kind().fit(X, y, logits).scores(strange, said)
        for name, kind in STRANGER_SCORES.items()
    }
    np.testing.assert_allclose(found["max-logit"], -said.max(axis=1))
    np.testing.assert_allclose(found["energy"], -special.logsumexp(said, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["knn"], np.sort(cdist(strange, X, "cosine"))[:, 4], atol=1e-5)
    means = np.stack([X[y == one].mean(axis=0) for one in range(4)])
    inverse = np.linalg.inv(ledoit_wolf(X - means[y], assume_centered=True)[0])
    nearest = [min(mahalanobis(x, mean, inverse) ** 2 / D for mean in means) for x in strange]
    np.testing.assert_allclose(found["mahalanobis"], nearest, rtol=1e-3)
    vim = STRANGER_SCORES["vim"]().fit(X, y, logits)
    axes = np.linalg.eigh(np.cov(X.T))[1].T[::-1][: D // 3]
    centred = strange - X.mean(axis=0)
    outside = np.linalg.norm(centred - centred @ axes.T @ axes, axis=1)
    np.testing.assert_allclose(
        found["vim"], vim.alpha_ * outside - special.logsumexp(said, axis=1), rtol=1e-3
    )
    for name in ("knn", "mahalanobis", "vim"):  # what is far off is strange to them
        seen = STRANGER_SCORES[name]().fit(X, y, logits).scores(X, logits)
        assert np.median(found[name]) > np.median(seen), name


@pytest.mark.parametrize("score", STRANGER_SCORES)
@pytest.mark.parametrize(("head", "params"), [("logreg", {"C": 1.0}), ("ridge", {})])
def test_unknown_is_the_largest_exactly_above_the_threshold(known, head, params, score, tmp_path):
    X, _, strange = known
    both = np.concatenate([X, strange, 40 * strange])
    made = fitted(head, known, score, **params)
    outputs, scores = made.outputs(both), made.stranger_scores(both)
    is_unknown = scores > made.threshold.value
    assert 0 < is_unknown.sum() < len(both)
    np.testing.assert_array_equal(made.predict(both) == 4, is_unknown)
    inner = made.head.outputs(both)
    np.testing.assert_array_equal(outputs[:, :-1].argmax(axis=1), inner.argmax(axis=1))
    if head == "logreg":
        np.testing.assert_allclose(outputs.sum(axis=1), 1)
        odds = outputs[:, :-1] / outputs[:, :-1].max(axis=1, keepdims=True)
        np.testing.assert_allclose(
            odds, inner / inner.max(axis=1, keepdims=True), rtol=1e-6, atol=1e-29
        )
        typical = np.abs(scores - made.typical).argmin()
        assert outputs[typical, -1] / outputs[typical, :-1].max() == pytest.approx(0.01, rel=0.3)
    back = strangeness(outputs.astype(np.float32), made.output, made.threshold.value, made.typical)
    reach = 60 / made.steepness  # what is farther from the threshold is given as that far
    low, high = made.threshold.value - reach, made.threshold.value + reach
    np.testing.assert_allclose(back, np.clip(scores, low, high), rtol=1e-3, atol=1e-4)
    made.save_score(tmp_path / "score.npz")
    again = put_together(made.head, tmp_path / "score.npz", made.about(score), 4)
    np.testing.assert_array_equal(again.outputs(both), outputs)


@pytest.mark.parametrize("score", STRANGER_SCORES)
def test_keras_layers_give_the_same(known, score):
    keras = import_keras()
    X, _, strange = known
    both = np.concatenate([X, strange])
    for made in (fitted("logreg", known, score, C=1.0), fitted("ridge", known, score)):
        inputs = keras.Input((D,))
        model = keras.Model(inputs, made.to_keras_layers(inputs))
        np.testing.assert_allclose(model(both).numpy(), made.outputs(both), rtol=1e-3, atol=1e-4)
        parts = [
            keras.Model(inputs, model.get_layer(name).output)(both).numpy()
            for name in made.parity_layer.split("+")
        ]
        np.testing.assert_allclose(
            np.concatenate(parts, axis=1), made.parity_values(both), rtol=1e-3, atol=1e-4
        )


def test_of_calibrated_heads_and_of_those_without_logits(known):
    keras = import_keras()
    X, y, strange = known
    knn = CATALOGUE["knn"]().fit(X, y)
    assert list(scores_for(knn)) == ["max-logit", "knn", "mahalanobis"]
    logreg = CATALOGUE["logreg"](C=1.0).fit(X, y)
    assert set(scores_for(logreg)) == set(STRANGER_SCORES)
    inner = [knn, logreg]
    for head in inner:
        platt = calibration.fit("platt", head.outputs(X), y, head.output)
        made = put_on(Calibrated(head, platt), known, "max-logit")
        np.testing.assert_allclose(made.stranger_scores(X), -logits_of(head, X).max(axis=1))
        inputs = keras.Input((D,))
        got = keras.Model(inputs, made.to_keras_layers(inputs))(strange).numpy()
        np.testing.assert_allclose(got, made.outputs(strange), atol=1e-4)


def test_a_tie_is_a_score_at_the_threshold(known):
    X, _, _ = known
    made = fitted("logreg", known, "knn", C=1.0)
    scores = made.stranger_scores(X)
    scale = made.parity_scale(made.parity_values(X))
    assert scale[-1] == pytest.approx(scores.max())  # not of the logits, which are larger
    ties = made.hangs_on_a_tie(X, 1e-3 * scale.max())
    at = np.abs(scores - made.threshold.value) < 1e-3 * scale[-1]
    assert at.any()
    assert ties[at].all()
    assert ties.sum() < len(X) / 2


def test_what_is_promised_and_what_is_refused(known, tmp_path):
    said = kept(Threshold.of(np.arange(113.0), 0.05))
    assert said.startswith("set by 113 held-out images: at least 95.6% of known images")
    assert "95.0% was asked for, which takes 19" in kept(Threshold.of(np.arange(9.0), 0.05))
    made = fitted("ridge", known, "knn")
    with pytest.raises(HeadError, match=r"fit_heads\(unknown=True\)"):
        made.fit(known[0], known[1])
    with pytest.raises(HeadError, match=r"score\.npz' is missing or damaged"):
        put_together(made.head, tmp_path / "score.npz", made.about("knn"), 4)
