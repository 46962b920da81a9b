"""Items that a network finds odd: far from all others, or likely mislabelled.

Outliers have far neighbours (Ramaswamy, Rastogi and Shim, SIGMOD 2000) by the features of a pretrained network. Mislabelled
are items that a model, which has not seen them, takes for another class with confidence (Northcutt, Jiang and Chuang, JAIR
70:1373, 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from thawline.audit.findings import Finding
from thawline.audit.neighbours import Neighbours
from thawline.judge.metrics import macro_auc, roc_auc
from thawline.types import MISSING

if TYPE_CHECKING:
    from thawline.types import Features, FloatArray, IntArray, Labels, Probabilities

NEIGHBOURS, FAR = 10, 5.0  # their mean distance, and how many deviations above the median it is far
LEAST_ITEMS = 50  # that are compared
LEAST_AUC = 0.75  # out of fold, of a model that may doubt labels
MAD_TO_SD = 1.4826  # of a normal distribution


def find_outliers(features: Features) -> IntArray:
    """Return the positions of items whose neighbours are far in the features, (items, features), the farthest first.

    Far is by cosine, and by deviations from the median that are robust to outliers (median absolute deviation).
    """
    if len(features) < LEAST_ITEMS:
        return np.empty(0, np.int64)
    rows = np.ascontiguousarray(features, np.float32)
    _, distances = Neighbours(rows).search(rows, NEIGHBOURS + 1)
    distance = np.sort(distances, axis=1)[:, 1:].mean(axis=1)
    middle = float(np.median(distance))
    deviation = MAD_TO_SD * float(np.median(np.abs(distance - middle)))
    found = np.flatnonzero(distance - middle > FAR * max(deviation, 1e-9))
    return np.asarray(found[np.argsort(-distance[found], kind="stable")], np.int64)


def judge_outliers(features: Features) -> Iterator[Finding]:
    """Yield the outliers, the farthest first."""
    found = find_outliers(features)
    if len(found):
        text = "far from all others, as a network sees them: another body part, view or device, or damage"
        yield Finding("outliers", "note", text, tuple((int(item),) for item in found))


def find_mislabelled(labels: Labels, probabilities: Probabilities) -> IntArray:
    """Return the positions of likely mislabelled items, the surest first, by the rule of confident learning.

    The threshold of a class is the mean probability of it among items with its label.

    ``probabilities``, (items, classes), are out of fold; items with NaN there were not scored, and are none. Of several
    labels an item each is judged by itself, on the items where it is known, if the model tells it apart.
    """
    if labels.ndim == 2:
        return _find_wrong_labels(labels, probabilities)
    found, margin = _doubt(labels, probabilities)
    return np.asarray(found[np.argsort(-margin, kind="stable")], np.int64)


def _find_wrong_labels(labels: Labels, probabilities: Probabilities) -> IntArray:
    """Return the positions of items with a likely wrong label among several, the surest first, each once."""
    surest = np.full(len(labels), -np.inf)
    scored = np.isfinite(probabilities).all(axis=1)
    for truth, given in zip(labels.T, probabilities.T, strict=True):
        known = np.flatnonzero(scored & (truth != MISSING))
        if roc_auc(truth[known], given[known]) >= LEAST_AUC:  # nan where it has one value only
            found, margin = _doubt(truth[known], np.stack([1 - given[known], given[known]], axis=1))
            surest[known[found]] = np.maximum(surest[known[found]], margin)
    doubted = np.flatnonzero(np.isfinite(surest))
    return np.asarray(doubted[np.argsort(-surest[doubted], kind="stable")], np.int64)


def _doubt(labels: Labels, probabilities: Probabilities) -> tuple[IntArray, FloatArray]:
    """Return the positions of likely mislabelled items, and by how much another class is more probable than theirs."""
    scored = np.isfinite(probabilities).all(axis=1)
    n_classes = probabilities.shape[1]
    thresholds = np.array(
        [
            probabilities[scored & (labels == k), k].mean() if (scored & (labels == k)).any() else 1.0
            for k in range(n_classes)
        ]
    )
    own = probabilities[np.arange(len(labels)), labels]
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident[np.arange(len(labels)), labels] = np.where(own >= thresholds[labels], own, -1.0)
    best = np.where(scored, confident.argmax(axis=1), labels)
    found = np.flatnonzero(scored & (best != labels) & (confident.max(axis=1) >= 0))
    return found, probabilities[found, best[found]] - own[found]


def judge_mislabelled(labels: Labels, probabilities: Probabilities) -> Iterator[Finding]:
    """Yield the likely mislabelled items, the surest first; none where the model hardly tells the classes."""
    scored = np.isfinite(probabilities).all(axis=1)
    found = find_mislabelled(labels, probabilities)
    several = labels.ndim == 2
    if len(found) and (several or macro_auc(labels[scored], probabilities[scored]) >= LEAST_AUC):
        share = len(found) / int(scored.sum())
        what = "are said to have another label, or not to have one," if several else "are taken for another class"
        text = (
            f"{100 * share:.1f} % of the items {what} by a model that has not seen them and is sure: "
            "mislabelled, or hard; look at the first ones"
        )
        yield Finding("likely mislabelled items", "note", text, tuple((int(item),) for item in found))
