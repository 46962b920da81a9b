"""Micro averages against scikit-learn, which has the values, and against the intervals of their cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.evaluation import evaluate
from thawline.judge.intervals import estimate_proportion
from thawline.judge.label_evaluation import evaluate_labels
from thawline.judge.micro import judge_micro
from thawline.types import MISSING

THREE = ("a", "b", "c")


def make_items(n_patients=40, seed=0, weights=(0.6, 0.3, 0.1)):
    """Three classes, uneven, up to three items a patient."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), draw.integers(1, 4, n_patients))
    labels = draw.choice(3, len(groups), p=weights)
    logits = draw.normal(size=(len(groups), 3)) + np.eye(3)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), groups


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_values_of_classes_are_those_of_scikit_learn(seed):
    labels, probabilities, groups = make_items(seed=seed)
    found = evaluate(labels, probabilities, groups, THREE, None, n_resamples=5)["micro"]
    truth, called = np.eye(3, dtype=int)[labels], probabilities.argmax(axis=1)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(truth, probabilities, average="micro"))
    assert found["average_precision"]["value"] == pytest.approx(
        average_precision_score(truth, probabilities, average="micro")
    )
    right = (called == labels).mean()  # of one class an item these are all the share that is called right
    assert [found[name]["value"] for name in ("sensitivity", "ppv", "f1")] == pytest.approx([right] * 3)
    assert found["specificity"]["value"] == pytest.approx(1 - (1 - right) / 2)


def test_values_of_labels_are_those_of_scikit_learn_on_the_cells_that_are_known():
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 2, (60, 4))
    probabilities = np.clip(draw.normal(0.3 + 0.3 * labels, 0.25), 0, 1)
    groups = np.arange(60) // 2
    labels[:, 1:][draw.random((60, 3)) < 0.2] = MISSING
    found = evaluate_labels(labels, probabilities, groups, "wxyz", 0.4, n_resamples=5)["micro"]
    known = labels != MISSING
    truth, scores = labels[known], probabilities[known]
    about = truth, scores >= 0.4
    assert {name: each["value"] for name, each in found.items()} == pytest.approx(
        {
            "auc": roc_auc_score(truth, scores),
            "average_precision": average_precision_score(truth, scores),
            "sensitivity": recall_score(*about),
            "specificity": recall_score(*about, pos_label=0),
            "ppv": precision_score(*about),
            "f1": f1_score(*about),
        }
    )


def test_patients_are_what_is_sampled_and_folds_keep_to_themselves():
    labels, probabilities, groups = make_items()
    truth, called = np.eye(3, dtype=int)[labels], np.eye(3, dtype=int)[probabilities.argmax(axis=1)]
    folds = groups % 2
    found = judge_micro(truth, probabilities, called, groups, folds, n_resamples=200)
    owners, parts = np.repeat(groups, 3), np.repeat(folds, 3)
    both = np.stack([1 - probabilities.ravel(), probabilities.ravel()], axis=1)
    auc = estimate_auc(measure_areas(truth.ravel(), both, owners, [1], parts))
    assert [found["auc"][key] for key in ("value", "low", "high")] == [auc.value, auc.low, auc.high]
    inside = truth.ravel() == 1
    share = estimate_proportion(called.ravel()[inside] == 1, owners[inside])
    assert [found["sensitivity"][key] for key in ("low", "high")] == [share.low, share.high]
    alone = judge_micro(truth, probabilities, called, np.arange(len(groups)), folds, n_resamples=200)
    assert alone["sensitivity"]["low"] != found["sensitivity"]["low"]
    for name in ("average_precision", "f1"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_two_classes_have_none_and_an_absent_side_leaves_it_undefined():
    labels, probabilities, groups = make_items()
    two = np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)
    assert "micro" not in evaluate((labels > 0).astype(int), two, groups, ("a", "b"), "b", n_resamples=5)
    nobody = np.zeros((4, 2), int)
    found = judge_micro(nobody, np.full((4, 2), 0.3), nobody, np.arange(4), np.zeros(4, int), n_resamples=5)
    json.dumps(found, allow_nan=False)
    assert (found["auc"]["value"], found["ppv"]["value"], found["specificity"]["value"]) == (None, None, 1.0)
