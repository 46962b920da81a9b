"""Referees: MAPIE, the beta distribution of coverage, a loop over fractions, the patient bootstrap, simulated patients."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin

from thawline.errors import DataError, OptionError
from thawline.judge.conformal import SetRule, find_quantile, fit_sets, judge_sets, make_sets, score_classes
from thawline.judge.statistics import patient_counts
from thawline.types import plain


class GivenProbabilities(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are its features."""

    def fit(self, features, labels):
        self.classes_ = np.arange(features.shape[1])
        return self

    def predict_proba(self, features):
        return features

    def predict(self, features):
        return features.argmax(axis=1)


class Ones(np.random.RandomState):
    """Randomness that never gives anything else, which switches the randomisation of MAPIE's scores off."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.ones(size)


def make_items(n_items, n_classes=4, seed=0, sharpness=1.0):
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.full(n_classes, 1 / sharpness), n_items)
    labels = (draw.random((n_items, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return np.minimum(labels, n_classes - 1), probabilities


@pytest.mark.parametrize("coverage", [0.6, 0.85, 0.95])
@pytest.mark.parametrize("kind", ["lac", "aps"])
def test_sets_are_those_of_mapie(kind, coverage):
    labels, probabilities = make_items(157, sharpness=2.0)
    new = make_items(400, seed=1, sharpness=2.0)[1]
    about = GivenProbabilities().fit(probabilities, labels)
    referee = SplitConformalClassifier(
        about, confidence_level=coverage, conformity_score=kind, prefit=True, random_state=Ones(0)
    )
    expected = referee.conformalize(probabilities, labels).predict_set(new)[1][:, :, 0]
    found = make_sets(fit_sets(labels, probabilities, np.arange(157), coverage=coverage, kind=kind), new)
    np.testing.assert_array_equal(found, expected)
    assert 1.0 < found.sum(axis=1).mean() < 3.9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=25),
    st.sampled_from([Fraction(1, 2), Fraction(4, 5), Fraction(9, 10), Fraction(2, 3)]),
)
def test_quantile_is_that_of_a_loop_over_exact_weights(items, level):
    groups, scores = (np.array(each) for each in zip(*items, strict=True))
    n_patients = len(set(groups.tolist()))
    weights = [Fraction(1, (n_patients + 1) * int((groups == g).sum())) for g in groups]
    held = {
        int(q): sum((w for w, s in zip(weights, scores, strict=True) if s <= q), Fraction(0)) for q in np.unique(scores)
    }
    expected = min((q for q, weight in held.items() if weight >= level), default=math.inf)
    assert find_quantile(scores, groups, float(level)) == expected


def test_patients_that_just_suffice_do_so_whatever_their_items():
    """Nine patients reach 0.9 of ten, though the ninths, tenths and so on of their weights do not sum to one exactly."""
    for n_items in range(1, 30):
        assert find_quantile(np.arange(9 * n_items), np.arange(9 * n_items) % 9, 0.9) == 9 * n_items - 1


def test_copies_of_a_patients_items_are_no_new_evidence():
    labels, probabilities = make_items(60)
    groups = np.arange(60) // 2
    once = fit_sets(labels, probabilities, groups)
    each = np.repeat(np.arange(60), 1 + 4 * (groups < 5))
    assert fit_sets(labels[each], probabilities[each], groups[each]) == once
    assert fit_sets(labels[each], probabilities[each], np.arange(len(each))) != once


def test_coverage_has_the_beta_distribution_of_theory():
    """The score of a true class is uniform, so the quantile is the coverage that a rule has: Beta(k, n + 1 − k)."""
    draw, quantiles = np.random.default_rng(0), []
    for _ in range(400):
        scores = draw.random(39)
        rule = fit_sets(np.zeros(39, int), np.column_stack([1 - scores, scores]), np.arange(39), coverage=0.9)
        quantiles.append(rule.quantiles[0])
    assert stats.kstest(quantiles, stats.beta(36, 4).cdf).pvalue > 0.01
    assert np.mean(quantiles) == pytest.approx(0.9, abs=0.01)


def make_patients(draw, n_patients):
    """Patients of 1 to 24 items that share how hard they are; those of many items are easier."""
    sizes = draw.choice([1, 2, 24], n_patients)
    groups = np.repeat(np.arange(n_patients), sizes)
    ease = draw.normal(np.where(sizes > 2, 2.5, 0.0), 1.0)[groups] + 0.5 * draw.normal(size=len(groups))
    labels = draw.integers(0, 3, len(groups))
    logits = ease[:, np.newaxis] * np.eye(3)[labels] + 0.3 * draw.normal(size=(len(groups), 3))
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), groups


def cover_patients(kind, by_patient, of_class=None):
    """Return the mean coverage of a random item (of a class) of 400 new patients, over 250 rules from 40 patients."""
    draw, found = np.random.default_rng(3), []
    labels, probabilities, groups = make_patients(draw, 400)
    inside = np.ones(len(labels)) if of_class is None else labels == of_class
    n_items = np.bincount(groups, weights=inside)
    for _ in range(250):
        known, given, owner = make_patients(draw, 40)
        units = owner if by_patient else np.arange(len(owner))
        rule = fit_sets(known, given, units, coverage=0.8, kind=kind, by_class=of_class is not None)
        covered = make_sets(rule, probabilities)[np.arange(len(labels)), labels]
        found.append((np.bincount(groups, weights=inside * covered)[n_items > 0] / n_items[n_items > 0]).mean())
    return np.mean(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lac", "aps"])
def test_new_patients_are_covered_and_by_items_they_are_not(kind):
    assert 0.79 < cover_patients(kind, by_patient=True) < 0.84
    assert cover_patients(kind, by_patient=False) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("of_class", [0, 2])
def test_new_patients_with_a_class_are_covered_in_it(of_class):
    assert 0.79 < cover_patients("lac", by_patient=True, of_class=of_class) < 0.86


def test_quantiles_by_class_are_those_of_each_class_alone():
    labels, probabilities = make_items(200, 3)
    groups = np.arange(200) // 2
    rule = fit_sets(labels, probabilities, groups, by_class=True)
    scores = 1 - probabilities[np.arange(200), labels]
    for k in range(3):
        inside = labels == k
        assert rule.quantiles[k] == find_quantile(scores[inside], groups[inside], 0.9)
        assert rule.n_patients[k] == len(np.unique(groups[inside]))
    assert len(set(rule.quantiles)) == 3
    assert len(set(fit_sets(labels, probabilities, groups).quantiles)) == 1


def test_too_few_patients_give_all_classes_and_say_so():
    labels, probabilities = make_items(18, 3)
    few = fit_sets(labels[:8], probabilities[:8], np.arange(8))
    assert few.quantiles == (math.inf,) * 3
    assert make_sets(few, probabilities).all()
    assert "at least 9 patients;" in few.note
    assert "0 (8 patients)" in few.note
    assert fit_sets(labels[:9], probabilities[:9], np.arange(9)).note == ""
    copied = fit_sets(np.tile(labels[:8], 5), np.tile(probabilities[:8], (5, 1)), np.tile(np.arange(8), 5))
    assert copied == few


def test_a_class_without_patients_is_in_every_set():
    labels, probabilities = make_items(300, 2)
    wide = np.column_stack([probabilities, np.zeros(300)])
    rule = fit_sets(labels, wide, np.arange(300), by_class=True)
    assert rule.n_patients[2] == 0
    assert "patients a class" in rule.note
    assert "holds class 2 (0 patients)." in rule.note
    assert make_sets(rule, wide).mean(axis=0)[2] == 1
    assert make_sets(rule, wide).mean() < 1


@pytest.mark.parametrize("by_class", [True, False])
def test_rules_survive_json(by_class):
    labels, probabilities = make_items(40, 2)
    wide = np.column_stack([probabilities, np.zeros(40)])
    rule = fit_sets(labels, wide, np.arange(40), kind="aps", by_class=by_class)
    assert SetRule.from_json(json.loads(json.dumps(rule.to_json(), allow_nan=False))) == rule


def test_scores_of_aps_are_the_probability_above():
    scores = score_classes(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), "aps")
    np.testing.assert_allclose(scores, [[0.8, 0, 0.5], [0, 0.4, 0.8]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["lac", "aps"]), st.booleans())
def test_more_coverage_never_drops_a_class(seed, kind, by_class):
    labels, probabilities = make_items(40, 3, seed)
    rules = [fit_sets(labels, probabilities, labels * 9 + np.arange(40) % 5, coverage=c, kind=kind) for c in (0.5, 0.9)]
    small, large = (make_sets(rule, probabilities) for rule in rules)
    assert (large >= small).all()
    if kind == "aps":
        assert small[np.arange(40), probabilities.argmax(axis=1)].all()


def test_figures_of_sets_are_those_of_loops_over_resampled_patients():
    draw = np.random.default_rng(0)
    labels, groups = draw.integers(0, 3, 90), draw.integers(0, 30, 90) * 7
    sets = draw.random((90, 3)) < 0.6
    figures = judge_sets(labels, sets, groups, seed=5, n_resamples=300)
    names, patients = np.unique(groups, return_inverse=True)
    covered, size = sets[np.arange(90), labels], sets.sum(axis=1)

    def measure(drawn):
        items = np.concatenate([np.flatnonzero(patients == p) for p in drawn])
        own = [covered[patients == p].mean() for p in drawn]
        by_class = [covered[items][labels[items] == k].mean() for k in range(3)]
        shares = [(size[items] == k).mean() for k in (0, 1, 3)]
        return [covered[items].mean(), *by_class, np.mean(own), size[items].mean(), *shares]

    counts = patient_counts(groups, 300, seed=5)
    resampled = np.array([measure(np.repeat(np.arange(len(names)), row)) for row in counts])
    points = measure(np.arange(len(names)))
    others = (figures.patient_coverage, figures.size, figures.empty, figures.single, figures.full)
    for k, each in enumerate([figures.coverage, *figures.class_coverage, *others]):
        expected = (points[k], *np.quantile(resampled[:, k], [0.025, 0.975]))
        assert (each.value, each.low, each.high) == pytest.approx(expected)
    assert figures.patient_coverage.value != pytest.approx(figures.coverage.value, abs=1e-3)


def test_figures_of_certain_sets_rest_on_patients():
    labels, groups = np.array([0, 0, 1, 1, 1, 1]), np.array([1, 1, 2, 3, 3, 4])
    figures = judge_sets(labels, np.ones((6, 3), bool), groups, n_resamples=200)
    assert (figures.coverage.value, figures.full.value, figures.size.value) == (1, 1, 3)
    assert figures.coverage.low == pytest.approx(stats.binomtest(4, 4).proportion_ci(method="exact").low)
    assert figures.class_coverage[1].low == pytest.approx(stats.binomtest(3, 3).proportion_ci(method="exact").low)
    assert np.isnan(figures.class_coverage[2].value)
    assert "class is absent" in figures.class_coverage[2].method
    data = json.loads(json.dumps(plain(figures), allow_nan=False))
    assert (data["class_coverage"][2]["value"], data["full"]["value"]) == (None, 1)
    single = judge_sets(labels, np.eye(3, dtype=bool)[labels], groups, n_resamples=50)
    assert (single.size.low, single.size.high, single.single.value) == (1, 1, 1)
    alone = judge_sets(labels[:3], np.eye(3, dtype=bool), np.zeros(3, int), n_resamples=50)
    assert "rests on 1 patient" in alone.coverage.method


def test_what_cannot_be_used_is_refused():
    labels, probabilities = make_items(10, 3)
    groups = np.arange(10)
    with pytest.raises(OptionError, match="found 90"):
        fit_sets(labels, probabilities, groups, coverage=90)
    with pytest.raises(OptionError, match="found 'raps'"):
        fit_sets(labels, probabilities, groups, kind="raps")
    with pytest.raises(DataError, match="at least one item"):
        fit_sets(labels[:0], probabilities[:0], groups[:0])
    with pytest.raises(DataError, match="row 2 holds 3"):
        fit_sets(np.array([0, 1, 3, *labels[3:]]), probabilities, groups)
    with pytest.raises(DataError, match="groups 9"):
        judge_sets(labels, probabilities > 0.3, groups[:9])
    with pytest.raises(DataError, match=r"row 1 holds \[nan"):
        make_sets(fit_sets(labels, probabilities, groups), np.array([[0.5, 0.2, 0.3], [np.nan, 0.5, 0.5]]))
    with pytest.raises(DataError, match=r"\(items, 3\) are needed; found \(10, 2\)"):
        make_sets(fit_sets(labels, probabilities, groups), probabilities[:, :2])
