"""How many more patients: learning curves of the AUC over numbers of training patients, fitted and continued.

The law is a shifted inverse power, AUC(n) = a − b (n + k)^−c (the plain one of Mukherjee et al., Journal of Computational
Biology 10:119, 2003, and Figueroa et al., BMC Medical Informatics and Decision Making 12:8, 2012, has k = 0; the shift is
`pow4` in the review of Viering and Loog, IEEE TPAMI 45:7799, 2023). The plain law alone expects too little of curves that
bend late. No single best law is continued: a, b, c and k are weighed over all their values, as Domhan, Springenberg and
Hutter (IJCAI 2015) do, so that the intervals hold the doubt about the shape as well.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.metrics import check_lengths
from thawline.judge.statistics import hanley_mcneil_error
from thawline.types import Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, Groups, IntArray, Labels

N_FEW = 5  # patients of the rarest class in the smallest part, as a head is chosen by five folds
SPAN = 16  # times the smallest part that the largest is, at most
LEAST_SIZES = 3
EXPONENTS = np.linspace(0.05, 2.0, 60)
OFFSETS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # times the smallest size
N_ASYMPTOTES, N_DRAWS = 150, 4000
CHANCE = 0.5
FLOOR = 5e-4  # AUC; no learning curve follows a law more closely than this
RESIDUE = 0.03  # of a repeat's variance is common to all repeats but not to all sizes (simulated)
OVERLAP = 1.5  # training parts of repeats overlap more than tested ones, which Nadeau and Bengio leave out (simulated)
NOISY = 2.0  # χ² a degree of freedom that is worth a note
NEGLIGIBLE, SMALLEST = 1e-6, 1e-300  # relative weight; keeps logarithms finite


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """Plausible learning curves, one entry a draw: expit(logit(a − d ((n + k) / (n₁ + k))^−c) + s) at n patients.

    ``asymptotes`` a, ``drops`` d (AUC lost at the smallest size n₁), ``exponents`` c, ``offsets`` k in patients, and
    ``shifts`` s, the error common to all sizes, have shape (draws,); ``sizes`` and ``aucs``, what was measured, (sizes,).
    ``note`` says what is unusual about the points.
    """

    sizes: IntArray
    aucs: FloatArray
    asymptotes: FloatArray
    drops: FloatArray
    exponents: FloatArray
    offsets: FloatArray
    shifts: FloatArray
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Hindcast:
    """The measured AUC at the largest size, and as smaller ones predict it; ``error_points`` is 100 × the difference."""

    size: int
    measured: float
    predicted: Estimate
    error_points: float
    held: bool


def choose_sizes(n_patients: int, n_rarest: int, *, n_sizes: int = 8, smallest: int | None = None) -> IntArray:
    """Return increasing numbers of training patients in geometric sequence, int64 of shape (at most n_sizes,).

    The largest is ``n_patients``, of whom ``n_rarest`` have the rarest class. The smallest has about 5 of these and is a
    sixteenth of the largest or more, unless it is given. Raises DataError where that leaves fewer than three sizes, or less
    than a doubling to learn from.
    """
    least = max(-(-N_FEW * n_patients // max(n_rarest, 1)), n_patients // SPAN) if smallest is None else smallest
    if n_rarest > n_patients or not 2 <= 2 * least <= n_patients + 1:
        raise DataError(
            f"A learning curve starts from half of the patients or fewer, {N_FEW} of them of the rarest class; {n_patients} "
            f"patients, {n_rarest} of that class, would start from {least}. Add patients of that class."
        )
    sizes = np.unique(np.geomspace(least, n_patients, max(n_sizes, 0)).round().astype(np.int64))
    if len(sizes) < LEAST_SIZES:
        raise DataError(f"A learning curve needs {LEAST_SIZES} sizes or more; found {sizes.tolist()}. Raise n_sizes.")
    return sizes


def draw_subsets(groups: Groups, labels: Labels, size: int, n_repeats: int, seed: int) -> BoolArray:
    """Return which items belong to ``size`` patients drawn without replacement, bool of shape (repeats, items).

    Patients are stratified by the set of classes they have (of several labels an item, the set of labels): each set is
    within a patient or so of its share. A larger size with the same ``seed`` holds the smaller ones, repeat by repeat, so
    that chance differs less between sizes; patients outside the largest can be tested on. Raises OptionError for a size that
    is not between 1 and the number of patients.
    """
    check_lengths(groups=groups, labels=labels)
    names, patients = np.unique(groups, return_inverse=True)
    if not 1 <= size <= len(names):
        raise OptionError(f"A subset has between 1 and all {len(names)} patients; found size={size}.")
    has = labels == 1 if labels.ndim == 2 else labels[:, np.newaxis] == np.unique(labels)
    sets = np.zeros((len(names), has.shape[1]), bool)
    np.logical_or.at(sets, patients, has)
    strata = np.unique(sets, axis=0, return_inverse=True)[1].ravel()
    draw = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros((n_repeats, len(names)), bool)
    for row in chosen:
        place = np.empty(len(names))
        for stratum in range(strata.max() + 1):
            members = draw.permutation(np.flatnonzero(strata == stratum))
            place[members] = (np.arange(len(members)) + draw.random()) / len(members)
        row[np.argsort(place)[:size]] = True
    return chosen[:, patients]


def average_repeats(
    sizes: ArrayLike, aucs: ArrayLike, *, tested_share: float = 0.25
) -> tuple[FloatArray, FloatArray, float]:
    """Return the mean AUC at each size, its covariance between sizes, and the error common to all sizes.

    ``aucs`` has shape (repeats, sizes), of nested subsets as of `draw_subsets`; repeats with a nan are left out. Each repeat
    is tested on ``tested_share`` of the patients, those outside its largest subset. Repeats share patients, so that their
    own spread is too small by t / (1 − t) times the variance of one (Nadeau and Bengio, Machine Learning 52:239, 2003),
    here times 1.5; it moves all sizes alike. A ``tested_share`` of 0 is for one test part for all, whose error is to be
    found from its patients. Correlations between sizes are smoothed to (nᵢ / nⱼ)^κ. Raises DataError unless two repeats
    are whole.
    """
    size, table = _check_sizes(sizes), np.asarray(aucs, np.float64)
    if not 0 <= tested_share < 1:
        raise OptionError(f"The share of patients tested on lies in [0, 1); found tested_share={tested_share}.")
    if table.ndim != 2 or table.shape[1] != len(size):
        raise DataError(f"AUCs of shape (repeats, {len(size)} sizes) are needed; found shape {table.shape}.")
    whole = table[~np.isnan(table).any(axis=1)]
    if len(whole) < 2:
        raise DataError(
            f"Two repeats or more with an AUC at every size are needed; found {len(whole)} of {len(table)}. "
            "Draw more, or raise the smallest size or the part that is tested."
        )
    # a repeat is known no better than to half a patient, where all its AUCs are 1
    spread = np.maximum(whole.std(axis=0, ddof=1), 0.5 / size)
    slope, start = np.polyfit(np.log(size), np.log(spread), 1)
    spread = np.sqrt((spread**2 + np.exp(2 * (start + slope * np.log(size)))) / 2)
    covariance = _fit_correlations(size, whole) * np.outer(spread, spread) * (1 / len(whole) + RESIDUE)
    common = float(spread[-1] * np.sqrt(OVERLAP * tested_share / (1 - tested_share)))
    return whole.mean(axis=0), covariance, common


def fit_curve(
    sizes: ArrayLike, aucs: ArrayLike, errors: ArrayLike, level_error: float = 0.0, *, seed: int = 0
) -> Curve:
    """Fit the shifted inverse power law to mean AUCs at increasing numbers of training patients.

    ``errors`` are standard errors, shape (sizes,), or the covariance (sizes, sizes); ``level_error`` is the error that moves
    all sizes alike, in AUC at the largest and the same on the logit scale at all; `average_repeats` gives both. The prior is
    even over a and the AUC at the smallest size, 0.5 ≤ AUC ≤ a ≤ 1, over c from 0.05 to 2, and over k, which is 0 or 1 to 64
    times the smallest size in doublings: given the others, d is normal, and its mass is the weight of the others. Errors are
    widened by √(χ² / (sizes − 3)) where that is above 1. Flat, falling and noisy curves are fitted too; ``note`` says so.
    Raises DataError for fewer than three sizes, sizes that do not increase, or values that are not finite.
    """
    size, auc, covariance = _check_points(sizes, aucs, errors)
    if not (np.isfinite(level_error) and level_error >= 0):
        raise DataError(f"The error common to all sizes must be finite and not negative; found {level_error}.")
    exponents, offsets = (each.ravel() for each in np.meshgrid(EXPONENTS, np.array(OFFSETS) * size[0]))
    shapes = _bend(size, size[0], exponents, offsets).T
    covariance = covariance + FLOOR**2 * np.eye(len(size))
    reach = 5 * np.sqrt(covariance.diagonal().max())
    grid = np.linspace(min(max(auc.min() - reach, CHANCE), 1 - reach), 1.0, N_ASYMPTOTES)
    weights = _weigh_laws(grid, auc, covariance, shapes)[0]
    held, step = grid[weights.max(axis=1) > NEGLIGIBLE], grid[1] - grid[0]
    grid = np.linspace(held[0] - step, min(held[-1] + step, 1.0), N_ASYMPTOTES)
    weights, drops, widths, scale = _weigh_laws(grid, auc, covariance, shapes)

    draw = np.random.Generator(np.random.PCG64(seed))
    shares = np.cumsum(weights) / weights.sum()
    at, law = np.unravel_index(np.searchsorted(shares, (np.arange(N_DRAWS) + 0.5) / N_DRAWS), weights.shape)
    slope = max(auc[-1] * (1 - auc[-1]), level_error, SMALLEST)  # of the AUC over its logit; near 1 it would be nothing
    return Curve(
        size.astype(np.int64),
        auc,
        grid[at],
        _draw_drops(drops[at, law], widths[law], grid[at] - CHANCE, draw),
        exponents[law],
        offsets[law],
        level_error / slope * draw.standard_normal(N_DRAWS),
        _describe(size, auc, covariance, scale),
    )


def predict_aucs(curve: Curve, sizes: ArrayLike) -> FloatArray:
    """Return the expected AUC at numbers of training patients under each plausible curve, shape (sizes, draws)."""
    from scipy.special import expit, logit

    numbers = np.atleast_1d(np.asarray(sizes, np.float64))
    left = _bend(numbers, float(curve.sizes[0]), curve.exponents, curve.offsets)
    return np.asarray(expit(logit(curve.asymptotes - curve.drops * left) + curve.shifts))


def extrapolate(curve: Curve, sizes: ArrayLike, *, level: float = 0.95) -> tuple[Estimate, ...]:
    """Return the AUC to be expected with so many training patients, the median of the plausible curves, with its interval.

    It is that of the mean over all training parts of that size in a large test part: one model varies around it, and so
    does an AUC that few test patients give. Raises OptionError for a size below the smallest measured.
    """
    numbers = np.atleast_1d(np.asarray(sizes, np.float64))
    if not (numbers >= curve.sizes[0]).all():
        raise OptionError(
            f"A learning curve is followed from its smallest size, {curve.sizes[0]} patients, on; found {numbers.tolist()}."
        )
    method = f"inverse power law, {len(curve.shifts)} plausible curves"
    return tuple(_summarise(each, level, method, curve.note) for each in predict_aucs(curve, numbers))


def find_size(curve: Curve, auc: float, *, level: float = 0.95) -> Estimate:
    """Return how many training patients the wanted AUC takes, the median of the plausible curves, with its interval.

    Infinite where a curve stays below; ``method`` says how many do. No number is below the smallest size measured. Raises
    OptionError unless the AUC lies between 0.5 and 1.
    """
    from scipy.special import expit, logit

    if not CHANCE < auc < 1:
        raise OptionError(f"The wanted AUC must lie between 0.5 and 1; found {auc}.")
    first, left = curve.sizes[0], curve.asymptotes - expit(logit(auc) - curve.shifts)
    longer = np.divide(curve.drops, left, out=np.full(len(left), np.inf), where=left > 0)
    with np.errstate(over="ignore"):
        sizes = np.ceil((first + curve.offsets) * longer ** (1 / curve.exponents) - curve.offsets)
    unreached = float(np.isinf(sizes).mean())
    method = f"inverse power law, out of reach in {unreached:.0%} of {len(sizes)} plausible curves"
    return _summarise(np.maximum(sizes, first), level, method, curve.note)


def find_size_for_width(
    auc: float, width: float, prevalence: float, design_effect: float = 1.0, *, level: float = 0.95
) -> int:
    """Return how many test patients give an AUC an interval no wider than ``width``, from end to end.

    The variance is that of Hanley and McNeil (`hanley_mcneil_error`) with a share ``prevalence`` of positive patients, times
    ``design_effect``: 1 for one item a patient, (1 + (m − 1) r) / m for m items with an intraclass correlation r. Raises
    OptionError for a value outside its range.
    """
    from scipy.special import ndtri

    within = {"auc": auc, "width": width, "prevalence": prevalence, "level": level}
    wrong = {name: value for name, value in within.items() if not 0 < value < 1}
    if wrong or not (np.isfinite(design_effect) and design_effect > 0):
        raise OptionError(
            "AUC, width, prevalence and level must lie between 0 and 1 and a design effect above 0; "
            f"found {wrong or design_effect}."
        )
    factor = 2 * float(ndtri((1 + level) / 2)) * np.sqrt(design_effect)

    def is_wide(n_patients: int) -> bool:
        n_positive = min(max(round(n_patients * prevalence), 1), n_patients - 1)
        return bool(factor * hanley_mcneil_error(auc, n_positive, n_patients - n_positive) > width)

    few, enough = 1, 2
    while is_wide(enough):
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if is_wide(middle) else (few, middle)
    return enough


def check_by_hiding(
    sizes: ArrayLike, aucs: ArrayLike, errors: ArrayLike, *, factor: float = 2.0, level: float = 0.95, seed: int = 0
) -> Hindcast:
    """Predict the AUC at the largest size from sizes of at most 1 / ``factor`` of it, and compare.

    Arguments as those of `fit_curve`. The interval is one of prediction: it holds the error of the hidden AUC as well, but
    for what that has in common with the others. Raises DataError where fewer than three sizes are small enough.
    """
    size, auc, covariance = _check_points(sizes, aucs, errors)
    seen = size * factor <= size[-1]
    if seen.sum() < LEAST_SIZES:
        raise DataError(
            f"A check needs {LEAST_SIZES} sizes of at most {size[-1] / factor:g} patients; found {int(seen.sum())} in "
            f"{size.astype(int).tolist()}. Measure smaller sizes, or lower the factor."
        )
    curve = fit_curve(size[seen], auc[seen], covariance[np.ix_(seen, seen)], seed=seed)
    floored = covariance + FLOOR**2 * np.eye(len(size))
    gain = np.linalg.solve(floored[np.ix_(seen, seen)], floored[seen, -1])
    error = np.sqrt(floored[-1, -1] - floored[-1, seen] @ gain)
    off = auc[seen] - predict_aucs(curve, size[seen]).T
    noise = np.random.Generator(np.random.PCG64([seed, 1])).standard_normal(len(off))
    values = np.clip(predict_aucs(curve, size[-1])[0] + off @ gain + error * noise, 0, 1)
    predicted = _summarise(values, level, f"predicted from {size[seen][-1]:g} patients and fewer", curve.note)
    measured = float(auc[-1])
    points = 100 * (predicted.value - measured)
    return Hindcast(int(size[-1]), measured, predicted, points, predicted.low <= measured <= predicted.high)


def _check_sizes(sizes: ArrayLike) -> FloatArray:
    size = np.atleast_1d(np.asarray(sizes, np.float64))
    if len(size) < LEAST_SIZES:
        raise DataError(
            f"A learning curve needs AUCs at {LEAST_SIZES} sizes or more; found {len(size)}: {size.tolist()}. Add sizes."
        )
    if not (np.isfinite(size).all() and size[0] >= 1 and (np.diff(size) > 0).all()):
        raise DataError(f"Numbers of training patients must increase, from 1 on; found {size.tolist()}. Sort them.")
    return size


def _check_points(sizes: ArrayLike, aucs: ArrayLike, errors: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sizes, AUCs and the covariance of their errors, or raise DataError."""
    size, auc, error = _check_sizes(sizes), np.asarray(aucs, np.float64), np.asarray(errors, np.float64)
    check_lengths(sizes=size, aucs=auc, errors=error)
    if auc.shape != size.shape or not ((auc >= 0) & (auc <= 1)).all():
        raise DataError(
            f"One AUC between 0 and 1 is needed at each size; found {auc.tolist()}. Leave out sizes without one."
        )
    covariance = np.diag(error * np.abs(error)) if error.ndim == 1 else error
    usable = covariance.shape == (len(size),) * 2 and np.isfinite(covariance).all()
    if not usable or np.linalg.eigvalsh(covariance).min() < -(FLOOR**2):
        raise DataError(
            f"Standard errors of shape ({len(size)},), or their covariance, finite and not negative, are needed; found "
            f"{error.tolist()}. Draw more repeats."
        )
    return size, auc, covariance


def _fit_correlations(sizes: FloatArray, aucs: FloatArray) -> FloatArray:
    """Return correlations (nᵢ / nⱼ)^κ, shape (sizes, sizes), with the κ that is nearest to those of the repeats."""
    apart = np.abs(np.subtract.outer(np.log(sizes), np.log(sizes)))
    centred = aucs - aucs.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=0)
    scale = np.outer(lengths, lengths)
    found = np.divide(centred.T @ centred, scale, out=np.eye(len(sizes)), where=scale > 0)
    candidates = np.exp(-np.linspace(0.01, 3.0, 120)[:, np.newaxis, np.newaxis] * apart)
    return np.asarray(candidates[((candidates - found) ** 2).sum(axis=(1, 2)).argmin()])


def _bend(sizes: FloatArray, first: float, exponents: FloatArray, offsets: FloatArray) -> FloatArray:
    """Return the share of the drop that is left, ((n + k) / (n₁ + k))^−c, shape (sizes, laws)."""
    return np.asarray(((sizes[:, np.newaxis] + offsets) / (first + offsets)) ** -exponents)


def _weigh_laws(
    asymptotes: FloatArray, aucs: FloatArray, covariance: FloatArray, shapes: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return the weight of each asymptote and shape, the mean of its normal drop, that of each shape's width, and χ² a size.

    ``shapes`` (laws, sizes) is the share of the drop at each size. Weights and means have shape (asymptotes, laws).
    """
    from scipy.special import ndtr

    precision = np.linalg.inv(covariance)
    gaps = asymptotes[:, np.newaxis] - aucs
    curvatures = np.einsum("ls,st,lt->l", shapes, precision, shapes)
    drops = gaps @ precision @ shapes.T / curvatures
    misfits = np.einsum("as,st,at->a", gaps, precision, gaps)[:, np.newaxis] - drops**2 * curvatures
    most = (asymptotes - CHANCE)[:, np.newaxis]
    nearest = misfits + (np.clip(drops, 0, most) - drops) ** 2 * curvatures
    scale = max(1.0, float(nearest.min()) / max(len(aucs) - LEAST_SIZES, 1))
    widths = np.sqrt(scale / curvatures)
    mass = ndtr(drops / widths) - ndtr((drops - most) / widths)
    logs = np.log(np.maximum(mass, SMALLEST) * widths) - misfits / scale / 2
    return np.asarray(np.exp(logs - logs.max())), drops, widths, scale


def _draw_drops(drops: FloatArray, widths: FloatArray, most: FloatArray, draw: np.random.Generator) -> FloatArray:
    """Return one drop of each normal, between 0 and ``most``, by the inverse of its upper tail."""
    from scipy.special import ndtr, ndtri

    above, beyond = ndtr(drops / widths), ndtr((drops - most) / widths)
    tail = beyond + draw.random(len(drops)) * (above - beyond)
    return np.asarray(np.clip(drops - widths * ndtri(np.maximum(tail, SMALLEST)), 0, most))


def _describe(sizes: FloatArray, aucs: FloatArray, covariance: FloatArray, scale: float) -> str:
    gained = aucs[-1] - aucs[0]
    error = np.sqrt(covariance[0, 0] + covariance[-1, -1] - 2 * covariance[0, -1])
    notes: list[str] = []
    if aucs.min() == 1:
        notes.append("every AUC is 1, which leaves nothing to gain")
    elif gained < -2 * error:
        notes.append("the AUC falls with more patients, which no law here does")
    elif gained < 2 * error:
        notes.append(f"no growth beyond its error from {sizes[0]:g} to {sizes[-1]:g} patients")
    if scale > NOISY:
        notes.append(f"points lie {np.sqrt(scale):.1f} times as far from any curve as their errors, which are widened")
    return "; ".join(notes)


def _summarise(values: FloatArray, level: float, method: str, note: str) -> Estimate:
    if not 0 < level < 1:
        raise OptionError(f"The level of an interval must lie between 0 and 1; found {level}. Pass for example 0.95.")
    # quantiles that are values themselves: between a number and infinity there is none
    low, value, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2], method="inverted_cdf")
    return Estimate(float(value), float(low), float(high), level, f"{method}; {note}" if note else method)
