"""Two sets of patients compared: against scipy's tests, a closed form, and simulations without any change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2_contingency, permutation_test

from thawline.errors import DataError
from thawline.judge.drift import compare_counts, compare_values, measure_stability, take_means


def test_means_are_those_of_patients() -> None:
    found = take_means([1.0, 3.0, 10.0], np.array([7, 7, 2]))
    np.testing.assert_allclose(found, [10.0, 2.0])


def test_the_distance_of_patients_agrees_with_a_permutation_test() -> None:
    draw = np.random.default_rng(0)
    before, now = draw.normal(size=40), draw.normal(0.6, 1, 30)
    found = compare_values(before, np.arange(40), now, np.arange(30))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        at = np.concatenate([a, b])
        return float(np.abs([(a <= x).mean() - (b <= x).mean() for x in at]).max())

    referee = permutation_test((before, now), distance, n_resamples=2000, rng=1, alternative="greater")
    assert found.distance == pytest.approx(referee.statistic)
    assert found.p_value == pytest.approx(referee.pvalue, abs=0.03)
    assert found.n_patients == (40, 30)


def test_more_images_of_a_patient_are_no_more_evidence() -> None:
    draw = np.random.default_rng(1)
    before, now = draw.normal(size=30), draw.normal(0.5, 1, 30)
    patients = np.arange(30)
    once = compare_values(before, patients, now, patients)
    many = compare_values(np.repeat(before, 5), np.repeat(patients, 5), np.repeat(now, 5), np.repeat(patients, 5))
    assert many == once


def test_the_stability_index_is_the_sum_over_bins() -> None:
    before = np.arange(100.0)
    now = np.concatenate([np.full(20, -1.0), np.linspace(11, 99, 80)])
    found, limit = measure_stability(before, now)
    ends = np.quantile(before, np.arange(1, 10) / 10)
    p, q = (
        (np.histogram(each, [-np.inf, *np.nextafter(ends, np.inf), np.inf])[0] + 0.5) / 105 for each in (before, now)
    )
    assert found == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert limit == pytest.approx(0.02 * 16.91898, rel=1e-6)  # χ² of 9 degrees of freedom


def test_without_a_change_chance_exceeds_the_limits_as_often_as_said() -> None:
    draw = np.random.default_rng(2)
    beyond = {"stability": 0, "p_value": 0}
    for _ in range(400):
        found = compare_values(draw.random(120), np.arange(120), draw.random(80), np.arange(80))
        beyond["stability"] += found.stability > found.limit
        beyond["p_value"] += found.p_value < 0.05
    assert all(6 <= count <= 36 for count in beyond.values()), beyond  # 20 expected; standard deviation 4.4


def test_values_that_do_not_vary_have_not_changed() -> None:
    found = compare_values(np.ones(20), np.arange(20), np.ones(10), np.arange(10))
    assert (found.distance, found.p_value, found.stability) == (0, 1, 0)
    assert math.isnan(found.limit)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0]])
def test_what_cannot_be_compared_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="finite"):
        take_means(values, np.arange(len(values)))


def test_counts_agree_with_scipy() -> None:
    before, now = [30, 50, 20, 0], [20, 20, 25, 0]
    referee = chi2_contingency([before[:3], now[:3]], correction=False)
    assert compare_counts(before, now) == pytest.approx(referee.pvalue)
    assert math.isnan(compare_counts([5, 0], [9, 0]))
    assert math.isnan(compare_counts([5, 2], [0, 0]))
