"""How many more patients: the learning curve of the frozen backbone's linear head over development patients.

From features that are there already, so that it takes seconds. The curve is that of the frozen rung; one point of the
delivered rung, its AUC out of fold, is set beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.splits import make_folds
from thawline.errors import DataError
from thawline.journal import Value
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.learning_curve import (
    Curve,
    average_repeats,
    check_by_hiding,
    choose_sizes,
    draw_subsets,
    extrapolate,
    find_size,
    find_size_for_width,
    fit_curve,
)
from thawline.judge.metrics import macro_auc
from thawline.judgement import Scored, take_scored
from thawline.learn.ladder import TriedRung
from thawline.learn.linear import STRENGTHS, decompose, fit_path, select_linear
from thawline.state import Job
from thawline.types import MULTILABEL, plain

if TYPE_CHECKING:
    from thawline.types import BoolArray, Features, FloatArray, Groups, IntArray, Labels

UNIT = "judgement growth"  # of the journal
TESTED_SHARE = 0.25  # of the patients, on whom each head is tested
N_REPEATS, N_FOLDS = 8, 5
MOST_ITEMS = 3000  # that a curve is made of
MULTIPLES = (1, 2, 5, 10)
WANTED_AUCS, WIDTHS = (0.8, 0.85, 0.9, 0.95, 0.98), (0.1, 0.05)
N_SHOWN = 40  # points of the curve as it is drawn


def measure_growth(job: Job, features: Features, chosen: TriedRung) -> dict[str, Any]:
    """Return what `metrics.json` says of more patients: the curve, what it foretells, and how well it foretold itself.

    ``features`` are those of the development items. Only a ``note`` where there are too few patients, or several labels.
    """
    if job.plan["task"] == MULTILABEL:
        return {"note": "of several labels an item there is no one learning curve"}
    development = job.development()
    labels, groups = development.labels, development.groups
    try:
        sizes = choose_sizes(*_count_patients(labels, groups, 1 - TESTED_SHARE))
    except DataError as error:
        return {"note": str(error)}
    found = job.journal.unit(UNIT, lambda: _measure_sizes(features, labels, groups, sizes, job.options.seed))
    measured = np.asarray(found["sizes"], np.int64), np.asarray(found["aucs"], np.float64)
    n_patients = len(np.unique(groups))
    return foretell(*measured, take_scored(job, chosen), n_patients, len(chosen.folds), job.options.seed)


def _count_patients(labels: Labels, groups: Groups, share: float) -> tuple[int, int]:
    """Return a share of the number of patients, and of those with an item of the rarest class."""
    rarest = min(len(np.unique(groups[labels == k])) for k in np.unique(labels))
    return round(share * len(np.unique(groups))), round(share * rarest)


def _measure_sizes(features: Features, labels: Labels, groups: Groups, sizes: IntArray, seed: int) -> Value:
    """Return the AUC of heads of growing training parts, (repeats, sizes), on the patients outside the largest."""
    kept = _limit_items(labels, groups, seed)
    features, labels, groups = features[kept], labels[kept], groups[kept]
    sizes = choose_sizes(*_count_patients(labels, groups, 1 - TESTED_SHARE)) if not kept.all() else sizes
    subsets = [draw_subsets(groups, labels, int(size), N_REPEATS, seed) for size in sizes]
    aucs = np.full((N_REPEATS, len(sizes)), np.nan)
    for column, rows in enumerate(subsets):
        strength = _choose_strength(features, labels, groups, rows[0])
        for repeat in range(N_REPEATS):
            aucs[repeat, column] = _score(features, labels, strength, rows[repeat], ~subsets[-1][repeat])
    return {"sizes": sizes, "aucs": aucs}


def _limit_items(labels: Labels, groups: Groups, seed: int) -> BoolArray:
    """Return which items take part: those of as many patients as have `MOST_ITEMS` or so."""
    n_patients = len(np.unique(groups))
    most = max(1, n_patients * MOST_ITEMS // len(labels))
    kept: BoolArray = draw_subsets(groups, labels, min(most, n_patients), 1, seed)[0]
    return kept


def _choose_strength(features: Features, labels: Labels, groups: Groups, trained: BoolArray) -> float:
    """Return the strength that is best out of fold on some items: it serves all training parts of that size."""
    own, n_classes = labels[trained], int(labels.max()) + 1
    folds = make_folds(own, groups[trained], 0, N_FOLDS)[0]
    return STRENGTHS[select_linear(features[trained], own, folds, n_classes).best]


def _score(features: Features, labels: Labels, strength: float, trained: BoolArray, tested: BoolArray) -> float:
    """Return the AUC on the items ``tested`` of a linear head of the items ``trained``; nan where these lack a class."""
    own, n_classes = labels[trained], int(labels.max()) + 1
    if len(np.unique(own)) < n_classes:
        return float("nan")
    head = fit_path(decompose(features[trained]), own, n_classes, [strength])[0]
    return macro_auc(labels[tested], head.predict_proba(features[tested]))


def foretell(
    sizes: IntArray, aucs: FloatArray, part: Scored, n_patients: int, n_folds: int, seed: int
) -> dict[str, Any]:
    """Return the fitted curve, its continuation, the point of the delivered rung, and a check on hidden sizes.

    ``aucs``, (repeats, sizes), are those of heads of so many patients; ``part`` the out-of-fold predictions of the delivered
    rung, of whose ``n_folds`` each learned from the others of ``n_patients``.
    """
    try:
        means, covariance, common = average_repeats(sizes, aucs, tested_share=TESTED_SHARE)
        curve = fit_curve(sizes, means, covariance, common, seed=seed)
    except DataError as error:
        return {"note": str(error)}
    now = extrapolate(curve, [n_patients])[0].value
    return {
        "note": curve.note,
        "n_patients": n_patients,
        "sizes": sizes.tolist(),
        "aucs": means.tolist(),
        "standard_errors": np.sqrt(covariance.diagonal() + common**2).tolist(),
        "foretold": _describe(curve, [n_patients * times for times in MULTIPLES]),
        "shown": _describe(curve, np.geomspace(sizes[0], n_patients * MULTIPLES[-1], N_SHOWN).round().tolist()),
        "wanted": [{"auc": auc, "n_patients": plain(find_size(curve, auc))} for auc in WANTED_AUCS if auc > now],
        "test_patients": _size_test_part(part),
        "delivered": _describe_delivered(part, n_patients, n_folds, curve),
        "check": _check(sizes, means, covariance, seed),
    }


def _describe(curve: Curve, sizes: list[Any]) -> list[dict[str, Any]]:
    found = extrapolate(curve, sizes)
    return [{"n_patients": int(n), **plain(auc)} for n, auc in zip(sizes, found, strict=True)]


def _describe_delivered(part: Scored, n_patients: int, n_folds: int, curve: Curve) -> dict[str, Any]:
    """Return the out-of-fold AUC of the delivered rung, at the patients that its folds learned from, beside the curve."""
    learned = max(round(n_patients * (n_folds - 1) / n_folds), int(curve.sizes[0])) if n_folds > 1 else n_patients
    scored = range(part.probabilities.shape[1]) if part.probabilities.shape[1] > 2 else [1]
    areas = measure_areas(part.labels, part.probabilities, part.groups, scored, part.folds)
    frozen = extrapolate(curve, [learned])[0]
    return {
        "n_patients": learned,
        "auc": plain(estimate_auc(areas)),
        "frozen": plain(frozen),
    }


def _size_test_part(part: Scored) -> list[dict[str, Any]]:
    """Return how many test patients give the AUC an interval of some widths, by what these patients are like."""
    rarest = int(np.bincount(part.labels).argmin())
    areas = measure_areas(part.labels, part.probabilities, part.groups, [rarest], part.folds)
    auc = min(max(float(areas.values[0]), 0.6), 0.99)
    if np.isnan(auc):
        return []
    patients, effective = (
        np.array([float(each[0]) for each in pair[:2]]) for pair in (areas.patients, areas.effective)
    )
    effect, share = float((patients / effective).mean()), float(patients[0] / patients.sum())
    return [{"width": width, "n_patients": find_size_for_width(auc, width, share, effect)} for width in WIDTHS]


def _check(sizes: IntArray, means: FloatArray, covariance: FloatArray, seed: int) -> dict[str, Any] | None:
    """Return how well half of the patients foretold the AUC of all that were tried; None where sizes are too few."""
    try:
        found = check_by_hiding(sizes, means, covariance, seed=seed)
    except DataError:
        return None
    return {
        "n_patients": found.size,
        "measured": found.measured,
        "predicted": plain(found.predicted),
        "error_points": found.error_points,
        "held": bool(found.held),
    }
