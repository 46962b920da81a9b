"""Referees: SciPy's exact intervals, closed forms, the patient bootstrap and simulations of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cohorts import make_candidates
from thawline.errors import DataError, OptionError
from thawline.judge import statistics
from thawline.judge.intervals import bound_bca, find_acceleration
from thawline.judge.statistics import (
    average_areas,
    average_defined,
    interval,
    iterate_patient_counts,
    list_blocks,
    patient_counts,
    resample_fold_aucs,
)


def test_patient_counts_are_multinomial():
    counts = patient_counts(np.array([5, 5, 9, 7, 7, 7]), 20_000, seed=1)
    assert counts.shape == (20_000, 3)
    assert counts.dtype == np.int64
    assert (counts.sum(axis=1) == 3).all()
    expected = stats.multinomial(3, [1 / 3] * 3)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(np.cov(counts.T), expected.cov(), atol=0.02)
    assert (counts == [3, 0, 0]).all(axis=1).mean() == pytest.approx(expected.pmf([3, 0, 0]), abs=0.005)


def test_patient_counts_depend_on_the_seed_and_not_on_the_chunks(monkeypatch):
    groups = np.arange(11)
    whole = patient_counts(groups, 23, seed=4)
    np.testing.assert_array_equal(whole, patient_counts(groups, 23, seed=4))
    assert (whole != patient_counts(groups, 23, seed=5)).any()
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 8 * 40 * 5)
    chunks = list(iterate_patient_counts(11, 23, 4, max_columns=40))
    assert [len(chunk) for chunk in chunks] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_interval_is_made_of_percentiles_of_what_is_defined():
    values = np.append(np.random.default_rng(0).random(999), np.nan)
    found = interval(values, 0.5, 40, level=0.9)
    assert (found.low, found.high) == pytest.approx(tuple(np.nanpercentile(values, [5, 95])))
    assert (found.value, found.level) == (0.5, 0.9)
    assert found.method == "percentile bootstrap, 999 resamples of patients; 1 more without a needed class left out"


@pytest.mark.parametrize("n_patients", [1, 2, 3, 20, 500])
def test_certain_values_get_the_exact_binomial_interval(n_patients):
    for point, hits in ((1.0, n_patients), (0.0, 0)):
        expected = stats.binomtest(hits, n_patients).proportion_ci(0.95, method="exact")
        found = interval(np.full(50, point), point, n_patients)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert f"exact binomial bound, one trial for each of {n_patients} patients" in found.method


def test_certain_values_of_other_scales():
    assert interval(np.zeros(9), 0.0, 10, largest=2.0).high == pytest.approx(2 * (1 - 0.025**0.1))
    unlimited = interval(np.zeros(9), 0.0, 10, largest=None)
    assert (unlimited.low, unlimited.high) == (0, 0)
    assert "percentile" in unlimited.method


def test_one_patient_or_no_defined_resample_gives_no_interval():
    for found in (interval(np.full(9, 0.6), 0.6, 1), interval(np.full(9, np.nan), 0.6, 4)):
        assert found.value == 0.6
        assert np.isnan([found.low, found.high]).all()
        assert "no interval" in found.method
    undefined = interval(np.full(9, np.nan), float("nan"), 4)
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()
    assert "undefined" in undefined.method


def test_recentred_interval_lies_around_the_value_and_within_the_scale():
    values = np.random.default_rng(0).normal(0.2, 0.02, 4000)
    found = interval(values, 0.1, 40, recentre=True)
    assert (found.low, found.high) == pytest.approx(stats.norm(0.1, 0.02).interval(0.95), abs=0.003)
    assert interval(values, 0.01, 40, recentre=True).low == 0
    assert "recentred" in found.method


def test_level_outside_its_range_is_refused():
    with pytest.raises(OptionError, match="found 95"):
        interval(np.zeros(3), 0.0, 3, level=95)
    with pytest.raises(OptionError, match="n_resamples=0"):
        patient_counts(np.arange(3), 0, seed=0)
    with pytest.raises(DataError, match="found none"):
        patient_counts(np.array([], int), 10, seed=0)


def simulate_coverage(seed, by_patient):
    """Cover the true accuracy 0.75 of beta-binomial patients (intraclass correlation 0.33), 300 times."""
    draw, covered = np.random.default_rng(seed), 0
    for trial in range(300):
        groups = np.repeat(np.arange(50), draw.integers(2, 12, 50))
        correct = draw.random(len(groups)) < draw.beta(1.5, 0.5, 50)[groups]
        units = groups if by_patient else np.arange(len(groups))
        counts = patient_counts(units, 200, trial)
        values = counts @ np.bincount(units, weights=correct) / (counts @ np.bincount(units))
        found = interval(values, correct.mean(), len(np.unique(units)))
        covered += found.low <= 0.75 <= found.high
    return covered / 300


@pytest.mark.slow
def test_patient_bootstrap_covers_and_an_item_bootstrap_does_not():
    assert 0.90 <= simulate_coverage(11, by_patient=True) <= 0.985
    assert simulate_coverage(11, by_patient=False) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3])
def test_resampled_fold_aucs_are_scikit_learns(n_classes):
    (probabilities,), labels, groups, folds = make_candidates(1.0, n_classes=n_classes, n_patients=18)
    patients = np.unique(groups, return_inverse=True)[1]
    counts = patient_counts(groups, 12, seed=3).astype(np.float64)
    found = resample_fold_aucs(labels, probabilities, patients, folds, counts, range(n_classes))
    assert found.shape == (3, 12, n_classes)
    undefined = 0
    for fold, resample, k in np.ndindex(found.shape):
        weights = counts[resample][patients] * (folds == fold)
        truth, kept = labels == k, weights > 0
        if len(np.unique(truth[kept])) < 2:
            undefined += 1
            assert np.isnan(found[fold, resample, k])
        else:
            expected = roc_auc_score(truth[kept], probabilities[kept, k], sample_weight=weights[kept])
            assert found[fold, resample, k] == pytest.approx(expected)
    assert 0 < undefined < found.size / 2


def test_what_is_defined_is_averaged():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan], [np.nan, 6.0, np.nan]])
    np.testing.assert_array_equal(average_defined(values), [2.0, 5.5, np.nan])


def test_areas_are_averaged_over_folds_and_then_over_classes():
    areas = np.array([[[0.6, 0.8]], [[0.7, np.nan]]])  # (folds, resamples, classes)
    assert average_areas(areas) == pytest.approx([(0.65 + 0.8) / 2])
    assert np.isnan(average_areas(np.array([[[0.6, np.nan]]])))


@pytest.mark.parametrize(("n_patients", "n_blocks"), [(1, 1), (7, 7), (500, 500), (1203, 500)])
def test_each_patient_is_left_out_once(n_patients, n_blocks):
    weights = list_blocks(n_patients)
    assert weights.shape == (n_blocks, n_patients)
    assert ((1 - weights).sum(axis=0) == 1).all()
    sizes = (1 - weights).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1


def test_intervals_with_what_is_left_out_are_bca():
    values = np.random.default_rng(0).exponential(size=2000)
    found = interval(values, 1.0, 40, largest=None, without=[1.0, 1.1, 0.4])
    assert (found.low, found.high) == bound_bca(values, 1.0, find_acceleration([1.0, 1.1, 0.4]))
    assert found.method == "BCa bootstrap, 2000 resamples of patients"
