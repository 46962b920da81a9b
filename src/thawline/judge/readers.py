"""The model beside readers, on the items that each of them saw: their points, and tests paired by patient.

A reader who calls is compared at the reader's own specificity, one who scores by the AUC.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.comparisons import Comparison, compare_calls, compare_paired_aucs
from thawline.judge.intervals import estimate_proportion
from thawline.judge.metrics import check_lengths
from thawline.types import Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, Groups


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderResult:
    """What a reader reached, and by how much more the model does: its sensitivity at the reader's specificity, or its AUC.

    ``reader`` and ``model`` are what is compared; ``sensitivity`` and ``specificity`` are those of a reader who calls.
    """

    scores: bool
    n_items: int
    n_patients: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    reader: Estimate
    model: Estimate
    compared: Comparison


def judge_reader(truth01: ArrayLike, scores: ArrayLike, readings: ArrayLike, groups: Groups) -> ReaderResult | None:
    """Compare the model's ``scores`` with a reader's ``readings`` of the same items, all (items,).

    Readings are nan where the reader did not see an item; those items count for neither. None where what the reader saw
    lacks a class. Raises DataError where lengths differ or a score is not finite.
    """
    truth, given, said = np.asarray(truth01, bool), np.asarray(scores, np.float64), np.asarray(readings, np.float64)
    check_lengths(truth01=truth, scores=given, readings=said, groups=groups)
    if not np.isfinite(given).all():
        raise DataError(f"Scores must be finite; row {int(np.flatnonzero(~np.isfinite(given))[0])} is not.")
    seen = ~np.isnan(said)
    truth, given, said, patients = truth[seen], given[seen], said[seen], np.asarray(groups)[seen]
    if truth.all() or not truth.any():
        return None
    if np.isin(said, (0, 1)).all():
        return _judge_calls(truth, given, said == 1, patients)
    return _judge_scores(truth, given, said, patients)


def _judge_calls(truth: BoolArray, scores: FloatArray, calls: BoolArray, groups: Groups) -> ReaderResult:
    model_calls = scores > find_cut(scores[~truth], int(calls[~truth].sum()))
    found, model = (estimate_proportion(each[truth], groups[truth]) for each in (calls, model_calls))
    return ReaderResult(
        scores=False,
        n_items=len(truth),
        n_patients=len(np.unique(groups)),
        sensitivity=found,
        specificity=estimate_proportion(~calls[~truth], groups[~truth]),
        reader=found,
        model=model,
        compared=compare_calls(model_calls[truth], calls[truth], groups[truth]),
    )


def find_cut(negatives: FloatArray, n_wrong: int) -> float:
    """Return the score above which the model wrongly calls as many of the ``negatives``, (items,), as a reader, or fewer.

    Fewer where scores are equal, so that its specificity is never below the reader's; −∞ where the reader calls them all.
    """
    falling = np.sort(negatives)[::-1]
    return float(falling[n_wrong]) if n_wrong < len(falling) else -np.inf


def _judge_scores(truth: BoolArray, scores: FloatArray, said: FloatArray, groups: Groups) -> ReaderResult:
    labels = truth.astype(np.int64)
    tables = tuple(np.column_stack([-each, each]) for each in (scores, said))
    model, found = (estimate_auc(measure_areas(labels, each, groups, [1])) for each in tables)
    compared = compare_paired_aucs(labels, (tables[0], tables[1]), groups, [1])
    return ReaderResult(True, len(truth), len(np.unique(groups)), None, None, found, model, compared)
