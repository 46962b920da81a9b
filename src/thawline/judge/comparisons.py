"""One candidate against another on the same patients: paired differences, tests, many at once, and margins.

What two candidates have in common, the patients, cancels in a paired comparison; each patient counts as one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.auc import measure_areas
from thawline.judge.metrics import check_lengths
from thawline.judge.statistics import average_areas, interval, iterate_patient_counts, resample_fold_aucs
from thawline.types import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """How much more one candidate reaches than another, with its interval, and how likely chance alone would part them so.

    ``standard_error`` is that of the difference; ``p_value`` is two-sided. Both are nan where one patient leaves nothing to
    estimate them from.
    """

    difference: Estimate
    standard_error: float
    p_value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Which candidate was chosen, which had the lowest mean loss, and the numbers behind it, one entry a candidate.

    ``differences`` are mean losses less that of ``best``, ``standard_errors`` those of the paired differences (nan
    where one patient leaves nothing to estimate them from).
    """

    chosen: int
    best: int
    mean_losses: tuple[float, ...]
    differences: tuple[float, ...]
    standard_errors: tuple[float, ...]


def paired_difference(losses_a: ArrayLike, losses_b: ArrayLike, groups: Groups) -> tuple[float, float]:
    """Return the mean of losses_a − losses_b over items, and its standard error clustered by patient.

    With dᵢ the n differences of shape (items,), m their mean and G patients:
    se = √(G/(G−1) · Σ_g (Σ_{i in g} (dᵢ − m))²) ÷ n, the linearised ratio estimator (Cochran, Sampling Techniques, 3rd
    edition, chapter 9A; the CR1 cluster-robust error of an intercept). One item a patient gives sd(d)/√n. The error is
    nan for one patient. Raises DataError without items or where a loss is not finite.
    """
    difference = np.asarray(losses_a, np.float64) - np.asarray(losses_b, np.float64)
    check_lengths(losses=difference, groups=groups)
    if not len(difference) or not np.isfinite(difference).all():
        found = f"row {np.flatnonzero(~np.isfinite(difference))[0]} is not" if len(difference) else "no items"
        raise DataError(f"Finite losses of at least one item are needed to compare; found {found}.")
    mean = difference.mean()
    patients, place = np.unique(groups, return_inverse=True)
    if len(patients) < 2:
        return float(mean), float("nan")
    residuals = np.bincount(place, weights=difference - mean)
    spread = len(patients) / (len(patients) - 1) * (residuals**2).sum()
    return float(mean), float(np.sqrt(spread) / len(difference))


def choose_within_one_se(losses: ArrayLike, groups: Groups) -> Selection:
    """Return the first candidate that is not worse than the best by more than one standard error of the difference.

    ``losses``, shape (candidates, items), holds candidates in a fixed order of preference, the cheapest first, on the
    same items. The one-standard-error rule of Breiman et al., Classification and Regression Trees (1984), section
    3.4.3, on paired differences. Raises DataError as `paired_difference` does, or without candidates.
    """
    table = np.asarray(losses, np.float64)
    if table.ndim != 2 or not len(table):
        raise DataError(f"Losses must have shape (candidates, items) with at least one; found shape {table.shape}.")
    means = table.mean(axis=1)
    best = int(means.argmin())
    pairs = [paired_difference(row, table[best], groups) for row in table]
    # nan, the error of a single patient, counts as 0: without evidence of a spread only an equal loss is good enough
    chosen = next(k for k, (difference, error) in enumerate(pairs) if difference <= np.nan_to_num(error))
    return Selection(
        chosen=chosen,
        best=best,
        mean_losses=tuple(float(mean) for mean in means),
        differences=tuple(difference for difference, _ in pairs),
        standard_errors=tuple(error for _, error in pairs),
    )


def compare_aucs(
    candidates: Sequence[Probabilities],
    labels: Labels,
    groups: Groups,
    folds: IntArray,
    *,
    useful_gain: float,
    seed: int = 0,
    n_resamples: int = 1000,
) -> tuple[Estimate, float]:
    """Compare the last candidate with the best of those before it: AUC gained, and the chance that the gain is useful.

    ``candidates`` are out-of-fold probabilities (items, classes) of the same items; AUCs are those of `auc.measure_areas`.
    The gain has a 95 % interval from resampling patients, the same resamples for both, so that what they have in common
    cancels. The chance is the share of resamples in which the gain is ``useful_gain`` or more; 0 where no AUC is defined.
    """
    patients = np.unique(groups, return_inverse=True)[1]
    n_patients = int(patients.max()) + 1
    two = labels.ndim == 1 and candidates[0].shape[1] == 2
    classes = [1] if two else range(candidates[0].shape[1])

    def measure(weights: FloatArray, probabilities: Probabilities) -> FloatArray:
        areas = resample_fold_aucs(labels, probabilities, patients, folds, weights, classes)
        return average_areas(areas)

    once = np.ones((1, n_patients))
    points = [float(measure(once, each)[0]) for each in candidates]
    *before, last = points
    best = int(np.nanargmax(before)) if not np.isnan(before).all() else 0
    differences = [
        measure(weights, candidates[-1]) - measure(weights, candidates[best])
        for weights in iterate_patient_counts(n_patients, n_resamples, seed, max_columns=len(labels))
    ]
    found = np.concatenate(differences)
    gain = interval(found, last - before[best], n_patients, largest=None)
    defined = found[~np.isnan(found)]
    return gain, float((defined >= useful_gain).mean()) if len(defined) else 0.0


def compare_paired_aucs(
    labels: Labels,
    probabilities: tuple[Probabilities, Probabilities],
    groups: Groups,
    classes: Sequence[int],
    folds: IntArray | None = None,
    *,
    level: float = 0.95,
) -> Comparison:
    """Compare the AUC of the first of two candidates with the second's, of the same items.

    The paired test of DeLong et al. (1988) with patients as clusters (Obuchowski 1997); with several ``classes`` of the
    means of one-vs-rest AUCs, with ``folds`` of the means over folds. See `auc.measure_areas`.
    """
    areas = measure_areas(labels, list(probabilities), groups, classes, folds)
    factor = np.repeat([1.0, -1.0], len(classes)) / len(classes)
    variance = float(factor @ areas.covariance() @ factor)
    return _compare_normal(
        float(factor @ areas.values), math.sqrt(max(variance, 0.0)), level, "paired DeLong, clustered"
    )


def compare_calls(right_a: ArrayLike, right_b: ArrayLike, groups: Groups, *, level: float = 0.95) -> Comparison:
    """Compare how often two candidates call the same items rightly: McNemar's test, of patients.

    Both are bool or 0/1 of shape (items,). With d the items of a patient that only the first calls rightly less those that
    only the second does, the statistic is (Σ d)² ÷ Σ d² (Durkalski et al., Statistics in Medicine 22:2417, 2003), with one
    item a patient McNemar's, Psychometrika 12:153 (1947). Where no patient differs by more than one item the test is the
    exact binomial one. The interval is that of `paired_difference`.
    """
    from scipy.stats import binomtest

    gained = np.asarray(right_a, np.float64) - np.asarray(right_b, np.float64)
    difference, error = paired_difference(gained, np.zeros_like(gained), groups)
    names, patients = np.unique(groups, return_inverse=True)
    of_patients = np.rint(np.bincount(patients, weights=gained, minlength=len(names)))
    compared = _compare_normal(difference, error, level, "McNemar, clustered (Durkalski)")
    differing = of_patients[of_patients != 0]
    if not len(differing):
        return dataclasses.replace(compared, p_value=1.0)
    if (abs(differing) == 1).all():
        exact = binomtest(int((differing > 0).sum()), len(differing)).pvalue
        return dataclasses.replace(compared, p_value=float(exact))
    return dataclasses.replace(compared, p_value=_two_sided(differing.sum() / math.sqrt((differing**2).sum())))


def compare_independent(first: Estimate, second: Estimate) -> Comparison:
    """Compare two estimates of other patients each: the difference first − second, with interval and p-value.

    The variances of a z-test (for AUCs Hanley and McNeil, Radiology 143:29, 1982) are recovered from the intervals, on the
    sides that face each other for the p-value and on either side for the two ends (MOVER: Zou and Donner, Statistics in
    Medicine 27:1693, 2008): the difference of two AUCs near 1 has an interval, and p < .05 where that leaves out 0. Of two
    proportions with Wilson's intervals it is Newcombe's hybrid score interval. nan where an estimate or interval is missing.
    Raises OptionError where the intervals are of different levels.
    """
    from scipy.special import ndtri

    if first.level != second.level:
        raise OptionError(
            f"Intervals of one level are needed; found {first.level} and {second.level}. Estimate both alike."
        )
    found, level, method = first.value - second.value, first.level, "z-test, variances recovered from both intervals"
    if not all(map(math.isfinite, (found, first.low, first.high, second.low, second.high))):
        return Comparison(Estimate(found, math.nan, math.nan, level, method), math.nan, math.nan)
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    error = (down if found > 0 else up) / float(ndtri((1 + level) / 2))
    p_value = _two_sided(found / error) if error > 0 else 1.0 if found == 0 else 0.0
    return Comparison(Estimate(found, found - down, found + up, level, method), error, p_value)


def correct_holm(p_values: ArrayLike) -> FloatArray:
    """Return p-values, (tests,), corrected for their number so that any false one among them has the stated chance.

    Holm, Scandinavian Journal of Statistics 6:65 (1979). What is nan stays so and is not counted.
    """
    given = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    corrected = np.full(len(given), np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return corrected


def find_margin_p(compared: Comparison, margin: float, *, equivalence: bool = False) -> float:
    """Return how likely chance alone would show the first candidate so little worse, were it worse by ``margin``.

    Below .05 / 2 it is not inferior by the margin (one-sided, as the CONSORT extension of 2012 has it), which is the same as
    the 95 % interval lying above −margin. With ``equivalence`` the larger of both one-sided values (Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 15:657, 1987): neither is better by the margin. The margin is in the units of the
    metric, of which more is better. Raises OptionError for a margin that is not positive.
    """
    from scipy.special import ndtr

    if not margin > 0:
        raise OptionError(
            f"A margin must be positive; found {margin}. Pass for example 0.02, in the units of the metric."
        )
    found, error = compared.difference.value, compared.standard_error
    if error == 0:
        inside = found > -margin and (found < margin or not equivalence)
        return 0.0 if inside else 1.0
    worse = float(ndtr(-(found + margin) / error))
    return max(worse, float(ndtr((found - margin) / error))) if equivalence else worse


def _compare_normal(difference: float, error: float, level: float, method: str) -> Comparison:
    """Return a difference with the interval and the p-value of a normal one; no p-value where it has no error."""
    from scipy.special import ndtri

    reach = float(ndtri((1 + level) / 2)) * error
    p_value = math.nan if math.isnan(error) else 1.0 if difference == 0 else 0.0
    if error > 0:
        p_value = _two_sided(difference / error)
    return Comparison(Estimate(difference, difference - reach, difference + reach, level, method), error, p_value)


def _two_sided(statistic: float) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-abs(statistic)))
