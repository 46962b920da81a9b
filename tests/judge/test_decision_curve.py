"""Referees: scikit-learn's confusion matrix, and loops over thresholds and resamples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from cohorts import make_probabilities, repeat
from thawline.errors import DataError, OptionError
from thawline.judge.decision_curve import net_benefit
from thawline.judge.statistics import patient_counts


def find_benefit(truth, scores, threshold):
    (_, fp), (_, tp) = confusion_matrix(truth, scores >= threshold, labels=[False, True])
    return (tp - fp * threshold / (1 - threshold)) / len(truth)


def test_net_benefit_and_its_bands_are_those_of_a_loop():
    truth, scores, groups = make_probabilities(90, per_patient=3)
    limits = np.array([0.0, 0.1, 0.35, scores[4], 0.8])
    curve = net_benefit(truth, scores, groups, limits, seed=3, n_resamples=25, level=0.9)
    everyone = np.ones(len(truth))

    def measure(truth, scores):
        model = np.array([find_benefit(truth, scores, each) for each in limits])
        treat_all = np.array([find_benefit(truth, everyone[: len(truth)], each) for each in limits])
        return model, treat_all, np.minimum(model - treat_all, model)

    resampled = [measure(*repeat((truth, scores), count[groups])) for count in patient_counts(groups, 25, seed=3)]
    for band, value, values in zip(
        (curve.model, curve.treat_all, curve.gain),
        measure(truth, scores),
        np.swapaxes(resampled, 0, 1),
        strict=True,
    ):
        np.testing.assert_allclose(band.value, value, atol=1e-12)
        np.testing.assert_allclose([band.low, band.high], np.quantile(values, [0.05, 0.95], axis=0), atol=1e-12)


def test_another_prevalence_is_as_many_items_more():
    truth, scores, groups = make_probabilities(120)
    weights, limits = np.where(truth, 1, 5), [0.1, 0.3, 0.6]
    prevalence = truth.sum() / weights.sum()
    found = net_benefit(truth, scores, groups, limits, prevalence=prevalence, n_resamples=20)
    repeated = net_benefit(*repeat((truth, scores, groups), weights), limits, n_resamples=20)
    np.testing.assert_allclose(found.model.value, repeated.model.value)
    np.testing.assert_allclose(found.treat_all.value, repeated.treat_all.value)
    np.testing.assert_allclose(found.treat_all.low, found.treat_all.value)  # it is given, and so certain
    parts = net_benefit(truth, scores, groups, limits, prevalence=prevalence, standardised=True, n_resamples=20)
    np.testing.assert_allclose(parts.model.high * prevalence, found.model.high)


def test_knowing_the_truth_brings_all_there_is_and_calibrated_scores_do_no_harm():
    truth, scores, groups = make_probabilities(4000)
    limits = np.linspace(0, 0.9, 10)
    perfect = net_benefit(truth, truth * 0.98 + 0.01, groups, limits[1:], standardised=True, n_resamples=50)
    np.testing.assert_allclose([perfect.model.value, perfect.model.low, perfect.model.high], 1)
    curve = net_benefit(truth, scores, groups, limits, n_resamples=200)
    assert curve.model.value[0] == pytest.approx(truth.mean()) == curve.treat_all.value[0]
    assert (curve.gain.high >= 0).all()
    assert (curve.gain.low[3:6] > 0).all()


def test_net_benefit_without_a_class_or_with_one_patient():
    healthy = net_benefit([0, 0, 0], [0.2, 0.6, 0.1], np.arange(3), [0.5], n_resamples=30)
    assert healthy.model.value == pytest.approx(-1 / 3)
    assert np.isnan(net_benefit([0, 0], [0.2, 0.6], np.arange(2), [0.5], prevalence=0.1).model.value)
    assert np.isnan(net_benefit([0, 0], [0.2, 0.6], np.arange(2), [0.5], standardised=True).gain.low)
    alone = net_benefit([0, 1], [0.2, 0.6], np.array([3, 3]), [0.5], n_resamples=30)
    assert alone.model.value == 0.5
    assert np.isnan([alone.model.low, alone.gain.high]).all()


def test_curves_that_cannot_be_drawn_are_refused():
    with pytest.raises(OptionError, match=r"found thresholds \[0.5, 1.0\]"):
        net_benefit([0, 1], [0.5, 0.5], np.arange(2), [0.5, 1.0])
    with pytest.raises(OptionError, match="prevalence 7"):
        net_benefit([0, 1], [0.5, 0.5], np.arange(2), [0.5], prevalence=7)
    with pytest.raises(DataError, match=r"found -0\.5"):
        net_benefit([0, 1], [-0.5, 0.5], np.arange(2), [0.5])
