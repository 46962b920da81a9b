"""scikit-learn is the referee for every metric, with and without weights; hypothesis for the properties of the AUC."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as referee

from thawline.errors import DataError
from thawline.judge import metrics


def make_predictions(n_items, n_classes, seed=0, decimals=2):
    """Rounded, so that there are ties; the true class is somewhat more likely."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(n_classes, size=n_items)
    logits = draw.normal(size=(n_items, n_classes))
    logits[np.arange(n_items), labels] += 0.8
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if n_classes == 2:
        probabilities = probabilities.round(decimals)
        probabilities[:, 0] = 1 - probabilities[:, 1]
    return labels, probabilities


def make_weights(kind, n_items):
    draw = np.random.default_rng(7)
    return {"none": None, "counts": draw.poisson(1.0, n_items), "real": draw.random(n_items)}[kind]


weightings = pytest.mark.parametrize("kind", ["none", "counts", "real"])
LABELLED_SCORES = st.lists(st.tuples(st.booleans(), st.integers(-20, 20)), min_size=2, max_size=40).filter(
    lambda pairs: len({truth for truth, _ in pairs}) == 2
)


def split_pairs(pairs):
    truth, scores = zip(*pairs, strict=True)
    return np.array(truth), np.array(scores, float)


@weightings
def test_auc_of_tied_scores_agrees_with_scikit_learn(kind):
    labels, probabilities = make_predictions(300, 2, decimals=1)
    weights = make_weights(kind, 300)
    expected = referee.roc_auc_score(labels, probabilities[:, 1], sample_weight=weights)
    assert metrics.roc_auc(labels, probabilities[:, 1], weights) == pytest.approx(expected, abs=1e-12)
    assert metrics.macro_auc(labels, probabilities, weights) == pytest.approx(expected, abs=1e-12)
    assert metrics.macro_auc(labels, probabilities, weights, positive=0) == pytest.approx(expected, abs=1e-12)


@weightings
def test_macro_auc_of_several_classes_agrees_with_scikit_learn(kind):
    labels, probabilities = make_predictions(300, 4)
    weights = make_weights(kind, 300)
    expected = referee.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro", sample_weight=weights)
    assert metrics.macro_auc(labels, probabilities, weights) == pytest.approx(expected, abs=1e-12)


def test_auc_counts_pairs_and_half_of_ties():
    truth, scores = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.5, 0.5, 0.4, 0.95])
    pairs = [1, 1, 0, 0.5, 1, 0]
    assert metrics.roc_auc(truth, scores) == pytest.approx(np.mean(pairs))


def test_auc_is_nan_without_a_class_or_without_its_weight():
    assert np.isnan(metrics.roc_auc([1, 1], [0.2, 0.3]))
    assert np.isnan(metrics.roc_auc([1, 0], [0.2, 0.3], [1, 0]))
    assert np.isnan(metrics.roc_auc([], []))
    assert np.isnan(metrics.macro_auc(np.array([0, 1]), np.full((2, 3), 1 / 3)))


@given(pairs=LABELLED_SCORES)
@settings(max_examples=50, deadline=None)
def test_auc_ignores_monotone_transforms_and_mirrors_under_a_flip(pairs):
    truth, scores = split_pairs(pairs)
    area = metrics.roc_auc(truth, scores)
    assert metrics.roc_auc(truth, np.exp(scores / 5) + 3) == pytest.approx(area, abs=1e-12)
    assert metrics.roc_auc(~truth, scores) == pytest.approx(1 - area, abs=1e-12)
    assert metrics.roc_auc(~truth, -scores) == pytest.approx(area, abs=1e-12)


@given(pairs=LABELLED_SCORES, data=st.data())
@settings(max_examples=50, deadline=None)
def test_integer_weights_are_repetitions(pairs, data):
    truth, scores = split_pairs(pairs)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth))))
    repeated = metrics.roc_auc(np.repeat(truth, counts), np.repeat(scores, counts))
    assert metrics.roc_auc(truth, scores, counts) == pytest.approx(repeated, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("decimals", [1, 12])
def test_many_weightings_at_once_equal_a_loop_for_any_chunk(monkeypatch, decimals):
    labels, probabilities = make_predictions(150, 2, decimals=decimals)
    weights = np.random.default_rng(1).poisson(0.7, (40, 150))
    weights[3] = labels  # no negatives
    expected = [metrics.roc_auc(labels, probabilities[:, 1], row) for row in weights]
    assert np.isnan(expected[3])
    np.testing.assert_allclose(metrics.resample_auc(labels, probabilities[:, 1], weights), expected, atol=1e-12)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 32 * 150 * 7)  # seven rows at a time
    np.testing.assert_allclose(metrics.resample_auc(labels, probabilities[:, 1], weights), expected, atol=1e-12)


def test_weights_of_groups_are_spread_over_their_items():
    labels, probabilities = make_predictions(100, 2)
    groups = np.random.default_rng(2).integers(12, size=100)
    counts = np.random.default_rng(3).poisson(1.0, (20, 12))
    np.testing.assert_array_equal(
        metrics.resample_auc(labels, probabilities[:, 1], counts, groups),
        metrics.resample_auc(labels, probabilities[:, 1], counts[:, groups]),
    )


def test_working_memory_of_many_weightings_is_bounded():
    labels, probabilities = make_predictions(20_000, 2)
    groups = np.arange(20_000) % 50
    counts = np.ones((400, 50))  # one array (resamples, items) alone would take 61 MiB
    tracemalloc.start()
    try:
        areas = metrics.resample_auc(labels, probabilities[:, 1], counts, groups)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(set(areas)) == 1
    assert peak < 72 * 2**20


@weightings
def test_roc_curve_agrees_with_scikit_learn(kind):
    labels, probabilities = make_predictions(200, 2, decimals=1)
    weights = make_weights(kind, 200)
    expected = referee.roc_curve(labels, probabilities[:, 1], sample_weight=weights, drop_intermediate=False)
    false_rate, true_rate, thresholds = metrics.roc_curve(labels, probabilities[:, 1], weights)
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(metrics.roc_auc(labels, probabilities[:, 1], weights))
    for found, wanted in zip((false_rate, true_rate, thresholds), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


@weightings
@pytest.mark.parametrize("n_classes", [2, 3])
def test_metrics_of_called_classes_agree_with_scikit_learn(kind, n_classes):
    labels, probabilities = make_predictions(250, n_classes)
    predicted, weights = probabilities.argmax(axis=1), make_weights(kind, 250)
    options = {"sample_weight": weights}
    assert metrics.accuracy(labels, predicted, weights) == pytest.approx(
        referee.accuracy_score(labels, predicted, **options)
    )
    assert metrics.balanced_accuracy(labels, predicted, weights) == pytest.approx(
        referee.balanced_accuracy_score(labels, predicted, **options)
    )
    np.testing.assert_allclose(
        metrics.confusion_matrix(labels, predicted, n_classes, weights),
        referee.confusion_matrix(labels, predicted, **options),
    )
    for k in range(n_classes):
        recalls = [
            referee.recall_score(labels == k, predicted == k, pos_label=side, **options) for side in (True, False)
        ]
        assert metrics.sensitivity(labels, predicted, k, weights) == pytest.approx(recalls[0])
        assert metrics.specificity(labels, predicted, k, weights) == pytest.approx(recalls[1])


@weightings
def test_log_loss_and_brier_agree_with_scikit_learn(kind):
    weights = make_weights(kind, 250)
    for n_classes in (2, 3):
        labels, probabilities = make_predictions(250, n_classes)
        expected = referee.log_loss(labels, probabilities, sample_weight=weights)
        assert metrics.log_loss(labels, probabilities, weights) == pytest.approx(expected)
    expected = referee.brier_score_loss(labels, probabilities, sample_weight=weights, scale_by_half=False)
    assert metrics.brier(labels, probabilities, weights) == pytest.approx(expected)
    labels, probabilities = make_predictions(250, 2)
    for positive in (0, 1):
        expected = referee.brier_score_loss(labels == positive, probabilities[:, positive], sample_weight=weights)
        assert metrics.brier(labels, probabilities, weights, positive=positive) == pytest.approx(expected)


def test_log_loss_of_a_sure_and_wrong_answer_is_finite():
    losses = metrics.item_log_loss(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(losses, [-np.log(1e-15), 0.0])


def test_undefined_metrics_are_nan():
    labels, predicted = np.array([0, 0]), np.array([0, 1])
    assert np.isnan(metrics.sensitivity(labels, predicted, 1))
    assert np.isnan(metrics.specificity(labels, predicted, 0))
    assert np.isnan(metrics.accuracy(labels, predicted, [0, 0]))
    assert np.isnan(metrics.balanced_accuracy(np.array([0, 1]), predicted, [1, 0]))
    assert np.isnan(metrics.balanced_accuracy(np.array([], int), np.array([], int)))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="labels 3, predicted 2"):
        metrics.accuracy([0, 1, 1], [0, 1])
    with pytest.raises(DataError, match="truth01 2, scores 3"):
        metrics.roc_auc([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match=r"shape \(2,\); found shape \(3,\)"):
        metrics.accuracy([0, 1], [0, 1], [1, 1, 1])
    with pytest.raises(DataError, match=r"\(resamples, 2\) are needed; found shape \(4, 1\)"):
        metrics.resample_auc([0, 1], [0.1, 0.2], np.ones((4, 1)))
    with pytest.raises(DataError, match="row 1 holds nan"):
        metrics.roc_auc([0, 1], [0.1, np.nan])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=25))
def test_average_precision_is_scikit_learns(rows):
    truth, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics.average_precision(truth, scores, weights)
    if (truth * weights).sum() == 0:
        assert np.isnan(found)
        return
    assert found == pytest.approx(referee.average_precision_score(truth, scores, sample_weight=weights))


def test_average_precision_of_resamples_is_that_of_each(monkeypatch):
    draw = np.random.default_rng(0)
    truth, scores, groups = draw.random(60) < 0.3, draw.random(60).round(1), draw.integers(9, size=60)
    weights = draw.poisson(1, (7, 9))
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 8 * 4 * 60 * 3)  # three rows a chunk
    found = metrics.resample_average_precision(truth, scores, weights, groups)
    assert found == pytest.approx([metrics.average_precision(truth, scores, row[groups]) for row in weights])
