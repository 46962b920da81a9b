"""Several labels an item: each number is scikit-learn's on the known cells, and what is not known counts nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score, roc_auc_score

from thawline.errors import DataError
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.calibration import blend, ece, fit_blend, fit_scales
from thawline.judge.comparisons import compare_aucs
from thawline.judge.evaluation import evaluate
from thawline.judge.label_evaluation import evaluate_labels
from thawline.judge.metrics import item_log_loss

NAMES = ("a", "b", "c")


def make_case(seed=0, n_patients=60, missing=0.25):
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), draw.integers(1, 4, n_patients))
    truth = np.repeat(draw.random((n_patients, 3)) < (0.2, 0.4, 0.6), np.bincount(groups), axis=0)
    truth ^= draw.random(truth.shape) < 0.1  # so that items of a patient differ
    probabilities = np.clip(0.5 + 0.3 * (truth - 0.5) + draw.normal(0, 0.2, truth.shape), 0.01, 0.99)
    hidden = draw.random(truth.shape) < missing
    hidden[hidden.all(axis=1), 0] = False
    return np.where(hidden, -1, truth), probabilities, groups


def test_every_number_is_that_of_scikit_learn_on_the_known_cells():
    labels, probabilities, groups = make_case()
    found = evaluate_labels(labels, probabilities, groups, NAMES, 0.4, n_resamples=50)
    rows = []
    for k, name in enumerate(NAMES):
        known = labels[:, k] >= 0
        truth, given_k, patients = labels[known, k], probabilities[known, k], groups[known]
        called = given_k >= 0.4
        rows.append(
            {
                "auc": roc_auc_score(truth, given_k),
                "sensitivity": recall_score(truth, called),
                "specificity": recall_score(truth, called, pos_label=0),
                "brier": brier_score_loss(truth, given_k),
                "log_loss": log_loss(truth, given_k),
                "ece": ece(truth, np.stack([1 - given_k, given_k], axis=1)),
            }
        )
        table = found["per_class"][name]
        assert {key: table[key]["value"] for key in rows[-1]} == pytest.approx(rows[-1])
        counts = (truth.sum(), len(set(patients[truth == 1])), len(truth), len(set(patients)))
        assert (table["n_items"], table["n_patients"], table["n_known"], table["n_known_patients"]) == counts
    for key in rows[0]:
        assert found[key]["value"] == pytest.approx(np.mean([row[key] for row in rows]))
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        np.mean([(row["sensitivity"] + row["specificity"]) / 2 for row in rows])
    )
    known = labels >= 0
    called = probabilities >= 0.4
    assert found["accuracy"]["value"] == pytest.approx(accuracy_score(labels[known] == 1, called[known]))
    whole = known.all(axis=1)
    assert found["exact_match"]["value"] == pytest.approx(accuracy_score(labels[whole], called[whole].astype(int)))
    assert found["n_complete"] == whole.sum()
    pairs = zip(labels, probabilities, strict=True)
    losses = [log_loss(row[row >= 0], each[row >= 0], labels=[0, 1]) for row, each in pairs]
    np.testing.assert_allclose(item_log_loss(labels, probabilities), losses)
    assert found["item_log_loss"]["value"] == pytest.approx(np.mean(losses))
    assert "confusion" not in found


def test_intervals_are_those_of_two_classes_where_all_is_known():
    labels, probabilities, groups = make_case(1, missing=0)
    found = evaluate_labels(labels, probabilities, groups, NAMES, seed=3, n_resamples=200)
    for k, name in enumerate(NAMES):
        both = np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1)
        alone = evaluate(labels[:, k], both, groups, ("no", "yes"), "yes", seed=3, n_resamples=200)
        for key in ("auc", "sensitivity", "specificity", "brier", "ece", "log_loss"):
            assert found["per_class"][name][key] == pytest.approx(alone[key])
        assert found["per_class"][name]["average_precision"] == pytest.approx(
            alone["per_class"]["yes"]["average_precision"]
        )
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
    assert found["auc"] == estimate_auc(measure_areas(labels, probabilities, groups, range(len(NAMES)))).to_json()
    assert found["brier"]["method"] == "BCa bootstrap, 200 resamples of patients"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_what_is_given_of_a_cell_that_is_not_known_changes_nothing(seed):
    labels, probabilities, groups = make_case(seed)
    changed = np.where(labels < 0, np.random.default_rng(seed).random(labels.shape), probabilities)
    folds = groups % 2
    first, second = (
        evaluate_labels(labels, each, groups, NAMES, folds=folds, n_resamples=20) for each in (probabilities, changed)
    )
    assert first == second


def test_out_of_fold_areas_are_averaged_over_the_folds_where_a_label_has_both_values():
    labels, probabilities, groups = make_case(2)
    folds = groups % 3
    labels[(folds == 0) & (labels[:, 0] == 1), 0] = -1
    labels[(labels < 0).all(axis=1), 1] = 0
    found = evaluate_labels(labels, probabilities, groups, NAMES, folds=folds, n_resamples=20)
    means = []
    for k in range(3):
        areas = []
        for fold in range(3):
            part = (folds == fold) & (labels[:, k] >= 0)
            if len(set(labels[part, k])) == 2:
                areas.append(roc_auc_score(labels[part, k], probabilities[part, k]))
        means.append(np.mean(areas))
        assert len(areas) == (2 if k == 0 else 3)
    assert found["auc"]["value"] == pytest.approx(np.mean(means))
    gain, chance = compare_aucs([probabilities, probabilities], labels, groups, folds, useful_gain=0.01, n_resamples=20)
    assert (gain.value, chance) == (0, 0)
    better = np.where(labels == 1, 0.9, np.where(labels == 0, 0.1, 0.5))
    gain, chance = compare_aucs([probabilities, better], labels, groups, folds, useful_gain=0.01, n_resamples=50)
    assert (gain.value, chance) == (pytest.approx(1 - np.mean(means)), 1)


def test_patients_count_where_their_known_items_agree():
    labels = np.array([[1, -1], [1, 0], [0, 1], [1, 1], [0, 0], [-1, 0]])
    probabilities = np.array([[0.6, 0.1], [0.2, 0.3], [0.4, 0.8], [0.9, 0.7], [0.3, 0.6], [0.9, 0.2]])
    found = evaluate_labels(labels, probabilities, np.array([0, 0, 1, 1, 2, 2]), ("a", "b"), n_resamples=20)
    level = found["patient_level"]
    # of a: patient 0 (mean 0.4, has it, missed), patient 2 (0.3, has it not); of b: 0 (0.3), 1 (0.75, has it), 2 (0.4)
    assert level["n_patients"] == 3
    assert level["accuracy"]["value"] == pytest.approx(4 / 5)
    assert level["auc"]["value"] == 1
    assert evaluate_labels(labels, probabilities, np.arange(6), ("a", "b"), n_resamples=5)["patient_level"] is None


def test_arrays_that_do_not_fit_are_refused():
    labels, probabilities, groups = make_case()
    for wrong, said in (
        ((labels, probabilities[:, :2], groups), "shape"),
        ((np.where(labels == 1, 2, labels), probabilities, groups), "must be 1, 0 or -1"),
        ((labels, probabilities + 1, groups), "must lie in"),
        ((np.full_like(labels, -1), probabilities, groups), "a label must be known"),
    ):
        with pytest.raises(DataError, match=said):
            evaluate_labels(*wrong, NAMES)


def test_each_label_is_calibrated_by_itself_as_two_classes_are():
    labels, _, _ = make_case(4)
    draw = np.random.default_rng(0)
    sources = [3 * (labels == 1) + draw.normal(0, 2, labels.shape) for _ in range(2)]
    for logits in (sources[:1], sources):
        scales = fit_blend(labels, *logits)
        for k in range(3):
            known = labels[:, k] >= 0
            pairs = [np.stack([np.zeros(known.sum()), each[known, k]], axis=1) for each in logits]
            own = fit_scales(labels[known, k], *pairs, prior=True)
            assert [row[k] for row in scales] == pytest.approx(own)
            expected = blend(own, *pairs)[:, 1]
            np.testing.assert_allclose(blend(scales, *logits)[known, k], expected)
    one_sided = np.where(np.arange(len(labels))[:, None] >= 0, 1, labels)
    assert fit_blend(one_sided, *sources) == ((0.5,) * 3,) * 2
