"""Levels: lesions against a plain loop and scikit-learn, their intervals against those of their parts, and patients."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from thawline.errors import DataError
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.evaluation import evaluate, predict_labels
from thawline.judge.intervals import estimate_proportion
from thawline.judge.label_evaluation import evaluate_labels
from thawline.judge.levels import number_scored

TWO, THREE = ("benign", "malignant"), ("a", "b", "c")


def make_lesions(n_classes=2, n_patients=40, most=3, mixed=(0, 11), seed=0):
    """Patients of 1 to ``most`` lesions of 2 to ``most`` images, who have much in common in their scores.

    Each lesion has a class of its own; those ``mixed`` have an image of another.
    """
    draw = np.random.default_rng(seed)
    owners = np.repeat(np.arange(n_patients) * 5 + 2, draw.integers(1, most + 1, n_patients))
    lesions = np.repeat(np.arange(len(owners)), draw.integers(2, most + 1, len(owners)))
    groups, labels = owners[lesions], draw.integers(n_classes, size=len(owners))[lesions]
    for lesion in mixed:
        place = np.flatnonzero(lesions == lesion)[0]
        labels[place] = (labels[place] + 1) % n_classes
    logits = draw.normal(size=(n_patients, n_classes))[(groups - 2) // 5] + draw.normal(size=(len(labels), n_classes))
    probabilities = np.exp(logits + 1.5 * np.eye(n_classes)[labels])
    order = draw.permutation(len(labels))  # images of a lesion need not stand together
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return tuple(each[order] for each in (labels, probabilities, groups, lesions * 3))


def merge_slowly(labels, probabilities, groups, lesions):
    """Label, mean probabilities and patient of each lesion whose images agree."""
    rows = []
    for lesion in dict.fromkeys(lesions.tolist()):
        inside = lesions == lesion
        if len(set(labels[inside].tolist())) == 1:
            rows.append((labels[inside][0], probabilities[inside].mean(axis=0), groups[inside][0]))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize(("classes", "positive", "threshold"), [(TWO, "malignant", 0.4), (THREE, None, 0.5)])
def test_lesions_are_those_of_a_loop_with_patients_as_what_is_sampled(classes, positive, threshold):
    labels, probabilities, groups, lesions = make_lesions(len(classes))
    arrays = labels, probabilities, groups, classes, positive, threshold
    found = evaluate(*arrays, lesions=lesions, n_resamples=20)
    truth, mean, owners = merge_slowly(labels, probabilities, groups, lesions)
    called, level = predict_labels(mean, classes, positive, threshold), found["lesion_level"]
    assert (level["n_lesions"], level["n_patients"]) == (len(truth), len(set(owners.tolist())))
    assert level["n_left_out"] == 2
    score = mean[:, 1] if positive else mean
    assert level["auc"]["value"] == pytest.approx(roc_auc_score(truth, score, multi_class="ovr"))
    assert level["accuracy"]["value"] == pytest.approx(accuracy_score(truth, called))
    columns = [1] if positive else range(3)
    auc = estimate_auc(measure_areas(truth, mean, owners, columns))
    right = estimate_proportion(called == truth, owners)
    for name, expected in (("auc", auc), ("accuracy", right)):
        ends = [level[name][end] for end in ("low", "value", "high")]
        assert ends == pytest.approx([expected.low, expected.value, expected.high], abs=1e-12), name
    alone = estimate_auc(measure_areas(truth, mean, np.arange(len(truth)), columns))
    assert auc.high - auc.low != pytest.approx(alone.high - alone.low, rel=0.01)  # lesions of a patient are alike
    assert {name: each for name, each in found.items() if name != "lesion_level"} == evaluate(*arrays, n_resamples=20)
    json.dumps(found, allow_nan=False)


def test_a_patient_with_two_kinds_of_lesions_counts_with_both_of_them():
    """As a patient with items of two classes it would not count at all."""
    labels, groups = np.array([0, 0, 1, 1] * 6), np.repeat(np.arange(6), 4)
    lesions = np.arange(24) // 2
    probabilities = np.eye(2)[labels] * 0.6 + 0.2
    found = evaluate(labels, probabilities, groups, TWO, "malignant", lesions=lesions, n_resamples=5)
    assert found["patient_level"] is None
    assert (found["lesion_level"]["n_lesions"], found["lesion_level"]["n_patients"]) == (12, 6)
    assert found["lesion_level"]["auc"]["value"] == found["lesion_level"]["accuracy"]["value"] == 1
    assert "of 6 patients" in found["lesion_level"]["accuracy"]["method"]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("classes", "positive"), [(TWO, "malignant"), (THREE, None)])
def test_with_one_lesion_a_patient_lesions_are_patients(classes, positive, folded):
    labels, probabilities, groups, lesions = make_lesions(len(classes), most=2)
    folds = (lesions // 3) % 4 - 1 if folded else None
    about = classes, positive
    found = evaluate(labels, probabilities, lesions, *about, folds=folds, lesions=lesions, n_resamples=5)
    lesion, patient = found["lesion_level"], found["patient_level"]
    assert patient["n_patients"] == lesion["n_patients"] == lesion["n_lesions"]
    assert (lesion["auc"], lesion["accuracy"]) == (patient["auc"], patient["accuracy"])
    assert len(set(groups)) < len(set(lesions))  # and elsewhere they are not
    assert patient != evaluate(labels, probabilities, groups, *about, folds=folds, n_resamples=5)["patient_level"]


def test_out_of_fold_lesions_are_ranked_within_folds_and_unscored_ones_left_out():
    labels, probabilities, groups, lesions = make_lesions(mixed=())
    folds = groups % 3 - 1
    given = np.where(folds[:, np.newaxis] < 0, np.nan, probabilities)
    found = evaluate(labels, given, groups, TWO, "malignant", folds=folds, lesions=lesions, n_resamples=5)
    areas, n_lesions = [], 0
    for fold in (0, 1):
        truth, mean, _ = merge_slowly(*(each[folds == fold] for each in (labels, probabilities, groups, lesions)))
        areas.append(roc_auc_score(truth, mean[:, 1]))
        n_lesions += len(truth)
    assert found["lesion_level"]["auc"]["value"] == pytest.approx(np.mean(areas))
    assert (found["lesion_level"]["n_lesions"], found["lesion_level"]["n_left_out"]) == (n_lesions, 0)


def test_no_lesions_no_level_and_none_where_it_adds_nothing():
    labels, probabilities, groups, _ = make_lesions()
    about = labels, probabilities, groups, TWO, "malignant"
    assert "lesion_level" not in evaluate(*about, n_resamples=5)
    assert evaluate(*about, lesions=np.arange(len(labels)), n_resamples=5)["lesion_level"] is None
    torn = np.tile([0, 1], 6), np.full((12, 2), 0.5), np.repeat(np.arange(3), 4), TWO, "malignant"
    assert evaluate(*torn, lesions=np.arange(12) // 2, n_resamples=5)["lesion_level"] is None


def test_a_lesion_counts_for_the_labels_on_which_its_known_items_agree():
    labels = np.array([[1, -1], [1, 0], [0, 1], [1, 1], [0, 0], [-1, 0], [1, 0], [0, 1]])
    probabilities = np.array(
        [[0.6, 0.1], [0.2, 0.3], [0.4, 0.8], [0.9, 0.7], [0.3, 0.6], [0.9, 0.2], [0.5, 0.5], [0.5, 0.5]]
    )
    groups, lesions = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.arange(8) // 2
    found = evaluate_labels(labels, probabilities, groups, ("a", "b"), lesions=lesions, n_resamples=20)
    level = found["lesion_level"]
    # of a: lesion 0 (mean 0.4, has it, missed), lesion 2 (0.3, has it not); of b: 0 (0.3), 1 (0.75, has it), 2 (0.4)
    assert (level["n_lesions"], level["n_patients"], level["n_left_out"]) == (3, 2, 1)
    assert level["accuracy"]["value"] == pytest.approx(4 / 5)
    assert level["auc"]["value"] == 1
    assert "of 2 patients" in level["accuracy"]["method"]
    alone = evaluate_labels(labels, probabilities, lesions, ("a", "b"), lesions=lesions, n_resamples=20)
    assert alone["lesion_level"]["auc"] == alone["patient_level"]["auc"]
    assert "lesion_level" not in evaluate_labels(labels, probabilities, groups, ("a", "b"), n_resamples=20)


def test_a_lesion_of_two_patients_is_refused():
    with pytest.raises(DataError, match="rows 1 and 3 are of one lesion and of patients 4 and 6"):
        number_scored(np.array([5, 7, 5, 7]), np.array([4, 4, 4, 6]), np.array([1, 3]))
    with pytest.raises(DataError, match="lesions 2"):
        number_scored(np.array([5, 7]), np.array([4, 4, 4]), np.arange(3))
    numbered = number_scored(np.array([9, 7, 7, 9]), np.array([4, 4, 4, 4]), np.array([0, 1, 3]))
    assert numbered is not None
    assert numbered.tolist() == [1, 0, 1]
