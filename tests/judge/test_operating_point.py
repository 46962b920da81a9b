"""Referees: scikit-learn's confusion matrix and likelihood ratios, statsmodels on proportions and odds ratios, Mercaldo's
interval, binormal scores of known truth, workloads by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import class_likelihood_ratios, confusion_matrix, precision_score, recall_score
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.proportion import proportion_confint

from cohorts import SHIFT, make_scores, repeat
from thawline.errors import OptionError
from thawline.judge.operating_point import count_workload, judge_threshold
from thawline.judge.statistics import patient_counts
from thawline.types import Estimate

# --- a threshold judged -----------------------------------------------------------------------------------------------


def test_rates_are_those_of_scikit_learn():
    truth, scores, groups = make_scores(30, 50, per_patient=2)
    judged, called = judge_threshold(truth, scores, groups, 1.1, prevalence=0.375, n_resamples=50), scores >= 1.1
    (tn, fp), (fn, tp) = confusion_matrix(truth, called)
    cells = judged.true_positives, judged.false_negatives, judged.false_positives, judged.true_negatives
    assert cells == (tp, fn, fp, tn)
    expected = {
        "sensitivity": recall_score(truth, called),
        "specificity": recall_score(truth, called, pos_label=False),
        "ppv": precision_score(truth, called),
        "npv": precision_score(truth, called, pos_label=False),
        "accuracy": (truth == called).mean(),
        "youden": recall_score(truth, called) + recall_score(truth, called, pos_label=False) - 1,
        "diagnostic_odds_ratio": Table2x2([[tp, fn], [fp, tn]]).oddsratio,
        **dict(zip(("lr_positive", "lr_negative"), class_likelihood_ratios(truth, called), strict=True)),
        "ppv_at_prevalence": precision_score(truth, called),  # as the data have just that prevalence
        "npv_at_prevalence": precision_score(truth, called, pos_label=False),
    }
    assert {name: rate.value for name, rate in judged.rates.items()} == pytest.approx(expected)


def mercaldo(tp, fn, fp, tn, prevalence):
    """Logit intervals of both predictive values, Mercaldo et al. 2007, section 3.2, with the delta method."""
    hit, clear = tp / (tp + fn), tn / (fp + tn)
    logits = (
        math.log(hit * prevalence / ((1 - clear) * (1 - prevalence))),
        math.log(clear * (1 - prevalence) / ((1 - hit) * prevalence)),
    )
    errors = math.sqrt((1 - hit) / tp + clear / fp), math.sqrt(hit / fn + (1 - clear) / tn)
    return [1 / (1 + np.exp([-m + 1.96 * e, -m - 1.96 * e])) for m, e in zip(logits, errors, strict=True)]


def test_intervals_of_many_single_items_are_the_textbook_ones():
    truth, scores, groups = make_scores(400, 500)
    judged = judge_threshold(truth, scores, groups, 1.0, prevalence=0.1, n_resamples=4000)
    cells = judged.true_positives, judged.false_negatives, judged.false_positives, judged.true_negatives
    tp, fn, fp, tn = cells
    expected = dict(zip(("ppv_at_prevalence", "npv_at_prevalence"), mercaldo(*cells, 0.1), strict=True))
    for name, (low, high) in expected.items():
        assert (judged.rates[name].low, judged.rates[name].high) == pytest.approx((low, high), abs=0.1 * (high - low))
    table, odds = Table2x2([[tp, fn], [fp, tn]]), judged.rates["diagnostic_odds_ratio"]
    assert np.log([odds.low, odds.high]) == pytest.approx(table.log_oddsratio_confint(), abs=0.06)
    ratios = Table2x2([[tp, fn], [fp, tn]]).log_riskratio_confint()
    assert np.log([judged.rates["lr_positive"].low, judged.rates["lr_positive"].high]) == pytest.approx(
        ratios, abs=0.04
    )
    for name, hits, n_items in (("sensitivity", tp, 400), ("specificity", tn, 500), ("ppv", tp, tp + fp)):
        rate = judged.rates[name]
        assert (rate.low, rate.high) == pytest.approx(proportion_confint(hits, n_items, method="wilson"))


def test_copies_of_whole_patients_items_are_no_evidence():
    arrays = make_scores(20, 30)
    once = judge_threshold(*arrays, 1.0, prevalence=0.1, n_resamples=200).rates
    copied = judge_threshold(*repeat(arrays, 6), 1.0, prevalence=0.1, n_resamples=200).rates
    for name in ("lr_positive", "diagnostic_odds_ratio", "ppv_at_prevalence", "youden"):
        assert (copied[name].low, copied[name].high) == pytest.approx((once[name].low, once[name].high))
    assert copied["sensitivity"].low == pytest.approx(once["sensitivity"].low, abs=0.03)


def test_draws_carry_the_uncertainty_of_the_threshold():
    """With test patients without number only the draws matter, and the interval is that of the true rates at them."""
    draws = np.random.default_rng(3).normal(1.0, 0.3, 500)
    truth = np.repeat([True, False], 4000)
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    scores = np.concatenate([quantiles + SHIFT, quantiles])
    drawn = judge_threshold(truth, scores, np.arange(8000), 1.0, threshold_draws=draws, n_resamples=500).rates
    true = stats.norm.sf(draws - SHIFT), stats.norm.cdf(draws)
    for name, rates in zip(("sensitivity", "specificity"), true, strict=True):
        expected = np.quantile(rates, [0.025, 0.975])
        assert (drawn[name].low, drawn[name].high) == pytest.approx(tuple(expected), abs=0.01)
    ratios = np.quantile(true[0] / (1 - true[1]), [0.025, 0.975])
    assert (drawn["lr_positive"].low, drawn["lr_positive"].high) == pytest.approx(tuple(ratios), rel=0.06)


def test_a_draw_that_never_moves_leaves_a_plain_bootstrap():
    truth, scores, groups = make_scores(20, 30, per_patient=3)
    judged = judge_threshold(
        truth, scores, groups, 1.0, threshold_draws=[1.0, math.nan], n_resamples=300, seed=5, level=0.9
    )
    counts = patient_counts(groups, 300, seed=5)[:, groups // 3]
    called = scores >= 1.0
    hit = (counts * (truth & called)).sum(axis=1) / (counts * truth).sum(axis=1)
    clear = (counts * ~(truth | called)).sum(axis=1) / (counts * ~truth).sum(axis=1)
    for name, values in (("sensitivity", hit), ("youden", hit + clear - 1)):
        rate = judged.rates[name]
        assert (rate.low, rate.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=0.005)
    with pytest.raises(OptionError, match="found 2, none of which is"):
        judge_threshold(truth, scores, groups, 1.0, threshold_draws=[math.nan, math.nan])


def test_certain_looking_rates_keep_the_uncertainty_of_their_parts():
    rates = judge_threshold([0] * 10 + [1] * 10, np.arange(20.0), np.arange(20), 9.5, prevalence=0.01).rates
    low = proportion_confint(10, 10, method="wilson")[0]
    assert rates["lr_positive"].value == math.inf
    assert rates["lr_positive"].low == pytest.approx(low / (1 - low))
    assert (rates["lr_negative"].value, rates["lr_negative"].high) == pytest.approx((0, (1 - low) / low))
    assert rates["youden"].low == pytest.approx(2 * low - 1)
    assert rates["ppv_at_prevalence"].value == 1
    assert rates["ppv_at_prevalence"].low == pytest.approx(0.01 * low / (0.01 * low + 0.99 * (1 - low)))


def test_an_upper_bound_may_be_infinite():
    """One false alarm among 12: in every third resample there is none."""
    truth, scores = np.repeat([False, True], 12), np.concatenate([[2.0], np.zeros(11), [0.0], np.full(11, 2.0)])
    rates = judge_threshold(truth, scores, np.arange(24), 1.0).rates
    assert rates["lr_positive"].value == pytest.approx(11)
    assert rates["lr_positive"].high == math.inf
    assert 2 < rates["lr_positive"].low < 6


def test_rates_without_a_class_or_a_call_are_undefined():
    rates = judge_threshold([1, 1, 1], [0.2, 0.3, 0.4], np.arange(3), 0.25, prevalence=0.1, n_resamples=20).rates
    assert rates["sensitivity"].value == pytest.approx(2 / 3)
    for name in ("specificity", "youden", "lr_positive", "lr_negative", "diagnostic_odds_ratio", "ppv_at_prevalence"):
        assert np.isnan([rates[name].value, rates[name].low, rates[name].high]).all()
        assert "undefined" in rates[name].method
    uncalled = judge_threshold([0, 1], [0.2, 0.3], np.arange(2), 0.9, prevalence=0.1, n_resamples=20).rates
    assert np.isnan([uncalled[name].value for name in ("ppv", "lr_positive", "ppv_at_prevalence")]).all()
    assert uncalled["lr_negative"].value == 1


def test_one_patient_gives_no_interval():
    rates = judge_threshold([0, 0, 1, 1], [0.1, 0.6, 0.3, 0.8], np.full(4, 9), 0.5, n_resamples=20).rates
    assert (rates["youden"].value, rates["lr_positive"].value) == (0, 1)
    assert np.isnan([rates[name].low for name in ("sensitivity", "youden", "lr_positive")]).all()


@pytest.mark.slow
def test_intervals_cover_what_follows_from_the_true_rates():
    hit, clear = stats.norm.sf(1 - SHIFT), stats.norm.cdf(1.0)
    true = {
        "youden": hit + clear - 1,
        "lr_positive": hit / (1 - clear),
        "lr_negative": (1 - hit) / clear,
        "diagnostic_odds_ratio": hit * clear / ((1 - hit) * (1 - clear)),
        "ppv_at_prevalence": 0.1 * hit / (0.1 * hit + 0.9 * (1 - clear)),
        "npv_at_prevalence": 0.9 * clear / (0.9 * clear + 0.1 * (1 - hit)),
    }
    covered = dict.fromkeys(true, 0.0)
    for trial in range(300):
        arrays = make_scores(25, 40, per_patient=3, seed=trial)
        rates = judge_threshold(*arrays, 1.0, prevalence=0.1, n_resamples=200, seed=trial).rates
        for name, value in true.items():
            covered[name] += (rates[name].low <= value <= rates[name].high) / 300
    assert 0.88 <= min(covered.values()) <= max(covered.values()) <= 0.985


def test_thresholds_and_prevalences_out_of_range_are_refused():
    for threshold, prevalence in ((math.nan, None), (0.5, 0), (0.5, 1.0), (0.5, math.nan)):
        with pytest.raises(OptionError, match=f"found threshold={threshold} and prevalence={prevalence}"):
            judge_threshold(*make_scores(), threshold, prevalence=prevalence)


# --- workload ---------------------------------------------------------------------------------------------------------

shares = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


@given(st.tuples(shares, shares, shares).map(sorted), st.tuples(shares, shares, shares).map(sorted), shares)
@settings(max_examples=150, deadline=None)
def test_counts_of_a_workload_are_whole_and_sum_to_all(hit, clear, prevalence):
    sure, right = (Estimate(value, low, high) for low, value, high in (hit, clear))
    load = count_workload(sure, right, prevalence, 237)
    assert load.diseased == pytest.approx(237 * prevalence, abs=0.5)
    assert load.found.value == pytest.approx(sure.value * load.diseased, abs=0.5)
    assert load.wrongly_called.high == pytest.approx((1 - right.low) * (237 - load.diseased), abs=0.5)
    assert load.found.value + load.missed.value == load.diseased
    assert load.found.value + load.wrongly_called.value == load.called.value
    assert load.diseased + load.wrongly_called.value + load.rightly_passed.value == 237
    for count in (load.called, load.found, load.missed, load.wrongly_called, load.rightly_passed):
        assert count.value.is_integer()
        assert 0 <= count.low <= count.value <= count.high <= 237


def test_a_workload_by_hand():
    load = count_workload(Estimate(0.9, 0.8, 0.95), Estimate(0.8, 0.7, 0.9), 0.1)
    assert (load.found.value, load.found.low, load.found.high) == (90, 80, 95)
    assert (load.missed.value, load.missed.low, load.missed.high) == (10, 5, 20)
    assert (load.called.value, load.called.low, load.called.high) == (270, 170, 365)
    reviewed = load.reviewed_per_found
    assert (reviewed.value, reviewed.low, reviewed.high) == pytest.approx((3, 1 + 90 / 95, 1 + 270 / 80))


def test_a_workload_of_what_is_not_known():
    load = count_workload(Estimate(math.nan, math.nan, math.nan), Estimate(0.8, 0.7, 0.9), 0.1)
    assert np.isnan([load.found.value, load.called.high, load.reviewed_per_found.low]).all()
    assert load.wrongly_called.value == 180
    assert count_workload(Estimate(0, 0, 0), Estimate(0.8, 0.7, 0.9), 0.1).reviewed_per_found.value == math.inf
    with pytest.raises(OptionError, match=r"found prevalence=1\.5"):
        count_workload(Estimate(0.9, 0.8, 1), Estimate(0.8, 0.7, 0.9), 1.5)
