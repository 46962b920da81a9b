"""How far new data lie from those that a model was made from: numbers and counts of two sets of patients."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError
from thawline.judge.metrics import check_lengths

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups

N_BINS = 10  # of the stability index, as is the custom
PATIENTS_PER_BIN = 5  # below, a share is mostly chance; of few patients there are fewer bins
CHANCE = 0.05  # of a stability index above its limit where nothing has changed


@dataclasses.dataclass(frozen=True, slots=True)
class Shift:
    """How far the values of new patients lie from those of others.

    ``distance`` is the largest difference of the distribution functions, ``p_value`` how likely chance alone would part them
    so far; ``stability`` is the population stability index, and ``limit`` what it stays below by chance in 95 of 100 cases.
    """

    distance: float
    p_value: float
    stability: float
    limit: float
    n_patients: tuple[int, int]


def compare_values(before: ArrayLike, groups_before: Groups, now: ArrayLike, groups_now: Groups) -> Shift:
    """Compare values of items, each of shape (items,), by the means of their patients, who alone are independent.

    The test is that of Kolmogorov and Smirnov (Smirnov, Annals of Mathematical Statistics 19:279, 1948), the index that of
    `measure_stability`. Raises DataError where arrays are empty, differ in length or hold a value that is not finite.
    """
    from scipy.stats import ks_2samp

    first, second = take_means(before, groups_before), take_means(now, groups_now)
    found = ks_2samp(first, second, method="asymp")
    stability, limit = measure_stability(first, second)
    return Shift(float(found.statistic), float(found.pvalue), stability, limit, (len(first), len(second)))


def take_means(values: ArrayLike, groups: Groups) -> FloatArray:
    """Return the mean value of each patient, (patients,). Raises DataError for none, or one that is not finite."""
    given = np.asarray(values, np.float64)
    check_lengths(values=given, groups=groups)
    if not len(given) or not np.isfinite(given).all():
        raise DataError(f"At least one value and only finite ones are needed; found {len(given)} with {given.sum()}.")
    patients = np.unique(groups, return_inverse=True)[1]
    return np.asarray(np.bincount(patients, weights=given) / np.bincount(patients))


def measure_stability(before: FloatArray, now: FloatArray) -> tuple[float, float]:
    """Return the population stability index of values, one a patient, and what it stays below by chance.

    Σ (q − p) ln(q ÷ p) over bins that hold equal shares p of the patients ``before`` and q of those ``now`` (Siddiqi, Credit
    Risk Scorecards, 2006, where above .25 is a change); half a patient is added to each bin. Without a change it is about
    (1/n + 1/m) χ² with one degree of freedom less than there are bins (Yurdakul and Naranjo, Journal of Risk Model
    Validation 14(4), 2020), of which the limit is the 95 % quantile. (0, nan) where all values are one.
    """
    from scipy.special import chdtri

    n_bins = max(2, min(N_BINS, len(before) // PATIENTS_PER_BIN))
    ends = np.unique(np.quantile(before, np.arange(1, n_bins) / n_bins))
    counts = [np.bincount(np.searchsorted(ends, values), minlength=len(ends) + 1) for values in (before, now)]
    seen = (counts[0] + counts[1]) > 0
    if seen.sum() < 2:
        return 0.0, math.nan
    p, q = ((each[seen] + 0.5) / (each[seen] + 0.5).sum() for each in counts)
    limit = (1 / len(before) + 1 / len(now)) * float(chdtri(seen.sum() - 1, CHANCE))
    return float(((q - p) * np.log(q / p)).sum()), limit


def compare_counts(before: ArrayLike, now: ArrayLike) -> float:
    """Return how likely chance alone would part two rows of counts, (classes,), so far, were their shares equal.

    Pearson's χ² test of homogeneity; classes that neither has are left out. nan with fewer than two others, or without
    a count on one side. The counts are to be of patients.
    """
    from scipy.special import chdtrc

    table = np.stack([np.asarray(before, np.float64), np.asarray(now, np.float64)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return math.nan
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))
