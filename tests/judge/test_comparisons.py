"""Referees: textbook formulas, the patient bootstrap, pROC, statsmodels, scikit-learn and simulations of known truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from cohorts import PROC, as_probabilities, make_candidates, make_cohort, make_pair, score_by_scikit_learn
from thawline.errors import DataError, OptionError
from thawline.judge.comparisons import (
    Comparison,
    choose_within_one_se,
    compare_aucs,
    compare_calls,
    compare_independent,
    compare_paired_aucs,
    correct_holm,
    find_margin_p,
    paired_difference,
)
from thawline.judge.statistics import patient_counts
from thawline.types import Estimate


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


@pytest.mark.slow
@pytest.mark.parametrize(("n_classes", "useful_gain"), [(2, 0.01), (3, 0.05)])
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
    assert score_by_scikit_learn(about[0], one, about[2]) > score_by_scikit_learn(about[0], other, about[2])
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


# --- tests of two candidates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROC)
def test_the_paired_test_of_aucs_is_that_of_proc(name):
    labels, scores, other, groups = make_pair(name)
    found = compare_paired_aucs(labels, (as_probabilities(scores), as_probabilities(other)), groups, [1])
    statistic, p_value, low, high = PROC[name][5:]
    assert found.difference.value / found.standard_error == pytest.approx(statistic, abs=1e-9)
    assert found.p_value == pytest.approx(p_value, abs=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=1e-6)


def test_the_paired_test_is_of_patients():
    labels, scores, groups = make_cohort(60, 0.5, 0.8, seed=8)
    other = scores + np.random.default_rng(0).normal(size=60)[groups]
    once = compare_paired_aucs(labels, (as_probabilities(scores), as_probabilities(other)), groups, [1])
    copies = [
        np.repeat(each, 4, axis=0) for each in (labels, as_probabilities(scores), as_probabilities(other), groups)
    ]
    again = compare_paired_aucs(copies[0], (copies[1], copies[2]), copies[3], [1])
    assert (again.difference.value, again.p_value) == pytest.approx((once.difference.value, once.p_value))


def test_several_classes_and_folds_are_compared_by_their_means():
    candidates, labels, groups, folds = make_candidates(0.6, 1.6, n_patients=90, n_classes=3, seed=9)
    found = compare_paired_aucs(labels, (candidates[1], candidates[0]), groups, [0, 1, 2], folds)
    gain, _ = compare_aucs(candidates, labels, groups, folds, useful_gain=0.0, n_resamples=2000)
    assert found.difference.value == pytest.approx(gain.value)
    assert (found.difference.low, found.difference.high) == pytest.approx((gain.low, gain.high), abs=0.02)


def test_a_candidate_is_not_unlike_itself():
    (one,), labels, groups, folds = make_candidates(0.8)
    found = compare_paired_aucs(labels, (one, one), groups, [1], folds)
    assert (found.difference.value, found.standard_error, found.p_value) == (0.0, 0.0, 1.0)
    same = compare_calls(labels, labels, groups)
    assert (same.difference.value, same.p_value) == (0.0, 1.0)


@pytest.mark.slow
def test_equal_candidates_are_told_apart_once_in_twenty():
    """Both know the labels equally well: 400 cohorts of patients with 1 to 3 items, 1.1 points are a standard error."""
    p_values = []
    for seed in range(400):
        candidates, labels, groups, _ = make_candidates(1.0, 1.0, n_patients=80, seed=seed)
        p_values.append(compare_paired_aucs(labels, (candidates[0], candidates[1]), groups, [1]).p_value)
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.085
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_calls_of_single_items_are_compared_as_statsmodels_does():
    draw = np.random.default_rng(10)
    a, b = draw.random(70) < 0.8, draw.random(70) < 0.6
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = compare_calls(a, b, draw.permutation(70))
    assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.difference.value == pytest.approx(a.mean() - b.mean())


def test_calls_of_patients_with_several_items_are_compared_by_patient():
    """Each patient's items twice: the statistic stays that of McNemar without continuity correction on patients."""
    draw = np.random.default_rng(11)
    a, b = draw.random(90) < 0.8, draw.random(90) < 0.6
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = compare_calls(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(90), 2))
    assert found.p_value == pytest.approx(mcnemar(table, exact=False, correction=False).pvalue)


@pytest.mark.slow
def test_equal_calls_are_told_apart_once_in_twenty():
    draw, rejected = np.random.default_rng(12), 0
    for _ in range(1500):
        groups = np.repeat(np.arange(40), draw.integers(1, 6, 40))
        ease = draw.beta(3, 1, 40)[groups] * draw.choice([0.7, 1.0], 40)[groups]
        a, b = (draw.random(len(groups)) < np.clip(ease + 0.2 * draw.normal(size=40)[groups], 0, 1) for _ in range(2))
        rejected += compare_calls(a, b, groups).p_value < 0.05
    assert 0.03 <= rejected / 1500 <= 0.07


@pytest.mark.parametrize("n_tests", [1, 2, 7, 12])
def test_holms_correction_is_statsmodels(n_tests):
    p_values = np.random.default_rng(n_tests).random(n_tests).round(1) ** 3  # some are equal, some 0 or 1
    assert correct_holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_what_was_not_tested_is_not_counted():
    found = correct_holm([0.01, np.nan, 0.04])
    assert found == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert len(correct_holm([])) == 0


def test_margins_are_those_of_a_paired_t_test_with_many_patients():
    draw = np.random.default_rng(13)
    a, b = draw.normal(0.80, 0.1, 3000), draw.normal(0.805, 0.1, 3000)
    difference, error = paired_difference(a, b, np.arange(3000))
    reach = 1.959964 * error
    compared = Comparison(Estimate(difference, difference - reach, difference + reach), error, 0.5)
    for margin in (0.005, 0.01, 0.02):
        lower, upper = ttost_paired(a, b, -margin, margin)[1:]
        assert find_margin_p(compared, margin) == pytest.approx(lower[1], abs=2e-4)
        assert find_margin_p(compared, margin, equivalence=True) == pytest.approx(max(lower[1], upper[1]), abs=2e-4)
        assert (find_margin_p(compared, margin) < 0.025) == (compared.difference.low > -margin)


def test_margins_without_any_error_and_those_that_are_none():
    compared = Comparison(Estimate(0.0, 0.0, 0.0), 0.0, 1.0)
    assert find_margin_p(compared, 0.01, equivalence=True) == 0
    assert find_margin_p(dataclasses.replace(compared, difference=Estimate(-0.1, -0.1, -0.1)), 0.05) == 1
    with pytest.raises(OptionError, match="found 0"):
        find_margin_p(compared, 0)


def test_independent_estimates_with_plain_intervals_are_compared_by_the_z_test():
    first, second = (
        Estimate(value, value - 1.959964 * error, value + 1.959964 * error)
        for value, error in ((0.9, 0.02), (0.82, 0.03))
    )
    found = compare_independent(first, second)
    error = np.hypot(0.02, 0.03)
    assert found.difference.value == pytest.approx(0.08)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (0.08 - 1.959964 * error, 0.08 + 1.959964 * error)
    )
    assert found.standard_error == pytest.approx(error, rel=1e-6)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.08 / error), rel=1e-5)


@pytest.mark.parametrize(("hits", "others"), [((45, 50), (30, 60)), ((20, 20), (35, 40)), ((3, 30), (9, 25))])
def test_the_difference_of_proportions_is_newcombes(hits, others):
    first, second = (Estimate(count / n, *proportion_confint(count, n, method="wilson")) for count, n in (hits, others))
    found = compare_independent(first, second)
    referee = confint_proportions_2indep(*hits, *others, method="newcomb", compare="diff")
    assert (found.difference.low, found.difference.high) == pytest.approx(referee)
    outside = found.difference.low > 0 or found.difference.high < 0
    assert (found.p_value < 0.05) == outside
    turned = compare_independent(second, first)
    assert turned.p_value == pytest.approx(found.p_value)
    assert turned.difference.low == pytest.approx(-found.difference.high)


def test_independent_estimates_without_interval_have_no_difference_to_tell():
    found = compare_independent(Estimate(0.9, 0.8, 0.95), Estimate(0.7, np.nan, np.nan))
    assert found.difference.value == pytest.approx(0.2)
    assert np.isnan([found.difference.low, found.p_value]).all()
    same = Estimate(1.0, 1.0, 1.0)
    assert compare_independent(same, same).p_value == 1
    with pytest.raises(OptionError, match=r"found 0\.95 and 0\.9"):
        compare_independent(Estimate(0.9, 0.8, 1.0), Estimate(0.9, 0.8, 1.0, level=0.9))
