from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from featcache.core.tasks import PROBABILITIES, TargetKind
from featcache.scoring import intervals, jackknife, metrics

TASK = "classification"
ALL_METRICS = ("accuracy", "balanced-accuracy", "macro-f1", "log-loss", "roc-auc")


def standard_error(statistic, units):
    return jackknife.standard_error(jackknife.without_groups(statistic, units))


@pytest.mark.parametrize(("right", "n"), [(0, 7), (3, 7), (40, 40), (180, 200)])
def test_wilson_as_scipy_has_it(right, n):
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(right / n, n) == pytest.approx((expected.low, expected.high))
    low, high = intervals.wilson(right / n, n)
    assert 0 <= low <= right / n <= high <= 1


def test_one_mistake_does_not_shut_out_a_share_near_1():
    assert (
        intervals.wilson(11 / 12, 12)[1]
        > 0.99
        > stats.binomtest(11, 12).proportion_ci(0.95, method="wilson").high
    )
    # one mistake is what 0.0513 lead one to expect in a twentieth of draws: 1 - exp(-0.0513)
    assert intervals.wilson(199 / 200, 200)[1] == pytest.approx(1 + math.log(0.95) / 200)
    low, high = (1 - end for end in reversed(intervals.wilson(199 / 200, 200)))
    assert intervals.wilson(1 / 200, 200) == pytest.approx((low, high))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).standard_normal(50)
    found = standard_error(lambda rows: values[rows].mean(), np.arange(50))
    assert found == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_leaving_out_groups_of_many_rows_is_about_the_same():
    values = np.random.default_rng(0).standard_normal(3000)
    found = standard_error(lambda rows: values[rows].mean(), np.arange(3000))
    assert found == pytest.approx(values.std(ddof=1) / math.sqrt(3000), rel=0.3)


def test_copies_and_images_of_a_group_say_one_thing():
    values = np.random.default_rng(0).standard_normal(40)
    alone = standard_error(lambda rows: values[rows].mean(), np.arange(40))
    ten = np.repeat(values, 10)
    together = standard_error(lambda rows: ten[rows].mean(), np.repeat(np.arange(40), 10))
    assert together == pytest.approx(alone)


def test_one_unit_has_no_standard_error():
    assert math.isnan(standard_error(lambda rows: 1.0, np.zeros(5, int)))
    assert math.isnan(intervals.of_share(np.ones(5, bool), np.zeros(5, int))[0])


def outputs_of(y, n_classes, confidence):
    outputs = np.full((len(y), n_classes), (1 - confidence) / (n_classes - 1))
    outputs[np.arange(len(y)), y] = confidence
    return outputs


@pytest.mark.parametrize("metric", ALL_METRICS)
@pytest.mark.parametrize("n", [12, 200])
def test_no_interval_is_without_width(metric, n):
    """All rows right, and all alike: the smallest input that had the interval 1 to 1."""
    y = np.arange(n) % 2
    low, high = intervals.of_outputs(
        metric, TASK, y, outputs_of(y, 2, 0.99), PROBABILITIES, np.arange(n)
    )
    value = metrics.score_one(metric, TASK, y, outputs_of(y, 2, 0.99), PROBABILITIES)
    assert low <= value <= high
    assert high - low > 0.5 / n
    statistic = jackknife.mean_score(metric, TASK, y, [(outputs_of(y, 2, 0.99), PROBABILITIES)])
    left_out = jackknife.without_groups(statistic, np.arange(n))
    by_folds = intervals.of_folds(
        metric, TASK, y, outputs_of(y, 2, 0.99), np.arange(n), np.full(5, value), left_out, 5
    )
    assert by_folds[1] - by_folds[0] > high - low


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
@pytest.mark.parametrize("error", [0.0, 0.5])
def test_no_interval_of_targets_is_without_width(metric, error):
    y = np.arange(20.0)[:, None]
    low, high = intervals.of_outputs(metric, "regression", y, y + error, "values", np.arange(20))
    assert low <= metrics.score_one(metric, "regression", y, y + error, "values") <= high
    assert high > low


def test_an_interval_of_accuracy_is_wilsons():
    y, units = np.zeros(40, int), np.arange(40)
    outputs = outputs_of(y, 2, 0.9)
    outputs[:4] = outputs[:4, ::-1]
    found = intervals.of_outputs("accuracy", TASK, y, outputs, PROBABILITIES, units)
    # the jackknife divides by 39 where the variance of a share divides by 40
    assert found == pytest.approx(intervals.wilson(0.9, 39), abs=1e-3)
    assert intervals.of_share(outputs.argmax(axis=1) == y, units) == pytest.approx(found)


def test_ten_copies_of_each_row_are_no_more_certain():
    y = np.repeat(np.arange(30) % 3, 10)
    outputs = outputs_of(y, 3, 0.8)
    once = intervals.of_outputs(
        "accuracy", TASK, y[::10], outputs[::10], PROBABILITIES, np.arange(30)
    )
    units = np.repeat(np.arange(30), 10)
    assert intervals.of_outputs("accuracy", TASK, y, outputs, PROBABILITIES, units) == once


def test_rare_classes_decide_how_sure_a_mean_over_classes_is():
    y = np.array([0] * 990 + [1] * 10)
    n = intervals.most_rows("balanced-accuracy", TargetKind.CLASS, y, np.arange(1000))
    assert n == pytest.approx(4 / (1 / 990 + 1 / 10))
    assert intervals.most_rows("accuracy", TargetKind.CLASS, y, np.arange(1000)) == 1000


def test_folds_that_differ_by_more_than_their_rows_make_it_less_sure():
    alike = intervals.with_training(0.02, np.array([0.8, 0.8, 0.8, 0.8, 0.8]), 5)
    apart = intervals.with_training(0.02, np.array([0.7, 0.9, 0.8, 0.72, 0.88]), 5)
    assert alike == pytest.approx(0.02 * math.sqrt(intervals.LEAST_OF_TRAINING))
    assert apart == pytest.approx(0.02 * math.sqrt(intervals.MOST_OF_TRAINING))
    # Nadeau and Bengio's factor of what the rows do not explain
    folds = np.array([0.75, 0.85, 0.8, 0.745, 0.855])
    more = folds.var(ddof=1) - 5 * 0.02**2
    found = intervals.with_training(0.02, folds, 5)
    assert found == pytest.approx(math.sqrt(0.02**2 + (1 / 5 + 1 / 4) * more))


def test_a_score_that_is_undefined_has_no_interval():
    assert np.isnan(intervals.of_score("accuracy", math.nan, 0.1, 10)).all()
    y = np.zeros(20, int)  # one class: no area under a curve
    found = intervals.of_outputs(
        "roc-auc", TASK, y, outputs_of(y, 2, 0.9), PROBABILITIES, np.arange(20)
    )
    assert np.isnan(found).all()


def test_log_loss_allows_for_mistakes_that_were_not_seen():
    y = np.arange(50) % 2
    sure, less = (outputs_of(y, 2, confidence) for confidence in (0.999, 0.9))
    for outputs in (sure, less):
        value = metrics.score_one("log-loss", TASK, y, outputs, PROBABILITIES)
        _, high = intervals.of_outputs("log-loss", TASK, y, outputs, PROBABILITIES, np.arange(50))
        # one mistake in fifty would cost this
        assert high - value > -math.log(outputs.min()) / 50


@pytest.mark.parametrize("metric", ["log-loss", "mae", "r2"])
def test_a_small_error_that_is_known_badly_has_an_end(metric):
    """Of 60 rows all but one are sure and right; how bad that one is, nobody knows."""
    value = 1.0 if metric == "r2" else 1e-9
    low, high = intervals.of_score(metric, value - (1e-9 if metric == "r2" else 0), 0.5, 60)
    assert -np.inf < low <= value <= high + 1e-9 < np.inf


def test_what_more_rows_bring_is_a_power_law():
    """Errors of 0.2 and 0.3 with 4 and 3 parts of the rows; with 5 parts by hand."""
    power = math.log(0.2 / 0.3) / math.log(4 / 3)
    found = intervals.with_all_rows("accuracy", 0.8, 0.7, 5)
    assert found == pytest.approx(1 - 0.2 * (5 / 4) ** power)
    assert intervals.with_all_rows("rmse", 0.2, 0.3, 5) == pytest.approx(1 - found)


@pytest.mark.parametrize("fewer", [0.8, 0.9, 1.0, math.nan])
def test_nothing_is_expected_of_more_rows_where_fewer_do_as_well(fewer):
    assert intervals.with_all_rows("accuracy", 0.8, fewer, 5) == 0.8


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 1.0), ("rmse", 0.0), ("r2", 1.0)])
def test_what_cannot_be_better_stays(metric, value):
    assert intervals.with_all_rows(metric, value, 0.7, 5) == value


def test_an_interval_by_folds_goes_where_more_rows_lead_and_holds_what_was_found():
    y = np.arange(100) % 2
    outputs = outputs_of(y, 2, 0.9)
    outputs[::4] = outputs[::4, ::-1]
    statistic = jackknife.mean_score("accuracy", TASK, y, [(outputs, PROBABILITIES)])
    left_out = jackknife.without_groups(statistic, np.arange(100))

    def between(fewer):
        return intervals.of_folds(
            "accuracy", TASK, y, outputs, np.arange(100), np.full(5, 0.75), left_out, 5, fewer
        )

    plain, steep = between(math.nan), between(0.6)
    assert steep[0] <= 0.75 <= steep[1]
    assert steep[0] > plain[0]
    assert steep[1] > plain[1]
    assert steep[1] - steep[0] > plain[1] - plain[0]
