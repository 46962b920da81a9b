"""Referees: SciPy's Wilson and BCa, closed forms, and simulations of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from thawline.errors import DataError, OptionError
from thawline.judge.intervals import bound_bca, bound_wilson, effective_number, estimate_proportion, find_acceleration
from thawline.judge.statistics import patient_counts


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_of_patients_with_one_item_wilsons_interval_is_statsmodels(n_patients, share, level):
    n_hits = round(share * n_patients)
    found = estimate_proportion(np.arange(n_patients) < n_hits, np.arange(n_patients), level=level)
    expected = proportion_confint(n_hits, n_patients, alpha=1 - level, method="wilson")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert f"Wilson, {n_patients:.1f} effective items of {n_patients} patients" == found.method


def test_copies_within_a_patient_are_no_new_evidence():
    hits = np.random.default_rng(0).random(40) < 0.7
    assert effective_number(hits, np.arange(40)) == pytest.approx(40)
    assert effective_number(np.repeat(hits, 6), np.repeat(np.arange(40), 6)) == pytest.approx(40)


def test_items_that_have_nothing_in_common_count_each():
    draw = np.random.default_rng(1)
    groups = np.repeat(np.arange(400), 5)
    assert effective_number(draw.random(2000) < 0.5, groups) > 1700


def test_the_effective_number_is_that_of_a_known_correlation():
    """Beta-binomial patients of m items: deff = 1 + (m − 1) ρ, with ρ = 1 ÷ (a + b + 1)."""
    draw, m = np.random.default_rng(2), 8
    share = draw.beta(1.5, 0.5, 4000)
    hits = draw.random((4000, m)) < share[:, np.newaxis]
    found = effective_number(hits.ravel(), np.repeat(np.arange(4000), m))
    assert 4000 * m / found == pytest.approx(1 + (m - 1) / 3, rel=0.05)


@pytest.mark.parametrize("n_patients", [2, 20, 150])
def test_where_all_items_agree_each_patient_counts_once(n_patients):
    found = estimate_proportion(np.ones(3 * n_patients), np.repeat(np.arange(n_patients), 3))
    assert (found.value, found.high) == (1.0, 1.0)
    freedom = stats.t.ppf(0.975, n_patients - 1) ** 2
    assert found.low == pytest.approx(n_patients / (n_patients + freedom))
    other = estimate_proportion(np.zeros(3 * n_patients), np.repeat(np.arange(n_patients), 3))
    assert (other.low, other.high) == pytest.approx((0.0, 1 - found.low))


def test_proportions_without_items_or_patients():
    empty = estimate_proportion([], np.array([], int))
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    assert empty.method == "undefined: no items"
    alone = estimate_proportion([1, 0, 1, 1], np.zeros(4, int))
    assert (alone.value, alone.method) == (0.75, "no interval: rests on 1 patient(s)")
    assert np.isnan([alone.low, alone.high]).all()


def test_what_is_no_proportion_is_refused():
    with pytest.raises(DataError, match=r"row 1 holds 0\.5"):
        estimate_proportion([1, 0.5], np.arange(2))
    with pytest.raises(OptionError, match="found 95"):
        estimate_proportion([1, 0], np.arange(2), level=95)


@pytest.mark.slow
@pytest.mark.parametrize("n_patients", [20, 60])
def test_clustered_proportions_are_held(n_patients):
    draw, covered = np.random.default_rng(3), 0
    for _ in range(1500):
        groups = np.repeat(np.arange(n_patients), draw.integers(1, 9, n_patients))
        hits = draw.random(len(groups)) < draw.beta(2.7, 0.3, n_patients)[groups]
        found = estimate_proportion(hits, groups)
        covered += found.low <= 0.9 <= found.high
    assert 0.93 <= covered / 1500 <= 0.98


def test_bounds_of_a_whole_number_are_scipys():
    expected = stats.binomtest(7, 9).proportion_ci(0.9, method="wilson")
    assert bound_wilson(7 / 9, 9, level=0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("statistic", [np.var, np.mean])
def test_bca_is_scipys(statistic):
    """The same resamples, of patients with one item each, given to SciPy's own machinery by replaying its draws."""
    values = np.random.default_rng(4).exponential(size=35)
    draws = np.random.default_rng(5)
    expected = stats.bootstrap(
        (values,), statistic, n_resamples=3000, method="BCa", rng=np.random.default_rng(5), vectorized=True
    )
    resampled = statistic(values[draws.integers(0, 35, (3000, 35))], axis=-1)
    np.testing.assert_allclose(np.sort(resampled), np.sort(expected.bootstrap_distribution))
    without = np.array([statistic(np.delete(values, k)) for k in range(35)])
    found = bound_bca(resampled, statistic(values), find_acceleration(without))
    assert found == pytest.approx(tuple(expected.confidence_interval), rel=0.01)


def test_acceleration_is_that_of_the_closed_form_of_a_mean():
    """A sixth of the skewness over √n; leaving blocks out instead of patients changes little."""
    values = np.random.default_rng(6).exponential(size=4000)
    without = (values.sum() - values) / 3999
    expected = stats.skew(values) / 6 / np.sqrt(4000)
    assert find_acceleration(without) == pytest.approx(expected)
    blocks = values.reshape(1000, 4).sum(axis=1)
    assert find_acceleration((values.sum() - blocks) / 3996) == pytest.approx(expected, rel=0.25)


def test_what_never_varies_or_is_not_defined_has_no_acceleration():
    assert find_acceleration([0.3, 0.3, np.nan]) == 0
    assert find_acceleration([np.nan, np.nan]) == 0
    assert bound_bca(np.full(100, 0.3), 0.3, 0.0) == (0.3, 0.3)


@pytest.mark.slow
def test_bca_holds_a_skewed_mean_where_percentiles_do_not():
    """The variance of 20 normals: percentiles hold it in 87 % or so of samples, BCa in more."""
    draw, held = np.random.default_rng(7), np.zeros(2)
    for trial in range(600):
        values = draw.normal(size=20)
        counts = patient_counts(np.arange(20), 800, trial)
        mean = counts @ values / 20
        resampled = counts @ values**2 / 20 - mean**2
        without = np.array([np.var(np.delete(values, k)) for k in range(20)])
        bca = bound_bca(resampled, values.var(), find_acceleration(without))
        percentile = np.quantile(resampled, [0.025, 0.975])
        held += [low <= 1 <= high for low, high in (bca, percentile)]
    assert held[0] > held[1] + 12
