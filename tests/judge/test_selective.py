"""Referees: scikit-learn's precision at each confidence, closed forms of the areas, SciPy's exact binomial bound and its
analysis of variance, the patient bootstrap, simulated patients."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import log_loss, precision_recall_curve

from thawline.errors import DataError, OptionError
from thawline.judge.selective import choose_confidence, estimate_clustering, risk_coverage
from thawline.judge.statistics import patient_counts
from thawline.types import plain


def make_items(n_items, n_classes=3, seed=0, decimals=12):
    """Calibrated predictions; with few decimals many have the same confidence."""
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.full(n_classes, 0.7), n_items).round(decimals)
    labels = (draw.random((n_items, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return np.minimum(labels, n_classes - 1), probabilities


def predict(confidence, wrong):
    """Two-class predictions of so much confidence, wrong where told."""
    return np.asarray(wrong, int), np.column_stack([confidence, 1 - np.asarray(confidence)])


def score_by_scikit_learn(labels, probabilities, weights):
    """The area from 1 − precision of "the call is right" at each distinct confidence, weighted by the items that have it."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    if not right.any():
        return 1.0
    precision, _, limits = precision_recall_curve(right, confidence, sample_weight=weights)
    risk = dict(zip(limits, 1 - precision, strict=False))
    kept = weights > 0
    return np.average([risk[each] for each in confidence[kept]], weights=weights[kept])


@pytest.mark.parametrize("decimals", [1, 12])
def test_area_and_its_interval_are_those_of_scikit_learn(decimals):
    labels, probabilities = make_items(80, decimals=decimals)
    groups = np.random.default_rng(1).integers(0, 30, 80)
    found = risk_coverage(labels, probabilities, groups, seed=4, n_resamples=60)
    assert found.aurc.value == pytest.approx(score_by_scikit_learn(labels, probabilities, np.ones(80)))
    patients = np.unique(groups, return_inverse=True)[1]
    counts = patient_counts(groups, 60, seed=4)
    resampled = [score_by_scikit_learn(labels, probabilities, row[patients].astype(float)) for row in counts]
    assert (found.aurc.low, found.aurc.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


@pytest.mark.parametrize("loss", ["error", "log_loss"])
def test_curve_is_that_of_the_surest_items(loss):
    labels, probabilities = make_items(40)
    found = risk_coverage(labels, probabilities, np.arange(40), loss=loss, coverages=[0.25, 0.5, 1.0], n_resamples=50)
    order = np.argsort(-probabilities.max(axis=1))
    for coverage, limit, risk in zip(found.coverages, found.limits, found.risks, strict=True):
        items = order[: int(40 * coverage)]
        expected = (probabilities.argmax(axis=1) != labels)[items].mean()
        if loss == "log_loss":
            expected = log_loss(labels[items], probabilities[items], labels=range(3))
        assert risk.value == pytest.approx(expected)
        assert limit == probabilities.max(axis=1)[items[-1]]


def test_bands_are_those_of_a_loop_over_resampled_patients():
    labels, probabilities = make_items(60, seed=2)
    groups = np.random.default_rng(3).integers(0, 20, 60)
    found = risk_coverage(labels, probabilities, groups, loss="log_loss", coverages=[0.5], seed=7, n_resamples=80)
    names, patients = np.unique(groups, return_inverse=True)
    order = np.argsort(-probabilities.max(axis=1))
    losses = -np.log(probabilities[np.arange(60), labels])
    risks = []
    for row in patient_counts(groups, 80, seed=7):
        copies = np.repeat(losses[order], row[patients[order]])
        half = len(copies) / 2  # an item may be answered in half
        risks.append((copies[: int(half)].sum() + (half % 1) * copies[int(half)]) / half)
    assert len(names) == 20
    assert (found.risks[0].low, found.risks[0].high) == pytest.approx(tuple(np.quantile(risks, [0.025, 0.975])))


def test_areas_of_a_perfect_order_have_no_excess():
    """With e of n wrong, and all of them last, the risk is (j − (n − e))/j: the sum over j in closed form, and its limit."""
    n_items, n_wrong = 500, 60
    confidence = np.linspace(0.99, 0.6, n_items)
    found = risk_coverage(*predict(confidence, np.arange(n_items) >= n_items - n_wrong), np.arange(500), n_resamples=20)
    harmonic = (1 / np.arange(n_items - n_wrong + 1, n_items + 1)).sum()
    assert found.aurc.value == pytest.approx((n_wrong - (n_items - n_wrong) * harmonic) / n_items)
    rate = n_wrong / n_items
    assert found.aurc.value == pytest.approx(rate + (1 - rate) * math.log(1 - rate), rel=0.02)
    assert found.excess_aurc.value == pytest.approx(0, abs=1e-12)


def test_confidence_that_says_nothing_has_the_overall_risk_everywhere():
    labels, probabilities = predict(np.full(50, 0.8), np.arange(50) % 5 == 0)
    found = risk_coverage(labels, probabilities, np.arange(50), coverages=[0.1, 0.55, 1.0], n_resamples=30)
    assert [each.value for each in found.risks] == pytest.approx([0.2] * 3)
    best = sum(max(0, j - 40) / j for j in range(1, 51)) / 50
    assert (found.aurc.value, found.excess_aurc.value) == pytest.approx((0.2, 0.2 - best))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.sampled_from([1, 2]), st.sampled_from(["error", "log_loss"]))
def test_rows_may_come_in_any_order_and_the_excess_is_not_negative(seed, decimals, loss):
    labels, probabilities = make_items(25, seed=seed, decimals=decimals)
    groups, mixed = np.arange(25) % 7, np.random.default_rng(seed).permutation(25)
    first = risk_coverage(labels, probabilities, groups, loss=loss, n_resamples=5)
    again = risk_coverage(labels[mixed], probabilities[mixed], groups[mixed], loss=loss, n_resamples=5)
    for one, other in zip(
        (*first.risks, first.aurc, first.excess_aurc), (*again.risks, again.aurc, again.excess_aurc), strict=True
    ):
        assert (one.value, one.low, one.high) == pytest.approx(
            (other.value, other.low, other.high), abs=1e-9, nan_ok=True
        )
    assert first.limits == again.limits
    assert first.excess_aurc.value >= -1e-12


def test_no_error_has_an_upper_bound_from_the_patients_answered():
    labels, probabilities = predict(np.linspace(0.99, 0.6, 40), np.zeros(40))
    found = risk_coverage(labels, probabilities, np.arange(40) // 2, coverages=[0.5, 1.0], n_resamples=20)
    for risk, n_patients in zip((*found.risks, found.aurc), (10, 20, 20), strict=True):
        exact = stats.binomtest(0, n_patients).proportion_ci(method="exact")
        assert (risk.value, risk.low, risk.high) == pytest.approx((0, 0, exact.high))
    assert json.loads(json.dumps(plain(found), allow_nan=False))["risks"][1]["high"] == found.risks[1].high


def test_clustering_is_that_of_scipys_analysis_of_variance():
    draw = np.random.default_rng(0)
    sizes = draw.integers(1, 9, 40)
    groups = np.repeat(np.arange(40), sizes) * 3
    values = draw.normal(size=40)[groups // 3] + draw.normal(size=len(groups))
    ratio = stats.f_oneway(*(values[groups == g] for g in np.unique(groups))).statistic
    typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 39
    assert estimate_clustering(values, groups) == pytest.approx((ratio - 1) / (ratio + typical - 1))


def test_clustering_of_many_patients_is_the_true_one():
    draw = np.random.default_rng(1)
    groups = np.repeat(np.arange(4000), 4)
    wrong = draw.random(16_000) < draw.beta(0.3, 2.7, 4000)[groups]  # correlation 1/(0.3 + 2.7 + 1)
    assert estimate_clustering(wrong, groups) == pytest.approx(0.25, abs=0.03)
    assert estimate_clustering(wrong, np.arange(16_000) % 4000) < 0.03


def test_clustering_without_evidence_counts_a_patient_once():
    assert estimate_clustering(np.zeros(6), np.arange(6) // 2) == 1
    assert estimate_clustering(np.arange(6), np.arange(6)) == 1
    assert estimate_clustering(np.arange(6), np.zeros(6)) == 1
    assert estimate_clustering(np.tile([0, 1], 3), np.arange(6) // 2) == 0


def test_limit_is_that_of_a_loop_over_exact_bounds():
    """One item a patient: each coverage in turn has the exact one-sided bound of SciPy, until it is above the risk."""
    draw = np.random.default_rng(5)
    confidence = np.sort(draw.uniform(0.5, 1, 400))[::-1]
    wrong = draw.random(400) < (1 - confidence) ** 2
    found = choose_confidence(*predict(confidence, wrong), np.arange(400), risk=0.1)
    passed = []
    for n in range(20, 401, 20):
        bound = stats.binomtest(int(wrong[:n].sum()), n, alternative="less").proportion_ci(0.95, method="exact").high
        if n >= 29:  # as few as could pass, without an error
            if bound > 0.1:
                break
            passed.append((n, bound))
    n, bound = passed[-1]
    assert 60 < n < 400
    assert (found.limit, found.coverage, found.risk.high) == pytest.approx((confidence[n - 1], n / 400, bound))
    assert found.risk.value == wrong[:n].mean()


def test_copies_of_items_are_no_new_evidence():
    draw = np.random.default_rng(6)
    confidence = np.sort(draw.uniform(0.5, 1, 300))[::-1]
    labels, probabilities = predict(confidence, draw.random(300) < (1 - confidence) ** 2)
    once = choose_confidence(labels, probabilities, np.arange(300), risk=0.1)
    ten = np.repeat(np.arange(300), 10)
    copied = choose_confidence(labels[ten], probabilities[ten], ten, risk=0.1)
    pretended = choose_confidence(labels[ten], probabilities[ten], np.arange(3000), risk=0.1)
    assert (copied.limit, copied.risk.high) == pytest.approx((once.limit, once.risk.high))
    assert pretended.risk.high < once.risk.high or pretended.coverage > once.coverage


def test_without_errors_everything_is_answered_where_patients_suffice():
    confidence = np.linspace(0.99, 0.6, 118)
    enough = choose_confidence(*predict(confidence, np.zeros(118)), np.arange(118) // 2, risk=0.05)
    assert (enough.limit, enough.coverage, enough.risk.value) == pytest.approx((0.6, 1.0, 0.0))
    assert enough.risk.high == pytest.approx(1 - 0.05 ** (1 / 59))
    few = choose_confidence(*predict(confidence[:116], np.zeros(116)), np.arange(116) // 2, risk=0.05)
    assert math.isnan(few.limit)
    assert few.coverage == 0
    assert "risk of 0.05 needs at least 59 patients" in few.risk.method
    alone = choose_confidence(*predict(confidence, np.zeros(118)), np.zeros(118), risk=0.2)
    assert math.isnan(alone.limit)


def test_a_risk_out_of_reach_says_what_there_is():
    labels, probabilities = predict(np.linspace(0.99, 0.6, 200), np.arange(200) % 4 == 0)
    found = choose_confidence(labels, probabilities, np.arange(200), risk=0.1)
    assert math.isnan(found.limit)
    assert "out of reach: of the surest 30 items 0.267 are wrong" in found.risk.method
    data = json.loads(json.dumps(plain(found), allow_nan=False))
    assert (data["limit"], data["wanted"], data["risk"]["high"]) == (None, 0.1, None)


def test_items_as_sure_as_the_limit_are_answered_together():
    labels, probabilities = predict(np.repeat([0.9, 0.8, 0.7], 100), np.repeat([0, 0, 1], 100))
    found = choose_confidence(labels, probabilities, np.arange(300), risk=0.1)
    assert (found.limit, found.coverage) == (0.8, pytest.approx(2 / 3))
    assert (probabilities.max(axis=1) >= found.limit).sum() == 200


def fail_at(risk, by_patient, n_patients=60):
    """Return how often a limit is found where the risk is a little above the wanted one whatever the confidence."""
    draw, found = np.random.default_rng(8), 0
    for _ in range(300):
        groups = np.repeat(np.arange(n_patients), draw.integers(5, 40, n_patients))
        chance = draw.beta(risk * 1.001, (1 - risk * 1.001), n_patients)[groups]  # correlation 0.5
        confidence = 0.75 + 0.2 * np.tanh(draw.normal(size=n_patients)[groups] + draw.normal(size=len(groups)))
        about = predict(confidence, draw.random(len(groups)) < chance)
        units = groups if by_patient else np.arange(len(groups))
        found += not math.isnan(choose_confidence(*about, units, risk=risk).limit)
    return found / 300


@pytest.mark.slow
def test_a_limit_is_rarely_wrong_with_patients_and_often_with_items():
    assert fail_at(0.2, by_patient=True) < 0.075
    assert fail_at(0.2, by_patient=False) > 0.15


def test_what_cannot_be_used_is_refused():
    labels, probabilities = make_items(10)
    groups = np.arange(10)
    with pytest.raises(OptionError, match="found 'brier'"):
        risk_coverage(labels, probabilities, groups, loss="brier")
    with pytest.raises(OptionError, match=r"found \[0.0, 1.0\]"):
        risk_coverage(labels, probabilities, groups, coverages=[0.0, 1.0])
    with pytest.raises(OptionError, match="found 5 and"):
        choose_confidence(labels, probabilities, groups, risk=5)
    with pytest.raises(DataError, match="at least one item"):
        choose_confidence(labels[:0], probabilities[:0], groups[:0], risk=0.1)
    probabilities[3, 0] = np.nan
    with pytest.raises(DataError, match=r"row 3 holds \[nan"):
        risk_coverage(labels, probabilities, groups)
