"""Answering only where the model is sure: the risk among the items answered, and a limit of confidence that bounds it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from thawline.errors import OptionError
from thawline.judge.conformal import ROUNDING, take_items
from thawline.judge.metrics import divide, item_log_loss
from thawline.judge.statistics import interval, iterate_patient_counts
from thawline.types import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities

Loss = Literal["error", "log_loss"]
COVERAGES = tuple(k / 20 for k in range(1, 21))


@dataclasses.dataclass(frozen=True, slots=True)
class RiskCoverage:
    """The mean loss (``risks``) of the most confident share (``coverages``) of items; one entry a point.

    ``limits`` are the least confidence answered. ``aurc`` is the area under the curve, ``excess_aurc`` what it has above
    that of an order which leaves out the greatest losses first. All in the unit of the loss: a share, or nats.
    """

    loss: Loss
    coverages: tuple[float, ...]
    limits: tuple[float, ...]
    risks: tuple[Estimate, ...]
    aurc: Estimate
    excess_aurc: Estimate


@dataclasses.dataclass(frozen=True, slots=True)
class ConfidenceLimit:
    """Items are answered where the probability of the most likely class is at least ``limit``; nan: never.

    ``coverage`` is the share of development items so answered and ``risk`` their share of errors, with its upper bound;
    its ``method`` says how it was found, or why no limit keeps the risk within ``wanted``.
    """

    limit: float
    wanted: float
    coverage: float
    risk: Estimate


@dataclasses.dataclass(frozen=True, slots=True)
class _Order:
    """Items in the order of being answered: ``items`` (items,), and the last place of each run of equals, (runs,)."""

    items: IntArray
    ends: IntArray


def risk_coverage(
    labels: Labels,
    probabilities: Probabilities,
    groups: Groups,
    *,
    loss: Loss = "error",
    coverages: Sequence[float] = COVERAGES,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> RiskCoverage:
    """Return the risk among items answered at each coverage, the least confident left out first, with bands.

    Confidence is the probability of the most likely class, and the loss whether that is wrong ("error") or the negative log
    of the true class's probability ("log_loss", nats). The area is the mean over items of the risk where that item and all
    of at least its confidence are answered (Geifman and El-Yaniv, NeurIPS 2017; Geifman, Uziel and El-Yaniv, ICLR 2019, for
    the excess). On the curve, items of equal confidence enter together in equal parts, so that the order of rows plays no
    role. Intervals resample patients. Raises OptionError for another loss or a coverage outside (0, 1], DataError as
    `take_items` does.
    """
    truth, given, patients = take_items(labels, probabilities, groups)
    wanted = np.asarray(coverages, np.float64)
    if not ((wanted > 0) & (wanted <= 1)).all():
        raise OptionError(f"Coverages must lie above 0 and up to 1; found {list(coverages)}.")
    confidence, losses = given.max(axis=1), _take_losses(truth, given, loss)
    order, best = _sort_items(confidence), _Order(np.lexsort((patients, -confidence, losses)), np.arange(len(truth)))
    n_patients = int(patients.max()) + 1
    weightings = [np.ones((1, n_patients))]
    weightings += iterate_patient_counts(n_patients, n_resamples, seed, max_columns=4 * len(truth))
    parts = []
    for counts in weightings:
        area, risks = _measure(order, losses, patients, counts, wanted)
        parts.append(np.column_stack([risks, area, area - _measure(best, losses, patients, counts, wanted[:0])[0]]))
    found = np.concatenate(parts)
    last = _find_last(order, coverages)
    resting = [len(np.unique(patients[order.items[: place + 1]])) for place in last] + [n_patients] * 2
    largest = 1.0 if loss == "error" else None
    estimates = [
        interval(column[1:], float(column[0]), n, level=level, largest=largest)
        for column, n in zip(found.T, resting, strict=True)
    ]
    limits = tuple(confidence[order.items[last]].tolist())
    return RiskCoverage(loss, tuple(wanted.tolist()), limits, tuple(estimates[:-2]), *estimates[-2:])


def choose_confidence(
    labels: Labels, probabilities: Probabilities, groups: Groups, *, risk: float, assurance: float = 0.95
) -> ConfidenceLimit:
    """Return the smallest limit of confidence at which the share of errors among items answered is assured to be ≤ risk.

    From out-of-fold development predictions. The upper bound is the exact binomial one, as in the selection with guaranteed
    risk of Geifman and El-Yaniv (NeurIPS 2017), but of an effective number of items: n answered, m of each patient, count as
    n ÷ (1 + (Σ m² ÷ n − 1) ρ), with ρ from `estimate_clustering` of the errors of all items, answered or not, as the few
    errors among those answered tell it badly. Coverages of 5, 10, … 100 % are tested in turn, from the first that could pass
    if each patient were one trial without an error, up to the first that fails; in that order no correction for the number
    of tests is needed (fixed sequence; Angelopoulos et al., Learn then test, 2021).

    Raises OptionError unless risk and assurance lie in (0, 1), DataError as `take_items` does.
    """
    if not (0 < risk < 1 and 0 < assurance < 1):
        raise OptionError(f"Risk and assurance must lie between 0 and 1; found {risk} and {assurance}.")
    truth, given, patients = take_items(labels, probabilities, groups)
    confidence, wrong = given.max(axis=1), _take_losses(truth, given, "error")
    order, clustering = _sort_items(confidence), estimate_clustering(wrong, patients)
    needed = math.ceil(math.log1p(-assurance) / math.log1p(-risk))
    chosen, reason = None, f"a risk of {risk:g} needs at least {needed} patients answered without an error"
    for last in np.unique(_find_last(order, COVERAGES)):
        items = order.items[: last + 1]
        sizes = np.bincount(patients[items])
        if _count_trials(sizes, 1.0) < needed:
            continue
        found = _bound_risk(wrong[items], sizes, clustering, assurance)
        if found.high > risk:
            reason = (
                f"of the surest {len(items)} items {found.value:.3f} are wrong, with an upper bound of {found.high:.3f}"
            )
            break
        chosen = ConfidenceLimit(float(confidence[items[-1]]), risk, len(items) / len(truth), found)
    nothing = Estimate(math.nan, math.nan, math.nan, assurance, f"out of reach: {reason}")
    return chosen or ConfidenceLimit(math.nan, risk, 0.0, nothing)


def estimate_clustering(values: ArrayLike, groups: Groups) -> float:
    """Return the intraclass correlation of values, (items,), within patients, 0 to 1: how alike a patient's items are.

    The estimator of one-way analysis of variance (Donner, International Statistical Review 54:67, 1986). Where there is
    nothing to estimate it from (values do not differ, no patient has two items, or there is one patient) it is 1: a
    patient's items then count as one.
    """
    value, patients = np.asarray(values, np.float64), np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(patients)
    n_items, n_patients = len(value), len(sizes)
    if n_patients < 2 or n_patients == n_items or np.ptp(value) == 0:
        return 1.0
    means = np.bincount(patients, weights=value) / sizes
    between = (sizes * (means - value.mean()) ** 2).sum() / (n_patients - 1)
    within = ((value - means[patients]) ** 2).sum() / (n_items - n_patients)
    typical = (n_items - (sizes**2).sum() / n_items) / (n_patients - 1)
    return float(np.clip((between - within) / (between + (typical - 1) * within), 0, 1))


def _take_losses(labels: Labels, probabilities: Probabilities, loss: Loss) -> FloatArray:
    if loss == "log_loss":
        return item_log_loss(labels, probabilities)
    if loss != "error":
        raise OptionError(f"The loss must be 'error' or 'log_loss'; found {loss!r}. Pass one of them.")
    return np.asarray(probabilities.argmax(axis=1) != labels, np.float64)


def _sort_items(confidence: FloatArray) -> _Order:
    items = np.argsort(-confidence, kind="stable")
    return _Order(items, np.flatnonzero(np.diff(confidence[items], append=-np.inf)))


def _find_last(order: _Order, coverages: Sequence[float]) -> IntArray:
    """Return the place of the last item answered at each coverage, with all that are as sure as it; (coverages,)."""
    n_items = len(order.items)
    return order.ends[np.searchsorted(order.ends + 1, np.asarray(coverages) * n_items - ROUNDING * n_items)]


def _measure(
    order: _Order, losses: FloatArray, patients: IntArray, counts: FloatArray, coverages: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return areas, (resamples,), and risks, (resamples, coverages), with patients weighted, (resamples, patients)."""
    weights = counts[:, patients[order.items]]
    answered = np.cumsum(weights, axis=1)[:, order.ends]
    lost = np.cumsum(np.multiply(weights, losses[order.items], out=weights), axis=1)[:, order.ends]
    risks = np.nan_to_num(divide(lost, answered))  # undefined only before the first item, where it has no weight
    areas = np.einsum("ij,ij->i", np.diff(answered, axis=1, prepend=0), risks) / answered[:, -1]
    if not len(coverages):
        return areas, np.empty((len(counts), 0))
    reached = coverages * answered[:, -1:]
    rows = zip(reached, answered, lost, strict=True)
    return areas, np.stack([np.interp(x, np.append(0, n), np.append(0, sums)) / x for x, n, sums in rows])


def _count_trials(sizes: IntArray, clustering: float) -> float:
    """Return how many independent items so many of each patient, (patients,), are worth (Kish, Survey Sampling, 1965)."""
    n_items = sizes.sum()
    return float(n_items / (1 + ((sizes**2).sum() / n_items - 1) * clustering))


def _bound_risk(wrong: FloatArray, sizes: IntArray, clustering: float, assurance: float) -> Estimate:
    """Return the share of wrong items below the bound of Clopper and Pearson, Biometrika 26:404 (1934), one-sided.

    The number of trials, and so of errors, may be broken.
    """
    from scipy.stats import beta

    share, n_trials = float(wrong.mean()), _count_trials(sizes, clustering)
    bound = float(beta.ppf(assurance, share * n_trials + 1, (1 - share) * n_trials)) if share < 1 else 1.0
    method = f"one-sided exact binomial bound, {len(wrong)} items as {n_trials:.1f} (correlation {clustering:.2f})"
    return Estimate(share, 0.0, bound, assurance, method)
