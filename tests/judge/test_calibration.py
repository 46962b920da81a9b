"""Referees: scikit-learn's calibration curve, temperature and logistic regression, a loop over bins, Bayes' rule on
Gaussians, grids, simulations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from thawline.errors import DataError, OptionError
from thawline.judge.calibration import (
    MAX_SCALE,
    assign_bins,
    blend,
    correct_prior,
    ece,
    fit_scales,
    reliability,
)


def make_binary(n_items, seed=0):
    draw = np.random.default_rng(seed)
    positive = draw.random(n_items)
    labels = (draw.random(n_items) < positive**2).astype(int)
    return labels, np.column_stack([1 - positive, positive])


def loop_ece(confidence, came_true, n_bins=15):
    edges, total = np.linspace(0, 1, n_bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - came_true[inside].mean())
    return total


def test_reliability_agrees_with_scikit_learn():
    labels, probabilities = make_binary(200)
    kept = (probabilities[:, 1] < 0.3) | (probabilities[:, 1] > 0.6)  # leaves bins empty
    frequency, confidence = calibration_curve(labels[kept], probabilities[kept, 1], n_bins=15)
    curve = reliability(probabilities[kept, 1], labels[kept])
    assert len(curve.confidence) < 15
    np.testing.assert_allclose(curve.confidence, confidence)
    np.testing.assert_allclose(curve.frequency, frequency)
    assert curve.count.sum() == kept.sum()


def test_weights_of_a_reliability_curve_are_repetitions():
    labels, probabilities = make_binary(60)
    counts = np.random.default_rng(1).poisson(1.0, 60)
    weighted = reliability(probabilities[:, 1], labels, counts)
    repeated = reliability(np.repeat(probabilities[:, 1], counts), np.repeat(labels, counts))
    for name in ("confidence", "frequency", "count"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name))
    assert ece(labels, probabilities, counts) == pytest.approx(
        ece(np.repeat(labels, counts), np.repeat(probabilities, counts, axis=0))
    )


def test_bins_are_closed_above_and_the_first_holds_zero():
    np.testing.assert_array_equal(assign_bins([0.0, 0.1, 0.25, 0.2500001, 0.5, 1.0], n_bins=4), [0, 0, 0, 1, 1, 3])


def test_ece_of_two_classes_judges_the_positive_class():
    labels, probabilities = make_binary(500)
    assert ece(labels, probabilities) == pytest.approx(loop_ece(probabilities[:, 1], labels == 1))
    assert ece(labels, probabilities, positive=0) == pytest.approx(loop_ece(probabilities[:, 0], labels == 0))


def test_ece_of_several_classes_judges_the_most_likely_class():
    draw = np.random.default_rng(0)
    labels, probabilities = draw.integers(3, size=400), draw.dirichlet([1, 1, 1], size=400)
    correct = probabilities.argmax(axis=1) == labels
    assert ece(labels, probabilities) == pytest.approx(loop_ece(probabilities.max(axis=1), correct))


def test_ece_of_known_overconfidence():
    labels = np.array([1, 1, 1, 0])
    assert ece(labels, np.tile([0.1, 0.9], (4, 1))) == pytest.approx(0.15)
    assert np.isnan(ece(labels[:0], np.empty((0, 2))))


def test_ece_of_calibrated_probabilities_falls_towards_zero():
    draw = np.random.default_rng(0)
    positive = draw.random(100_000)
    labels = (draw.random(100_000) < positive).astype(int)
    assert ece(labels, np.column_stack([1 - positive, positive])) < 0.01


def test_corrected_prior_is_bayes_rule_on_gaussians():
    x = np.linspace(-3, 4, 50)
    likelihood = np.column_stack([norm.pdf(x, 0, 1), norm.pdf(x, 1, 1.5), norm.pdf(x, 2, 0.7)])

    def posterior(prior):
        joint = likelihood * prior
        return joint / joint.sum(axis=1, keepdims=True)

    trained, true = np.array([0.2, 0.3, 0.5]), np.array([0.9, 0.09, 0.01])
    np.testing.assert_allclose(correct_prior(posterior(trained), trained, true), posterior(true), atol=1e-12)
    np.testing.assert_allclose(correct_prior(posterior(trained), trained * 70, true * 9), posterior(true), atol=1e-12)


def test_corrected_prior_restores_calibration_at_a_screening_prevalence():
    draw = np.random.default_rng(3)
    labels = (draw.random(100_000) < 0.05).astype(int)
    x = draw.normal(labels * 1.5)
    positive = 1 / (1 + np.exp(-(1.5 * x - 1.5**2 / 2)))  # the exact posterior at a prevalence of one half
    probabilities = np.column_stack([1 - positive, positive])
    corrected = correct_prior(probabilities, [0.5, 0.5], [0.95, 0.05])
    assert ece(labels, probabilities) > 0.15
    assert ece(labels, corrected) < 0.01
    assert corrected[:, 1].mean() == pytest.approx(0.05, abs=0.003)


@given(positive=st.lists(st.floats(0, 1), min_size=1, max_size=20), prior=st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None)
def test_corrected_prior_keeps_order_and_reverses(positive, prior):
    probabilities = np.column_stack([1 - np.array(positive), positive])
    there = correct_prior(probabilities, [0.5, 0.5], [1 - prior, prior])
    np.testing.assert_allclose(there.sum(axis=1), 1)
    assert (np.diff(there[np.argsort(positive), 1]) >= -1e-12).all()
    np.testing.assert_allclose(correct_prior(there, [1 - prior, prior], [0.5, 0.5]), probabilities, atol=1e-9)


def test_unusable_input_is_refused():
    with pytest.raises(OptionError, match=r"trained_prior must hold .* 2 classes; found \[1.0, 0.0\]"):
        correct_prior(np.full((1, 2), 0.5), [1, 0], [0.5, 0.5])
    with pytest.raises(OptionError, match="true_prior"):
        correct_prior(np.full((1, 2), 0.5), [0.5, 0.5], [0.2, 0.3, 0.5])
    with pytest.raises(DataError, match=r"row 1 holds 1\.5"):
        assign_bins([0.1, 1.5])
    with pytest.raises(DataError, match="row 0 holds nan"):
        assign_bins([np.nan])
    with pytest.raises(OptionError, match="n_bins=0"):
        assign_bins([0.1], n_bins=0)


# --- scales of one source: a temperature ------------------------------------------------------------------------------


def make_logits(n_items, n_classes, temperature=1.0, seed=0):
    """Labels drawn from softmax(z), and z times the temperature that has to be found."""
    draw = np.random.default_rng(seed)
    exact = draw.normal(size=(n_items, n_classes)) * 2
    return draw_labels(exact, draw), exact * temperature


def draw_labels(exact, draw):
    return (softmax(exact, axis=1).cumsum(axis=1) < draw.random((len(exact), 1))).sum(axis=1)


def measure_loss(labels, scales, *logits):
    blended = sum(scale * each for scale, each in zip(scales, logits, strict=True))
    return -log_softmax(blended, axis=1)[np.arange(len(labels)), labels].mean()


def fit_temperature(labels, logits):
    (scale,) = fit_scales(labels, logits)
    return 1 / scale


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.2, 4.0])
@pytest.mark.parametrize(("n_items", "n_classes"), [(12, 2), (150, 2), (150, 5)])
def test_a_scale_is_the_best_of_a_fine_grid(n_items, n_classes, temperature):
    labels, logits = make_logits(n_items, n_classes, temperature, seed=n_items + n_classes)
    labels[:2] = 1 - labels[:2].clip(max=1)  # so that not all are ranked rightly
    found = fit_scales(labels, logits)
    grid = np.geomspace(1 / MAX_SCALE, MAX_SCALE, 2001)  # steps of 0.3 %
    losses = [measure_loss(labels, (each,), logits) for each in grid]
    assert found == (pytest.approx(grid[int(np.argmin(losses))], rel=5e-3),)
    assert measure_loss(labels, found, logits) <= min(losses) + 1e-9


class Passing(ClassifierMixin, BaseEstimator):
    """Gives what it is given as its decisions."""

    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, rows):
        return rows

    def predict(self, rows):
        return self.classes_[rows.argmax(axis=1)]


def test_a_scale_is_the_temperature_of_scikit_learn():
    labels, logits = make_logits(200, 3, temperature=2.5)
    peer = CalibratedClassifierCV(FrozenEstimator(Passing().fit(logits, labels)), method="temperature")
    expected = peer.fit(logits, labels).predict_proba(logits)
    np.testing.assert_allclose(blend(fit_scales(labels, logits), logits), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_temperature_of_a_simulation_is_found(temperature):
    labels, logits = make_logits(40_000, 3, temperature)
    found = fit_scales(labels, logits)
    assert found == (pytest.approx(1 / temperature, rel=0.05),)
    assert ece(labels, blend(found, logits)) < 0.01


@given(factor=st.floats(0.25, 4), seed=st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_a_temperature_scales_with_the_logits_and_ignores_what_rows_share(factor, seed):
    labels, logits = make_logits(80, 3, seed=seed)
    shift = np.random.default_rng(seed).normal(size=(80, 1)) * 10
    assert fit_temperature(labels, factor * logits + shift) == pytest.approx(
        factor * fit_temperature(labels, logits), rel=1e-3
    )


@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_scales_are_bounded_where_all_items_are_ranked_rightly_or_wrongly(n_sources):
    labels = np.array([0, 1, 1, 0])
    logits = [np.eye(2)[labels] * 3.0 / (number + 1) for number in range(n_sources)]
    rightly, wrongly = fit_scales(labels, *logits), fit_scales(1 - labels, *logits)
    assert len(rightly) == len(wrongly) == n_sources
    assert all(1 <= scale <= MAX_SCALE for scale in rightly)
    assert measure_loss(labels, rightly, *logits) < 1e-4
    assert wrongly == (pytest.approx(1 / MAX_SCALE / n_sources),) * n_sources


def test_scales_do_not_pass_their_bound():
    labels = np.array([0, 1, 1, 0])
    assert fit_scales(labels, np.eye(2)[labels] * 0.01) == (pytest.approx(MAX_SCALE),)


def test_scales_need_items_and_as_many_labels():
    with pytest.raises(DataError, match="at least one item; found none"):
        fit_scales(np.zeros(0, np.int64), np.zeros((0, 2)))
    with pytest.raises(DataError, match="3"):
        fit_scales(np.zeros(3, np.int64), np.zeros((2, 2)), np.zeros((2, 2)))


# --- scales of several sources: a blend -------------------------------------------------------------------------------


def make_sources(n_items, n_classes, scales, seed=0):
    """Sources of normal logits, and labels drawn from the softmax of their sum at the true scales."""
    draw = np.random.default_rng(seed)
    sources = draw.normal(size=(len(scales), n_items, n_classes)) * 2
    return draw_labels(np.tensordot(scales, sources, 1), draw), sources


def test_a_blend_by_its_closed_form():
    """Logits 2 x ln 3 at a scale of a half, and ln 2 at 1, are odds of 3 and of 2: together of 6."""
    first, second = np.array([[2 * np.log(3), 0.0], [0.0, 0.0]]), np.array([[np.log(2), 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(blend((0.5, 1.0), first, second), [[6 / 7, 1 / 7], [0.5, 0.5]])
    np.testing.assert_allclose(blend((0.5,), first), [[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(blend((0.0, 1.0), first, second), [[2 / 3, 1 / 3], [0.5, 0.5]])
    np.testing.assert_allclose(blend((20.0,), np.array([[1e4, -1e4]])), [[1.0, 0.0]])


@pytest.mark.parametrize("scales", [(0.4, 0.9), (1.5, 0.2), (0.3, 0.5, 0.8)])
def test_a_blend_of_two_classes_is_scikit_learns_logistic_regression_on_margins(scales):
    """With two classes it is the logistic function of the margins times the scales; there is no intercept in it."""
    labels, sources = make_sources(400, 2, scales)
    margins = (sources[..., 1] - sources[..., 0]).T
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(margins, labels)
    assert (peer.coef_ > 0.05).all()  # none at its bound
    found = fit_scales(labels, *sources)
    np.testing.assert_allclose(found, peer.coef_[0], rtol=2e-3)
    np.testing.assert_allclose(blend(found, *sources), peer.predict_proba(margins), atol=1e-3)


@pytest.mark.slow
def test_a_prior_draws_scales_to_even_shares():
    """The referee is a grid: log-loss plus the square of each scale's distance from 1/2, in halves, over twice the items."""
    labels, sources = make_sources(30, 3, (1.4, 0.1))
    grid = np.linspace(0, 2.5, 126)
    losses = [
        [
            measure_loss(labels, (one, other), *sources) + ((2 * one - 1) ** 2 + (2 * other - 1) ** 2) / 60
            for other in grid
        ]
        for one in grid
    ]
    best = np.unravel_index(np.argmin(losses), (126, 126))
    found = fit_scales(labels, *sources, prior=True)
    np.testing.assert_allclose(found, grid[list(best)], atol=0.021)  # a step
    alone = fit_scales(labels, *sources)
    assert np.abs(np.subtract(found, 0.5)).sum() < np.abs(np.subtract(alone, 0.5)).sum() - 0.05


@pytest.mark.slow
def test_scales_of_two_sources_are_the_best_of_a_grid():
    labels, sources = make_sources(150, 4, (0.7, 0.3))
    grid = np.linspace(0, 1.5, 76)
    losses = np.array([[measure_loss(labels, (one, other), *sources) for other in grid] for one in grid])
    best = np.unravel_index(losses.argmin(), losses.shape)
    found = fit_scales(labels, *sources)
    np.testing.assert_allclose(found, grid[list(best)], atol=0.021)  # a step
    assert measure_loss(labels, found, *sources) <= losses.min() + 1e-9


def test_the_scales_of_a_simulation_are_found_and_those_of_useless_sources_are_near_zero():
    labels, sources = make_sources(40_000, 3, (0.6, 0.0, 0.3))
    found = fit_scales(labels, *sources)
    np.testing.assert_allclose(found, (0.6, 0.0, 0.3), atol=0.02)
    assert ece(labels, blend(found, *sources)) < 0.01


def test_a_source_that_misleads_has_a_scale_of_zero():
    labels, (good, bad) = make_sources(400, 3, (0.8, -0.4))
    found = fit_scales(labels, good, bad)
    assert found == (pytest.approx(fit_scales(labels, good)[0], rel=2e-3), pytest.approx(0.0, abs=1e-6))


@given(
    seed=st.integers(0, 100), scales=st.lists(st.floats(-0.5, 2), min_size=1, max_size=2), n_classes=st.integers(2, 4)
)
@settings(max_examples=30, deadline=None)
def test_a_blend_never_loses_to_its_best_source_alone(seed, scales, n_classes):
    labels, sources = make_sources(40, n_classes, (1.0, *scales), seed)
    found = fit_scales(labels, *sources)
    assert all(0 <= scale <= MAX_SCALE for scale in found)
    assert sum(found) >= 1 / MAX_SCALE - 1e-12
    alone = [measure_loss(labels, fit_scales(labels, each), each) for each in sources]
    assert measure_loss(labels, found, *sources) <= min(alone) + 1e-6


def test_scales_follow_the_order_of_the_sources():
    labels, sources = make_sources(200, 3, (0.9, 0.2))
    np.testing.assert_allclose(fit_scales(labels, *sources[::-1]), fit_scales(labels, *sources)[::-1], rtol=5e-3)
