"""Micro averages: each pair of an item and a class, or a label, is a case, and all cases are one task of two classes.

Frequent classes weigh more in them than in macro averages, which take the mean over classes (Sokolova and Lapalme,
Information Processing & Management 45:427, 2009).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.intervals import estimate_proportion
from thawline.judge.metrics import divide, resample_average_precision
from thawline.judge.resampling import resample, sum_by
from thawline.types import plain

if TYPE_CHECKING:
    from thawline.judge.resampling import Resampled
    from thawline.types import BoolArray, FloatArray, IntArray, Labels, Probabilities


@dataclasses.dataclass(frozen=True, slots=True)
class Cases:
    """``labels``, whether an item is of a class, and ``called`` are 1 or 0; all have shape (cases,)."""

    labels: Labels
    scores: FloatArray
    called: Labels
    patients: IntArray
    folds: IntArray
    n_patients: int


def judge_micro(
    truth01: Labels,
    probabilities: Probabilities,
    called01: Labels,
    patients: IntArray,
    folds: IntArray,
    *,
    known: BoolArray | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, Any]:
    """Return micro averages with intervals as plain data: AUC, average precision, sensitivity, specificity, PPV and F1.

    ``truth01``, ``probabilities`` and ``called01`` have shape (items, classes), ``patients``, which count from 0, and
    ``folds`` (items,); what is not ``known`` is no case. Intervals have patients as what is sampled.
    """
    cases = _list_cases(truth01, probabilities, called01, patients, folds, known)
    truth, called, owners = cases.labels == 1, cases.called == 1, cases.patients
    both = np.stack([1 - cases.scores, cases.scores], axis=1)
    samples = resample(cases, _sum_patients(cases), _measure, n_resamples, seed)
    shares = {"sensitivity": (truth, called), "specificity": (~truth, ~called), "ppv": (called, truth)}
    estimates = {
        "auc": estimate_auc(measure_areas(cases.labels, both, owners, [1], cases.folds), level=level),
        **{
            name: estimate_proportion(hits[among], owners[among], level=level) for name, (among, hits) in shares.items()
        },
        **{name: samples.estimate(name, cases.n_patients, level) for name in ("average_precision", "f1")},
    }
    return {name: plain(estimate) for name, estimate in estimates.items()}


def _list_cases(
    truth01: Labels,
    probabilities: Probabilities,
    called01: Labels,
    patients: IntArray,
    folds: IntArray,
    known: BoolArray | None,
) -> Cases:
    chosen = np.ones(truth01.shape, bool) if known is None else known
    owners, parts = (np.broadcast_to(each[:, np.newaxis], truth01.shape)[chosen] for each in (patients, folds))
    return Cases(truth01[chosen], probabilities[chosen], called01[chosen], owners, parts, int(patients.max()) + 1)


def _sum_patients(cases: Cases) -> FloatArray:
    """Return how many cases of each patient are true, are called, and are both."""
    columns = np.stack([cases.labels, cases.called, cases.labels * cases.called], axis=1).astype(np.float64)
    return sum_by(cases.patients, columns, cases.n_patients)


def _measure(cases: Cases, sums: FloatArray, weights: FloatArray) -> Resampled:
    true, called, hits = (weights @ sums).T
    precision = resample_average_precision(cases.labels == 1, cases.scores, weights, cases.patients)
    return {"average_precision": precision, "f1": divide(2 * hits, true + called)}
