"""One evaluation of several labels an item, some of them not known: the metrics of `evaluation`, a label at a time.

What is not known of an item counts nowhere. Each label is a task of two classes on the items where it is known; the means
over labels, and their intervals, rest on the same resamples of patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.errors import DataError
from thawline.judge.auc import Areas, estimate_auc, measure_areas
from thawline.judge.calibration import N_BINS, assign_bins
from thawline.judge.evaluation import call_labels, take_scored
from thawline.judge.intervals import estimate_proportion
from thawline.judge.levels import judge_levels, number_scored
from thawline.judge.metrics import divide, item_log_loss, known_losses, resample_average_precision
from thawline.judge.micro import judge_micro
from thawline.judge.resampling import Samples, resample, sum_by
from thawline.types import MISSING, plain

if TYPE_CHECKING:
    from thawline.judge.resampling import Resampled
    from thawline.types import BoolArray, Estimate, FloatArray, Groups, IntArray, Labels, Probabilities

OF_LABELS = {  # metric of a label that is resampled: the patients that it rests on, and the largest value; None for none
    "average_precision": ("both", 1.0),
    "sensitivity": ("having", 1.0),
    "specificity": ("lacking", 1.0),
    "brier": ("known", 1.0),
    "ece": ("known", 1.0),
    "log_loss": ("known", None),
}
SUMS = ("having", "lacking", "found", "cleared", "squared", "losses")  # of each label, over items; then gaps by bin
OF_ITEMS = ("items", "item_losses")


@dataclasses.dataclass(frozen=True, slots=True)
class LabelSheet:
    """The items judged: ``labels``, ``probabilities`` and ``called`` (1 or 0) of shape (items, labels).

    ``patients`` counts from 0 and indexes the columns of a resampling; ``folds`` is 0 without. Means are over the labels at
    the places ``averaged``. ``lesions``, where they are known, count from 0 as well.
    """

    labels: Labels
    probabilities: Probabilities
    called: Labels
    patients: IntArray
    folds: IntArray
    n_patients: int
    averaged: tuple[int, ...]
    lesions: IntArray | None = None


def evaluate_labels(
    labels: Labels,
    probabilities: Probabilities,
    groups: Groups,
    names: Sequence[str],
    threshold: float = 0.5,
    *,
    folds: IntArray | None = None,
    lesions: IntArray | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, Any]:
    """Return all metrics with intervals as plain JSON data, in the shape of a part of `metrics.json`.

    ``labels`` (items, labels) are 1, 0 or `MISSING`, ``probabilities`` of the same shape those of each label; ``groups``,
    ``folds`` and ``lesions`` are as in `evaluation.evaluate`. A label is called from the ``threshold`` on. ``auc``,
    ``balanced_accuracy``, ``sensitivity``, ``specificity``, ``brier``, ``ece`` and ``log_loss`` are means over labels
    (macro), an out-of-fold AUC being that of the folds where it is defined; ``accuracy`` is the share of known cells that
    are called right, ``exact_match`` of the items all of whose labels are known the share with all called right,
    ``item_log_loss`` the mean over items of the mean over their known labels. ``per_class`` has a table a label, which
    ``n_items`` and ``n_patients`` have.
    ``patient_level`` takes a label of a patient where the items with it known agree, with the mean of their probabilities,
    and ``lesion_level`` that of a lesion.

    Raises DataError where arrays do not fit together, OptionError as `interval` does.
    """
    sheet = _make_sheet(labels, probabilities, groups, names, threshold, folds, lesions)
    samples = resample(sheet, _sum_patients(sheet), _measure, n_resamples, seed)
    result = _report_items(sheet, names, samples, level)
    cells = sheet.labels, sheet.probabilities, sheet.called, sheet.patients, sheet.folds
    known = sheet.labels != MISSING
    result["micro"] = judge_micro(*cells, known=known, seed=seed, n_resamples=n_resamples, level=level)

    def merge(items: LabelSheet, units: IntArray) -> LabelSheet | None:
        return _merge_items(items, units, threshold)

    return result | judge_levels(sheet, merge, lambda merged: _estimate_level(merged, level))


def _make_sheet(
    labels: Labels,
    probabilities: Probabilities,
    groups: Groups,
    names: Sequence[str],
    threshold: float,
    folds: IntArray | None,
    lesions: IntArray | None,
) -> LabelSheet:
    truth, given, group, fold, scored = take_scored(labels, probabilities, groups, folds)
    if truth.shape != given.shape or given.shape[1:] != (len(names),):
        raise DataError(
            f"Labels and probabilities of shape (items, {len(names)}) are needed; found {truth.shape} and {given.shape}."
        )
    for name, rows, fits in (
        ("Labels must be 1, 0 or -1 (not known)", truth, np.isin(truth, (1, 0, MISSING)).all(axis=1)),
        ("Probabilities must lie in [0, 1]", given, ((given >= 0) & (given <= 1)).all(axis=1)),
        ("Of each item a label must be known", truth, (truth != MISSING).any(axis=1)),
    ):
        if not fits.all():
            first = int(fits.argmin())
            raise DataError(f"{name}; row {scored[first]} holds {rows[first].tolist()}.")
    known, patients = np.unique(group, return_inverse=True)
    called = call_labels(given, threshold)
    own = number_scored(lesions, groups, scored)
    return LabelSheet(truth, given, called, patients, fold, len(known), tuple(range(len(names))), own)


def _merge_items(sheet: LabelSheet, units: IntArray, threshold: float) -> LabelSheet | None:
    """Return one row for each of the ``units``, (items,), with the labels on which its items agree; None where none do."""
    first, known = np.unique(units, return_index=True)[1], sheet.labels != MISSING
    having, n_known = (sum_by(units, each.astype(np.float64), len(first)) for each in (sheet.labels == 1, known))
    labels = np.where(n_known == 0, MISSING, np.where(having == n_known, 1, np.where(having == 0, 0, MISSING)))
    mean = divide(sum_by(units, np.where(known, sheet.probabilities, 0.0), len(first)), n_known)
    kept = np.flatnonzero((labels != MISSING).any(axis=1))
    rows = first[kept]
    labels, mean = labels[kept].astype(np.int64), np.nan_to_num(mean[kept])
    both = tuple(k for k in range(labels.shape[1]) if {0, 1} <= set(labels[:, k].tolist()))
    if not len(kept):
        return None
    called = call_labels(mean, threshold)
    return LabelSheet(labels, mean, called, sheet.patients[rows], sheet.folds[rows], sheet.n_patients, both)


def _sum_patients(sheet: LabelSheet) -> FloatArray:
    """Return what each patient adds to the metrics: `SUMS` and gaps of each label, then `OF_ITEMS`."""
    columns: list[Any] = []
    every = known_losses(sheet.labels, sheet.probabilities)
    tables = (sheet.labels, sheet.probabilities, sheet.called, every)
    for truth, given, called, losses in zip(*(each.T for each in tables), strict=True):
        known, has = truth != MISSING, truth == 1
        gaps = np.eye(N_BINS)[assign_bins(given)] * ((given - has) * known)[:, np.newaxis]
        lacks = known & ~has
        own = (has, lacks, has & (called == 1), lacks & (called == 0), (given - has) ** 2 * known, losses)
        columns += [*own, *gaps.T]
    columns += [np.ones(len(sheet.labels)), item_log_loss(sheet.labels, sheet.probabilities)]
    return sum_by(sheet.patients, np.stack(columns, axis=1).astype(np.float64), sheet.n_patients)


def _measure(sheet: LabelSheet, sums: FloatArray, weights: FloatArray) -> Resampled:
    """Return every metric under weightings of the patients, shape (resamples, patients)."""
    totals = weights @ sums
    n_labels = sheet.labels.shape[1]
    by_label = totals[:, : -len(OF_ITEMS)].reshape(len(weights), n_labels, -1)
    of = {name: by_label[:, :, place] for place, name in enumerate(SUMS)}
    items = dict(zip(OF_ITEMS, totals[:, -len(OF_ITEMS) :].T, strict=True))
    n_known = of["having"] + of["lacking"]
    found = {
        "average_precision": _measure_precisions(sheet, weights),
        "sensitivity": divide(of["found"], of["having"]),
        "specificity": divide(of["cleared"], of["lacking"]),
        "brier": divide(of["squared"], n_known),
        "ece": divide(np.abs(by_label[:, :, len(SUMS) :]).sum(axis=2), n_known),
        "log_loss": divide(of["losses"], n_known),
    }
    averaged = list(sheet.averaged)
    means = {name: _average(values[:, averaged]) for name, values in found.items()}
    return {
        **means,
        "balanced_accuracy": (means["sensitivity"] + means["specificity"]) / 2,
        "item_log_loss": divide(items["item_losses"], items["items"]),
        **{f"class_{name}": values for name, values in found.items()},
    }


def _measure_precisions(sheet: LabelSheet, weights: FloatArray) -> FloatArray:
    """Return the average precision of each label on the items where it is known, (resamples, labels)."""
    columns = []
    for truth, given in zip(sheet.labels.T, sheet.probabilities.T, strict=True):
        known = truth != MISSING
        columns.append(resample_average_precision(truth[known] == 1, given[known], weights, sheet.patients[known]))
    return np.stack(columns, axis=1)


def _average(values: FloatArray) -> FloatArray:
    """Return the plain mean over labels, (resamples,): nan where one is undefined, or without labels."""
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)


def _count_patients(sheet: LabelSheet) -> dict[str, IntArray]:
    """Return how many patients have each label, are known to lack it, are known, and the smaller of the first two."""
    marks = {"having": sheet.labels == 1, "lacking": sheet.labels == 0, "known": sheet.labels != MISSING}
    counts = {
        name: (sum_by(sheet.patients, each.astype(np.float64), sheet.n_patients) > 0).sum(axis=0)
        for name, each in marks.items()
    }
    return {**counts, "both": np.minimum(counts["having"], counts["lacking"])}


def _report_items(sheet: LabelSheet, names: Sequence[str], samples: Samples, level: float) -> dict[str, Any]:
    rests_on, everyone = _count_patients(sheet), sheet.n_patients
    complete = (sheet.labels != MISSING).all(axis=1)
    exact = (sheet.called == sheet.labels).all(axis=1)
    areas = _measure_areas(sheet)
    estimates = {
        "auc": estimate_auc(areas.take(sheet.averaged), level=level),
        **{
            name: samples.estimate(name, int(rests_on[of].min()), level, largest)
            for name, (of, largest) in OF_LABELS.items()
        },
        "accuracy": _estimate_accuracy(sheet, level),
        "balanced_accuracy": samples.estimate("balanced_accuracy", int(rests_on["both"].min()), level),
        "exact_match": estimate_proportion(exact[complete], sheet.patients[complete], level=level),
        "item_log_loss": samples.estimate("item_log_loss", everyone, level, None),
    }
    result: dict[str, Any] = {"n_items": len(sheet.labels), "n_patients": everyone, "n_complete": int(complete.sum())}
    result |= {name: plain(each) for name, each in estimates.items()}
    result["per_class"] = {}
    for k, label in enumerate(names):
        table: dict[str, Any] = {
            "n_items": int((sheet.labels[:, k] == 1).sum()),
            "n_patients": int(rests_on["having"][k]),
            "n_known": int((sheet.labels[:, k] != MISSING).sum()),
            "n_known_patients": int(rests_on["known"][k]),
        }
        of_label = {
            "auc": estimate_auc(areas.take([k]), level=level),
            **{
                name: samples.estimate(f"class_{name}", int(rests_on[of][k]), level, largest, k)
                for name, (of, largest) in OF_LABELS.items()
            },
            **_estimate_rates(sheet, k, level),
        }
        result["per_class"][label] = table | {name: plain(each) for name, each in of_label.items()}
    return result


def _measure_areas(sheet: LabelSheet) -> Areas:
    n_labels = sheet.labels.shape[1]
    return measure_areas(sheet.labels, sheet.probabilities, sheet.patients, range(n_labels), sheet.folds)


def _estimate_level(sheet: LabelSheet, level: float) -> dict[str, Estimate]:
    """Return what is told of patients, or of lesions, each a row."""
    return {
        "auc": estimate_auc(_measure_areas(sheet).take(sheet.averaged), level=level),
        "accuracy": _estimate_accuracy(sheet, level),
    }


def _estimate_rates(sheet: LabelSheet, k: int, level: float) -> dict[str, Estimate]:
    """Return the sensitivity and the specificity of a label."""
    truth, called = sheet.labels[:, k], sheet.called[:, k] == 1

    def estimate(hits: BoolArray, among: BoolArray) -> Estimate:
        return estimate_proportion(hits[among], sheet.patients[among], level=level)

    return {"sensitivity": estimate(called, truth == 1), "specificity": estimate(~called, truth == 0)}


def _estimate_accuracy(sheet: LabelSheet, level: float) -> Estimate:
    """Return the share of known cells that are called right."""
    known = sheet.labels != MISSING
    owners = np.broadcast_to(sheet.patients[:, np.newaxis], known.shape)
    return estimate_proportion((sheet.called == sheet.labels)[known], owners[known], level=level)
