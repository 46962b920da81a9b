"""The ladder: rungs are tried in a fixed order on the same folds until the evidence stops paying, and one is chosen.

Rungs are compared out of fold, on the same items, by patient. Heads are fitted on all folds. Thaw lines are first scouted,
from the top down, on as few folds as have `SCOUTED_PATIENTS`; those below are left out after two in a row that are unlikely
to gain anything useful, or once one would not fit into the budget. The lines that are not clearly behind then get their
other folds, the best first, as far as the budget goes: once it is spent, no further fold of them is begun. The choice is
among those that have all folds and, where no line has, those that were left for want of budget, on the folds that all of
these have. Every decision is journaled with its numbers, so that a resumed run decides the same.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from thawline.data.splits import count_groups
from thawline.errors import DataError, TrainingError
from thawline.journal import Journal
from thawline.judge.comparisons import Selection, choose_within_one_se, compare_aucs, paired_difference
from thawline.learn.development import Development
from thawline.options import CONTROLS, HEADS, THAWED
from thawline.plan import Plan
from thawline.plan_thawing import name_handcrafted, name_strategy, share_trained
from thawline.types import BackboneFacts, Estimate, Listener

if TYPE_CHECKING:
    from thawline.types import Probabilities

SCOUTED_PATIENTS, SCOUTED_OF_CLASS = (
    150,
    15,
)  # that a line is tried on before the other folds, at least: all, of each class
IDLE_LINES = 2  # in a row, after which the ladder ends; of those that thaw at least
LEAST_SHARE = 0.5  # of the parameters: what thawing less does not gain says little of what thawing more would
LEAST_CHANCE = 0.10  # of a useful gain
FAILED = "failed"  # why a rung is left out whose training is not finite


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder: a strategy, with its head or its thaw line."""

    number: int
    strategy: str
    head: str = "linear"
    line: str | None = None
    thawed_fraction: float = 0.0

    @property
    def name(self) -> str:
        """What the plan calls it: the head of a frozen backbone, the strategy and line of a thawed one."""
        if self.strategy in CONTROLS:
            return name_handcrafted(self.head) if self.strategy == "handcrafted" else self.strategy
        return f"{self.strategy} {self.line}" if self.line else self.head

    @property
    def unit(self) -> str:
        """What the journal calls it."""
        return f"rung {self.number} {self.name}"

    def fold_unit(self, fold: int) -> str:
        """What the journal calls one of its folds."""
        return f"{self.unit} fold {fold}"


class Forecast(NamedTuple):
    """Seconds that a rung is expected to take: once, before its first fold, and for every fold."""

    once_s: float
    fold_s: float

    def total_s(self, n_folds: float) -> float:
        """Seconds for so many folds."""
        return self.once_s + n_folds * self.fold_s


@dataclasses.dataclass(frozen=True, slots=True)
class TriedRung:
    """A rung and what came of it.

    ``probabilities`` are out of fold, nan for items that are not scored. ``folds`` holds what each fold recorded, without
    arrays: all folds of the development part, or its first ones where the rung was only scouted. ``forecast_s`` is what
    they were expected to take; None where nothing was known. ``gain`` is its AUC less that of the best before it that has
    these folds, ``chance`` the probability that this is useful.
    """

    rung: Rung
    probabilities: Probabilities
    folds: tuple[dict[str, Any], ...]
    seconds: float
    forecast_s: float | None = None
    gain: Estimate | None = None
    chance: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Climb:
    """The rungs that were tried, in order, and why others were not, or not on all ``n_folds``: one record a stop."""

    tried: tuple[TriedRung, ...]
    stops: tuple[dict[str, Any], ...]
    n_folds: int

    @property
    def short(self) -> list[str]:
        """Names of the lines that were left on some folds for want of budget."""
        return [stop["within"] for stop in self.stops if "within" in stop and stop["reason"] == "budget"]

    @property
    def eligible(self) -> tuple[TriedRung, ...]:
        """Those that can be chosen: with all folds, and the lines left for want of budget where no line has all of them.

        Lines get theirs the best first: once one has them, the others are not chosen on few. The first rung does not count
        there, as it has them whatever it is worth. Controls where there is nothing else.
        """
        rungs = [each.rung for each in self.tried if each.rung.strategy not in CONTROLS]
        whole = {each.rung for each in self.tried if len(each.folds) == self.n_folds}
        finished = [rung for rung in rungs[1:] if rung in whole and rung.strategy in THAWED]
        found = tuple(
            each for each in self.tried if each.rung in whole or (not finished and each.rung.name in self.short)
        )
        return tuple(each for each in found if each.rung in rungs) or found


def list_rungs(plan: Plan, facts: BackboneFacts) -> list[Rung]:
    """Return the rungs of a plan in their order: heads, the control without a network, lines from the top down, the other.

    Where the plan names the rung, that one and the controls.
    """
    rungs: list[Rung] = []
    for head in plan["heads"]:
        strategy = next(name for name, heads in HEADS.items() if head in heads)
        rungs.append(Rung(len(rungs), strategy, head))
    for head in plan["handcrafted_heads"]:
        rungs.append(Rung(len(rungs), "handcrafted", head))
    for line in plan["lines"]:
        about = line, facts, plan["highest_block"]
        rungs.append(Rung(len(rungs), name_strategy(*about), line=line, thawed_fraction=share_trained(*about)))
    if "random_init" in plan["controls"]:
        rungs.append(Rung(len(rungs), "random_init", line=facts.lines[-1].name, thawed_fraction=1.0))
    named = [rung for rung in rungs if rung.name == plan["rung"]]
    if not named:
        return rungs
    beside = [rung for rung in rungs if rung.strategy in CONTROLS and named[0].strategy not in CONTROLS]
    return sorted({*named, *beside}, key=lambda rung: rung.number)


class Fitter(Protocol):
    """Whoever knows how the strategies are fitted."""

    def forecast(self, rung: Rung, tried: Sequence[TriedRung]) -> Forecast | None:
        """Seconds that a rung will take, None where nothing is known yet."""

    def prepare(self, rung: Rung) -> None:
        """Open what the folds of a rung need, with a progress bar of its own."""

    def fit(self, rung: Rung, fold: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Fit one fold: ``probabilities`` of its scored items among what it records; and weights to keep, if any."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """When to stop: after ``budget_s`` seconds, and where lines no longer gain ``useful_gain`` of AUC.

    ``final`` is the time that delivering a line takes of which only some folds are fitted, in folds of it: a line is tried
    where the budget has room for that as well.
    """

    budget_s: float
    useful_gain: float
    seed: int = 0
    final: float = 0.0


def choose_rung(tried: Sequence[TriedRung], development: Development) -> Selection:
    """Choose the first rung whose paired log-loss against the best, on the folds of all, is within one standard error."""
    part = development.keep_folds(min(len(each.folds) for each in tried))
    losses = np.stack([part.losses(each.probabilities) for each in tried])
    return choose_within_one_se(losses, part.groups[part.scored()])


@dataclasses.dataclass
class Ladder:
    """What one climb is made with, and what was tried so far. ``spent_s`` is called for the seconds spent so far."""

    fitter: Fitter
    development: Development
    journal: Journal
    listener: Listener
    rules: Rules
    spent_s: Callable[[], float]
    tried: list[TriedRung] = dataclasses.field(default_factory=list, init=False)
    stops: list[dict[str, Any]] = dataclasses.field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.n_folds, self.n_scouted = len(self.development.list_folds()), _count_scouted(self.development)

    def climb(self, rungs: Sequence[Rung]) -> Climb:
        """Try the rungs in their order; a fold that the journal holds is not fitted again.

        The first rung that can be chosen is always finished. Raises TrainingError where it cannot be trained, and DataError.
        """
        lines = [rung for rung in rungs if rung.strategy in THAWED]
        for rung in rungs:
            if rung.line is None:
                self.attempt(rung, self.n_folds)
        for rung in lines:
            if not self.attempt(rung, self.n_scouted if self.rivals() else self.n_folds):
                break
        self.finish()
        for rung in rungs:
            if rung.line is not None and rung not in lines:
                self.attempt(rung, self.n_folds)
        return Climb(tuple(self.tried), tuple(self.stops), self.n_folds)

    def rivals(self, before: Rung | None = None, n_folds: int = 0) -> list[TriedRung]:
        """Return the rungs tried so far that are no controls: before a rung where one is given, on so many folds."""
        return [
            each
            for each in self.tried
            if each.rung.strategy not in CONTROLS
            and len(each.folds) >= n_folds
            and (before is None or each.rung.number < before.number)
        ]

    def is_whole(self, found: TriedRung) -> bool:
        """Tell whether a rung has all folds."""
        return len(found.folds) == self.n_folds

    def attempt(self, rung: Rung, n_folds: int) -> bool:
        """Try the first folds of a rung; False where the ladder is to end before it.

        One that cannot be trained is left out.
        """
        self.journal.begin()
        forecast, stop = None, self.journal.find(f"stop before {rung.name}")
        if stop is None and f"{rung.unit} forecast" not in self.journal:
            began = time.perf_counter()
            forecast, stop = self._plan(rung, n_folds) if rung.line is None else self._plan_aloud(rung, n_folds)
            if stop is None:
                taken_s = time.perf_counter() - began
                self.journal.record(f"{rung.unit} forecast", forecast._asdict() if forecast else {}, taken_s)
        if stop is None:
            stop = self._fit_or_explain(rung, n_folds, n_folds)
        if stop is not None:
            self._stop("before", {"before": rung.name, **stop})
        return stop is None or stop["reason"] == FAILED

    def finish(self) -> None:
        """Fit the other folds of the lines that may yet be chosen by those they have, the best first.

        What may not: a line that is clearly behind the best, or that is no better than a cheaper rung.
        """
        if all(self.is_whole(each) for each in self.rivals()):
            return
        scouted = self.development.keep_folds(self.n_scouted)
        ahead: list[TriedRung] = []
        for each in sorted(self.rivals(), key=lambda each: scouted.losses(each.probabilities).mean()):
            stop = None if self.is_whole(each) else self._fit_rest(each, _describe_lag(each, ahead, scouted))
            if stop is None or stop["reason"] == "budget":
                ahead.append(each)
        self.tried = [
            self._compare(each) if each.rung.strategy in THAWED and self.is_whole(each) else each for each in self.tried
        ]

    def _plan(self, rung: Rung, n_folds: int) -> tuple[Forecast | None, dict[str, Any] | None]:
        """Return the forecast of a rung, and the reason not to try so many folds of it."""
        if rung.strategy in THAWED and (idle := _find_idle(self.tried)):
            return None, {"reason": "no useful gain", "useful_gain": self.rules.useful_gain, "lines": idle}
        forecast = self.fitter.forecast(rung, self.tried)
        if not self.tried or (rung.strategy not in CONTROLS and not self.rivals()):
            return forecast, None
        final = self.rules.final if rung.strategy in THAWED and n_folds < self.n_folds else 0.0
        return forecast, self._check_budget(forecast.total_s(n_folds + final) if forecast else None)

    def _plan_aloud(self, rung: Rung, n_folds: int) -> tuple[Forecast | None, dict[str, Any] | None]:
        """Plan a rung above a line, and tell the listener what it will take."""
        self.listener.begin("forecast")
        forecast, stop = self._plan(rung, n_folds)
        budget = "" if math.isinf(self.rules.budget_s) else f" of {self.rules.budget_s:.0f} s"
        seconds = f"{forecast.total_s(n_folds):.0f} s for {n_folds} folds; " if forecast else ""
        self.listener.end(f"{rung.name}: {seconds}{self.spent_s():.0f} s{budget} spent")
        return forecast, stop

    def _check_budget(self, forecast_s: float | None) -> dict[str, Any] | None:
        """Return the reason not to go on where what is forecast does not fit into the budget."""
        spent_s, budget_s = self.spent_s(), self.rules.budget_s
        if spent_s + (forecast_s or 0.0) <= budget_s:
            return None
        numbers = {"budget_s": budget_s, "spent_s": round(spent_s, 1)}
        return {"reason": "budget", **numbers, "forecast_s": forecast_s and round(forecast_s, 1)}

    def _fit_rest(self, scouted: TriedRung, lag: dict[str, Any] | None) -> dict[str, Any] | None:
        """Fit the other folds of a line; return why not where it lags behind the best or they do not fit into the budget."""
        self.journal.begin()
        rung, rest = scouted.rung, f"{scouted.rung.unit} rest"
        stop = self.journal.find(f"stop within {rung.name}")
        if stop is None and rest not in self.journal:
            rest_s = time_trial(self.journal, scouted) * count_trials(self.tried) * (self.n_folds - len(scouted.folds))
            stop = lag or self._check_budget(rest_s)
            if stop is None:
                self.journal.record(rest, {"seconds": round(rest_s, 3)}, 0.0)
        if rest in self.journal and (stop is None or stop["reason"] != FAILED):
            stop = self._fit_or_explain(rung, self.n_folds, len(scouted.folds))
        if stop is not None:
            n_fitted = next(len(each.folds) for each in self.tried if each.rung == rung)
            self._stop("within", {"within": rung.name, "folds": n_fitted, "n_folds": self.n_folds, **stop})
        return stop

    def _stop(self, where: str, stop: dict[str, Any]) -> None:
        """Note why a rung is not tried, ``before`` it, or not on all folds, ``within`` it."""
        unit = f"stop {where} {stop[where]}"
        if unit not in self.journal:
            self.journal.record(unit, stop, 0.0)
        self.stops.append(stop)

    def _fit_or_explain(self, rung: Rung, n_folds: int, n_least: int) -> dict[str, Any] | None:
        """Fit a rung; where it cannot be trained, and others can be delivered for it, return why. Raises TrainingError."""
        try:
            return self._fit(rung, n_folds, n_least)
        except TrainingError as error:
            if not (self.rivals() or (rung.strategy in CONTROLS and self.tried)):
                raise
            return {"reason": FAILED, "error": str(error)}

    def _fit(self, rung: Rung, n_folds: int, n_least: int) -> dict[str, Any] | None:
        """Fit those of the first folds of a rung that the journal does not hold, and put it among those tried.

        After ``n_least`` folds no further one is begun once the budget is spent; returns that reason.
        """
        journal = self.journal
        stop = journal.find(f"stop within {rung.name}") if n_least < n_folds else None  # of an earlier sitting
        n_folds = n_folds if stop is None else stop["folds"]
        development = self.development.keep_folds(n_folds)
        folds = development.list_folds()
        if any(rung.fold_unit(fold) not in journal for fold in folds):
            began = time.perf_counter()
            self.fitter.prepare(rung)
            if f"{rung.unit} prepared" not in journal:
                journal.record(f"{rung.unit} prepared", {}, time.perf_counter() - began)
        self.listener.begin(rung.name, len(folds))
        probabilities = np.full((len(development.labels), development.n_classes), np.nan)
        records: list[dict[str, Any]] = []
        for fold in folds:
            if len(records) >= n_least and rung.fold_unit(fold) not in journal and (stop := self._check_budget(None)):
                break
            value = journal.unit(rung.fold_unit(fold), functools.partial(self._fit_fold, rung, fold))
            probabilities[development.folds == fold] = value["probabilities"]
            records.append({key: entry for key, entry in value.items() if not isinstance(entry, np.ndarray)})
            self.listener.advance()
        n_folds, development = len(records), development.keep_folds(len(records))
        if not np.isfinite(probabilities[development.scored()]).all():
            raise DataError(
                f"{rung.name} gave probabilities that are not finite; the features of some items are unusable"
            )
        seconds = journal.seconds(f"{rung.unit} ")
        forecast = journal.find(f"{rung.unit} forecast")
        forecast_s = Forecast(**forecast).total_s(n_folds) if forecast else None
        found = self._compare(TriedRung(rung, probabilities, tuple(records), seconds, forecast_s))
        self.tried = sorted(
            [*(each for each in self.tried if each.rung != rung), found], key=lambda each: each.rung.number
        )
        gain = f", AUC {found.gain.value:+.3f} to the best before" if found.gain else ""
        part = f" on {n_folds} of {self.n_folds} folds" if n_folds < self.n_folds else ""
        self.listener.end(f"log-loss {development.losses(probabilities).mean():.4f}{gain}{part}")
        return stop

    def _fit_fold(self, rung: Rung, fold: int) -> dict[str, Any]:
        value, weights = self.fitter.fit(rung, fold)
        if weights is not None:
            self.journal.record(f"{rung.fold_unit(fold)} weights", weights, 0.0)
        return value

    def _compare(self, found: TriedRung) -> TriedRung:
        """Return a rung with what it gains on the best before it, on the folds that it has."""
        rivals = self.rivals(found.rung, len(found.folds))
        if not rivals:
            return found
        part = self.development.keep_folds(len(found.folds))
        scored = part.scored()
        given = [each.probabilities[scored] for each in (*rivals, found)]
        about = part.labels[scored], part.groups[scored], part.folds[scored]
        gain, chance = compare_aucs(given, *about, useful_gain=self.rules.useful_gain, seed=self.rules.seed)
        return dataclasses.replace(found, gain=gain, chance=chance)


def _find_idle(tried: Sequence[TriedRung]) -> list[dict[str, Any]]:
    """Return the last deep lines with their chance of a useful gain, where all of them are unlikely to have one."""
    deep = [each for each in tried if each.rung.strategy in THAWED and each.rung.thawed_fraction >= LEAST_SHARE]
    chances = [(each.rung.name, each.chance) for each in deep if each.chance is not None][-IDLE_LINES:]
    if len(chances) < IDLE_LINES or any(chance >= LEAST_CHANCE for _, chance in chances):
        return []
    return [{"rung": name, "chance": chance} for name, chance in chances]


def _describe_lag(found: TriedRung, ahead: Sequence[TriedRung], part: Development) -> dict[str, Any] | None:
    """Return how far a rung is behind one of those ``ahead`` on a part, the best first; None where that is not far.

    Far is more than one standard error behind the best, or behind a cheaper one at all, which would be chosen before it.
    """
    for place, other in enumerate(ahead):
        losses = part.losses(found.probabilities), part.losses(other.probabilities)
        difference, error = paired_difference(*losses, part.groups[part.scored()])
        error = float(np.nan_to_num(error))
        if other.rung.number < found.rung.number or (place == 0 and difference > error):
            return {"reason": "behind", "best": other.rung.name, "difference": difference, "standard_error": error}
    return None


def _count_scouted(development: Development) -> int:
    """Return the smallest number of folds that have enough patients in all and of each class; all folds where none do."""
    n_folds = len(development.list_folds())
    for number in range(1, n_folds):
        part = development.keep_folds(number)
        groups, labels = part.groups[part.scored()], part.labels[part.scored()]
        if labels.ndim == 2:
            rarest = int(count_groups(labels, groups).min())
        else:
            rarest = min(len(np.unique(groups[labels == k])) for k in range(part.n_classes))
        if len(np.unique(groups)) >= SCOUTED_PATIENTS and rarest >= SCOUTED_OF_CLASS:
            return number
    return n_folds


def count_trials(tried: Sequence[TriedRung]) -> float:
    """Return how many learning rates a fold of the lines tried so far has tried, in the mean; 1 where there is none."""
    counts = [len(fold.get("trials", [None])) for each in tried if each.rung.strategy in THAWED for fold in each.folds]
    return float(np.mean(counts)) if counts else 1.0


def time_trial(journal: Journal, tried: TriedRung) -> float:
    """Return the seconds that one training of a fold of a line took, in the mean."""
    return journal.seconds(f"{tried.rung.unit} fold ") / (count_trials([tried]) * len(tried.folds))
