"""Resampling of patients, and the intervals that come of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.intervals import bound_bca, check_level, find_acceleration
from thawline.judge.metrics import CHUNK_BYTES, divide, resample_auc
from thawline.types import MISSING, Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities


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


def list_blocks(n_patients: int, most: int = 500) -> FloatArray:
    """Return weights, (blocks, patients), that leave out one patient each, or of more than ``most`` an equal block."""
    owner = np.arange(n_patients) * min(n_patients, most) // max(n_patients, 1)
    return np.not_equal(owner, np.arange(min(n_patients, most))[:, np.newaxis]).astype(np.float64)


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
    without: ArrayLike | None = None,
    recentre: bool = False,
) -> Estimate:
    """Return the bootstrap interval of a metric around its ``point`` value: BCa, or plain percentiles.

    ``values`` are the resampled metric, shape (resamples,); nan, where a class was absent, is left out and counted in
    ``method``. ``without`` is the metric without each patient, or block of patients, in turn, from which BCa has its
    acceleration; percentiles where it is not given. ``n_patients`` are those the metric rests on.

    Where the metric is exactly 0 or ``largest`` in every resample, a bootstrap would claim certainty: the bound is then
    the exact binomial one of Clopper and Pearson, Biometrika 26:404 (1934), with one trial a patient, which at n of n
    is (α/2)^(1/n). ``largest=None`` means a metric without upper limit and leaves that out. One patient alone gives no
    interval (nan). ``recentre`` shifts the resamples to average at ``point``, for metrics such as the calibration error
    that resampling inflates. Raises OptionError for a level outside (0, 1).
    """
    check_level(level)
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
    kind = "percentile" if without is None else "BCa"
    method = f"{kind} bootstrap, {len(kept)} resamples of patients"
    if len(kept) < len(resampled):
        method += f"; {len(resampled) - len(kept)} more without a needed class left out"
    if recentre:
        kept = np.clip(kept - kept.mean() + point, 0, largest)
        method += "; recentred on the value"
    if without is not None:
        return Estimate(point, *bound_bca(kept, point, find_acceleration(without), level=level), level, method)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(point, float(low), float(high), level, method)


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


def average_areas(areas: FloatArray) -> FloatArray:
    """Return the mean AUC, (resamples,), of areas (folds, resamples, classes).

    The mean over classes of what each comes to over the folds where it is defined, as `auc.measure_areas` has it.
    """
    return np.asarray(average_defined(areas).mean(axis=1))


def average_defined(values: FloatArray) -> FloatArray:
    """Return the mean over the first axis of what is not nan; nan where all are."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def hanley_mcneil_error(auc: float, n_positive: int, n_negative: int) -> float:
    """Standard error of an AUC, Hanley and McNeil, Radiology 143:29 (1982), equations 1 and 2."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    return math.sqrt(spread / max(n_positive * n_negative, 1))


def forecast_interval(counts: Sequence[int]) -> str:
    """Say how wide an AUC's interval will be with so many patients of each class, of the rarest against the rest."""
    width = 1.96 * hanley_mcneil_error(0.85, min(counts), sum(counts) - min(counts))
    return f"an AUC near .85 would have a 95 % interval of about ±{width:.2f}"
