"""Referees: statsmodels, uncertainty-calibration, scikit-learn, SciPy, loops, the jackknife, simulations of known truth."""

from __future__ import annotations

import functools

import calibration as peer
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from thawline.errors import DataError, OptionError
from thawline.judge.metrics import SMALLEST_PROBABILITY
from thawline.judge.reliability import (
    brier_parts,
    calibration_slope,
    debiased_ece,
    reliability_bands,
    take_each_class,
)
from thawline.judge.statistics import patient_counts
from thawline.types import MISSING

PARTS = ("reliability", "resolution", "uncertainty", "within_variance", "within_covariance")


def make_patients(n_patients, mean_items=3, alike=0.5, base=0.0, seed=0):
    """Labels and their true probabilities; items of a patient have like probabilities and, by ``alike``, like labels."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), draw.poisson(mean_items - 1, n_patients) + 1)
    own, shared = draw.normal(size=(2, len(groups))), draw.normal(size=(2, n_patients))[:, groups]
    true = expit(base + 1.5 * (np.sqrt(0.6) * shared[0] + np.sqrt(0.4) * own[0]))
    labels = stats.norm.cdf(np.sqrt(alike) * shared[1] + np.sqrt(1 - alike) * own[1]) < true
    return labels.astype(np.int64), true, groups * 7


def copy_items(times, *arrays):
    return [np.repeat(each, times) for each in arrays]


def fit_peer(labels, logits):
    return sm.GLM(labels, sm.add_constant(logits), family=sm.families.Binomial()).fit(tol=1e-12)


def fit_peer_in_the_large(labels, logits):
    return sm.GLM(labels, np.ones(len(labels)), offset=logits, family=sm.families.Binomial()).fit(tol=1e-12)


def find_error(estimate, n_patients):
    return (estimate.high - estimate.low) / 2 / stats.t.ppf((1 + estimate.level) / 2, n_patients - 1)


# --- slope and intercept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_patients", "base"), [(20, 0.0), (20, -1.5), (300, 0.0)])
def test_slope_and_intercept_are_those_of_statsmodels(n_patients, base):
    labels, true, groups = make_patients(n_patients, base=base, seed=1)
    given = expit(1.7 * logit(true) + 0.4)
    slope, large = calibration_slope(labels, given, groups)
    assert slope.value == pytest.approx(fit_peer(labels, logit(given)).params[1], rel=1e-5)
    assert large.value == pytest.approx(fit_peer_in_the_large(labels, logit(given)).params[0], rel=1e-5)
    for found in (slope, large):
        assert found.method == f"sandwich CR3 of {n_patients} patients, Student's t"
        assert found.value - found.low == pytest.approx(found.high - found.value)


def test_the_error_of_single_items_is_hc3_of_the_last_step_of_reweighted_least_squares():
    labels, given, groups = make_patients(40, mean_items=1, seed=2)
    slope, large = calibration_slope(labels, given, groups, level=0.9)
    for found, design, offset in (
        (slope, sm.add_constant(logit(given)), 0.0),
        (large, np.ones((40, 1)), logit(given)),
    ):
        fitted = sm.GLM(labels, design, offset=offset + np.zeros(40), family=sm.families.Binomial()).fit(tol=1e-12)
        weight = fitted.mu * (1 - fitted.mu)
        working = design @ fitted.params + (labels - fitted.mu) / weight
        expected = sm.WLS(working, design, weights=weight).fit(cov_type="HC3").bse[-1]
        assert find_error(found, 40) == pytest.approx(expected * np.sqrt(39 / 40), rel=1e-4)


def test_the_error_of_patients_is_near_that_of_fits_without_each_and_of_statsmodels():
    labels, given, groups = make_patients(60, seed=3)
    slope, large = calibration_slope(labels, given, groups)
    for found, fit in ((slope, fit_peer), (large, fit_peer_in_the_large)):
        without = np.array([fit(labels[kept], logit(given)[kept]).params[-1] for kept in _leave_out(groups)])
        jackknife = np.sqrt(59 / 60 * ((without - found.value) ** 2).sum())
        assert find_error(found, 60) == pytest.approx(jackknife, rel=0.06)
    labels, given, groups = make_patients(2000, seed=3)
    slope, large = calibration_slope(labels, given, groups)
    for found, fit in ((slope, fit_peer), (large, fit_peer_in_the_large)):
        fitted = fit(labels, logit(given))
        clustered = fitted.model.fit(cov_type="cluster", cov_kwds={"groups": groups}).bse[-1]
        assert find_error(found, 2000) == pytest.approx(clustered, rel=0.01)
        assert find_error(found, 2000) > 1.1 * fitted.bse[-1]


def _leave_out(groups):
    return [groups != patient for patient in np.unique(groups)]


def test_copies_of_a_patients_items_are_no_evidence():
    labels, given, groups = make_patients(30, seed=4)
    for once, copied in zip(
        calibration_slope(labels, given, groups),
        calibration_slope(*copy_items(10, labels, given, groups)),
        strict=True,
    ):
        assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high), rel=1e-5)


def simulate_slopes(n_trials, n_patients, base, by_patient=True):
    covered = np.zeros(2)
    for trial in range(n_trials):
        labels, true, groups = make_patients(n_patients, base=base, alike=0.8, seed=1000 + trial)
        units = groups if by_patient else np.arange(len(groups))
        slope, large = calibration_slope(labels, expit(2 * logit(true)), units)
        # the calibration in the large of probabilities that are 1 at slope 2 has its truth by a large sample
        covered += slope.low <= 0.5 <= slope.high, large.low <= find_true_intercept(base) <= large.high
    return covered / n_trials


@functools.cache
def find_true_intercept(base):
    _, true, _ = make_patients(200_000, mean_items=1, base=base, seed=99)
    return fit_peer_in_the_large(true, 2 * logit(true)).params[0]


@pytest.mark.slow
def test_intervals_cover_with_few_patients_and_those_of_items_do_not():
    for n_patients, base in ((20, 0.0), (40, -1.5)):
        assert (simulate_slopes(150, n_patients, base) > 0.9).all()
    assert simulate_slopes(100, 40, 0.0, by_patient=False)[1] < 0.9


def test_a_slope_without_a_finite_maximum_says_why():
    groups, given = np.arange(6), np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
    labels = (given > 0.5).astype(int)
    for truth, told, why in (
        (labels, given, "separate the classes"),
        (1 - labels, given, "separate the classes"),
        (labels, np.array([0.1, 0.2, 0.5, 0.5, 0.7, 0.8]), "separate the classes"),  # a tie leaves it infinite
        (labels, np.full(6, 0.3), "all probabilities are equal"),
    ):
        slope, large = calibration_slope(truth, told, groups)
        assert np.isnan([slope.value, slope.low, slope.high]).all()
        assert why in slope.method
        assert large.value == pytest.approx(fit_peer_in_the_large(truth, logit(told)).params[0], abs=1e-6)
        assert large.low < large.value < large.high
    for truth, told, why in ((labels * 0, given, "a class is absent"), (labels[:0], given[:0], "no items")):
        for found in calibration_slope(truth, told, groups[: len(truth)]):
            assert np.isnan([found.value, found.low, found.high]).all()
            assert found.method == f"undefined: {why}"


def test_one_patient_gives_no_interval():
    labels, given, _ = make_patients(10, seed=5)
    for found in calibration_slope(labels, given, np.full(len(labels), 3)):
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()
        assert found.method == "no interval: rests on one patient"


def test_probabilities_of_0_and_1_are_near_them():
    labels, given, groups = make_patients(40, seed=6)
    given[:4] = labels[:4]
    given[4] = 1 - labels[4]
    kept = np.clip(given, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    slope, _ = calibration_slope(labels, given, groups)
    assert slope.value == pytest.approx(fit_peer(labels, logit(kept)).params[1], rel=1e-4)


# --- calibration error ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_items", "n_bins"), [(75, 15), (400, 15), (1001, 10), (1001, 2)])
def test_errors_of_single_items_are_those_of_uncertainty_calibration(n_items, n_bins):
    labels, true, groups = make_patients(n_items, mean_items=1, base=-0.5, seed=n_items)
    given = expit(1.5 * logit(true))
    expected = peer.lower_bound_scaling_ce(given, labels, num_bins=n_bins)
    assert expected > 0
    assert debiased_ece(labels, given, groups, n_bins=n_bins) == pytest.approx(expected)
    if n_bins == 15:
        assert debiased_ece(labels, given, groups) == pytest.approx(peer.get_calibration_error(given, labels))


def test_the_mean_absolute_error_is_corrected_as_uncertainty_calibration_does_by_resampling():
    labels, true, groups = make_patients(600, mean_items=1, seed=8)
    np.random.seed(0)  # noqa: NPY002, the peer draws from it
    for told in (true, expit(2 * logit(true))):
        plain = peer.get_ece_em(told, labels, num_bins=15, mode="marginal")
        resampled = peer.get_ece_em(told, labels, debias=True, num_bins=15, mode="marginal")
        found = debiased_ece(labels, told, groups, norm=1)
        assert found == pytest.approx(resampled, abs=0.0015)
        assert found < plain - 0.003


def test_a_mean_absolute_error_by_hand():
    """One bin of 5 of 10 at 0.6: its distance is 0.1, and its frequency has the variance 0.25 / 9."""
    labels, given = np.tile([0, 1], 5), np.full(10, 0.6)
    by_chance = stats.foldnorm(0.1 / np.sqrt(0.25 / 9), scale=np.sqrt(0.25 / 9)).mean()
    found = debiased_ece(labels, given, np.arange(10), norm=1, n_bins=1)
    assert found == pytest.approx(max(0.2 - by_chance, 0))
    far = debiased_ece(labels, np.full(10, 0.95), np.arange(10), norm=1, n_bins=1)
    assert far == pytest.approx(
        0.9 - stats.foldnorm(0.45 / np.sqrt(0.25 / 9), scale=np.sqrt(0.25 / 9)).mean(), abs=1e-9
    )
    assert debiased_ece(labels, given, np.arange(10), n_bins=1) == 0
    assert debiased_ece(labels * 0, given, np.arange(10), norm=1) == pytest.approx(0.6)  # no variance to take off


def test_the_error_of_several_classes_is_that_of_uncertainty_calibration():
    draw = np.random.default_rng(0)
    given = draw.dirichlet([1, 1, 1], 500)
    labels = (given.cumsum(axis=1) < draw.random((500, 1))).sum(axis=1)
    given = given**2 / (given**2).sum(axis=1, keepdims=True)
    each = [debiased_ece(*arrays) for arrays in take_each_class(labels, given, np.arange(500))]
    assert np.sqrt(np.mean(np.square(each))) == pytest.approx(peer.get_calibration_error(given, labels))


@pytest.mark.parametrize("norm", [1, 2])
def test_errors_of_copied_items_stay(norm):
    arrays = make_patients(200, mean_items=1, base=1, seed=9)
    arrays = arrays[0], expit(2 * logit(arrays[1])), arrays[2]
    once = debiased_ece(*arrays, norm=norm, n_bins=8)
    assert 0 < once == pytest.approx(debiased_ece(*copy_items(10, *arrays), norm=norm, n_bins=8))
    copied = copy_items(10, *arrays[:2])
    assert debiased_ece(*copied, np.arange(2000), norm=norm, n_bins=8) > 1.05 * once


def test_what_chance_adds_is_taken_off_and_of_patients_as_clusters():
    """The true reliability term is 0; its mean over samples is near it only where patients are clusters."""
    found = {"plain": [], "items": [], "patients": []}
    for trial in range(250):
        labels, true, groups = make_patients(100, alike=0.9, mean_items=6, seed=trial)
        units = np.arange(len(groups))
        found["plain"].append(brier_parts(labels, true, groups, n_bins=3).reliability)
        found["items"].append(brier_parts(labels, true, units, n_bins=3, debias=True).reliability)
        found["patients"].append(brier_parts(labels, true, groups, n_bins=3, debias=True).reliability)
    mean = {name: np.mean(each) for name, each in found.items()}
    assert abs(mean["patients"]) < 0.15 * mean["plain"]
    assert mean["items"] > 0.4 * mean["plain"]


@pytest.mark.parametrize("n_patients", [0, 1])
def test_errors_of_fewer_than_two_patients_are_undefined(n_patients):
    labels, given, groups = (
        np.array([0, 1, 1])[: 3 * n_patients],
        np.full(3 * n_patients, 0.5),
        np.zeros(3 * n_patients),
    )
    assert np.isnan(debiased_ece(labels, given, groups))
    assert np.isnan([getattr(brier_parts(labels, given, groups, debias=True), name) for name in PARTS]).all()
    plain = brier_parts(labels, given, groups)
    assert np.isnan(plain.score) if not n_patients else plain.score == pytest.approx(0.25)


# --- parts of the Brier score -----------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1), st.integers(0, 30)), min_size=2, max_size=60),
    n_bins=st.integers(1, 20),
    debias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_parts_sum_to_the_brier_score_of_scikit_learn(rows, n_bins, debias):
    labels, probabilities, groups = (np.array(column) for column in zip(*rows, strict=True))
    found = brier_parts(labels, probabilities, groups, n_bins=n_bins, debias=debias)
    if debias and len(np.unique(groups)) < 2:
        assert np.isnan(found.score)
        return
    assert found.score == pytest.approx(brier_score_loss(labels, probabilities, labels=[0, 1]), abs=1e-12)
    if n_bins <= 15:
        error = debiased_ece(labels, probabilities, groups, n_bins=n_bins) if len(np.unique(groups)) > 1 else np.nan
        if debias:
            assert error**2 == pytest.approx(max(found.reliability, 0), abs=1e-12)


def test_the_parts_of_few_distinct_probabilities_are_murphys():
    given = np.repeat([0.1, 0.4, 0.9], [50, 30, 20])
    labels = np.concatenate([np.arange(50) < 10, np.arange(30) < 9, np.arange(20) < 16]).astype(int)
    found = brier_parts(labels, given, np.arange(100), n_bins=15)
    assert found.reliability == pytest.approx(0.5 * 0.1**2 + 0.3 * 0.1**2 + 0.2 * 0.1**2)
    assert found.resolution == pytest.approx(0.5 * 0.15**2 + 0.3 * 0.05**2 + 0.2 * 0.45**2)
    assert found.uncertainty == pytest.approx(0.35 * 0.65)
    assert (found.within_variance, found.within_covariance) == pytest.approx((0, 0), abs=1e-12)


def test_the_parts_of_bins_are_those_of_a_loop_and_debiased_as_ferro_and_fricker():
    labels, true, groups = make_patients(200, mean_items=1, seed=10)
    given = expit(1.5 * logit(true))
    order = np.argsort(given)
    bins = np.array_split(order, 8)
    share = np.array([len(part) / 200 for part in bins])
    frequency = np.array([labels[part].mean() for part in bins])
    confidence = np.array([given[part].mean() for part in bins])
    expected = {
        "reliability": share @ (confidence - frequency) ** 2,
        "resolution": share @ (frequency - labels.mean()) ** 2,
        "uncertainty": labels.mean() * (1 - labels.mean()),
        "within_variance": share @ [given[part].var() for part in bins],
        "within_covariance": 2 * share @ [np.cov(given[part], labels[part], bias=True)[0, 1] for part in bins],
    }
    found = brier_parts(labels, given, groups, n_bins=8)
    assert {name: getattr(found, name) for name in PARTS} == pytest.approx(expected)
    n = np.array([len(part) for part in bins])
    by_chance = (n / (n - 1) * frequency * (1 - frequency)).sum() / 200
    whole = labels.mean() * (1 - labels.mean()) / 199
    expected["reliability"] -= by_chance
    expected["resolution"] += whole - by_chance
    expected["uncertainty"] += whole
    found = brier_parts(labels, given, groups, n_bins=8, debias=True)
    assert {name: getattr(found, name) for name in PARTS} == pytest.approx(expected)


# --- bins with intervals ----------------------------------------------------------------------------------------------


def test_bins_have_equal_mass_and_few_patients_have_fewer():
    labels, given, groups = make_patients(103, mean_items=1, seed=11)
    found = reliability_bands(labels, given, groups, n_bins=10, n_resamples=2)
    assert found.count.tolist() == [11] * 3 + [10] * 7
    parts = np.array_split(np.argsort(given), 10)
    np.testing.assert_allclose(found.confidence, [given[part].mean() for part in parts])
    np.testing.assert_allclose(found.frequency, [labels[part].mean() for part in parts])
    for n_patients, expected in ((4, 1), (9, 1), (20, 4), (60, 12), (103, 15)):
        inside = groups < 7 * n_patients
        few = reliability_bands(labels[inside], given[inside], groups[inside], n_resamples=2)
        assert len(few.count) == expected
        copied = reliability_bands(*copy_items(9, labels[inside], given[inside], groups[inside]), n_resamples=2)
        assert len(copied.count) == expected


def test_equal_probabilities_share_a_bin():
    labels, _, groups = make_patients(100, mean_items=1)
    given = np.repeat([0.2, 0.3, 0.7], [60, 20, 20])
    found = reliability_bands(labels, given, groups, n_resamples=2)
    np.testing.assert_allclose(found.confidence, [0.2, 0.3, 0.7])
    assert found.count.tolist() == [60, 20, 20]


def test_bins_of_single_items_have_wilsons_interval_of_statsmodels():
    labels, given, groups = make_patients(400, mean_items=1, seed=12)
    found = reliability_bands(labels, given, groups, n_bins=8, n_resamples=2, level=0.9)
    shrink = (stats.norm.ppf(0.95) / stats.t.ppf(0.95, found.count - 1)) ** 2
    np.testing.assert_allclose(found.effective, (found.count - 1) * shrink)
    low, high = proportion_confint(found.frequency * found.effective, found.effective, alpha=0.1, method="wilson")
    np.testing.assert_allclose(found.low, low)
    np.testing.assert_allclose(found.high, high)


def test_effective_items_of_clusters():
    """Of one bin: each patient's items agree, so that they are worth patients; where each has both labels, all items."""
    groups = np.repeat(np.arange(30), 4)
    shrink = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 29)) ** 2
    given = np.full(120, 0.4)
    alike = reliability_bands(np.repeat(np.arange(30) % 3 == 0, 4), given, groups, n_resamples=2)
    assert alike.effective == pytest.approx([29 * shrink])
    certain = reliability_bands(np.ones(120), given, groups, n_resamples=2)
    assert certain.effective == pytest.approx([30 * shrink])
    assert certain.high == 1
    for marks in ([0, 1, 0, 1], [0, 0, 0, 1]):
        evenly = reliability_bands(np.tile(marks, 30), given, groups, n_resamples=2)
        assert evenly.effective == pytest.approx([120 * shrink])


def test_bands_of_copied_items_stay():
    arrays = make_patients(50, seed=13)
    once, copied = (reliability_bands(*each, n_bins=1, n_resamples=200) for each in (arrays, copy_items(3, *arrays)))
    for name in ("confidence", "frequency", "low", "high", "effective"):
        np.testing.assert_allclose(getattr(copied, name), getattr(once, name))
    # the nearest two thirds end at the same distance, to an item
    np.testing.assert_allclose(copied.curve.observed, once.curve.observed, atol=0.01)
    np.testing.assert_allclose(copied.curve.low, once.curve.low, atol=0.02)


# --- the curve --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_items", [6, 31, 500])
def test_the_curve_is_lowess_of_statsmodels(n_items):
    labels, given, groups = make_patients(n_items, mean_items=1, base=-1, seed=14)
    curve = reliability_bands(labels, given, groups, n_resamples=2).curve
    assert curve.predicted == pytest.approx(np.linspace(given.min(), given.max(), 50))
    expected = sm.nonparametric.lowess(labels, given, frac=2 / 3, it=0, xvals=curve.predicted)
    assert expected.min() < 0.2
    np.testing.assert_allclose(curve.observed, np.clip(expected, 0, 1), atol=1e-5)


def loop_line(point, given, labels, counts, width):
    """Height at ``point`` of the line through items that weigh by nearness and by how often they were drawn."""
    weight = np.clip(1 - (np.abs(given - point) / width) ** 3, 0, None) ** 3 * counts
    design = np.column_stack([np.ones(len(given)), given - point])
    fitted = sm.WLS(labels, design, weights=weight).fit()
    return np.clip(fitted.params[0], 0, 1)


def test_the_band_is_that_of_a_plain_loop_over_resampled_patients():
    labels, given, groups = make_patients(25, seed=15)
    places = np.unique(groups, return_inverse=True)[1]
    curve = reliability_bands(labels, given, groups, seed=3, n_resamples=40).curve
    resamples = patient_counts(groups, 40, seed=3)
    for k in (0, 17, 49):
        point = curve.predicted[k]
        width = np.sort(np.abs(given - point))[int(2 / 3 * len(given)) - 1] * (1 + 1e-6)
        heights = [loop_line(point, given, labels, counts[places], width) for counts in resamples]
        weight = np.bincount(places, np.clip(1 - (np.abs(given - point) / width) ** 3, 0, None) ** 3)
        near = weight.sum() ** 2 / (weight**2).sum()
        worth = curve.observed[k] * (1 - curve.observed[k]) / np.var(heights)
        worth = min(worth, len(given)) * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, near - 1)) ** 2
        expected = proportion_confint(curve.observed[k] * worth, worth, method="wilson")
        assert (curve.low[k], curve.high[k]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("n_patients", "mean_items", "base"), [(20, 1, -1.0), (20, 4, 0.0), (150, 3, 0.0)])
def test_bins_and_bands_of_calibrated_probabilities_cover(n_patients, mean_items, base):
    bins, band, by_item = [], [], []
    for trial in range(120):
        labels, true, groups = make_patients(n_patients, mean_items, 0.7, base, seed=5000 + trial)
        found = reliability_bands(labels, true, groups, seed=trial, n_resamples=200)
        bins.append(np.mean((found.low <= found.confidence) & (found.confidence <= found.high)))
        curve = found.curve
        inside = (curve.predicted > np.quantile(true, 0.05)) & (curve.predicted < np.quantile(true, 0.95))
        band.append(np.mean(((curve.low <= curve.predicted) & (curve.predicted <= curve.high))[inside]))
        alone = reliability_bands(labels, true, np.arange(len(labels)), n_bins=4, seed=trial, n_resamples=200)
        by_item.append(np.mean((alone.low <= alone.confidence) & (alone.confidence <= alone.high)))
    assert np.mean(bins) > 0.92
    assert np.mean(band) > 0.89
    if mean_items > 1:
        assert np.mean(by_item) < np.mean(bins) - 0.02


def test_the_band_of_a_miscalibrated_model_leaves_the_diagonal():
    labels, true, groups = make_patients(800, seed=16)
    curve = reliability_bands(labels, expit(3 * logit(true)), groups, n_resamples=200).curve
    ends = (curve.predicted < 0.1) | (curve.predicted > 0.9)
    outside = (curve.low > curve.predicted) | (curve.high < curve.predicted)
    assert outside[ends].all()


def test_bands_depend_on_the_seed_alone():
    arrays = make_patients(30, seed=17)
    one, same, other = (reliability_bands(*arrays, seed=seed, n_resamples=50).curve.low for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_bands_of_next_to_nothing():
    empty = reliability_bands([], [], np.array([], int))
    assert len(empty.count) == len(empty.curve.predicted) == 0
    lonely = reliability_bands([1, 0, 1], [0.2, 0.6, 0.6], np.array([4, 4, 4]), n_resamples=5)
    assert lonely.effective.tolist() == [1]
    for low, high in ((lonely.low, lonely.high), (lonely.curve.low, lonely.curve.high)):
        assert ((high - low) > 0.6).all()
    single = reliability_bands([1], [0.3], np.array([4]), n_resamples=5)
    assert (single.curve.predicted.tolist(), single.curve.observed.tolist()) == ([0.3], [1.0])
    assert single.low == pytest.approx(proportion_confint(1, 1, method="wilson")[0])
    constant = reliability_bands([0, 1, 1, 1], np.full(4, 0.5), np.arange(4), n_resamples=50)
    assert constant.curve.observed == pytest.approx([0.75])
    absent = reliability_bands(np.zeros(30), np.linspace(0.01, 0.3, 30), np.arange(30), n_resamples=50)
    assert (absent.curve.observed == 0).all()
    assert ((absent.curve.high > 0.1) & (absent.curve.high < 0.5)).all()


# --- several classes, and what cannot be used -------------------------------------------------------------------------


def test_each_class_is_taken_against_the_rest_and_each_label_where_it_is_known():
    given = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    taken = take_each_class(np.array([2, 0]), given, np.array([8, 9]))
    assert [labels.tolist() for labels, _, _ in taken] == [[0, 1], [0, 0], [1, 0]]
    assert [told.tolist() for _, told, _ in taken] == given.T.tolist()
    taken = take_each_class(np.array([[1, MISSING], [0, 1]]), given[:, :2], np.array([8, 9]))
    assert [[part.tolist() for part in each] for each in taken] == [[[1, 0], [0.2, 0.6], [8, 9]], [[1], [0.3], [9]]]


@pytest.mark.parametrize("judge", [calibration_slope, debiased_ece, brier_parts, reliability_bands])
def test_what_cannot_be_used_is_refused(judge):
    with pytest.raises(DataError, match="row 1 holds nan"):
        judge([0, 1], [0.5, np.nan], [1, 2])
    with pytest.raises(DataError, match=r"row 0 holds 1\.2"):
        judge([0, 1], [1.2, 0.5], [1, 2])
    with pytest.raises(DataError, match=r"Labels must be 0 or 1; row 1 holds 2\.0"):
        judge([0, 2], [0.5, 0.5], [1, 2])
    with pytest.raises(DataError, match=r"found shape \(2, 2\)"):
        judge([0, 1], np.full((2, 2), 0.5), [1, 2])
    with pytest.raises(DataError, match="groups 3"):
        judge([0, 1], [0.5, 0.5], [1, 2, 3])


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="norm=3"):
        debiased_ece([0, 1], [0.5, 0.5], [1, 2], norm=3)
    with pytest.raises(OptionError, match="n_bins=0"):
        brier_parts([0, 1], [0.5, 0.5], [1, 2], n_bins=0)
    with pytest.raises(OptionError, match="found 95"):
        reliability_bands([0, 1], [0.5, 0.5], [1, 2], level=95)
    with pytest.raises(OptionError, match="found 95"):
        calibration_slope([0, 1], [0.5, 0.5], [1, 2], level=95)
