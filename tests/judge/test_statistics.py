"""Referees: SciPy's exact intervals, closed forms, the patient bootstrap and simulations of known truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from thawline.errors import DataError, OptionError
from thawline.judge import statistics
from thawline.judge.statistics import (
    average_defined,
    choose_within_one_se,
    compare_aucs,
    interval,
    iterate_patient_counts,
    paired_difference,
    patient_counts,
    resample_fold_aucs,
    within_fold_auc,
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


def test_paired_difference_of_single_items_is_the_textbook_one():
    draw = np.random.default_rng(0)
    a, b = draw.random(30), draw.random(30)
    mean, error = paired_difference(a, b, draw.permutation(30))
    assert (mean, error) == pytest.approx(((a - b).mean(), stats.sem(a - b)))


def test_paired_difference_ignores_copies_of_whole_patients_items():
    """Ten copies of an item in the same patient are no new evidence."""
    a, b = np.random.default_rng(1).random((2, 25))
    once = paired_difference(a, b, np.arange(25))
    copied = paired_difference(np.repeat(a, 10), np.repeat(b, 10), np.repeat(np.arange(25), 10))
    assert copied == pytest.approx(once)


def test_paired_difference_agrees_with_the_patient_bootstrap():
    draw = np.random.default_rng(2)
    groups = np.repeat(np.arange(200), draw.integers(1, 9, 200))
    a = draw.random(len(groups)) + draw.normal(0.1, 0.5, 200)[groups]
    b = draw.random(len(groups))
    mean, error = paired_difference(a, b, groups)
    counts = patient_counts(groups, 4000, seed=3)
    resampled = counts @ np.bincount(groups, weights=a - b) / (counts @ np.bincount(groups))
    assert mean == pytest.approx((a - b).mean())
    assert error == pytest.approx(resampled.std(), rel=0.08)
    assert error > 1.5 * stats.sem(a - b)


def test_paired_difference_of_few_patients():
    mean, error = paired_difference([1.0, 2.0], [0.0, 0.0], np.array([3, 3]))
    assert mean == 1.5
    assert np.isnan(error)
    assert paired_difference([1.0, 2.0], [0.0, 0.0], np.array([3, 4])) == pytest.approx((1.5, 0.5))


def test_losses_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="row 1 is not"):
        paired_difference([1.0, np.inf], [0.0, 0.0], np.array([3, 4]))
    with pytest.raises(DataError, match="no items"):
        paired_difference([], [], np.array([], int))
    with pytest.raises(DataError, match=r"found shape \(3,\)"):
        choose_within_one_se(np.ones(3), np.arange(3))


def make_losses(*means, n_patients=100, noise=0.3):
    draw = np.random.default_rng(5)
    common = draw.random(n_patients * 3)
    own = draw.normal(size=(len(means), n_patients * 3)) * noise
    own -= own.mean(axis=1, keepdims=True)
    return np.array(means)[:, np.newaxis] + common + own, np.arange(n_patients * 3) % n_patients


def test_the_cheaper_of_equals_is_chosen():
    losses, groups = make_losses(0.501, 0.5, 0.502)
    selection = choose_within_one_se(losses, groups)
    assert (selection.chosen, selection.best) == (0, 1)
    assert selection.differences == pytest.approx((0.001, 0, 0.002))
    assert selection.mean_losses == pytest.approx(tuple(losses.mean(axis=1)))
    expected = paired_difference(losses[0], losses[1], groups)[1]
    assert selection.standard_errors[:2] == pytest.approx((expected, 0))


def test_the_clearly_better_is_chosen():
    selection = choose_within_one_se(*make_losses(0.9, 0.5, 0.5001, 0.8))
    assert (selection.chosen, selection.best) == (1, 1)
    skipping = choose_within_one_se(*make_losses(0.9, 0.5001, 0.5))
    assert (skipping.chosen, skipping.best) == (1, 2)


def test_the_limit_is_one_standard_error():
    losses, groups = make_losses(0.5, 0.5)
    _, error = paired_difference(losses[0], losses[1], groups)
    for factor, chosen in ((0.99, 0), (1.01, 1)):
        shifted = losses + np.array([[factor * error], [0]])
        assert choose_within_one_se(shifted, groups).chosen == chosen


def test_identical_candidates_and_a_single_patient():
    same = choose_within_one_se(np.ones((3, 4)), np.arange(4))
    assert (same.chosen, same.best) == (0, 0)
    alone = choose_within_one_se([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]], np.array([8, 8]))
    assert (alone.chosen, alone.best) == (1, 1)
    assert np.isnan(alone.standard_errors).all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        alone.chosen = 2


def test_within_fold_auc_averages_scikit_learn_over_folds():
    draw = np.random.default_rng(0)
    labels, folds = draw.integers(2, size=240), draw.integers(-1, 4, size=240)
    positive = draw.random(240) * 0.5 + labels * 0.1 + np.array([0.0, 0.1, 0.2, 0.3, 0.4])[folds + 1] * (folds >= 0)
    probabilities, weights = np.column_stack([1 - positive, positive]), draw.poisson(1.0, 240) + 0.0
    each = [roc_auc_score(labels[folds == f], positive[folds == f]) for f in range(4)]
    assert within_fold_auc(labels, probabilities, folds) == pytest.approx(np.mean(each))
    weighted = [
        roc_auc_score(labels[folds == f], positive[folds == f], sample_weight=weights[folds == f]) for f in range(4)
    ]
    assert within_fold_auc(labels, probabilities, folds, weights) == pytest.approx(np.mean(weighted))
    assert within_fold_auc(labels, probabilities, folds, positive=0) == pytest.approx(np.mean(each))


def test_folds_without_a_class_are_skipped():
    labels, folds = np.array([0, 1, 1, 1, 0]), np.array([0, 0, 1, 1, -1])
    positive = np.array([0.2, 0.1, 0.5, 0.6, 0.9])
    probabilities = np.column_stack([1 - positive, positive])
    assert within_fold_auc(labels, probabilities, folds) == 0
    assert np.isnan(within_fold_auc(labels, probabilities, np.array([0, 1, 1, 1, 2])))
    assert np.isnan(within_fold_auc(labels, probabilities, np.full(5, -1)))


# --- the gain of a candidate ------------------------------------------------------------------------------------------


def make_candidates(*sharpness, n_patients=24, n_classes=2, seed=0):
    """Out-of-fold probabilities that know more of the labels the sharper they are; patients of 1 to 3 items, 3 folds."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients) * 7, draw.integers(1, 4, n_patients))
    labels = groups // 7 % n_classes
    common = draw.normal(size=(len(groups), n_classes))
    found = []
    for sharp in sharpness:
        logits = common + 0.5 * draw.normal(size=common.shape) + sharp * np.eye(n_classes)[labels]
        found.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return found, labels, groups, groups // 7 // n_classes % 3


def score_by_scikit_learn(labels, probabilities, folds, weights):
    """Mean over folds of the AUC, or of the plain mean of one-vs-rest AUCs; folds without a class are left out."""
    n_classes, areas = probabilities.shape[1], []
    for fold in np.unique(folds):
        inside = (folds == fold) & (weights > 0)
        if len(np.unique(labels[inside])) < n_classes:
            continue
        classes = [1] if n_classes == 2 else range(n_classes)
        about = [(labels[inside] == k, probabilities[inside, k]) for k in classes]
        areas.append(np.mean([roc_auc_score(*each, sample_weight=weights[inside]) for each in about]))
    return np.mean(areas) if areas else np.nan


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


@pytest.mark.slow
@pytest.mark.parametrize(("n_classes", "useful_gain"), [(2, 0.01), (3, 0.0)])
def test_a_gain_is_that_of_a_plain_loop_over_resampled_patients(n_classes, useful_gain):
    candidates, labels, groups, folds = make_candidates(0.2, 1.2, 0.7, 1.5, n_classes=n_classes, seed=n_classes)
    gain, chance = compare_aucs(candidates, labels, groups, folds, useful_gain=useful_gain, seed=5, n_resamples=16)
    patients = np.unique(groups, return_inverse=True)[1]
    whole = [score_by_scikit_learn(labels, each, folds, np.ones(len(labels))) for each in candidates]
    assert whole[1] == max(whole[:-1])  # the best before is neither the first nor the last
    differences = []
    for counts in patient_counts(groups, 16, seed=5):
        each = [score_by_scikit_learn(labels, candidates[k], folds, 1.0 * counts[patients]) for k in (3, 1)]
        differences.append(each[0] - each[1])
    differences = np.array(differences)[~np.isnan(differences)]
    assert gain.value == pytest.approx(whole[3] - whole[1])
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    assert chance == pytest.approx((differences >= useful_gain).mean())
    assert 0 < chance < 1


@pytest.mark.parametrize(("useful_gain", "expected"), [(0.0, 1.0), (0.01, 0.0)])
def test_what_two_candidates_have_in_common_cancels(useful_gain, expected):
    (one, other), *about = make_candidates(0.9, 0.5, n_patients=60)
    assert within_fold_auc(about[0], one, about[2]) > within_fold_auc(about[0], other, about[2])
    gain, chance = compare_aucs([one, other, one], *about, useful_gain=useful_gain, n_resamples=100)
    assert (gain.value, gain.low, gain.high, chance) == (0.0, 0.0, 0.0, expected)


def test_a_large_gain_is_certain_and_a_large_loss_impossible():
    (weak, strong), *about = make_candidates(0.0, 4.0, n_patients=80)
    gain, chance = compare_aucs([weak, strong], *about, useful_gain=0.01, n_resamples=200)
    assert chance == 1.0
    assert gain.low > 0.1
    loss, chance = compare_aucs([strong, weak], *about, useful_gain=0.01, n_resamples=200)
    assert chance == 0.0
    assert loss.value == pytest.approx(-gain.value)


def test_where_no_auc_is_defined_there_is_no_chance():
    (one, other), labels, groups, folds = make_candidates(0.5, 0.5)
    gain, chance = compare_aucs([one, other], np.zeros_like(labels), groups, folds, useful_gain=0.0, n_resamples=20)
    assert np.isnan([gain.value, gain.low, gain.high]).all()
    assert chance == 0.0


@pytest.mark.slow
def test_of_equals_the_chance_of_a_gain_is_spread_evenly_and_the_interval_covers():
    """Both candidates know the labels equally well, so any gain is luck: chances of one are uniform but for few patients."""
    chances, covered = [], 0
    for trial in range(150):
        candidates, *about = make_candidates(1.0, 1.0, n_patients=60, seed=1000 + trial)
        gain, chance = compare_aucs(candidates, *about, useful_gain=0.0, seed=trial, n_resamples=200)
        chances.append(chance)
        covered += gain.low <= 0 <= gain.high
    assert np.mean(chances) == pytest.approx(0.5, abs=0.08)
    assert 0.03 < np.mean(np.array(chances) < 0.1) < 0.20
    assert 0.03 < np.mean(np.array(chances) > 0.9) < 0.20
    assert 0.88 <= covered / 150 <= 0.99
