"""Referees: the functions for all items on each part, SciPy's test of a table, and simulations of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cohorts import as_probabilities, make_candidates, make_cohort
from thawline.errors import DataError
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.comparisons import compare_calls
from thawline.judge.intervals import estimate_proportion
from thawline.judge.subgroups import find_difference_p, judge_column


def judge_cohort(labels, scores, groups, values, **about):
    probabilities = as_probabilities(scores)
    return judge_column(values, labels, probabilities, probabilities.argmax(axis=1), groups, positive=1, **about)


def test_each_part_has_the_metrics_of_its_items_alone():
    labels, scores, groups = make_cohort(80, 0.4, 0.8, seed=1)
    values = np.where(groups % 3 == 0, "F", "M")
    found = judge_cohort(labels, scores, groups, values)
    assert [part.value for part in found.parts] == ["F", "M"]
    for part in found.parts:
        inside = values == part.value
        assert (part.n_items, part.n_patients) == (inside.sum(), len(set(groups[inside])))
        assert part.n_rarest == len(set(groups[inside & (labels == 1)]))
        own = labels[inside], as_probabilities(scores[inside]), groups[inside]
        alone = estimate_auc(measure_areas(*own, [1]))
        assert part.metrics["auc"].value == pytest.approx(alone.value)
        assert (part.metrics["auc"].low, part.metrics["auc"].high) == pytest.approx((alone.low, alone.high))
        of_class = inside & (labels == 1)
        assert part.metrics["sensitivity"] == estimate_proportion(scores[of_class] > 0, groups[of_class])
        assert part.metrics["accuracy"].value == pytest.approx(np.mean((scores > 0) == labels, where=inside))


def test_several_classes_have_the_mean_of_their_areas():
    (probabilities,), labels, groups, folds = make_candidates(1.0, n_patients=90, n_classes=3)
    values = np.where(groups % 2 == 0, "a", "b")
    called = probabilities.argmax(axis=1)
    found = judge_column(values, labels, probabilities, called, groups, positive=None, folds=folds)
    for part in found.parts:
        inside = values == part.value
        areas = measure_areas(labels[inside], probabilities[inside], groups[inside], range(3), folds[inside])
        assert part.metrics["auc"].value == pytest.approx(areas.values.mean())
        assert set(part.metrics) == {"auc", "accuracy"}
    assert set(found.p_values) == {"auc", "accuracy"}


def test_parts_of_single_items_are_told_apart_as_a_table_is():
    """Many patients with one item: Wald's test of two proportions and Pearson's of the table nearly agree."""
    draw = np.random.default_rng(2)
    labels, values = draw.integers(2, size=3000), draw.choice(["x", "y", "z"], 3000)
    called = np.where(draw.random(3000) < np.where(values == "x", 0.82, 0.78), labels, 1 - labels)
    found = judge_column(values, labels, np.eye(2)[called], called, np.arange(3000), positive=1)
    right = called == labels
    table = [[(right & (values == name)).sum(), (~right & (values == name)).sum()] for name in "xyz"]
    assert found.p_values["accuracy"] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, abs=0.01)


def test_parts_of_the_same_patients_are_compared_within_them():
    """Two views of each patient: the covariance makes it the paired test, which `compare_calls` has too."""
    draw = np.random.default_rng(3)
    ease = draw.beta(2, 1, 400)
    right = draw.random((400, 2)) < np.clip(ease[:, np.newaxis] + [0.0, 0.08], 0, 1)
    labels = np.tile((np.arange(400) % 2)[:, np.newaxis], 2)
    called = np.where(right, labels, 1 - labels)
    groups, values = np.repeat(np.arange(400), 2), np.tile(["front", "side"], 400)
    found = judge_column(values, labels.ravel(), np.eye(2)[called.ravel()], called.ravel(), groups, positive=1)
    paired = compare_calls(right[:, 0], right[:, 1], np.arange(400))
    expected = 2 * stats.norm.sf(abs(paired.difference.value / paired.standard_error))
    assert found.p_values["accuracy"] == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_equal_parts_are_told_apart_once_in_twenty_and_unequal_ones_often():
    rates = {}
    for worse in (0.0, 1.2):
        p_values = []
        for seed in range(300):
            labels, scores, groups = make_cohort(150, 0.5, 0.9, seed=seed)
            draw = np.random.default_rng(seed + 1000)
            values = draw.choice(["a", "b", "c"], 150)[groups]
            scores = scores + worse * (values == "a") * draw.normal(size=len(scores)) * 2
            p_values.append(judge_cohort(labels, scores, groups, values).p_values["auc"])
        rates[worse] = np.mean(np.array(p_values) < 0.05)
    assert 0.02 <= rates[0.0] <= 0.10
    assert rates[1.2] > 0.6


def test_small_parts_are_described_and_not_compared():
    labels, scores, groups = make_cohort(60, 0.5, 0.8, seed=4)
    values = np.where(np.isin(groups, [0, 1, 2, 30, 31]), "rare", "usual")
    found = judge_cohort(labels, scores, groups, values)
    small, large = found.parts
    assert (small.is_small, large.is_small) == (True, False)
    assert small.metrics["auc"].low < small.metrics["auc"].value
    assert np.isnan(list(found.p_values.values())).all()


def test_a_part_without_a_class_leaves_a_gap():
    labels, scores, groups = make_cohort(40, 0.5, 0.8, seed=5)
    found = judge_cohort(labels, scores, groups, np.where(labels == 1, "", "known"))
    assert [part.n_rarest for part in found.parts] == [0, 0]
    for part, metric in zip(found.parts, ("specificity", "sensitivity"), strict=True):
        assert np.isnan([part.metrics["auc"].value, part.metrics[metric].value]).all()
        assert 0 < part.metrics["accuracy"].value < 1


def test_values_that_cannot_differ():
    assert np.isnan(find_difference_p(np.array([0.8, 0.7]), np.eye(2), [0]))
    assert np.isnan(find_difference_p(np.array([0.8, np.nan]), np.eye(2), [0, 1]))
    assert find_difference_p(np.array([1.0, 1.0]), np.zeros((2, 2)), [0, 1]) == 1.0
    assert find_difference_p(np.array([1.0, 0.0]), np.zeros((2, 2)), [0, 1]) == 0.0
    with pytest.raises(DataError, match="values 3"):
        judge_column(["a"] * 3, np.zeros(4, int), np.full((4, 2), 0.5), np.zeros(4, int), np.arange(4), positive=1)
    with pytest.raises(DataError, match="found none"):
        judge_column([], np.array([], int), np.empty((0, 2)), np.array([], int), np.array([], int), positive=1)
