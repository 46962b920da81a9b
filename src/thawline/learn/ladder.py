"""The ladder: rungs are tried in a fixed order on the same folds until the evidence stops paying, and one is chosen.

Rungs are compared out of fold, on the same items, by patient. Of the thaw lines, those below are left out after two in a
row that are unlikely to gain anything useful; a rung that would not fit into the budget is left out too. Both are
journaled with their numbers, so that a resumed run decides the same.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from thawline.errors import DataError
from thawline.journal import Journal
from thawline.judge.statistics import Selection, choose_within_one_se, compare_aucs
from thawline.learn.development import Development
from thawline.options import CONTROLS, HEADS, THAWED
from thawline.plan import Plan
from thawline.plan_thawing import name_strategy
from thawline.types import BackboneFacts, Estimate, Listener

if TYPE_CHECKING:
    from thawline.types import Probabilities

IDLE_LINES = 2  # in a row, after which the ladder ends; of those that thaw at least
LEAST_SHARE = 0.5  # of the parameters: what thawing less does not gain says little of what thawing more would
LEAST_CHANCE = 0.10  # of a useful gain


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
            return self.strategy
        return f"{self.strategy} {self.line}" if self.line else self.head

    @property
    def unit(self) -> str:
        """What the journal calls it."""
        return f"rung {self.number} {self.name}"

    def fold_unit(self, fold: int) -> str:
        """What the journal calls one of its folds."""
        return f"{self.unit} fold {fold}"


@dataclasses.dataclass(frozen=True, slots=True)
class TriedRung:
    """A rung and what came of it.

    ``probabilities`` are out of fold, nan for items that are never scored. ``folds`` holds what each fold recorded,
    without arrays. ``forecast_s`` is what it was expected to take; None where nothing was known. ``gain`` is its AUC less
    that of the best before it, ``chance`` the probability that this is useful.
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
    """The rungs that were tried, in order, and why others were not: one record a stop."""

    tried: tuple[TriedRung, ...]
    stops: tuple[dict[str, Any], ...]

    @property
    def eligible(self) -> tuple[TriedRung, ...]:
        """Those that can be chosen: all but controls, or the controls where nothing else was asked for."""
        return tuple(each for each in self.tried if each.rung.strategy not in CONTROLS) or self.tried


def list_rungs(plan: Plan, facts: BackboneFacts) -> list[Rung]:
    """Return the rungs of a plan in their order: heads, lines from the top down, controls.

    Where the plan names the rung, that one and the controls.
    """
    rungs: list[Rung] = []
    for head in plan["heads"]:
        strategy = next(name for name, heads in HEADS.items() if head in heads)
        rungs.append(Rung(len(rungs), strategy, head))
    shares = {line.name: line.thawed_fraction for line in (*facts.fine_lines, *facts.lines)}
    for line in plan["lines"]:
        rungs.append(Rung(len(rungs), name_strategy(line, facts), line=line, thawed_fraction=shares[line]))
    for control in plan["controls"]:
        line = facts.lines[-1].name if control == "random_init" else None
        rungs.append(Rung(len(rungs), control, line=line, thawed_fraction=1.0 if line else 0.0))
    return [rung for rung in rungs if plan["rung"] in (None, rung.name) or rung.strategy in CONTROLS]


class Fitter(Protocol):
    """Whoever knows how the strategies are fitted."""

    def forecast(self, rung: Rung, tried: Sequence[TriedRung]) -> float | None:
        """Seconds that all folds of a rung will take, None where nothing is known yet."""

    def prepare(self, rung: Rung) -> None:
        """Open what the folds of a rung need, with a progress bar of its own."""

    def fit(self, rung: Rung, fold: int, tried: Sequence[TriedRung]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Fit one fold: ``probabilities`` of its scored items among what it records; and weights to keep, if any."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """When to stop: after ``budget_s`` seconds, and where lines no longer gain ``useful_gain`` of AUC."""

    budget_s: float
    useful_gain: float
    seed: int = 0


def climb(
    rungs: Sequence[Rung],
    fitter: Fitter,
    development: Development,
    journal: Journal,
    listener: Listener,
    rules: Rules,
    spent_s: Callable[[], float],
) -> Climb:
    """Try the rungs in their order; a fold that the journal holds is not fitted again.

    ``spent_s`` is called for the seconds spent so far. The first rung is always finished. Raises TrainingError and
    DataError.
    """
    tried: list[TriedRung] = []
    stops: list[dict[str, Any]] = []
    ended = False
    for rung in rungs:
        is_line = rung.strategy in THAWED
        if ended and is_line:
            continue
        name = f"stop before {rung.name}"
        forecast, stop = _plan_rung(rung, fitter, tried, journal, rules, spent_s)
        if stop is not None:
            if name not in journal:
                journal.record(name, stop, 0.0)
            stops.append({"before": rung.name, **stop})
            ended = ended or is_line
            continue
        tried.append(_try_rung(rung, fitter, development, journal, listener, rules, tried, forecast))
    return Climb(tuple(tried), tuple(stops))


def choose_rung(tried: Sequence[TriedRung], development: Development) -> Selection:
    """Choose the first rung whose paired log-loss against the best is within one standard error."""
    losses = np.stack([development.losses(each.probabilities) for each in tried])
    return choose_within_one_se(losses, development.groups[development.scored()])


def _plan_rung(
    rung: Rung, fitter: Fitter, tried: Sequence[TriedRung], journal: Journal, rules: Rules, spent_s: Callable[[], float]
) -> tuple[float | None, dict[str, Any] | None]:
    """Return the forecast of a rung, and the reason not to try it; both as the journal has them where it does."""
    if (stop := journal.find(f"stop before {rung.name}")) is not None:
        return None, stop
    if rung.strategy in THAWED and (idle := _find_idle(tried)):
        return None, {"reason": "no useful gain", "useful_gain": rules.useful_gain, "lines": idle}
    if (known := journal.find(f"{rung.unit} forecast")) is not None:
        return known["seconds"], None
    forecast, spent = fitter.forecast(rung, tried), spent_s()
    if tried and spent + (forecast or 0.0) > rules.budget_s:
        numbers = {"budget_s": rules.budget_s, "spent_s": round(spent, 1)}
        return forecast, {"reason": "budget", **numbers, "forecast_s": forecast and round(forecast, 1)}
    journal.record(f"{rung.unit} forecast", {"seconds": forecast and round(forecast, 3)}, 0.0)
    return forecast, None


def _find_idle(tried: Sequence[TriedRung]) -> list[dict[str, Any]]:
    """Return the last deep lines with their chance of a useful gain, where all of them are unlikely to have one."""
    deep = [each for each in tried if each.rung.strategy in THAWED and each.rung.thawed_fraction >= LEAST_SHARE]
    lines = [each for each in deep if each.chance is not None][-IDLE_LINES:]
    if len(lines) < IDLE_LINES or any(each.chance is None or each.chance >= LEAST_CHANCE for each in lines):
        return []
    return [{"rung": each.rung.name, "chance": each.chance} for each in lines]


def _try_rung(
    rung: Rung,
    fitter: Fitter,
    development: Development,
    journal: Journal,
    listener: Listener,
    rules: Rules,
    tried: Sequence[TriedRung],
    forecast: float | None,
) -> TriedRung:
    folds = development.list_folds()
    if any(rung.fold_unit(fold) not in journal for fold in folds):
        began = time.perf_counter()
        fitter.prepare(rung)
        journal.record(f"{rung.unit} prepared", {}, time.perf_counter() - began)
    listener.begin(rung.name, len(folds))
    probabilities = np.full((len(development.labels), development.n_classes), np.nan)
    records = []
    for fold in folds:
        unit = rung.fold_unit(fold)

        def fit(fold: int = fold, unit: str = unit) -> dict[str, Any]:
            value, weights = fitter.fit(rung, fold, tried)
            if weights is not None:
                journal.record(f"{unit} weights", weights, 0.0)
            return value

        value = journal.unit(unit, fit)
        probabilities[development.folds == fold] = value["probabilities"]
        records.append({key: entry for key, entry in value.items() if not isinstance(entry, np.ndarray)})
        listener.advance()
    if not np.isfinite(probabilities[development.scored()]).all():
        raise DataError(f"{rung.name} gave probabilities that are not finite; the features of some items are unusable")
    seconds = journal.seconds(f"{rung.unit} ")
    found = TriedRung(rung, probabilities, tuple(records), seconds, forecast)
    scored = development.scored()
    note = f"log-loss {development.losses(probabilities).mean():.4f}"
    rivals = [each for each in tried if each.rung.strategy not in CONTROLS]
    if rivals:
        given = [each.probabilities[scored] for each in (*rivals, found)]
        about = development.labels[scored], development.groups[scored], development.folds[scored]
        gain, chance = compare_aucs(given, *about, useful_gain=rules.useful_gain, seed=rules.seed)
        found = dataclasses.replace(found, gain=gain, chance=chance)
        note += f", AUC {gain.value:+.3f} to the best before"
    listener.end(note)
    return found
