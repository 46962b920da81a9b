"""The area under the ROC curve with its uncertainty, where a patient may have several items.

The structural components of DeLong, DeLong and Clarke-Pearson, Biometrics 44:837 (1988), summed within patients as
Obuchowski, Biometrics 53:567 (1997), does: with one item a patient this is DeLong's variance. AUCs are one-vs-rest, of
several classes their plain mean, out of fold the mean over the folds where both sides occur.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError
from thawline.judge.metrics import check_lengths, divide
from thawline.types import MISSING, Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, Groups, IntArray, Labels, Probabilities

PRIOR_PATIENTS = 1.0  # how many erring patients the assumed variance counts for, beside those that are seen


@dataclasses.dataclass(frozen=True, slots=True)
class Areas:
    """AUCs of the same items, one a column, and what each patient adds to them.

    ``of_positives`` and ``of_negatives``, (patients, columns), sum to zero: what a patient's items add, less what as many
    items placed as the mean would. ``n_folds`` is how many AUCs a column is the mean of, ``patients`` are those with
    positives, with negatives and with either, ``effective`` how many independent positives and negatives are as uncertain.
    """

    values: FloatArray
    of_positives: FloatArray
    of_negatives: FloatArray
    n_folds: IntArray
    patients: tuple[IntArray, ...]
    effective: tuple[FloatArray, ...]

    def take(self, columns: Sequence[int]) -> Areas:
        """Return some of the columns."""
        chosen = list(columns)
        return Areas(
            self.values[chosen],
            self.of_positives[:, chosen],
            self.of_negatives[:, chosen],
            self.n_folds[chosen],
            tuple(each[chosen] for each in self.patients),
            tuple(each[chosen] for each in self.effective),
        )

    def covariance(self) -> FloatArray:
        """Return the covariance of the AUCs, (columns, columns); nan where a side has no more patients than folds."""
        positive, negative, both = (_correct(each, self.n_folds) for each in self.patients)
        of_positives, of_negatives = self.of_positives * np.sqrt(positive), self.of_negatives * np.sqrt(negative)
        across = self.of_positives.T @ self.of_negatives * np.sqrt(np.outer(both, both))
        return np.asarray(of_positives.T @ of_positives + of_negatives.T @ of_negatives + across + across.T)


def place(truth01: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Return for each positive the share of negatives with a lower score, for each negative that of positives with a higher.

    Equal scores count half. Both arrays have shape (items,), and so has the result; their means over positives and over
    negatives are the AUC. nan where a class is absent. Raises DataError on scores that are not finite.
    """
    truth, score = np.asarray(truth01, bool), np.asarray(scores, np.float64)
    check_lengths(truth01=truth, scores=score)
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score))[0])
        raise DataError(f"Scores must be finite; row {row} holds {score[row]}. Look at the model that made it.")
    found = np.empty(len(score))
    for side in (truth, ~truth):
        others = np.sort(score[~side])
        below = np.searchsorted(others, score[side], "left") + np.searchsorted(others, score[side], "right")
        found[side] = divide(below, 2 * len(others))
    found[~truth] = 1 - found[~truth]
    return found


def measure_areas(
    labels: Labels,
    probabilities: Probabilities | Sequence[Probabilities],
    groups: Groups,
    classes: Sequence[int],
    folds: IntArray | None = None,
) -> Areas:
    """Return the AUC of each of ``classes`` against the rest, a column each; of several models, those of the first first.

    ``labels`` (items,), or of several labels (items, labels) with `MISSING`; ``probabilities`` (items, classes), or one such
    array a model; ``folds`` (items,) which model scored an item. Folds without both sides are left out of a class; where all
    are, its AUC is nan.
    """
    truth, models = np.asarray(labels), _list_models(probabilities)
    fold = np.zeros(len(truth), np.int64) if folds is None else np.asarray(folds)
    names, patients = np.unique(groups, return_inverse=True)
    for given in models:
        check_lengths(labels=truth, probabilities=given, groups=patients, folds=fold)
    columns = [
        _measure_class(*_take_class(truth, given, k), patients, len(names), fold) for given in models for k in classes
    ]
    values, positives, negatives, n_folds, counts, effective = zip(*columns, strict=True)
    return Areas(
        np.array(values),
        np.stack(positives, axis=1),
        np.stack(negatives, axis=1),
        np.array(n_folds),
        tuple(np.array(counts).T),
        tuple(np.array(effective).T),
    )


def estimate_auc(areas: Areas, *, level: float = 0.95) -> Estimate:
    """Return the mean of AUCs with its interval.

    The interval holds every AUC that the found one could be a chance result of: |found − true| ≤ t · √variance(true), as
    Newcombe, Statistics in Medicine 25:559 (2006), has it in his method 5, which stays within [0, 1] and has a lower bound
    where the found AUC is 1. How the variance changes with the true AUC is his; how large it is is what
    `Areas.covariance` says, in so far as patients on the wrong side are seen at all: they are weighed against one more, of
    which his formula is believed. t has Satterthwaite's degrees of freedom, of the patients of both sides.
    `benchmarks/coverage.py` shows how often such intervals hold the truth. nan where an AUC is, or there is none; without
    interval where a class has no more than one patient a fold.
    """
    if not len(areas.values) or np.isnan(areas.values).any():
        return Estimate(math.nan, math.nan, math.nan, level, "undefined: a class is absent")
    found, variance = float(areas.values.mean()), float(areas.covariance().mean())
    if np.isnan(variance):
        fewest = int(min(each.min() for each in areas.patients[:2]))
        return Estimate(found, math.nan, math.nan, level, f"no interval: rests on {fewest} patient(s) of a class")
    assumed = _assume_variance(areas)
    positives, negatives = areas.patients[:2]
    erring = float((2 * positives * negatives / (positives + negatives)).mean()) * 4 * found * (1 - found)
    scale, expected = 1.0, assumed(found)
    if expected > 0:
        scale = (max(variance, 0.0) / expected * erring + PRIOR_PATIENTS) / (erring + PRIOR_PATIENTS)
    reach = _find_quantile(areas, level) * math.sqrt(scale)
    low, high = (_find_bound(found, lambda true: reach * math.sqrt(assumed(true)), end) for end in (0.0, 1.0))
    return Estimate(found, low, high, level, "DeLong with patients as clusters (Obuchowski), score interval")


def _list_models(probabilities: Probabilities | Sequence[Probabilities]) -> list[FloatArray]:
    given = np.asarray(probabilities, np.float64)
    return list(given) if given.ndim == 3 else [given]


def _take_class(labels: Labels, probabilities: FloatArray, k: int) -> tuple[BoolArray, FloatArray, BoolArray]:
    """Return whether each item is of class k, its score, and whether that is known."""
    if labels.ndim == 2:
        return labels[:, k] == 1, probabilities[:, k], labels[:, k] != MISSING
    return labels == k, probabilities[:, k], np.ones(len(labels), bool)


def _measure_class(
    truth: BoolArray, scores: FloatArray, known: BoolArray, patients: IntArray, n_patients: int, folds: IntArray
) -> tuple[float, FloatArray, FloatArray, int, tuple[int, ...], tuple[float, ...]]:
    """Return one column of `Areas`."""
    sides, counts, values = np.zeros((2, n_patients)), np.zeros(3, np.int64), []
    independent, n_items = np.zeros(2), np.zeros(2)
    for number in np.unique(folds[known]):
        inside = np.flatnonzero(known & (folds == number))
        own = truth[inside]
        if own.all() or not own.any():
            continue
        placed, owner = place(own, scores[inside]), patients[inside]
        values.append(placed[own].mean())
        for side, members in enumerate((own, ~own)):
            residuals = (placed[members] - values[-1]) / members.sum()
            sides[side] += np.bincount(owner[members], weights=residuals, minlength=n_patients)
            counts[side] += len(np.unique(owner[members]))
            independent[side] += (residuals**2).sum()
            n_items[side] += members.sum()
        counts[2] += len(np.unique(owner))
    if not values:
        return math.nan, sides[0], sides[1], 0, tuple(counts.tolist()), (0.0, 0.0)
    inflation = np.clip(divide((sides**2).sum(axis=1), independent), 1, n_items / counts[:2])
    inflation = np.where(np.isnan(inflation), n_items / counts[:2], inflation)
    n_folds = len(values)
    effective = tuple((n_items / inflation).tolist())
    return float(np.mean(values)), sides[0] / n_folds, sides[1] / n_folds, n_folds, tuple(counts.tolist()), effective


def _correct(n_patients: IntArray, n_folds: IntArray) -> FloatArray:
    """Return patients ÷ (patients − folds), for the mean that was taken off in each fold; nan where none is left."""
    return np.where(n_patients > n_folds, divide(n_patients, n_patients - n_folds), np.nan)


def _assume_variance(areas: Areas) -> Callable[[float], float]:
    """Return the variance of an AUC as a function of its true value: Newcombe's, averaged over the columns."""
    positives, negatives = areas.effective
    other, product = (positives + negatives) / 2 - 1, positives * negatives

    def assume(true: float) -> float:
        spread = 1 + other * ((1 - true) / (2 - true) + true / (1 + true))
        return float((true * (1 - true) * spread / product).mean())

    return assume


def _find_quantile(areas: Areas, level: float) -> float:
    """Return the quantile of Student's t with Satterthwaite's degrees of freedom: of the least certain column."""
    from scipy.special import stdtrit

    parts = [(side**2).sum(axis=0) for side in (areas.of_positives, areas.of_negatives)]
    freedom = [each - areas.n_folds for each in areas.patients[:2]]
    each = divide((parts[0] + parts[1]) ** 2, parts[0] ** 2 / freedom[0] + parts[1] ** 2 / freedom[1])
    each = np.where(np.isnan(each), np.minimum(*freedom), each)
    return float(stdtrit(max(each.min(), 1.0), (1 + level) / 2))


def _find_bound(found: float, reach: Callable[[float], float], end: float) -> float:
    """Return the true value towards ``end`` that lies just within reach of the found one."""
    from scipy.optimize import brentq

    def miss(true: float) -> float:
        return abs(true - found) - reach(true)

    edge = end + (1e-12 if end == 0 else -1e-12)
    if abs(found - end) <= 1e-12 or miss(edge) <= 0:
        return end
    start = found + (1e-12 if end > found else -1e-12)
    return found if miss(start) >= 0 else float(brentq(miss, *sorted((start, edge)), xtol=1e-9))
