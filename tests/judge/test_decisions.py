"""Referees: scikit-learn's confusion matrix and recall, statsmodels and SciPy on proportions, plain loops over thresholds
and resamples, binormal scores of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import confusion_matrix, recall_score
from statsmodels.stats.proportion import proportion_confint

from cohorts import SHIFT, make_probabilities, make_scores, repeat
from thawline.errors import DataError, OptionError
from thawline.judge import decisions
from thawline.judge.decision_curve import net_benefit
from thawline.judge.decisions import call_with_costs, choose_threshold, find_tolerance_rate, sort_items, sum_cells
from thawline.judge.operating_point import judge_threshold
from thawline.judge.statistics import patient_counts

# few distinct scores, so that ties and thresholds at either end are common
items = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=14)


def unpack(drawn):
    truth, scores, groups = (np.array(each) for each in zip(*drawn, strict=True))
    return truth, scores / 8, groups


# --- cells ------------------------------------------------------------------------------------------------------------


@given(items, st.lists(st.integers(-1, 7), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_cells_are_scikit_learns_of_repeated_items(drawn, limits):
    truth, scores, groups = unpack(drawn)
    thresholds, counts = np.array(limits) / 8, patient_counts(groups, 3, seed=1)
    found = sum_cells(sort_items(truth, scores, groups), counts.astype(float), thresholds)
    for cells, threshold, count in zip(found, thresholds, counts, strict=True):
        kept = count[np.unique(groups, return_inverse=True)[1]]
        (tn, fp), (fn, tp) = confusion_matrix(truth, scores >= threshold, sample_weight=kept, labels=[False, True])
        assert cells.tolist() == [tp, fn, fp, tn]


def test_items_that_cannot_be_used_are_refused():
    with pytest.raises(DataError, match="found none"):
        choose_threshold([], [], np.array([], int), sensitivity=0.9)
    with pytest.raises(DataError, match="row 1 holds nan"):
        judge_threshold([0, 1], [0.5, np.nan], np.arange(2), 0.5)
    with pytest.raises(DataError, match="truth01 must be 0 or 1; row 0 holds nan"):
        judge_threshold([np.nan, 1], [0.5, 0.5], np.arange(2), 0.5)
    with pytest.raises(DataError, match="groups 3"):
        net_benefit([0, 1], [0.5, 0.5], np.arange(3), [0.5])


# --- a threshold chosen -----------------------------------------------------------------------------------------------


def choose_by_loop(truth, scores, name, wanted):
    """Try the middle between all neighbours, and both ends, from the highest threshold down."""
    levels = np.unique(scores)
    tried = [levels[0], *((levels[1:] + levels[:-1]) / 2), np.nextafter(levels[-1], np.inf)][::-1]
    if name == "sensitivity":
        return next((t for t in tried if truth.any() and (scores[truth] >= t).mean() >= wanted), np.nan)
    if name == "specificity":
        return next((t for t in tried[::-1] if not truth.all() and (scores[~truth] < t).mean() >= wanted), np.nan)
    costs = [wanted * (truth & (scores < t)).sum() + (~truth & (scores >= t)).sum() for t in tried]
    return tried[np.flatnonzero(np.array(costs) == min(costs))[-1]] if 0 < truth.sum() < len(truth) else np.nan


@given(
    items,
    st.sampled_from([("sensitivity", 0.75), ("sensitivity", 1.0), ("specificity", 0.5), ("specificity", 0.9)])
    | st.tuples(st.just("cost_ratio"), st.sampled_from([0.25, 1.0, 4.0])),
)
@settings(max_examples=150, deadline=None)
def test_a_threshold_is_that_of_a_loop_and_so_is_that_of_each_resample(drawn, wish):
    truth, scores, groups = unpack(drawn)
    chosen = choose_threshold(truth, scores, groups, **dict([wish]), seed=2, n_resamples=5)
    np.testing.assert_equal(chosen.threshold.value, choose_by_loop(truth, scores, *wish))
    for draw, count in zip(chosen.draws, patient_counts(groups, 5, seed=2), strict=True):
        resample = repeat((truth, scores), count[np.unique(groups, return_inverse=True)[1]])
        np.testing.assert_equal(draw, choose_by_loop(*resample, *wish))


def test_neighbours_in_floating_point_are_told_apart():
    scores = [0.3]
    for _ in range(2):  # of the two middles one is rounded down
        scores.append(np.nextafter(scores[-1], 1))
        chosen = choose_threshold([0, 1], scores[-2:], np.arange(2), sensitivity=1.0, n_resamples=9)
        assert (chosen.sensitivity.apparent, chosen.specificity.apparent) == (1, 1)


@pytest.mark.parametrize("name", ["sensitivity", "specificity"])
def test_a_rate_that_is_just_reached_is_reached(name):
    """0.07 * 100 is a little more than 7 in floating point, and 100 - 0.07 * 100 a little less than 93."""
    rates = np.arange(1, 101) / 100
    truth, scores, groups = np.full(100, name == "sensitivity"), np.arange(100.0), np.arange(100)
    chosen = [choose_threshold(truth, scores, groups, **{name: rate}, n_resamples=1) for rate in rates]
    np.testing.assert_array_equal([getattr(each, name).apparent for each in chosen], rates)


def test_rates_out_of_bag_are_those_of_a_loop_over_resamples():
    truth, scores, groups = make_scores(12, 9, per_patient=3)
    chosen = choose_threshold(truth, scores, groups, sensitivity=0.8, seed=4, n_resamples=30)
    calls, told = [], []
    for threshold, count in zip(chosen.draws, patient_counts(groups, 30, seed=4), strict=True):
        out = count[groups // 3] == 0
        calls.append(scores[out] >= threshold)
        told.append(truth[out])
    told, calls = np.concatenate(told), np.concatenate(calls)
    assert chosen.sensitivity.out_of_bag == pytest.approx(recall_score(told, calls))
    assert chosen.specificity.out_of_bag == pytest.approx(recall_score(told, calls, pos_label=False))
    assert chosen.sensitivity.apparent == pytest.approx(recall_score(truth, scores >= chosen.threshold.value))
    for rate in (chosen.sensitivity, chosen.specificity):
        assert rate.expected.value == pytest.approx(0.632 * rate.out_of_bag + 0.368 * rate.apparent, abs=1e-4)


def test_the_interval_of_single_items_is_wilsons():
    truth, scores, groups = make_scores(25, 40)
    chosen = choose_threshold(truth, scores, groups, specificity=0.9, n_resamples=50, level=0.9)
    for n_items, rate in ((25, chosen.sensitivity.expected), (40, chosen.specificity.expected)):
        expected = proportion_confint(rate.value * n_items, n_items, alpha=0.1, method="wilson")
        assert (rate.low, rate.high) == pytest.approx(expected)


def test_resamples_do_not_depend_on_their_chunks(monkeypatch):
    arrays = make_scores(12, 9, per_patient=3)
    whole = choose_threshold(*arrays, cost_ratio=3, n_resamples=40)
    judged = judge_threshold(*arrays, 0.9, threshold_draws=whole.draws, n_resamples=40)
    monkeypatch.setattr(decisions, "COLUMNS", 10**4)
    parts = choose_threshold(*arrays, cost_ratio=3, n_resamples=40)
    np.testing.assert_array_equal(parts.draws, whole.draws)
    assert parts.sensitivity == whole.sensitivity
    assert judge_threshold(*arrays, 0.9, threshold_draws=whole.draws, n_resamples=40) == judged


def test_single_resamples_are_further_apart_out_of_bag_than_the_rate_of_a_threshold():
    """The rate of the kth highest of n scores is beta-distributed; √(e + 2) is the factor between both spreads."""
    n_items, spreads = 300, []
    for seed in range(8):
        truth, scores, groups = make_scores(n_items, 50, seed=seed)
        draws = choose_threshold(truth, scores, groups, sensitivity=0.8, n_resamples=300, seed=seed).draws
        left_out = (patient_counts(groups, 300, seed=seed) == 0) * 1.0
        hits, missed, *_ = sum_cells(sort_items(truth, scores, groups), left_out, draws).T
        spreads.append((hits / (hits + missed)).std())
    assert np.mean(spreads) / stats.beta(240, 61).std() == pytest.approx(math.sqrt(math.e + 2), rel=0.05)


def cover(n_trials, wish, *, n_resamples=100, **scores):
    """Return how often the expected rates cover the true ones of the chosen threshold, and how often it does as wished."""
    covered, done = np.zeros(2), 0
    for trial in range(n_trials):
        chosen = choose_threshold(*make_scores(**scores, seed=trial), **wish, seed=trial, n_resamples=n_resamples)
        true = stats.norm.sf(chosen.threshold.value - SHIFT), stats.norm.cdf(chosen.threshold.value)
        expected = chosen.sensitivity.expected, chosen.specificity.expected
        covered += [each.low <= rate <= each.high for each, rate in zip(expected, true, strict=True)]
        done += true[0] >= wish.get("sensitivity", 0)
    return *(covered / n_trials), done / n_trials


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wish", "scores"),
    [
        ({"sensitivity": 0.9}, {"n_positive": 20, "n_negative": 20}),
        ({"sensitivity": 0.9}, {"n_positive": 20, "n_negative": 30, "per_patient": 4}),
        ({"specificity": 0.9}, {"n_positive": 30, "n_negative": 40, "per_patient": 3}),
        ({"cost_ratio": 4}, {"n_positive": 40, "n_negative": 40}),
    ],
)
def test_expected_rates_cover_those_on_new_patients(wish, scores):
    sensitivity, specificity, _ = cover(300, wish, **scores)
    assert 0.89 <= sensitivity <= 0.985
    assert 0.89 <= specificity <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("per_patient", "alike"), [(1, 0.5), (4, 0.5), (4, 0.97)])
def test_an_assured_sensitivity_is_reached_on_new_patients_and_a_plain_one_is_not(per_patient, alike):
    scores = {"n_positive": 60, "n_negative": 20, "per_patient": per_patient, "alike": alike, "n_resamples": 1}
    assert cover(400, {"sensitivity": 0.9, "assured": 0.95}, **scores)[2] >= 0.96
    assert cover(400, {"sensitivity": 0.9}, **scores)[2] < 0.65


def test_optimism_shows_where_patients_are_few():
    rates = [choose_threshold(*make_scores(10, 10, seed=k), sensitivity=0.9).sensitivity for k in range(20)]
    assert np.mean([rate.apparent - rate.out_of_bag for rate in rates]) > 0.015
    many = choose_threshold(*make_scores(1000, 1000), sensitivity=0.9, n_resamples=100).sensitivity
    assert abs(many.apparent - many.out_of_bag) < 0.002


@pytest.mark.parametrize(("wanted", "n_patients"), [(0.9, 29), (0.9, 60), (0.95, 59), (0.95, 93), (0.5, 7)])
def test_a_tolerance_rate_is_the_least_whose_exact_bound_suffices(wanted, n_patients):
    hits = math.ceil(find_tolerance_rate(wanted, n_patients, 0.95) * n_patients - 1e-9)
    bounds = [
        stats.binomtest(k, n_patients, alternative="greater").proportion_ci(0.95, "exact").low for k in (hits, hits - 1)
    ]
    assert bounds[0] >= wanted > bounds[1]


def test_an_assured_threshold_is_below_the_score_that_order_statistics_name():
    """Of 93 all but one must be called to assure 0.95 (Wilks); copies of the items of whole patients do not help."""
    truth, scores, groups = make_scores(93, 50)
    chosen = choose_threshold(truth, scores, groups, sensitivity=0.95, assured=0.95, n_resamples=20)
    lowest = np.sort(scores[truth])[:2]
    assert lowest[0] < chosen.threshold.value < lowest[1]
    assert chosen.reached
    copied = choose_threshold(*repeat((truth, scores, groups), 5), sensitivity=0.95, assured=0.95, n_resamples=20)
    assert copied.threshold == chosen.threshold
    assert copied.sensitivity.expected.low == pytest.approx(chosen.sensitivity.expected.low, abs=0.01)
    mirrored = choose_threshold(~truth, -scores, groups, specificity=0.95, assured=0.95, n_resamples=20)
    assert mirrored.threshold.value == pytest.approx(-chosen.threshold.value)


def test_what_is_out_of_reach_is_said_with_numbers():
    truth, scores, groups = make_scores(40, 20)
    chosen = choose_threshold(truth, scores, groups, sensitivity=0.95, assured=0.95, n_resamples=20)
    assert not chosen.reached
    assert chosen.sensitivity.apparent == 1
    assert "by 59 patients of the class or more; the 40 here count as 40.0 and assure at most 0.928" in chosen.note
    few = choose_threshold(*make_scores(9, 20), sensitivity=0.95, n_resamples=20)
    assert few.reached
    assert "only where all items" in few.note
    assert choose_threshold(*make_scores(30, 20), sensitivity=0.9, n_resamples=20).note == ""


def test_calibrated_probabilities_need_no_data_for_the_cheapest_threshold():
    truth, scores, groups = make_probabilities(20_000)
    fixed = choose_threshold(truth, scores, groups, cost_ratio=4, calibrated=True, n_resamples=20)
    assert (fixed.threshold.value, fixed.threshold.low, fixed.threshold.high) == (0.2, 0.2, 0.2)
    chosen = choose_threshold(truth, scores, groups, cost_ratio=4, n_resamples=20)
    assert chosen.threshold.value == pytest.approx(0.2, abs=0.03)
    assert "1 / (1 + 4) = 0.2" in fixed.rule
    assert "the lowest cost on the data" in chosen.rule


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "exactly one of sensitivity, specificity, cost_ratio; found none"),
        ({"sensitivity": 0.9, "cost_ratio": 2}, "exactly one"),
        ({"sensitivity": 1.2}, "sensitivity must be above 0 and at most 1; found 1.2"),
        ({"specificity": math.nan}, "found nan"),
        ({"cost_ratio": 0}, "cost_ratio must be above 0 and finite; found 0"),
        ({"cost_ratio": 2, "assured": 0.95}, "found assured=0.95 and cost_ratio=2"),
        ({"sensitivity": 1.0, "assured": 0.95}, "below 1"),
        ({"sensitivity": 0.9, "assured": 95}, "assured=95"),
        ({"sensitivity": 0.9, "calibrated": True}, "calibrated goes with cost_ratio"),
        ({"sensitivity": 0.9, "level": 95}, "found 95"),
    ],
)
def test_wishes_out_of_range_are_refused(wish, message):
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        choose_threshold(*make_scores(), **wish)
    with pytest.raises(DataError, match=r"found 3\.5"):
        choose_threshold([0, 1], [0.5, 3.5], np.arange(2), cost_ratio=2, calibrated=True)


def test_without_a_needed_class_there_is_no_threshold():
    for truth, wish in (([0, 0], {"sensitivity": 0.9, "assured": 0.9}), ([1, 1], {"specificity": 0.9})):
        chosen = choose_threshold(truth, [0.2, 0.4], np.arange(2), **wish, n_resamples=9)
        numbers = [chosen.threshold.value, chosen.sensitivity.expected.value, chosen.specificity.apparent]
        assert np.isnan([*numbers, *chosen.draws]).all()
        assert not chosen.reached
        assert "lack a class" in chosen.note
    one_class = choose_threshold([1, 1], [0.2, 0.4], np.arange(2), sensitivity=0.9, n_resamples=9)
    assert one_class.threshold.value == 0.2
    assert one_class.note == "The threshold calls every item of the data positive."
    assert math.isnan(one_class.specificity.expected.value)


def test_one_patient_has_a_threshold_and_no_rate_on_others():
    chosen = choose_threshold([0, 1], [0.2, 0.4], np.array([7, 7]), sensitivity=0.9, n_resamples=9)
    assert chosen.threshold.value == pytest.approx(0.3)
    assert math.isnan(chosen.threshold.low)
    assert math.isnan(chosen.sensitivity.expected.value)
    one_positive = choose_threshold([0, 0, 1], [0.1, 0.2, 0.4], np.arange(3), specificity=0.9, n_resamples=50)
    assert one_positive.sensitivity.expected.value == pytest.approx(1)
    for rate in (chosen.sensitivity.expected, one_positive.sensitivity.expected):
        assert math.isnan(rate.low)
        assert rate.method == "no interval: rests on 1 patient(s)"


def test_perfect_separation_is_not_taken_for_certainty():
    chosen = choose_threshold([0] * 10 + [1] * 10, np.arange(20.0), np.arange(20), cost_ratio=1)
    assert chosen.threshold.value == 9.5
    assert (chosen.sensitivity.apparent, chosen.specificity.apparent) == (1, 1)
    assert chosen.sensitivity.expected.low < 0.75


# --- several classes --------------------------------------------------------------------------------------------------


def test_calls_cost_least_among_all():
    draw = np.random.default_rng(0)
    probabilities, costs = draw.dirichlet(np.ones(4), 200), draw.random((4, 4))
    np.fill_diagonal(costs, 0)
    called = call_with_costs(probabilities, costs)
    assert called.dtype == np.int64
    for row, call in zip(probabilities, called, strict=True):
        expected = [sum(row[truth] * costs[truth, k] for truth in range(4)) for k in range(4)]
        assert expected[call] == pytest.approx(min(expected))
    np.testing.assert_array_equal(call_with_costs(probabilities, 1 - np.eye(4)), probabilities.argmax(axis=1))


def test_with_two_classes_costs_are_a_threshold():
    _, scores, _ = make_probabilities(300)
    called = call_with_costs(np.column_stack([1 - scores, scores]), [[0, 1], [4, 0]])
    np.testing.assert_array_equal(called, scores >= 1 / (1 + 4))


@pytest.mark.parametrize(
    ("probabilities", "costs", "error", "message"),
    [
        ([[0.5, 0.5]], [[0, 1]], OptionError, r"one row and one column a class; found \[\[0.0, 1.0\]\]"),
        ([[0.5, 0.5]], [[0, math.inf], [1, 0]], OptionError, "must be finite"),
        ([[0.5, 0.5]], [[0, 1], [0, 1]], OptionError, r"row 1 holds \[0.0, 1.0\]"),
        ([[0.5, 0.5, 0.0]], [[0, 1], [1, 0]], DataError, r"\(items, 2\) are needed"),
        ([[0.5, math.nan]], [[0, 1], [1, 0]], DataError, "row 0 holds"),
    ],
)
def test_costs_that_do_not_fit_are_refused(probabilities, costs, error, message):
    with pytest.raises(error, match=message):
        call_with_costs(probabilities, costs)
