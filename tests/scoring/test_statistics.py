from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from featcache.scoring import statistics


def test_corrected_t_test_by_hand():
    # mean 3, variance 2.5 over five folds of 4 : 1. Nadeau and Bengio's variance of the mean is
    # (1/5 + 1/4) 2.5 = 1.125, so t = 3 / sqrt(1.125) = sqrt(8), with 4 degrees of freedom.
    # There P(|T| < t) = 3/4 u (1 - u^2 / 12) 2/2 with u = t / sqrt(1 + t^2 / 4) = sqrt(8/3):
    # 3/4 x 1.632993 x 7/9 = 0.952579.
    found = statistics.corrected_t_test(np.array([1.0, 2, 3, 4, 5]), 80, 20)
    assert found == pytest.approx(1 - 0.75 * math.sqrt(8 / 3) * 7 / 9)
    assert found == pytest.approx(0.047421, abs=1e-6)


def test_corrected_t_test_is_a_paired_t_test_of_a_smaller_t():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.82, 0.02, 10), rng.normal(0.80, 0.02, 10)
    plain = stats.ttest_rel(a, b)
    t = plain.statistic * math.sqrt((1 / 10) / (1 / 10 + 100 / 900))
    expected = 2 * stats.t.sf(abs(t), 9)
    assert statistics.corrected_t_test(a - b, 900, 100) == pytest.approx(expected)
    assert statistics.corrected_t_test(b - a, 900, 100) == pytest.approx(expected)
    assert expected > plain.pvalue


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.0, 0.0, 0.0], 1),
        ([0.1, 0.1, 0.1], math.nan),  # how much they would spread is not known
        ([-0.1, -0.1], math.nan),
        ([0.1], math.nan),
        ([], math.nan),
        ([0.1, math.nan, 0.2], math.nan),
    ],
)
def test_corrected_t_test_of_odd_differences(differences, p):
    found = statistics.corrected_t_test(np.array(differences), 80, 20)
    assert found == pytest.approx(p, nan_ok=True)


def test_interval_and_standard_error():
    values = np.array([1.0, 2, 3, 4, 5])
    assert statistics.standard_error(values, 80, 20) == pytest.approx(math.sqrt(1.125))
    expected = stats.t.interval(0.9, 4, loc=3, scale=math.sqrt(1.125))
    assert statistics.interval(values, 80, 20, level=0.9) == pytest.approx(expected)
    # 2.776 is the table's quantile of 0.975 with 4 degrees of freedom
    low, high = statistics.interval(values, 80, 20)
    assert (high - low) / 2 / math.sqrt(1.125) == pytest.approx(2.776, abs=5e-4)
    assert statistics.interval(np.full(3, 0.25), 80, 20) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan]])
def test_interval_of_too_little(values):
    assert all(map(math.isnan, statistics.interval(np.array(values), 80, 20)))
    assert math.isnan(statistics.standard_error(np.array(values), 80, 20))


def test_an_interval_excludes_zero_where_the_test_rejects():
    rng = np.random.default_rng(3)
    sides = set()
    for shift in np.linspace(0, 2, 40):
        differences = rng.normal(shift, 1, 6)
        low, high = statistics.interval(differences, 50, 10)
        rejects = statistics.corrected_t_test(differences, 50, 10) < 0.05
        assert rejects == (low > 0 or high < 0)
        sides.add(rejects)
    assert sides == {True, False}


def rights(only_a, only_b, both=7, neither=3):
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return np.array(a, bool), np.array(b, bool)


def test_mcnemar_by_hand():
    # of 10 discordant rows 2 are A's: 2 (1 + 10 + 45) / 2^10 = 112 / 1024
    assert statistics.mcnemar(*rights(2, 8)) == pytest.approx(112 / 1024)
    assert statistics.mcnemar(*rights(8, 2)) == pytest.approx(112 / 1024)


@pytest.mark.parametrize("only_b", range(0, 20, 3))
def test_mcnemar_is_a_binomial_test(only_b):
    expected = stats.binomtest(9, 9 + only_b, 0.5).pvalue
    assert statistics.mcnemar(*rights(9, only_b)) == pytest.approx(expected)


def test_mcnemar_without_a_discordant_row_or_with_as_many_on_each_side():
    assert statistics.mcnemar(*rights(0, 0)) == 1
    assert statistics.mcnemar(*rights(4, 4)) == 1
    assert statistics.mcnemar(np.zeros(0, bool), np.zeros(0, bool)) == 1


def test_holm_by_hand():
    # in order .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, and .04 x 1 is raised to .06
    found = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_nan_and_does_not_count_it():
    found = statistics.holm([math.nan, 0.02, math.nan, 0.7])
    assert found == pytest.approx([math.nan, 0.04, math.nan, 0.7], nan_ok=True)
    assert statistics.holm([]) == []
    assert statistics.holm([0.6, 0.7, 0.9]) == [1, 1, 1]


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = statistics.bootstrap(lambda rows: values[rows].mean(), 400, seed=1)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    narrow = statistics.bootstrap(lambda rows: values[rows].mean(), 400, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_draws_all_rows_by_the_seed():
    drawn = []

    def record(rows):
        drawn.append(rows)
        return float(rows.mean())

    first = statistics.bootstrap(record, 11, seed=5, n_resamples=50)
    assert len(drawn) == 50
    assert all(len(rows) == 11 for rows in drawn)
    assert set(np.concatenate(drawn)) == set(range(11))
    assert first == statistics.bootstrap(record, 11, seed=5, n_resamples=50)
    assert first != statistics.bootstrap(record, 11, seed=6, n_resamples=50)


def test_bootstrap_within_strata_keeps_their_sizes():
    strata = np.array([0, 2, 2, 0, 2, 2, 2])
    rows_seen = set()

    def check(rows):
        assert np.bincount(strata[rows]).tolist() == [2, 0, 5]
        rows_seen.update(rows.tolist())
        return 0.0

    assert statistics.bootstrap(check, 7, 0, n_resamples=60, strata=strata) == (0, 0)
    assert rows_seen == set(range(7))


def test_bootstrap_leaves_out_resamples_without_the_statistic():
    def of_first(rows):
        return float(np.sum(rows == 0)) or math.nan

    low, high = statistics.bootstrap(of_first, 8, 0)
    assert low == 1
    assert high >= 2
    assert all(map(math.isnan, statistics.bootstrap(lambda rows: math.nan, 8, 0)))
    assert all(map(math.isnan, statistics.bootstrap(lambda rows: 1 / len(rows), 0, 0)))


def test_units_are_drawn_with_all_of_their_rows():
    draw = statistics.drawing(np.array([2, 0, 2, 1]))
    assert draw(np.array([2, 1, 2])).tolist() == [0, 2, 3, 0, 2]
    assert statistics.drawing(np.array([1, 0, 2]))(np.array([2, 2, 1])).tolist() == [2, 2, 0]
