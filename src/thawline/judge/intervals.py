"""Intervals of what patients, not items, are sampled from: proportions, and anything else that can be resampled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.metrics import check_lengths
from thawline.types import Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups


def check_level(level: float) -> None:
    """Raise OptionError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise OptionError(f"The level of an interval must lie between 0 and 1; found {level}. Pass for example 0.95.")


def effective_number(hits01: ArrayLike, groups: Groups) -> float:
    """Return how many independent items would leave a proportion as uncertain as these items of patients do.

    n ÷ deff, where the design effect deff is the variance with patients as clusters over that of independent items (Rao and
    Scott, Biometrics 48:577, 1992), held between 1 and the mean number of items a patient. Where all items agree nothing
    tells how alike a patient's items are: each patient then counts once. Both arrays have shape (items,).
    """
    hits = np.asarray(hits01, np.float64)
    check_lengths(hits01=hits, groups=groups)
    names, patients = np.unique(groups, return_inverse=True)
    n_items, n_patients = len(hits), len(names)
    if n_patients < 2 or (hits == hits[0]).all():
        return float(n_patients)
    residuals = hits - hits.mean()
    clustered = (np.bincount(patients, weights=residuals) ** 2).sum() * n_patients / (n_patients - 1)
    independent = (residuals**2).sum() * n_items / (n_items - 1)
    return float(n_items / np.clip(clustered / independent, 1, n_items / n_patients))


def estimate_proportion(hits01: ArrayLike, groups: Groups, *, level: float = 0.95) -> Estimate:
    """Return the share of items that are hits, with Wilson's interval on the `effective_number` of items.

    Wilson, Journal of the American Statistical Association 22:209 (1927); as the effective number is itself estimated, from
    patients, the normal quantile gives way to Student's with patients − 1 degrees of freedom where patients have several
    items (Korn and Graubard, Survey Methodology 24:193, 1998). nan without items, no interval of one patient. Raises
    OptionError as `check_level` does, DataError where hits are neither 0 nor 1.
    """
    check_level(level)
    hits = np.asarray(hits01, np.float64)
    check_lengths(hits01=hits, groups=groups)
    if not len(hits):
        return Estimate(math.nan, math.nan, math.nan, level, "undefined: no items")
    if not np.isin(hits, (0, 1)).all():
        row = int(np.flatnonzero(~np.isin(hits, (0, 1)))[0])
        raise DataError(f"Hits must be 0 or 1; row {row} holds {hits[row]}.")
    n_patients, found = len(np.unique(groups)), float(hits.mean())
    if n_patients < 2:
        return Estimate(found, math.nan, math.nan, level, f"no interval: rests on {n_patients} patient(s)")
    effective = effective_number(hits, groups)
    freedom = math.inf if n_patients == len(hits) else n_patients - 1
    method = f"Wilson, {effective:.1f} effective items of {n_patients} patients"
    low, high = bound_wilson(found, effective, level=level, freedom=freedom)
    return Estimate(found, float(low), float(high), level, method)


def bound_wilson(
    found: ArrayLike, n_items: ArrayLike, *, level: float = 0.95, freedom: float = math.inf
) -> tuple[FloatArray, FloatArray]:
    """Return the bounds of Wilson's interval of proportions ``found`` on so many independent items, whole or not."""
    from scipy.special import ndtri, stdtrit

    share, number = np.asarray(found, np.float64), np.asarray(n_items, np.float64)
    reach = float(ndtri((1 + level) / 2) if math.isinf(freedom) else stdtrit(freedom, (1 + level) / 2))
    middle = (share + reach**2 / (2 * number)) / (1 + reach**2 / number)
    spread = np.sqrt(share * (1 - share) / number + reach**2 / (4 * number**2)) * reach / (1 + reach**2 / number)
    low, high = np.maximum(middle - spread, 0.0), np.minimum(middle + spread, 1.0)
    return np.where(share == 0, 0.0, low), np.where(share == 1, 1.0, high)


def find_acceleration(values_without: ArrayLike) -> float:
    """Return the acceleration of BCa from the metric without each patient in turn, (patients,); 0 where it does not vary.

    Σ d³ ÷ (6 (Σ d²)^1.5) of d = mean − value (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equation 14.15).
    Leaving out equal blocks of patients gives the same but for chance. What is nan, for want of a class, is passed over.
    """
    values = np.asarray(values_without, np.float64)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return 0.0
    apart = defined.mean() - defined
    spread = (apart**2).sum()
    return float((apart**3).sum() / (6 * spread**1.5)) if spread > 1e-24 * len(defined) else 0.0


def bound_bca(values: ArrayLike, point: float, acceleration: float, *, level: float = 0.95) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bounds of resampled ``values``, (resamples,), of a metric that is ``point``.

    Efron, Journal of the American Statistical Association 82:171 (1987). Values equal to the point count half as below it.
    """
    from scipy.special import ndtr, ndtri

    kept = np.sort(np.asarray(values, np.float64))
    below = (np.searchsorted(kept, point, "left") + np.searchsorted(kept, point, "right")) / (2 * len(kept))
    bias = ndtri(np.clip(below, 0.5 / len(kept), 1 - 0.5 / len(kept)))
    quantiles = ndtri(np.array([(1 - level) / 2, (1 + level) / 2])) + bias
    shares = ndtr(bias + quantiles / np.maximum(1 - acceleration * quantiles, 1e-9))
    low, high = np.quantile(kept, shares)
    return float(low), float(high)
