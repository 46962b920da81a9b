"""Decisions between two classes: a threshold chosen on development data, and what it does to new patients.

An item is called positive when its score is at least the threshold. ``truth01`` (bool or 0/1, true for the positive
class), ``scores`` (float, finite) and ``groups`` (int, patients) have shape (items,). Whole patients are resampled.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.intervals import bound_wilson, check_level, effective_number
from thawline.judge.metrics import check_lengths, divide
from thawline.judge.statistics import interval, iterate_patient_counts
from thawline.types import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, Groups, IntArray, Labels, Probabilities

SLACK = 1e-9  # of all items of a class, as 0.07 * 100 is more than 7
COLUMNS = 16  # counted for each item, so that a chunk of resamples fits the cache: three times faster
OUT_OF_BAG = 1 - math.exp(-1)  # weight of the out-of-bag rate in the .632 bootstrap


@dataclasses.dataclass(frozen=True, slots=True)
class Ranking:
    """Items by falling score: ``scores``, ``truth`` and ``patients`` (counted from 0) have shape (items,).

    ``ends``, shape (levels,), is for each distinct score the number of items that have at least that score.
    """

    scores: FloatArray
    truth: BoolArray
    patients: IntArray
    ends: IntArray
    n_patients: int

    @property
    def levels(self) -> FloatArray:
        """The distinct scores, falling, shape (levels,)."""
        return np.asarray(self.scores[self.ends - 1])


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What makes a threshold: a "sensitivity" or "specificity" to reach, or a "cost_ratio" under which to cost least.

    ``wanted`` is that number and ``reach`` the rate to reach on the data, above ``wanted`` where it is to be assured. With
    ``calibrated`` the cost ratio alone makes the threshold.
    """

    name: str
    wanted: float
    reach: float
    calibrated: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ExpectedRate:
    """A rate to expect of a threshold on new patients, and the two it is made of; their gap is the optimism of the choice.

    ``apparent`` is the rate on the data that chose the threshold, ``out_of_bag`` the rate on patients left out of resamples
    that choose anew.
    """

    expected: Estimate
    apparent: float
    out_of_bag: float


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold chosen by a ``rule``, in words, and what to expect of it; nan where a needed class is absent.

    ``draws``, shape (resamples,), are the thresholds of resamples that choose anew, nan where they lack a class. ``reached``
    tells whether the data do what was asked, ``note`` why not, or what else is special.
    """

    threshold: Estimate
    sensitivity: ExpectedRate
    specificity: ExpectedRate
    draws: FloatArray
    rule: str
    reached: bool
    note: str


def sort_items(truth01: ArrayLike, scores: ArrayLike, groups: Groups) -> Ranking:
    """Return the items by falling score; raises DataError without items, or where a truth or score cannot be used."""
    truth, score = np.asarray(truth01), np.asarray(scores, np.float64)
    check_lengths(truth01=truth, scores=score, groups=groups)
    if not len(score):
        raise DataError("Decisions need at least one item; found none.")
    for name, wanted, values, fits in (
        ("truth01", "0 or 1", truth, np.isin(truth, (0, 1))),
        ("scores", "finite", score, np.isfinite(score)),
    ):
        if not fits.all():
            row = int(fits.argmin())
            raise DataError(f"{name} must be {wanted}; row {row} holds {values[row]}. Leave such items out.")
    order = np.argsort(-score, kind="stable")
    names, patients = np.unique(groups, return_inverse=True)
    falling = score[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1) + 1
    return Ranking(falling, truth.astype(bool)[order], patients[order], ends, len(names))


def check_probabilities(scores: FloatArray) -> None:
    """Raise DataError unless all scores lie between 0 and 1."""
    wrong = scores[~((scores >= 0) & (scores <= 1))]
    if len(wrong):
        raise DataError(f"Scores must be probabilities of the positive class, between 0 and 1; found {wrong[0]}.")


def sum_called(ranking: Ranking, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the weight of positives and of negatives called at each cut, both of shape (resamples, levels + 1).

    Cut c calls the c highest levels. ``weights`` has shape (resamples, patients).
    """
    drawn = np.take(weights, ranking.patients, axis=1)
    called = []
    for inside in (ranking.truth, ~ranking.truth):
        summed = np.zeros((len(weights), len(ranking.ends) + 1))
        summed[:, 1:] = np.cumsum(drawn * inside, axis=1)[:, ranking.ends - 1]
        called.append(summed)
    return called[0], called[1]


def iterate_counts(ranking: Ranking, n_resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield `iterate_patient_counts` in chunks fit for `sum_called`."""
    return iterate_patient_counts(ranking.n_patients, n_resamples, seed, max_columns=COLUMNS * len(ranking.scores))


def find_cuts(ranking: Ranking, thresholds: ArrayLike) -> IntArray:
    """Return how many levels each threshold calls, int64 of the shape of ``thresholds``."""
    return np.searchsorted(-ranking.levels, -np.asarray(thresholds, np.float64), side="right").astype(np.int64)


def sum_cells(ranking: Ranking, weights: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Return true positives, false negatives, false positives and true negatives, (resamples, 4), each at its threshold.

    ``weights`` has shape (resamples, patients), ``thresholds`` (resamples,).
    """
    caught, alarms = sum_called(ranking, weights)
    rows, cuts = np.arange(len(weights)), find_cuts(ranking, thresholds)
    hits, false = caught[rows, cuts], alarms[rows, cuts]
    return np.column_stack([hits, caught[:, -1] - hits, false, alarms[:, -1] - false])


def choose_threshold(
    truth01: ArrayLike,
    scores: ArrayLike,
    groups: Groups,
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
    cost_ratio: float | None = None,
    assured: float | None = None,
    calibrated: bool = False,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> ChosenThreshold:
    """Choose a threshold on development data by one of three wishes, and say what to expect of it on new patients.

    ``sensitivity``: the highest threshold that reaches it on the data. ``specificity``: the lowest. ``cost_ratio``, the cost
    of a false negative over that of a false positive: the lowest of those that cost least on the data or, with
    ``calibrated``, 1 / (1 + ratio), which costs least where scores are calibrated probabilities (Elkan, IJCAI 2001). All but
    that lie half-way between neighbouring scores; on the lowest score to call all, just above the highest to call none.

    ``assured``, for example 0.95, is the confidence that new patients reach the rate: a tolerance limit (Wilks, Annals of
    Mathematical Statistics 12:91, 1941) for the worst case, that all items of a patient are called alike. With too few
    patients for it every item of the class is called rightly, ``reached`` is False, and ``note`` has the numbers.

    The rates to expect are those of the .632 bootstrap: see `_expect_rate`. What is undefined for want of a class is nan.
    Raises OptionError unless there is one wish within its range, DataError as `sort_items` does.
    """
    check_level(level)
    rule = _read_rule(sensitivity, specificity, cost_ratio, calibrated=calibrated)
    ranking = sort_items(truth01, scores, groups)
    if calibrated:
        check_probabilities(ranking.scores)
    rule, note = _assure(rule, ranking, assured)
    threshold = float(_choose(ranking, rule, np.ones((1, ranking.n_patients)))[0])
    draws, left_out = _choose_again(ranking, rule, n_resamples, seed)
    called = np.where(math.isnan(threshold), np.nan, ranking.scores >= threshold)
    hit = _expect_rate(called[ranking.truth], ranking.patients[ranking.truth], left_out[[0, 1]], level)
    clear = _expect_rate(1 - called[~ranking.truth], ranking.patients[~ranking.truth], left_out[[3, 2]], level)
    return ChosenThreshold(
        threshold=interval(draws, threshold, ranking.n_patients, level=level, largest=None),
        sensitivity=hit,
        specificity=clear,
        draws=draws,
        rule=_describe_rule(rule, assured),
        reached=not (note or math.isnan(threshold)),
        note=note or _note_limits(rule, called, hit if rule.name == "sensitivity" else clear),
    )


def call_with_costs(probabilities: Probabilities, costs: ArrayLike) -> Labels:
    """Return the call of each item that is expected to cost least, int64 of shape (items,); the first of equals.

    ``costs``, shape (classes, classes), has a row for each truth and a column for each call, in any unit; see Elkan, IJCAI
    2001. At a cost of 1 for each wrong call it is the most likely class. Raises OptionError where a cost is not finite or a
    wrong call is cheaper than the right one, DataError where a probability is not finite or the classes do not fit.
    """
    given, cost = np.asarray(probabilities, np.float64), np.asarray(costs, np.float64)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or not np.isfinite(cost).all():
        raise OptionError(f"Costs must be finite, one row and one column a class; found {cost.tolist()}.")
    if given.ndim != 2 or given.shape[1] != len(cost):
        raise DataError(f"Probabilities of shape (items, {len(cost)}) are needed, as of costs; found {given.shape}.")
    dear = cost.diagonal() > cost.min(axis=1)
    if dear.any():
        k = int(dear.argmax())
        raise OptionError(
            f"The right call must be the cheapest of its row; row {k} holds {cost[k].tolist()}. Rows are the truth."
        )
    if not np.isfinite(given).all():
        row = int(np.isfinite(given).all(axis=1).argmin())
        raise DataError(f"Probabilities must be finite; row {row} holds {given[row].tolist()}.")
    return np.asarray((given @ cost).argmin(axis=1), np.int64)


def _read_rule(
    sensitivity: float | None, specificity: float | None, cost_ratio: float | None, *, calibrated: bool
) -> Rule:
    wishes = {"sensitivity": sensitivity, "specificity": specificity, "cost_ratio": cost_ratio}
    given = {name: float(wish) for name, wish in wishes.items() if wish is not None}
    if len(given) != 1:
        raise OptionError(f"A threshold is chosen by exactly one of {', '.join(wishes)}; found {given or 'none'}.")
    name, wanted = next(iter(given.items()))
    if not 0 < wanted < math.inf or (name != "cost_ratio" and wanted > 1):
        limits = "above 0 and finite" if name == "cost_ratio" else "above 0 and at most 1"
        raise OptionError(f"{name} must be {limits}; found {wanted}.")
    if calibrated and name != "cost_ratio":
        raise OptionError(f"calibrated goes with cost_ratio, which it turns into a threshold; found {name}={wanted}.")
    return Rule(name, wanted, wanted, calibrated)


def _assure(rule: Rule, ranking: Ranking, assured: float | None) -> tuple[Rule, str]:
    """Return the rule with the rate to reach on the data so that new patients reach the wanted one, and why that cannot be.

    Patients count as (Σ m)² ÷ Σ m² of their m items of the class (Kish, Survey Sampling, 1965), as if all items of a patient
    were called alike: cautious where they are not.
    """
    if assured is None:
        return rule, ""
    if rule.name == "cost_ratio" or rule.wanted == 1 or not 0 < assured < 1:
        raise OptionError(
            "assured, between 0 and 1, goes with a sensitivity or specificity below 1; "
            f"found assured={assured} and {rule.name}={rule.wanted}. Pass for example sensitivity=0.9, assured=0.95."
        )
    items = np.bincount(ranking.patients[ranking.truth == (rule.name == "sensitivity")])
    if not len(items):
        return rule, ""
    n_patients = float(items.sum() ** 2 / (items**2).sum())
    reach = find_tolerance_rate(rule.wanted, n_patients, assured)
    if not math.isnan(reach):
        return dataclasses.replace(rule, reach=reach), ""
    needed = math.ceil(math.log(1 - assured) / math.log(rule.wanted))
    note = (
        f"Out of reach: a {rule.name} of {rule.wanted:g} is assured with {assured:.0%} confidence by {needed} patients of "
        f"the class or more; the {np.count_nonzero(items)} here count as {n_patients:.1f} and assure at most "
        f"{(1 - assured) ** (1 / n_patients):.3f}."
    )
    return dataclasses.replace(rule, reach=1.0), note


def find_tolerance_rate(wanted: float, n_patients: float, assured: float) -> float:
    """Return the least rate on ``n_patients`` whose exact lower bound, at confidence ``assured``, is ``wanted``; else nan.

    The one-sided bound of Clopper and Pearson, Biometrika 26:404 (1934); nan where even a rate of 1 is not enough.
    """
    from scipy.optimize import brentq
    from scipy.special import betainc

    def lack(hits: float) -> float:
        return float(betainc(hits, n_patients - hits + 1, wanted)) - (1 - assured)

    if lack(n_patients) > 0:
        return math.nan
    return float(brentq(lack, 1e-12, n_patients)) / n_patients


def _choose(ranking: Ranking, rule: Rule, weights: FloatArray) -> FloatArray:
    """Return the threshold under each weighting of patients, (resamples,); nan where a needed class has no weight."""
    if rule.calibrated:
        return np.full(len(weights), 1 / (1 + rule.wanted))
    caught, alarms = sum_called(ranking, weights)
    positives, negatives = caught[:, -1:], alarms[:, -1:]
    if rule.name == "sensitivity":
        needed = positives
        cuts = (caught < (rule.reach - SLACK) * positives).sum(axis=1)
    elif rule.name == "specificity":
        needed = negatives
        cuts = (alarms <= (1 - rule.reach + SLACK) * negatives).sum(axis=1) - 1
    else:
        needed = positives * negatives
        cost = rule.wanted * (positives - caught) + alarms
        cheap = cost <= cost.min(axis=1, keepdims=True) + SLACK * (rule.wanted * positives + negatives)
        cuts = cost.shape[1] - 1 - cheap[:, ::-1].argmax(axis=1)
    return np.where(needed[:, 0] > 0, _place(ranking.levels, caught + alarms, cuts), np.nan)


def _place(levels: FloatArray, called: FloatArray, cuts: IntArray) -> FloatArray:
    """Return thresholds, (resamples,), half-way between the scores with weight on either side of each cut.

    ``called``, shape (resamples, levels + 1), is the weight called at each cut.
    """
    here = np.take_along_axis(called, cuts[:, np.newaxis], axis=1)
    lowest_called = (called < here).sum(axis=1) - 1  # -1 where none is
    highest_other = (called <= here).sum(axis=1) - 1  # len(levels) where all are called
    upper, lower = levels[np.maximum(lowest_called, 0)], levels[np.minimum(highest_other, len(levels) - 1)]
    half = (upper + lower) / 2
    half = np.where(half > lower, half, upper)  # neighbours in floating point have nothing between them
    return np.select([lowest_called < 0, highest_other == len(levels)], [np.nextafter(lower, np.inf), upper], half)


def _choose_again(ranking: Ranking, rule: Rule, n_resamples: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the thresholds that resamples choose, and the sum of `sum_cells`, (4,), of the patients left out of each."""
    draws, cells = [], np.zeros(4)
    for counts in iterate_counts(ranking, n_resamples, seed):
        chosen = _choose(ranking, rule, counts)
        defined = ~np.isnan(chosen)
        cells += sum_cells(ranking, (counts[defined] == 0) * 1.0, chosen[defined]).sum(axis=0)
        draws.append(chosen)
    return np.concatenate(draws), cells


def _expect_rate(hits: FloatArray, patients: IntArray, left_out: FloatArray, level: float) -> ExpectedRate:
    """Return the share of hits, (items of the class,), to expect on new patients; ``left_out`` are hits and misses there.

    The .632 bootstrap (Efron, Journal of the American Statistical Association 78:316, 1983) of patients. To first order the
    rate of a chosen threshold lies about that as a proportion about its own, whatever the rule, so the interval is Wilson's
    on `effective_number`. Percentiles of the rates of single resamples, on the third of the patients that each leaves out,
    would lie √(e + 2) = 2.2 times as far apart.
    """
    apparent, out_of_bag = float(divide(hits.sum(), len(hits))), float(divide(left_out[0], left_out.sum()))
    rate = OUT_OF_BAG * out_of_bag + (1 - OUT_OF_BAG) * apparent
    n_patients = len(np.unique(patients))
    if math.isnan(rate) or n_patients < 2:
        method = "undefined: no threshold, or nobody left out of a resample"
        if n_patients < 2:
            method = f"no interval: rests on {n_patients} patient(s)"
        return ExpectedRate(Estimate(rate, math.nan, math.nan, level, method), apparent, out_of_bag)
    effective = effective_number(hits, patients)
    freedom = math.inf if n_patients == len(hits) else n_patients - 1
    method = f".632 bootstrap, chosen anew; Wilson, {effective:.1f} effective items of {n_patients} patients"
    low, high = bound_wilson(rate, effective, level=level, freedom=freedom)
    return ExpectedRate(Estimate(rate, float(low), float(high), level, method), apparent, out_of_bag)


def _describe_rule(rule: Rule, assured: float | None) -> str:
    if rule.name != "cost_ratio":
        end = "highest" if rule.name == "sensitivity" else "lowest"
        reason = f", to assure {rule.wanted:g} with {assured:.0%} confidence" if assured else ""
        return f"the {end} threshold with a {rule.name} of at least {rule.reach:.4g} on the data{reason}"
    wise = f"1 / (1 + {rule.wanted:g}) = {1 / (1 + rule.wanted):.4g}"
    if rule.calibrated:
        return f"{wise}, which costs least if scores are calibrated probabilities"
    return f"the lowest cost on the data, a miss costing {rule.wanted:g} false alarms ({wise} if calibrated)"


def _note_limits(rule: Rule, called: FloatArray, rate: ExpectedRate) -> str:
    """Return what is special about a threshold that does what was asked, or why there is none."""
    if np.isnan(called).any():
        return "No threshold: the data lack a class that the choice needs."
    if called.all() or not called.any():
        return f"The threshold calls {'every' if called.all() else 'no'} item of the data positive."
    if rule.name != "cost_ratio" and rate.apparent == 1 > rule.reach:
        return f"The {rule.name} asked for is reached only where all items of the class are called rightly."
    return ""
