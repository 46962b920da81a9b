"""One evaluation of predictions: every metric of `metrics.json` with its interval.

Metrics are per item, and patients are what is sampled. AUCs have the interval of `auc`, proportions that of `intervals`; all
else is resampled, see `resampling`; only average precision goes back to the items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.calibration import N_BINS, assign_bins, select_confidences
from thawline.judge.intervals import estimate_proportion
from thawline.judge.levels import judge_levels, number_scored
from thawline.judge.metrics import (
    check_lengths,
    confusion_matrix,
    divide,
    item_brier,
    item_log_loss,
    resample_average_precision,
)
from thawline.judge.micro import judge_micro
from thawline.judge.resampling import Samples, resample, sum_by
from thawline.types import Estimate, plain

if TYPE_CHECKING:
    from thawline.judge.resampling import Resampled
    from thawline.types import BoolArray, FloatArray, Groups, IntArray, Labels, Probabilities


ROW_SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, slots=True)
class Sheet:
    """The items judged: ``patients`` counts from 0 and indexes the columns of a resampling; ``folds`` is 0 without.

    ``thresholds`` are what each was called at; ``lesions``, where they are known, count from 0 as well.
    """

    labels: Labels
    probabilities: Probabilities
    predicted: Labels
    patients: IntArray
    folds: IntArray
    n_patients: int
    positive: int | None
    thresholds: FloatArray
    ordinal: bool = False
    lesions: IntArray | None = None

    @property
    def n_classes(self) -> int:
        """The number of classes, whether or not all occur."""
        return int(self.probabilities.shape[1])

    @property
    def scored(self) -> list[int]:
        """The classes whose one-vs-rest metrics are averaged: of two, whose AUCs are one number, the positive one."""
        return list(range(self.n_classes)) if self.positive is None else [self.positive]


def predict_labels(
    probabilities: Probabilities, classes: Sequence[str], positive: str | None, threshold: float | FloatArray = 0.5
) -> Labels:
    """Return the class called for each item, int64 of shape (items,).

    Two classes: ``positive`` where its probability is at least ``threshold``, one for all or one an item, (items,). More:
    the most likely one, the first of equals. Raises OptionError where ``positive`` is not among two classes, or a threshold
    is not in [0, 1].
    """
    given = np.asarray(probabilities)
    index = find_positive(classes, positive)
    limits = np.atleast_1d(threshold)
    if len(outside := limits[~((limits >= 0) & (limits <= 1))]):
        raise OptionError(f"A threshold is a probability between 0 and 1; found {outside[0]}. Pass for example 0.5.")
    if index is None:
        return np.asarray(given.argmax(axis=1), np.int64)
    return np.asarray(np.where(given[:, index] >= threshold, index, 1 - index), np.int64)


def call_labels(probabilities: Probabilities, threshold: float = 0.5) -> Labels:
    """Return which labels are called for each item, 1 or 0, (items, labels): those at least as probable as the threshold."""
    return (np.asarray(probabilities) >= threshold).astype(np.int64)


def find_positive(classes: Sequence[str], positive: str | None) -> int | None:
    """Return the index of the positive class among two classes, None among more; raises OptionError if it is not."""
    if len(classes) < 2:
        raise OptionError(f"At least two classes are needed; found {list(classes)}.")
    if len(classes) > 2:
        return None
    if positive not in classes:
        raise OptionError(f"The positive class must be one of {list(classes)}; found {positive!r}. Name one of them.")
    return [name == positive for name in classes].index(True)


def evaluate(
    labels: Labels,
    probabilities: Probabilities,
    groups: Groups,
    classes: tuple[str, ...],
    positive: str | None,
    threshold: float | FloatArray = 0.5,
    *,
    folds: IntArray | None = None,
    lesions: IntArray | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
    ordinal: bool = False,
) -> dict[str, Any]:
    """Return all metrics with intervals as plain JSON data, in the shape of a part of `metrics.json`.

    ``labels`` and ``groups`` (patients) have shape (items,), ``probabilities`` (items, classes). With ``folds``, shape
    (items,), the predictions are out-of-fold: AUCs are taken within folds and averaged, and items with fold −1, which
    no model has scored, are left out of everything.

    Sensitivity and specificity are those of ``positive`` at ``threshold`` with two classes, else means over the classes
    that occur, of the most likely class called against the rest, with micro averages (`judge_micro`) beside them;
    ``threshold`` may be one an item. ``patient_level`` averages the probabilities of a patient's items, over patients whose
    items agree in label; None where every patient has one item. With ``lesions``, shape (items,), a number for each lesion
    of a patient, ``lesion_level`` does the same with these; what is sampled are patients there too. An undefined number is
    None. One set of patient resamples serves all metrics.

    Where classes are ``ordinal``, grades in their order, ``weighted_kappa`` is Cohen's kappa with quadratic weights (Cohen,
    Psychological Bulletin 70:213, 1968), and ``grade_error`` the mean number of grades between call and label.

    Raises DataError where arrays do not fit together, OptionError as `predict_labels` and `interval` do.
    """
    sheet = _make_sheet(
        labels,
        probabilities,
        groups,
        classes=classes,
        positive=positive,
        threshold=threshold,
        folds=folds,
        lesions=lesions,
    )
    sheet = dataclasses.replace(sheet, ordinal=ordinal)
    samples = resample(sheet, _sum_patients(sheet), _measure, n_resamples, seed)
    result = _report_items(sheet, classes, samples, level)
    if sheet.positive is None:
        eye = np.eye(sheet.n_classes, dtype=np.int64)
        cells = eye[sheet.labels], sheet.probabilities, eye[sheet.predicted], sheet.patients, sheet.folds
        result["micro"] = judge_micro(*cells, seed=seed, n_resamples=n_resamples, level=level)

    def merge(items: Sheet, units: IntArray) -> Sheet | None:
        return _merge_items(items, units, classes, positive)

    return result | judge_levels(sheet, merge, lambda merged: _estimate_level(merged, level))


def take_scored(
    labels: Labels, probabilities: Probabilities, groups: Groups, folds: IntArray | None
) -> tuple[Labels, Probabilities, Groups, IntArray, IntArray]:
    """Return the arrays of the items that were scored, folds (0 without any) and positions among them. Raises DataError."""
    truth, given, group = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64), np.asarray(groups)
    fold = np.zeros(len(truth), np.int64) if folds is None else np.asarray(folds, np.int64)
    check_lengths(labels=truth, probabilities=given, groups=group, folds=fold)
    scored = np.flatnonzero(fold >= 0)
    if not len(scored):
        raise DataError("At least one scored item is needed to evaluate; found none.")
    return truth[scored], given[scored], group[scored], fold[scored], scored


def _make_sheet(
    labels: Labels,
    probabilities: Probabilities,
    groups: Groups,
    *,
    classes: Sequence[str],
    positive: str | None,
    threshold: float | FloatArray,
    folds: IntArray | None,
    lesions: IntArray | None,
) -> Sheet:
    index = find_positive(classes, positive)
    truth, given, group, fold, scored = take_scored(labels, probabilities, groups, folds)
    if given.ndim != 2 or given.shape[1] != len(classes):
        raise DataError(f"Probabilities of shape (items, {len(classes)}) are needed; found {given.shape}.")
    known = (truth >= 0) & (truth < len(classes))
    if not known.all():
        first = int(known.argmin())
        raise DataError(
            f"Labels must be 0 to {len(classes) - 1}; row {scored[first]} holds {truth[first]}. "
            "Pass indices into the classes."
        )
    fits = (given >= 0).all(axis=1) & (given <= 1).all(axis=1) & (abs(given.sum(axis=1) - 1) < ROW_SUM_TOLERANCE)
    if not fits.all():
        first = int(fits.argmin())
        raise DataError(
            f"Each row of probabilities must lie in [0, 1] and sum to 1; row {scored[first]} holds {given[first]}."
        )
    names, patients = np.unique(group, return_inverse=True)
    thresholds = np.broadcast_to(np.asarray(threshold, np.float64), np.shape(labels)[:1])[scored]
    predicted = predict_labels(given, classes, positive, thresholds)
    own = number_scored(lesions, groups, scored)
    return Sheet(truth, given, predicted, patients, fold, len(names), index, thresholds, lesions=own)


def _merge_items(sheet: Sheet, units: IntArray, classes: Sequence[str], positive: str | None) -> Sheet | None:
    """Return one row for each of the ``units``, (items,), whose items agree in label; None where none do."""
    first, n_items = np.unique(units, return_index=True, return_counts=True)[1:]
    differs = sheet.labels != sheet.labels[first][units]
    agreeing = np.flatnonzero(np.bincount(units, weights=differs) == 0)
    if not len(agreeing):
        return None
    mean = sum_by(units, sheet.probabilities, len(first))[agreeing] / n_items[agreeing, np.newaxis]
    rows = first[agreeing]
    predicted = predict_labels(mean, classes, positive, sheet.thresholds[rows])
    return dataclasses.replace(
        sheet,
        labels=sheet.labels[rows],
        probabilities=mean,
        predicted=predicted,
        patients=sheet.patients[rows],
        folds=sheet.folds[rows],
        thresholds=sheet.thresholds[rows],
        lesions=None,
    )


def _sum_patients(sheet: Sheet) -> FloatArray:
    """Return what each patient adds to the metrics, in the order that `_measure` takes it apart."""
    classes = np.eye(sheet.n_classes)
    truth, predicted = classes[sheet.labels], classes[sheet.predicted]
    confidence, came_true = select_confidences(sheet.labels, sheet.probabilities, positive=sheet.positive or 0)
    gaps = np.eye(N_BINS)[assign_bins(confidence)] * (confidence - came_true)[:, np.newaxis]
    squared = item_brier(sheet.labels, sheet.probabilities, positive=sheet.positive or 0)
    apart = (sheet.labels - sheet.predicted).astype(np.float64)
    losses = np.column_stack([squared, item_log_loss(sheet.labels, sheet.probabilities), np.abs(apart), apart**2])
    return sum_by(sheet.patients, np.hstack([truth, predicted, truth * predicted, losses, gaps]), sheet.n_patients)


def _measure(sheet: Sheet, sums: FloatArray, weights: FloatArray) -> Resampled:
    """Return every metric that is resampled, under weightings of the patients, shape (resamples, patients)."""
    k = sheet.n_classes
    truth, predicted, hits, losses, gaps = np.split(weights @ sums, [k, 2 * k, 3 * k, 3 * k + 4], axis=1)
    n_items = truth.sum(axis=1, keepdims=True)
    recall = divide(hits, truth)
    rest = divide(n_items - truth - predicted + hits, n_items - truth)
    occurring = np.unique(sheet.labels)
    sensitivity, specificity = recall[:, occurring].mean(axis=1), rest[:, occurring].mean(axis=1)
    n = n_items[:, 0]
    precisions = _measure_precisions(sheet, weights)
    return {
        "average_precision": precisions[:, sheet.scored].mean(axis=1),
        "balanced_accuracy": sensitivity,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": divide(losses[:, 0], n),
        "ece": divide(np.abs(gaps).sum(axis=1), n),
        "log_loss": divide(losses[:, 1], n),
        **({"grade_error": divide(losses[:, 2], n)} if sheet.ordinal else {}),
        **({"weighted_kappa": _weigh_kappa(truth, predicted, losses[:, 3])} if sheet.ordinal else {}),
        "class_average_precision": precisions,
    }


def _measure_precisions(sheet: Sheet, weights: FloatArray) -> FloatArray:
    """Return the average precision of each class against the rest, (resamples, classes)."""
    columns = [
        resample_average_precision(sheet.labels == k, sheet.probabilities[:, k], weights, sheet.patients)
        for k in range(sheet.n_classes)
    ]
    return np.stack(columns, axis=1)


def _weigh_kappa(truth: FloatArray, predicted: FloatArray, squared: FloatArray) -> FloatArray:
    """Return kappa with quadratic weights, (resamples,), from how many items have and are called each grade, and by how much
    calls miss: the sum of squared differences, which chance would make that of all pairs of a label and a call.
    """
    grades = np.arange(truth.shape[1], dtype=np.float64)
    n_items = truth.sum(axis=1)
    moments = [(counts @ grades, counts @ grades**2) for counts in (truth, predicted)]
    by_chance = moments[0][1] + moments[1][1] - 2 * divide(moments[0][0] * moments[1][0], n_items)
    return 1 - divide(squared, by_chance)


def _report_items(sheet: Sheet, classes: Sequence[str], samples: Samples, level: float) -> dict[str, Any]:
    inside, outside = _count_class_patients(sheet)
    everyone = sheet.n_patients
    rarest = min(int(count) for count in inside if count)
    counts: dict[str, tuple[int, float | None]] = {  # metric that is resampled: patients it rests on, largest value
        "average_precision": (int(min(inside.min(), outside.min())), 1.0),
        "balanced_accuracy": (rarest, 1.0),
        "sensitivity": (rarest, 1.0),
        "specificity": (int(outside.min()), 1.0),
        "brier": (everyone, 2.0 if sheet.positive is None else 1.0),
        "ece": (everyone, 1.0),
        "log_loss": (everyone, None),
    }
    if sheet.ordinal:
        counts |= {"weighted_kappa": (everyone, 1.0), "grade_error": (everyone, sheet.n_classes - 1.0)}
    areas = measure_areas(sheet.labels, sheet.probabilities, sheet.patients, range(sheet.n_classes), sheet.folds)
    among = np.ones(len(sheet.labels), bool)
    estimates = {
        "auc": estimate_auc(areas.take(sheet.scored), level=level),
        "accuracy": _estimate_share(sheet, sheet.predicted == sheet.labels, among, level),
        **{name: samples.estimate(name, n_patients, level, largest) for name, (n_patients, largest) in counts.items()},
    }
    rates = [_estimate_rates(sheet, k, level) for k in range(sheet.n_classes)]
    if sheet.positive is not None:
        estimates |= rates[sheet.positive]
    result: dict[str, Any] = {"n_items": len(sheet.labels), "n_patients": everyone}
    result |= {name: plain(each) for name, each in estimates.items()}
    result["per_class"] = {}
    for k, name in enumerate(classes):
        n_patients = int(min(inside[k], outside[k]))
        of_class = {
            "auc": estimate_auc(areas.take([k]), level=level),
            "average_precision": samples.estimate("class_average_precision", n_patients, level, column=k),
            **rates[k],
        }
        result["per_class"][name] = {"n_items": int((sheet.labels == k).sum()), "n_patients": int(inside[k])} | {
            metric: plain(each) for metric, each in of_class.items()
        }
    counts_table = confusion_matrix(sheet.labels, sheet.predicted, sheet.n_classes).astype(int).tolist()
    result["confusion"] = {"classes": list(classes), "counts": counts_table}
    return result


def _estimate_level(sheet: Sheet, level: float) -> dict[str, Estimate]:
    """Return what is told of patients, or of lesions, each a row."""
    areas = measure_areas(sheet.labels, sheet.probabilities, sheet.patients, sheet.scored, sheet.folds)
    among = np.ones(len(sheet.labels), bool)
    return {
        "auc": estimate_auc(areas, level=level),
        "accuracy": _estimate_share(sheet, sheet.predicted == sheet.labels, among, level),
    }


def _estimate_rates(sheet: Sheet, k: int, level: float) -> dict[str, Estimate]:
    """Return the sensitivity and the specificity of a class against the rest."""
    inside, called = sheet.labels == k, sheet.predicted == k
    return {
        "sensitivity": _estimate_share(sheet, called, inside, level),
        "specificity": _estimate_share(sheet, ~called, ~inside, level),
    }


def _estimate_share(sheet: Sheet, hits: BoolArray, among: BoolArray, level: float) -> Estimate:
    return estimate_proportion(hits[among], sheet.patients[among], level=level)


def _count_class_patients(sheet: Sheet) -> tuple[IntArray, IntArray]:
    """Return how many patients have items of each class, and how many have items of another, both (classes,)."""
    items = np.zeros((sheet.n_patients, sheet.n_classes), np.int64)
    np.add.at(items, (sheet.patients, sheet.labels), 1)
    others = items.sum(axis=1, keepdims=True) - items
    return (items > 0).sum(axis=0), (others > 0).sum(axis=0)
