"""What decisions between two classes are worth: net benefit over thresholds.

Arrays are those of `decisions`: ``truth01``, ``scores`` and ``groups`` have shape (items,), and an item is called positive
when its score is at least the threshold. Whole patients are resampled.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import OptionError
from thawline.judge.decisions import (
    Ranking,
    check_probabilities,
    find_cuts,
    iterate_counts,
    sort_items,
    sum_called,
)
from thawline.judge.intervals import check_level
from thawline.judge.metrics import divide

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups


@dataclasses.dataclass(frozen=True, slots=True)
class Band:
    """A curve with its band, each of shape (thresholds,); pointwise, nan where it is undefined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclasses.dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit at each threshold of calling by the model, and of treating all; treating none is 0 throughout.

    ``gain`` is the model's over the better of both others, from the same resamples. In true positives an item, or as a
    fraction of the most possible where ``standardised``.
    """

    thresholds: FloatArray
    model: Band
    treat_all: Band
    gain: Band
    level: float
    standardised: bool


def net_benefit(
    truth01: ArrayLike,
    scores: ArrayLike,
    groups: Groups,
    thresholds: ArrayLike,
    *,
    prevalence: float | None = None,
    standardised: bool = False,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> DecisionCurve:
    """Return the decision curve of probabilities ``scores`` at ``thresholds`` from 0 to below 1, shape (thresholds,).

    Net benefit is sensitivity · π − (1 − specificity) · (1 − π) · t ÷ (1 − t) at threshold t (Vickers and Elkin, Medical
    Decision Making 26:565, 2006), with π the ``prevalence``, by default that of the data; ``standardised`` divides by it
    (Kerr et al., Journal of Clinical Oncology 34:2534, 2016). Bands are pointwise percentiles over those resamples of
    patients that have the needed classes; nan with one patient, and too narrow where hardly any patient is called wrongly.
    Raises OptionError for a threshold, level or prevalence out of its range, DataError as `sort_items` does or where scores
    are not probabilities.
    """
    check_level(level)
    limits = np.atleast_1d(np.asarray(thresholds, np.float64))
    if not ((limits >= 0) & (limits < 1)).all() or not (prevalence is None or 0 < prevalence < 1):
        raise OptionError(
            "Thresholds from 0 to below 1 and a prevalence between 0 and 1 are needed; "
            f"found thresholds {limits.tolist()} and prevalence {prevalence}."
        )
    ranking = sort_items(truth01, scores, groups)
    check_probabilities(ranking.scores)

    def measure(weights: FloatArray) -> FloatArray:
        return _measure_benefit(ranking, weights, limits, prevalence, standardised=standardised)

    once = measure(np.ones((1, ranking.n_patients)))[:, 0]
    resampled = np.concatenate([measure(counts) for counts in iterate_counts(ranking, n_resamples, seed)], axis=1)
    alone = ranking.n_patients < 2
    model, treat_all, gain = (
        _find_band(value, np.full_like(values, np.nan) if alone else values, level)
        for value, values in zip(once, resampled, strict=True)
    )
    return DecisionCurve(limits, model, treat_all, gain, level, standardised)


def _measure_benefit(
    ranking: Ranking, weights: FloatArray, limits: FloatArray, prevalence: float | None, *, standardised: bool
) -> FloatArray:
    """Return net benefit of the model, of treating all and the model's gain, shape (3, resamples, thresholds)."""
    caught, alarms = sum_called(ranking, weights)
    cuts, odds = find_cuts(ranking, limits), limits / (1 - limits)
    positives, negatives = caught[:, -1:], alarms[:, -1:]
    hits, false = caught[:, cuts], alarms[:, cuts]
    if prevalence is None:
        n_items = positives + negatives
        hits, false, share = hits / n_items, false / n_items, positives / n_items
    else:
        share = np.full_like(positives, prevalence)
        hits, false = prevalence * divide(hits, positives), (1 - prevalence) * divide(false, negatives)
    model, treat_all = hits - false * odds, share - (1 - share) * odds
    benefit = np.stack([model, treat_all, model - np.maximum(treat_all, 0)])
    return divide(benefit, share) if standardised else benefit


def _find_band(value: FloatArray, values: FloatArray, level: float) -> Band:
    """Return a curve, (thresholds,), with percentiles of its resamples, (resamples, thresholds), that are defined."""
    kept = values[~np.isnan(values).any(axis=1)]
    if not len(kept):
        return Band(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(value, low, high)
