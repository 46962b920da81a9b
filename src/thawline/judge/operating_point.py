"""One threshold between two classes, judged: counts, the rates that follow from them, and the workload they come to.

Arrays are those of `decisions`: ``truth01``, ``scores`` and ``groups`` have shape (items,), and an item is called positive
when its score is at least the threshold. Whole patients are resampled.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import OptionError
from thawline.judge.decisions import Ranking, iterate_counts, sort_items, sum_cells
from thawline.judge.intervals import check_level, estimate_proportion
from thawline.judge.metrics import average, divide
from thawline.judge.statistics import interval
from thawline.types import Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, Groups


@dataclasses.dataclass(frozen=True, slots=True)
class ThresholdJudgement:
    """Items counted by truth and call at a threshold, and the estimates of all rates by name."""

    threshold: float
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    rates: dict[str, Estimate]


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """What a threshold comes to among so many patients, in whole numbers: ``found`` + ``missed`` are the diseased,
    ``wrongly_called`` + ``rightly_passed`` the others, and ``found`` + ``wrongly_called`` are ``called``.

    ``reviewed_per_found``, not rounded, is how many are called for each that is found. Ranges are those of the intervals of
    sensitivity and specificity, where both matter of both at once; nan where these are.
    """

    n_patients: int
    diseased: int
    called: Estimate
    found: Estimate
    missed: Estimate
    wrongly_called: Estimate
    rightly_passed: Estimate
    reviewed_per_found: Estimate


def judge_threshold(
    truth01: ArrayLike,
    scores: ArrayLike,
    groups: Groups,
    threshold: float,
    *,
    prevalence: float | None = None,
    threshold_draws: ArrayLike | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> ThresholdJudgement:
    """Return what a threshold does to test data: counts and, as estimates, the rates that follow from them.

    "sensitivity", "specificity", "ppv", "npv" and "accuracy" are proportions, see `estimate_proportion`. "youden", the
    likelihood ratios "lr_positive" and "lr_negative" and the "diagnostic_odds_ratio" (Glas et al., Journal of Clinical
    Epidemiology 56:1129, 2003) follow from sensitivity and specificity, as do, at a ``prevalence`` other than that of the
    data, "ppv_at_prevalence" and "npv_at_prevalence" by Bayes' rule (Mercaldo et al., Statistics in Medicine 26:2170, 2007,
    with patients resampled in place of its delta method). Ratios are infinite where only their denominator is 0.

    ``threshold_draws``, as `choose_threshold` draws them, make all intervals those of a threshold that is itself uncertain:
    each resample of patients takes one. Raises OptionError for a threshold, level or prevalence out of its range or without
    a defined draw, DataError as `sort_items` does.
    """
    check_level(level)
    if math.isnan(threshold) or not (prevalence is None or 0 < prevalence < 1):
        raise OptionError(
            "A threshold that is a number and a prevalence between 0 and 1 are needed; "
            f"found threshold={threshold} and prevalence={prevalence}."
        )
    ranking = sort_items(truth01, scores, groups)
    drawn = _mix_draws(threshold, threshold_draws, n_resamples, seed)
    resampled = _resample_cells(ranking, drawn, seed)
    cells = sum_cells(ranking, np.ones((1, ranking.n_patients)), np.array([threshold]))
    given = None if threshold_draws is None else resampled
    rates = _estimate_proportions(ranking, ranking.scores >= threshold, given, level)
    rates |= _estimate_ratios(_find_rates(cells), _find_rates(resampled), rates, prevalence, level)
    hits, missed, alarms, cleared = (int(count) for count in cells[0])
    return ThresholdJudgement(threshold, hits, missed, alarms, cleared, rates)


def count_workload(sensitivity: Estimate, specificity: Estimate, prevalence: float, n_patients: int = 1000) -> Workload:
    """Return what a threshold of such rates comes to among ``n_patients`` of whom ``prevalence`` are diseased.

    Counts are rounded within the diseased and within the others, and so sum to ``n_patients``. Raises OptionError for a
    prevalence outside [0, 1] or fewer than one patient.
    """
    if not 0 <= prevalence <= 1 or n_patients < 1:
        raise OptionError(
            "A prevalence from 0 to 1 and at least one patient are needed; "
            f"found prevalence={prevalence} and n_patients={n_patients}."
        )
    diseased = math.floor(n_patients * prevalence + 0.5)
    well = n_patients - diseased
    hit, clear = _list_numbers(sensitivity), _list_numbers(specificity)
    # each array holds value, low and high; what falls as a rate rises takes its bounds the other way round
    swap = [0, 2, 1]
    found, passed = np.floor(hit * diseased + 0.5), np.floor(clear * well + 0.5)
    missed, wrong = (diseased - found)[swap], (well - passed)[swap]
    alarms_per_hit = _divide_ratio((1 - clear)[swap] * (1 - prevalence), hit[swap] * prevalence)
    level = min(sensitivity.level, specificity.level)

    def make(numbers: FloatArray) -> Estimate:
        value, low, high = (float(number) for number in numbers)
        return Estimate(value, low, high, level, "from the intervals of sensitivity and specificity")

    return Workload(
        n_patients=n_patients,
        diseased=diseased,
        called=make(found + wrong),
        found=make(found),
        missed=make(missed),
        wrongly_called=make(wrong),
        rightly_passed=make(passed),
        reviewed_per_found=make(1 + alarms_per_hit),
    )


def _list_numbers(estimate: Estimate) -> FloatArray:
    return np.array([estimate.value, estimate.low, estimate.high])


def _divide_ratio(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Return numerator ÷ denominator, infinite where only the denominator is 0 and nan where both are."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.where((below == 0) & (above > 0), np.inf, divide(above, below))


def _mix_draws(threshold: float, draws: ArrayLike | None, n_resamples: int, seed: int) -> FloatArray:
    """Return a threshold for each resample: the defined draws in random order, over and again."""
    if draws is None:
        return np.full(n_resamples, threshold)
    given = np.asarray(draws, np.float64)
    defined = given[~np.isnan(given)]
    if not len(defined):
        raise OptionError(f"At least one threshold_draw must be a number; found {len(given)}, none of which is.")
    # in their own order draw and resample of one seed would hold the same positions of patients
    return np.random.Generator(np.random.PCG64([seed, 1])).permutation(np.resize(defined, n_resamples))


def _resample_cells(ranking: Ranking, thresholds: FloatArray, seed: int) -> FloatArray:
    """Return `sum_cells` of one resample for each threshold, (resamples, 4)."""
    cells, start = [], 0
    for counts in iterate_counts(ranking, len(thresholds), seed):
        cells.append(sum_cells(ranking, counts, thresholds[start : start + len(counts)]))
        start += len(counts)
    return np.concatenate(cells)


def _find_rates(cells: FloatArray) -> dict[str, FloatArray]:
    """Return the proportions of cells (resamples, 4), each of shape (resamples,)."""
    hits, missed, alarms, cleared = cells.T
    return {
        "sensitivity": divide(hits, hits + missed),
        "specificity": divide(cleared, alarms + cleared),
        "ppv": divide(hits, hits + alarms),
        "npv": divide(cleared, cleared + missed),
        "accuracy": divide(hits + cleared, cells.sum(axis=1)),
    }


def _estimate_proportions(
    ranking: Ranking, called: BoolArray, resampled: FloatArray | None, level: float
) -> dict[str, Estimate]:
    """Return the proportions with Wilson's intervals, or where ``resampled`` cells are given with percentiles of these."""
    parts = {  # of which items, and which of them are hits
        "sensitivity": (ranking.truth, called),
        "specificity": (~ranking.truth, ~called),
        "ppv": (called, ranking.truth),
        "npv": (~called, ~ranking.truth),
        "accuracy": (np.ones_like(called), called == ranking.truth),
    }
    values = {} if resampled is None else _find_rates(resampled)
    estimates = {}
    for name, (of, hits) in parts.items():
        patients = ranking.patients[of]
        if resampled is None:
            estimates[name] = estimate_proportion(hits[of], patients, level=level)
        else:
            estimates[name] = interval(values[name], average(hits[of]), len(np.unique(patients)), level=level)
    return estimates


def _derive(sensitivity: ArrayLike, specificity: ArrayLike, prevalence: float | None) -> dict[str, FloatArray]:
    """Return what follows from sensitivity and specificity, of their shape; all but "lr_negative" rises with either."""
    hit, clear = np.asarray(sensitivity, np.float64), np.asarray(specificity, np.float64)
    derived = {
        "youden": hit + clear - 1,
        "lr_positive": _divide_ratio(hit, 1 - clear),
        "lr_negative": _divide_ratio(1 - hit, clear),
        "diagnostic_odds_ratio": _divide_ratio(hit * clear, (1 - hit) * (1 - clear)),
    }
    if prevalence is not None:
        found, passed = hit * prevalence, clear * (1 - prevalence)
        derived["ppv_at_prevalence"] = divide(found, found + (1 - clear) * (1 - prevalence))
        derived["npv_at_prevalence"] = divide(passed, passed + (1 - hit) * prevalence)
    return derived


def _estimate_ratios(
    points: Mapping[str, FloatArray],
    resampled: Mapping[str, FloatArray],
    rates: Mapping[str, Estimate],
    prevalence: float | None,
    level: float,
) -> dict[str, Estimate]:
    """Return what `_derive` makes, with percentiles of resamples.

    Where all resamples agree in sensitivity or specificity, as at 0 or 1, percentiles would claim certainty: bounds are then
    made of those of the ``rates``, cautiously of both at once.
    """
    hit, clear = rates["sensitivity"], rates["specificity"]
    point = _derive(points["sensitivity"][0], points["specificity"][0], prevalence)
    values = _derive(resampled["sensitivity"], resampled["specificity"], prevalence)
    bounds = _derive([hit.low, hit.high], [clear.low, clear.high], prevalence)
    defined = (resampled[name][~np.isnan(resampled[name])] for name in ("sensitivity", "specificity"))
    agreed = any(len(np.unique(each)) < 2 for each in defined)
    # percentiles are not interpolated, which is not defined towards an infinite ratio
    estimates = {}
    for name, value in point.items():
        kept = np.sort(values[name][~np.isnan(values[name])])
        if np.isnan(value):
            low, high, method = math.nan, math.nan, "undefined: a class is absent, or all items are called alike"
        elif agreed or not len(kept):
            low, high = sorted(bounds[name])
            method = "from the bounds of sensitivity and specificity"
        else:
            outside = (1 - level) / 2 * (len(kept) - 1)
            low, high = kept[math.floor(outside)], kept[len(kept) - 1 - math.floor(outside)]
            method = f"percentile bootstrap, {len(kept)} resamples of patients"
        estimates[name] = Estimate(float(value), float(low), float(high), level, method)
    return estimates
