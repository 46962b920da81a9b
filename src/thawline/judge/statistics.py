"""Uncertainty: intervals that resample patients, paired comparisons, and the one-standard-error rule."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.metrics import CHUNK_BYTES, check_lengths, divide, macro_auc, resample_auc
from thawline.types import MISSING, Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities


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


def iterate_patient_counts(
    n_patients: int, n_resamples: int, seed: int, *, max_columns: int = 0
) -> Iterator[FloatArray]:
    """Yield chunks of `patient_counts` as float64, shape (some resamples, patients), of at most 64 MiB each.

    ``max_columns`` is the widest array (resamples, columns) the caller makes of a chunk, where wider than the patients.
    The numbers do not depend on the chunks. Raises DataError without patients, OptionError without resamples.
    """
    if n_patients < 1:
        raise DataError("At least one patient is needed to resample; found none.")
    if n_resamples < 1:
        raise OptionError(f"At least one resample is needed; found n_resamples={n_resamples}.")
    draw = np.random.Generator(np.random.PCG64(seed))
    n_rows = max(1, CHUNK_BYTES // (8 * max(n_patients, max_columns)))
    for start in range(0, n_resamples, n_rows):
        chunk = np.empty((min(n_rows, n_resamples - start), n_patients))
        for row in chunk:
            row[:] = np.bincount(draw.integers(n_patients, size=n_patients), minlength=n_patients)
        yield chunk


def patient_counts(groups: Groups, n_resamples: int, seed: int) -> IntArray:
    """Return how often each patient is drawn in each resample, int64 of shape (resamples, patients).

    As many patients as there are, with replacement (Efron 1979; whole clusters, Davison and Hinkley 1997, section 3.8),
    so a row is multinomial and sums to the number of patients. Columns follow ``np.unique(groups)``.
    """
    chunks = iterate_patient_counts(len(np.unique(groups)), n_resamples, seed)
    return np.concatenate([chunk.astype(np.int64) for chunk in chunks])


def interval(
    values: ArrayLike,
    point: float,
    n_patients: int,
    *,
    level: float = 0.95,
    largest: float | None = 1.0,
    recentre: bool = False,
) -> Estimate:
    """Return the percentile bootstrap interval of a metric around its ``point`` value.

    ``values`` are the resampled metric, shape (resamples,); nan, where a class was absent, is left out and counted in
    ``method``. ``n_patients`` are those the metric rests on (for a sensitivity, the patients of that class).

    Where the metric is exactly 0 or ``largest`` in every resample, a bootstrap would claim certainty: the bound is then
    the exact binomial one of Clopper and Pearson, Biometrika 26:404 (1934), with one trial a patient, which at n of n
    is (α/2)^(1/n). ``largest=None`` means a metric without upper limit and leaves that out. One patient alone gives no
    interval (nan). ``recentre`` shifts the resamples to average at ``point``, for metrics such as the calibration error
    that resampling inflates. Raises OptionError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise OptionError(f"The level of an interval must lie between 0 and 1; found {level}. Pass for example 0.95.")
    resampled = np.asarray(values, np.float64)
    kept = resampled[~np.isnan(resampled)]
    if np.isnan(point):
        return Estimate(float("nan"), float("nan"), float("nan"), level, "undefined: a class is absent")
    if largest is not None and point in (0, largest) and (kept == point).all() and n_patients > 0:
        bound = largest * ((1 - level) / 2) ** (1 / n_patients)
        low, high = (bound, largest) if point else (0.0, largest - bound)
        return Estimate(point, low, high, level, f"exact binomial bound, one trial for each of {n_patients} patients")
    if n_patients < 2 or not len(kept):
        return Estimate(point, float("nan"), float("nan"), level, f"no interval: rests on {n_patients} patient(s)")
    method = f"percentile bootstrap, {len(kept)} resamples of patients"
    if len(kept) < len(resampled):
        method += f"; {len(resampled) - len(kept)} more without a needed class left out"
    if recentre:
        kept = np.clip(kept - kept.mean() + point, 0, largest)
        method += "; recentred on the value"
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(point, float(low), float(high), level, method)


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


def within_fold_auc(
    labels: Labels,
    probabilities: Probabilities,
    folds: IntArray,
    weights: ArrayLike | None = None,
    *,
    positive: int = 1,
) -> float:
    """Return the AUC of each fold, averaged over the folds; pooling would mix the scales of different models.

    ``folds``, shape (items,), holds the fold that scored an item, −1 for none (ignored). Folds in which a class is
    absent are skipped; nan when all are. See Airola et al., Computational Statistics & Data Analysis 55:1828 (2011).
    """
    truth, given, fold = np.asarray(labels), np.asarray(probabilities), np.asarray(folds)
    check_lengths(labels=truth, probabilities=given, folds=fold)
    weight = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    areas = []
    for number in np.unique(fold[fold >= 0]):
        inside = fold == number
        areas.append(macro_auc(truth[inside], given[inside], weight[inside], positive=positive))
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def resample_fold_aucs(
    labels: Labels,
    probabilities: Probabilities,
    patients: IntArray,
    folds: IntArray,
    weights: FloatArray,
    classes: Iterable[int],
) -> FloatArray:
    """Return the one-vs-rest AUC of each fold under many weightings: (folds, resamples, classes), nan where undefined.

    ``patients`` (items,) are columns of ``weights`` (resamples, patients); ``classes`` are those to score. Of several labels
    an item, (items, labels), each is scored on the items where it is known.
    """
    numbers, scored = np.unique(folds), list(classes)
    areas = np.empty((len(numbers), len(weights), len(scored)))
    for row, number in enumerate(numbers):
        for column, k in enumerate(scored):
            inside, truth = folds == number, labels == k
            if labels.ndim == 2:
                inside, truth = inside & (labels[:, k] != MISSING), labels[:, k] == 1
            areas[row, :, column] = resample_auc(truth[inside], probabilities[inside, k], weights, patients[inside])
    return areas


def average_areas(areas: FloatArray, labels: Labels) -> FloatArray:
    """Return the mean AUC, (resamples,), of areas (folds, resamples, classes): of classes within a fold, then over folds.

    Of several labels an item it is the mean over labels of what each comes to over the folds where it is defined, as a fold
    may lack one of them.
    """
    return average_defined(areas).mean(axis=1) if labels.ndim == 2 else average_defined(areas.mean(axis=2))


def average_defined(values: FloatArray) -> FloatArray:
    """Return the mean over the first axis of what is not nan; nan where all are."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


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

    ``candidates`` are out-of-fold probabilities (items, classes) of the same items; AUCs are `within_fold_auc`. The gain
    has a 95 % interval from resampling patients, the same resamples for both, so that what is common to them cancels.
    The chance is the share of resamples in which the gain is ``useful_gain`` or more; 0 where no AUC is defined.
    """
    patients = np.unique(groups, return_inverse=True)[1]
    n_patients = int(patients.max()) + 1
    two = labels.ndim == 1 and candidates[0].shape[1] == 2
    classes = [1] if two else range(candidates[0].shape[1])

    def measure(weights: FloatArray, probabilities: Probabilities) -> FloatArray:
        areas = resample_fold_aucs(labels, probabilities, patients, folds, weights, classes)
        return average_areas(areas, labels)

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


def hanley_mcneil_error(auc: float, n_positive: int, n_negative: int) -> float:
    """Standard error of an AUC, Hanley and McNeil, Radiology 143:29 (1982), equations 1 and 2."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    return math.sqrt(spread / max(n_positive * n_negative, 1))


def forecast_interval(counts: Sequence[int]) -> str:
    """Say how wide an AUC's interval will be with so many patients of each class, of the rarest against the rest."""
    width = 1.96 * hanley_mcneil_error(0.85, min(counts), sum(counts) - min(counts))
    return f"an AUC near .85 would have a 95 % interval of about ±{width:.2f}"
