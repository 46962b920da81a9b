"""Predictions on made-up patients whose truth is known."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri
from sklearn.metrics import roc_auc_score

# pROC 1.18.0: auc, auc, var, var, cov (DeLong), and roc.test's statistic, p-value and bounds, of `make_pair`
PROC = {
    "ties": [
        *(0.856481481481482, 0.69212962962963, 0.00247779572331706, 0.0047117857196108, 0.00176492814595421),
        *(2.71675432155301, 0.00659255237949404, 0.045782532621708, 0.282921171081996),
    ],
    "few": [
        *(0.935897435897436, 0.865384615384615, 0.00295546689777459, 0.00638535253919869, 0.00122060098021636),
        *(0.848898136103004, 0.395937976107985, -0.0922895026114889, 0.23331514363713),
    ],
}

SHIFT = 2.0  # of the scores of positives in `make_scores`


def make_cohort(n_patients, prevalence, auc, *, most_items=5, correlation=0.5, mixed=False, seed=0):
    """Labels, scores and patients of 1 to ``most_items`` items, normal within both classes, as far apart as an AUC asks for.

    ``correlation`` is that of the scores of a patient's items. A patient's items are all of one class, or where ``mixed``
    those of the positive ones of both.
    """
    draw = np.random.default_rng(seed)
    positive = np.arange(n_patients) < max(2, round(n_patients * prevalence))
    groups = np.repeat(np.arange(n_patients), draw.integers(1, most_items + 1, n_patients))
    labels = positive[groups] & (draw.random(len(groups)) < 0.6 if mixed else True)
    own, common = draw.normal(size=len(groups)), draw.normal(size=n_patients)[groups]
    scores = own * np.sqrt(1 - correlation) + common * np.sqrt(correlation) + labels * np.sqrt(2) * ndtri(auc)
    return labels.astype(np.int64), scores, groups


def make_pair(name):
    """Labels and the scores of two candidates that have much in common, of patients with one item each."""
    about = {"ties": (60, 0.4, 0.8, 1), "few": (25, 0.5, 0.97, 2)}[name]
    labels, scores, groups = make_cohort(*about[:3], most_items=1, seed=about[3])
    other = 0.5 * scores + np.random.default_rng(about[3] + 10).normal(size=len(scores))
    return (labels, scores.round(1), other.round(1), groups) if name == "ties" else (labels, scores, other, groups)


def as_probabilities(scores):
    """Two columns that rank as the scores do."""
    positive = 1 / (1 + np.exp(-scores))
    return np.column_stack([1 - positive, positive])


def make_candidates(*sharpness, n_patients=24, n_classes=2, seed=0):
    """Out-of-fold probabilities that know more of the labels the sharper they are; patients of 1 to 3 items, 3 folds."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients) * 7, draw.integers(1, 4, n_patients))
    labels = groups // 7 % n_classes
    common = draw.normal(size=(len(groups), n_classes))
    found = []
    for sharp in sharpness:
        logits = common + 0.5 * draw.normal(size=common.shape) + sharp * np.eye(n_classes)[labels]
        found.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return found, labels, groups, groups // 7 // n_classes % 3


def score_by_scikit_learn(labels, probabilities, folds, weights=None):
    """Mean over classes of the mean of one-vs-rest AUCs over the folds where both sides have weight; nan without any."""
    n_classes, areas = probabilities.shape[1], []
    weight = np.ones(len(labels)) if weights is None else weights
    for k in [1] if n_classes == 2 else range(n_classes):
        of_class = []
        for fold in np.unique(folds[folds >= 0]):
            inside = (folds == fold) & (weight > 0)
            if len(np.unique(labels[inside] == k)) == 2:
                about = labels[inside] == k, probabilities[inside, k]
                of_class.append(roc_auc_score(*about, sample_weight=weight[inside]))
        areas.append(np.mean(of_class) if of_class else np.nan)
    return np.mean(areas)


def make_scores(n_positive=30, n_negative=40, per_patient=1, alike=0.5, seed=0):
    """Binormal scores of patients with one class each; ``alike`` is the correlation of a patient's items."""
    draw = np.random.default_rng(seed)
    n_patients = n_positive + n_negative
    groups = np.repeat(np.arange(n_patients) * 3, per_patient)
    truth = groups < 3 * n_positive
    common = np.repeat(draw.normal(size=n_patients), per_patient)
    scores = math.sqrt(alike) * common + math.sqrt(1 - alike) * draw.normal(size=len(groups)) + SHIFT * truth
    return truth, scores, groups


def make_probabilities(n_items=400, per_patient=1, seed=0):
    """Calibrated probabilities: each is the chance that its item is positive."""
    draw = np.random.default_rng(seed)
    scores = draw.beta(1.0, 2.0, n_items)
    return draw.random(n_items) < scores, scores, np.arange(n_items) // per_patient


def repeat(arrays, counts):
    """Each item of all arrays as many times as it counts."""
    return [np.repeat(each, counts) for each in arrays]
