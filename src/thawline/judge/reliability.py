"""How good calibration is: slope and intercept, calibration error, parts of the Brier score, and curves with bands.

All judge one class: ``labels01`` (items,), 1 where an item is of it, and ``probabilities01`` (items,), its probability.
Several classes, and several labels an item, are judged one by one: see `take_each_class`. Variances are those of patients
as clusters, so that a patient's items are no more evidence than they are.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.calibration import N_BINS
from thawline.judge.intervals import bound_wilson
from thawline.judge.metrics import SMALLEST_PROBABILITY, check_lengths, divide
from thawline.judge.statistics import average_defined, iterate_patient_counts
from thawline.types import MISSING, Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities

PATIENTS_PER_BIN = 5  # below, the variance of a bin is mostly chance; of few patients there are fewer bins
SPAN = 2 / 3  # share of the items that a point of a smooth curve rests on, as in val.prob of the R package rms
N_POINTS = 50
N_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class BrierParts:
    """The Brier score as reliability − resolution + uncertainty + within_variance − within_covariance."""

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def score(self) -> float:
        """The Brier score that the parts sum to."""
        within = self.within_variance - self.within_covariance
        return self.reliability - self.resolution + self.uncertainty + within


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """A smooth reliability curve with its pointwise band, each array of shape (points,), from low to high."""

    predicted: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray


@dataclasses.dataclass(frozen=True, slots=True)
class Bands:
    """A reliability diagram: ``curve``, and bins from low to high, each array of shape (bins,).

    ``confidence`` is the mean of what was predicted in a bin, ``frequency`` how often it came true, between ``low`` and
    ``high``; ``count`` the items, ``effective`` how many independent ones they are worth.
    """

    confidence: FloatArray
    frequency: FloatArray
    low: FloatArray
    high: FloatArray
    count: FloatArray
    effective: FloatArray
    curve: Curve


@dataclasses.dataclass(frozen=True, slots=True)
class _Bins:
    """Bins of equal mass: ``place`` (items,) is the bin of each item, all else has shape (bins,)."""

    place: IntArray
    count: FloatArray
    confidence: FloatArray
    frequency: FloatArray
    variance: FloatArray  # of the frequency, patients as clusters; 0 where there is one patient
    n_patients: IntArray


def take_each_class(
    labels: Labels, probabilities: Probabilities, groups: Groups
) -> tuple[tuple[Labels, FloatArray, Groups], ...]:
    """Return (labels01, probabilities01, groups) of each class against the rest, or of each label where it is known."""
    truth, given, patients = np.asarray(labels), np.asarray(probabilities, np.float64), np.asarray(groups)
    check_lengths(labels=truth, probabilities=given, groups=patients)
    taken = []
    for k in range(given.shape[1]):
        known = truth[:, k] != MISSING if truth.ndim == 2 else np.ones(len(truth), bool)
        mark = truth[:, k] == 1 if truth.ndim == 2 else truth == k
        taken.append((mark[known].astype(np.int64), given[known, k], patients[known]))
    return tuple(taken)


def calibration_slope(
    labels01: ArrayLike, probabilities01: ArrayLike, groups: ArrayLike, *, level: float = 0.95
) -> tuple[Estimate, Estimate]:
    """Return the calibration slope and the calibration in the large, each with an interval.

    The slope is β of the logistic regression logit P(y = 1) = α + β logit(p): 1 is right, less is overconfident. The
    calibration in the large is α with β fixed at 1: 0 is right, more says that probabilities are too low. Cox, Biometrika
    45:562 (1958); Van Calster et al., BMC Medicine 17:230 (2019).

    Intervals are Student's with one degree of freedom less than there are patients, on the sandwich error with patients as
    clusters in its leave-one-out form CR3 (Bell and McCaffrey, Survey Methodology 28:169, 2002), as the plain one is too
    small with few patients. Without a finite maximum of the likelihood a number is nan, and ``method`` says why.
    Probabilities of 0 and 1 are taken as 1e-15 from it. Raises OptionError, DataError.
    """
    truth, given, patients = _check(labels01, probabilities01, groups, level)
    kept = np.clip(given, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    logits, ones = np.log(kept) - np.log1p(-kept), np.ones((len(given), 1))
    why = _find_obstacle(truth, logits)
    slope = Estimate(math.nan, math.nan, math.nan, level, why)
    large = slope
    if not why:
        slope = _estimate_last(np.column_stack([ones, logits]), truth, 0 * logits, patients, level)
    if len(np.unique(truth)) == 2:
        large = _estimate_last(ones, truth, logits, patients, level)
    return slope, large


def debiased_ece(
    labels01: ArrayLike, probabilities01: ArrayLike, groups: ArrayLike, *, n_bins: int = N_BINS, norm: int = 2
) -> float:
    """Return the calibration error over bins of equal mass, less what chance adds to it; at least 0.

    With d the confidence less the frequency of a bin, w its share of the items and v the variance of its frequency:
    ``norm`` 2 is √Σ w (d² − v), the debiased estimator of Kumar, Liang and Ma (NeurIPS 2019, section 5); ``norm`` 1 is
    Σ w (2 |d| − E|N(d, v)|), their correction of the mean absolute error with the mean of the folded normal (Leone, Nelson
    and Nottingham, Technometrics 3:543, 1961) for their resamples, which takes off most of the bias and not all. v is theirs
    where each patient has one item, and else that of patients as clusters. Bins of one patient keep their bias; of few
    patients there are fewer bins, one for every 5. nan with fewer than two patients. Raises OptionError, DataError.
    """
    if norm not in (1, 2):
        raise OptionError(f"A calibration error is of norm 1 or 2; found norm={norm}.")
    truth, given, patients = _check(labels01, probabilities01, groups)
    if len(np.unique(patients)) < 2:
        return math.nan
    bins = _make_bins(truth, given, patients, n_bins)
    apart, share = np.abs(bins.confidence - bins.frequency), bins.count / len(truth)
    if norm == 2:
        return math.sqrt(max(float(share @ (apart**2 - bins.variance)), 0.0))
    return max(float(share @ (2 * apart - _fold_normal(apart, np.sqrt(bins.variance)))), 0.0)


def brier_parts(
    labels01: ArrayLike, probabilities01: ArrayLike, groups: ArrayLike, *, n_bins: int = N_BINS, debias: bool = False
) -> BrierParts:
    """Return the parts of the Brier score over bins of equal mass (fewer of few patients); they sum to it exactly.

    Murphy, Journal of Applied Meteorology 12:595 (1973), with the terms within bins of Stephenson, Coelho and Jolliffe,
    Weather and Forecasting 23:752 (2008). ``debias`` takes off reliability and resolution what chance adds to them: Ferro
    and Fricker, Quarterly Journal of the Royal Meteorological Society 138:1954 (2012), here with the variance of patients
    as clusters. All are nan without items, and with ``debias`` of fewer than two patients. Raises OptionError, DataError.
    """
    truth, given, patients = _check(labels01, probabilities01, groups)
    if not len(truth) or (debias and len(np.unique(patients)) < 2):
        return BrierParts(*[math.nan] * 5)
    bins, whole = _make_bins(truth, given, patients, n_bins), _make_bins(truth, given, patients, 1)
    mean, share = truth.mean(), bins.count / len(truth)
    inside = given - bins.confidence[bins.place]
    by_chance = float(share @ bins.variance) if debias else 0.0
    of_mean = float(whole.variance[0]) if debias else 0.0
    return BrierParts(
        reliability=float(share @ (bins.confidence - bins.frequency) ** 2) - by_chance,
        resolution=float(share @ (bins.frequency - mean) ** 2) - by_chance + of_mean,
        uncertainty=float(mean * (1 - mean)) + of_mean,
        within_variance=float((inside**2).mean()),
        within_covariance=float(2 * (inside * truth).mean()),
    )


def reliability_bands(
    labels01: ArrayLike,
    probabilities01: ArrayLike,
    groups: ArrayLike,
    *,
    n_bins: int = N_BINS,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
) -> Bands:
    """Return a reliability diagram: bins of equal mass with intervals, and a smooth curve with a pointwise band.

    Both are Wilson's intervals with the number of independent items that is worth as much: the items over their design
    effect (Rao and Scott, Biometrics 48:577, 1992), made smaller as that is itself estimated from few patients (Korn and
    Graubard, Survey Methodology 24:193, 1998). A frequency of 0 or 1, or of one patient, shows no design effect: it rests on
    as many items as patients. Of few patients there are fewer bins. For the curve see `_smooth`. Arrays are empty without
    items. Raises OptionError, DataError.
    """
    truth, given, patients = _check(labels01, probabilities01, groups, level)
    bins = _make_bins(truth, given, patients, n_bins)
    effective = _count_effective(bins.frequency, bins.variance, bins.count, bins.n_patients, level)
    low, high = bound_wilson(bins.frequency, effective, level=level)
    curve = _smooth(truth, given, patients, seed, n_resamples, level)
    return Bands(bins.confidence, bins.frequency, low, high, bins.count, effective, curve)


def _check(
    labels01: ArrayLike, probabilities01: ArrayLike, groups: ArrayLike, level: float = 0.95
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return labels and probabilities as float64 and patients numbered from 0. Raises OptionError, DataError."""
    if not 0 < level < 1:
        raise OptionError(f"The level of an interval must lie between 0 and 1; found {level}. Pass for example 0.95.")
    truth, given = np.asarray(labels01, np.float64), np.asarray(probabilities01, np.float64)
    check_lengths(labels01=truth, probabilities01=given, groups=groups)
    wrong = {"Labels must be 0 or 1": (truth, (truth != 0) & (truth != 1))}
    wrong["Probabilities must lie between 0 and 1"] = (given, ~((given >= 0) & (given <= 1)))
    for rule, (values, is_wrong) in wrong.items():
        if values.ndim != 1:
            raise DataError(f"{rule}, one an item; found shape {values.shape}. Pass those of one class.")
        if is_wrong.any():
            row = int(np.flatnonzero(is_wrong)[0])
            raise DataError(f"{rule}; row {row} holds {values[row]}. Look at what made it.")
    return truth, given, np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def _make_bins(truth: FloatArray, given: FloatArray, patients: IntArray, n_bins: int) -> _Bins:
    """Cut items into bins of equal mass, at most one for every 5 patients; equal probabilities stay together."""
    if n_bins < 1:
        raise OptionError(f"At least one bin is needed; found n_bins={n_bins}.")
    most = max(min(n_bins, len(np.unique(patients)) // PATIENTS_PER_BIN), 1)
    ends = np.cumsum([len(part) for part in np.array_split(given, most)])[:-1]
    ordered = np.sort(given)
    edges = (ordered[ends - 1] + ordered[ends]) / 2
    place = np.unique(np.searchsorted(edges, given), return_inverse=True)[1].astype(np.int64)
    count = np.bincount(place).astype(np.float64)
    frequency = np.bincount(place, weights=truth) / count
    cells, cell = np.unique(place * len(given) + patients, return_inverse=True)
    sums, owner = np.bincount(cell, weights=truth - frequency[place]), cells // max(len(given), 1)
    n_patients = np.bincount(owner, minlength=len(count))
    spread = np.bincount(owner, weights=sums**2, minlength=len(count))
    variance = np.nan_to_num(divide(n_patients * spread, (n_patients - 1) * count**2))
    return _Bins(place, count, np.bincount(place, weights=given) / count, frequency, variance, n_patients)


def _fold_normal(mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """Return E|N(mean, deviation²)|, of means that are not negative."""
    from scipy.special import ndtr

    ratio = np.divide(mean, deviation, out=np.full(mean.shape, np.inf), where=deviation > 0)
    tail = deviation * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2)
    return np.asarray(tail + mean * (1 - 2 * ndtr(-ratio)))


def _count_effective(
    frequency: FloatArray, variance: FloatArray, count: ArrayLike, n_patients: ArrayLike, level: float
) -> FloatArray:
    """Return how many independent items a frequency is worth, at least 1, with the variance that patients give it."""
    from scipy.special import ndtri, stdtrit

    alone, tail = frequency * (1 - frequency), (1 + level) / 2
    is_known = (alone > 1e-9) & (np.asarray(n_patients) > 1 + 1e-9)
    number = np.where(is_known, np.fmin(divide(alone, variance), count), n_patients)
    shrink = (ndtri(tail) / stdtrit(np.maximum(np.asarray(n_patients) - 1, 1), tail)) ** 2
    return np.asarray(np.maximum(number * shrink, 1.0))


def _find_obstacle(truth: FloatArray, logits: FloatArray) -> str:
    """Say why a calibration slope has no finite estimate; empty where it has one."""
    if not len(truth):
        return "undefined: no items"
    if len(np.unique(truth)) < 2:
        return "undefined: a class is absent"
    if np.ptp(logits) == 0:
        return "undefined: all probabilities are equal"
    negative, positive = logits[truth == 0], logits[truth == 1]
    if negative.max() <= positive.min() or positive.max() <= negative.min():
        return "undefined: probabilities separate the classes, so that the slope has no bound"
    return ""


def _estimate_last(
    design: FloatArray, truth: FloatArray, offset: FloatArray, patients: IntArray, level: float
) -> Estimate:
    """Return the last coefficient of a logistic regression, its interval from a sandwich of patients (CR3)."""
    from scipy.special import expit, stdtrit

    coefficients = _fit_logistic(design, truth, offset)
    value, n_patients = float(coefficients[-1]), int(patients.max()) + 1
    told = expit(offset + design @ coefficients)
    scores, parts = np.zeros((n_patients, design.shape[1])), np.zeros((n_patients, design.shape[1], design.shape[1]))
    np.add.at(scores, patients, design * (truth - told)[:, np.newaxis])
    np.add.at(parts, patients, np.einsum("i,ij,ik->ijk", told * (1 - told), design, design))
    without = parts.sum(axis=0) - parts
    if (np.linalg.det(without) <= 1e-9 * np.linalg.det(parts.sum(axis=0))).any():
        return Estimate(value, math.nan, math.nan, level, "no interval: rests on one patient")
    shifts = np.linalg.solve(without, scores[..., np.newaxis])[:, -1, 0]
    error = math.sqrt((n_patients - 1) / n_patients * (shifts**2).sum())
    half = float(stdtrit(n_patients - 1, (1 + level) / 2)) * error
    return Estimate(value, value - half, value + half, level, f"sandwich CR3 of {n_patients} patients, Student's t")


def _fit_logistic(design: FloatArray, truth: FloatArray, offset: FloatArray) -> FloatArray:
    """Return the coefficients of largest likelihood, (columns,); there is one, as `_find_obstacle` has seen to."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(coefficients: FloatArray) -> tuple[float, FloatArray]:
        margins = offset + design @ coefficients
        losses = np.logaddexp(0.0, margins) - truth * margins
        return float(losses.mean()), design.T @ (expit(margins) - truth) / len(truth)

    start = np.zeros(design.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x, np.float64)


def _smooth(
    truth: FloatArray, given: FloatArray, patients: IntArray, seed: int, n_resamples: int, level: float
) -> Curve:
    """Return local lines over the nearest two thirds of the items, and a band from resampled patients.

    Cleveland, Journal of the American Statistical Association 74:829 (1979), without its robust steps; Austin and
    Steyerberg, Statistics in Medicine 33:517 (2014). A line is made of sums over items, so each patient's are taken once;
    the widths of all items serve every resample. Percentiles of resamples would leave too narrow a band where all items
    near a point agree, so they give the variance for `_count_effective`, with the patients near a point as Kish counts them.
    """
    if not len(given):
        return Curve(*[np.empty(0)] * 4)
    points = np.unique(np.linspace(given.min(), given.max(), N_POINTS))
    moments = _sum_moments(truth, given, patients, points)
    observed = _solve_lines(moments.sum(axis=0, keepdims=True))[0]
    flat = moments.reshape(len(moments), -1)
    chunks = iterate_patient_counts(len(flat), n_resamples, seed, max_columns=flat.shape[1])
    resampled = np.concatenate([_solve_lines((counts @ flat).reshape(len(counts), 5, -1)) for counts in chunks])
    variance = average_defined((resampled - average_defined(resampled)) ** 2)
    weight = moments[:, 0]
    n_patients = weight.sum(axis=0) ** 2 / (weight**2).sum(axis=0)
    effective = _count_effective(observed, variance, len(given), n_patients, level)
    return Curve(points, observed, *bound_wilson(observed, effective, level=level))


def _sum_moments(truth: FloatArray, given: FloatArray, patients: IntArray, points: FloatArray) -> FloatArray:
    """Return the sums that local lines are made of, (patients, 5, points): of w, wx, wx², wy and wxy, x from the point."""
    order = np.argsort(patients, kind="stable")
    apart, y = given[order, np.newaxis] - points, truth[order, np.newaxis]
    nearest = max(int(SPAN * len(given)) - 1, 0)
    # a hair wider, so that of two items at the same distance both count
    width = np.partition(np.abs(apart), nearest, axis=0)[nearest] * (1 + 1e-6)
    weight = np.clip(1 - np.abs(apart / np.maximum(width, 1e-12)) ** 3, 0, None) ** 3
    starts = np.searchsorted(patients[order], np.arange(patients.max() + 1))
    terms = (weight, weight * apart, weight * apart**2, weight * y, weight * apart * y)
    return np.stack([np.add.reduceat(term, starts, axis=0) for term in terms], axis=1)


def _solve_lines(moments: FloatArray) -> FloatArray:
    """Return the height of each local line at its point, (resamples, points); the mean where items are at one place."""
    w, wx, wxx, wy, wxy = moments.swapaxes(0, 1)
    spread = w * wxx - wx**2
    line = divide(wxx * wy - wx * wxy, np.where(spread > 1e-9 * w * wxx, spread, 0))
    return np.asarray(np.clip(np.where(np.isnan(line), divide(wy, w), line), 0, 1))
