"""What a run chooses on its development part: backbone, input, rung, calibration and threshold; nothing else sees it.

One call makes all choices, so that nested cross-validation can make them again on other patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thawline.audit.step import audit_outliers
from thawline.cost import read_duration
from thawline.delivery import FINAL_FOLDS, count_refits, measure_tta
from thawline.judge.comparisons import Selection
from thawline.judgement import settle
from thawline.learn.facts import describe_backbone
from thawline.learn.ladder import FAILED, Climb, Ladder, Rules, TriedRung, choose_rung, list_rungs
from thawline.learn.speed import find_speed
from thawline.learn.strategies import Settings, Strategies
from thawline.learn.weight_files import Weights
from thawline.measure import forecast_tiles, measure_aspect, measure_precision, measure_size
from thawline.options import CONTROLS, TRAINED, RunOptions, list_strategies, steps_by_layers
from thawline.plan import Plan, apply_given, check_balance, find_depth, follow_size, make_plan
from thawline.plan_thawing import check_norms, list_chosen
from thawline.race import run_race
from thawline.share.results import describe_candidates
from thawline.share.safeguards import Safeguards
from thawline.share.words import count_things
from thawline.state import Job
from thawline.types import Augmentation, BackboneFacts, Recipe

if TYPE_CHECKING:
    from thawline.types import Features


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a development part led to: all rungs tried, and ``rung``, which is to be delivered, its probabilities calibrated.

    ``features`` are those of the development items, of the frozen backbone.
    """

    climb: Climb
    selection: Selection
    rung: TriedRung
    safeguards: Safeguards
    strategies: Strategies
    features: Features


def choose(job: Job, candidates: Sequence[Weights], given: Plan | None) -> Chosen:
    """Make all choices that the plan of a job leaves open, which it holds afterwards; ``given`` is a plan to follow."""
    if len(candidates) > 1:
        _choose_backbone(job, candidates)
    if given is not None:
        _follow_given(job, given)
    measure_precision(job)
    measure_aspect(job)
    measure_size(job)
    _follow_size(job)
    forecast_tiles(job)
    features = job.extract(job.development_items(), job.plan.contract(job.facts), "features").features
    if job.options.audit == "full":
        job.inspection.record["findings"] += audit_outliers(job.inspection, job.development_items(), features)
    strategies = _make_strategies(job, features)
    climb, selection = _climb(job, strategies)
    job.plan = _record_selection(job.plan, climb, selection)
    _settle_final(job, climb.eligible[selection.chosen], climb.n_folds)
    rung = measure_tta(job, climb.eligible[selection.chosen], strategies)
    rung, safeguards = settle(job, rung, features)
    return Chosen(climb, selection, rung, safeguards, strategies, features)


def describe_weights(
    weights: Weights, options: RunOptions, fingerprint: dict[str, Any], size_px: int | None = None
) -> BackboneFacts:
    """Return what the plan needs to know of a backbone, at ``size_px`` where that is chosen already."""
    thaws = not set(TRAINED).isdisjoint(list_strategies(options))
    layers = thaws and steps_by_layers(options)
    depth = find_depth(fingerprint, options)
    return describe_backbone(weights, lines=thaws, layers=layers, size_px=size_px or options.size_px, depth=depth)


def _choose_backbone(job: Job, candidates: Sequence[Weights]) -> None:
    """Race the candidates, and plan anew for the winner."""
    job.weights, reason, evidence = run_race(job, candidates)
    job.facts = describe_weights(job.weights, job.options, job.fingerprint)
    plan = make_plan(job.fingerprint, job.hardware, job.facts, job.options)
    job.plan = plan.decide("backbone", job.facts.name, reason, evidence)


def _follow_given(job: Job, given: Plan) -> None:
    """Follow a given plan where the run's own differs from it. Raises OptionError for what cannot be followed."""
    job.plan = apply_given(job.plan, given)
    check_norms(job.plan["recipe"]["train_norms"], job.facts)
    check_balance(job.plan)
    _follow_size(job)


def _follow_size(job: Job) -> None:
    """Describe the backbone, and plan what there is room for, at the size that was chosen."""
    if job.plan["size_px"] not in (None, job.facts.size_px):
        job.facts = describe_weights(job.weights, job.options, job.fingerprint, job.plan["size_px"])
        job.plan = follow_size(job.plan, job.fingerprint, job.hardware, job.facts, job.options)


def _make_strategies(job: Job, features: Features) -> Strategies:
    """Hand the plan's choices to those who fit the rungs."""
    plan = job.plan
    lines = {line.name: line for line in list_chosen(job.facts, plan["lines"])}
    if "random_init" in plan["controls"]:
        lines.setdefault(job.facts.lines[-1].name, job.facts.lines[-1])
    settings = Settings(
        "balanced" if plan["class_weight"] == "balanced" else None,
        Recipe(
            **plan["recipe"],
            patience=plan["recipe"]["epochs"],
            device=job.hardware.device,
            compiled=job.options.compile,
            seed=job.options.seed,
        ),
        lines,
        tuple(plan["cached_lines"]),
        plan["views"],
        Augmentation.from_json(plan["augmentation"]),
        plan["highest_block"],
        job.options.head_layers,
        job.options.seed,
    )
    chosen = job.development_items()
    source = job.source(chosen, plan.contract(job.facts))
    return Strategies(source, features, job.development(), settings, job.listener, time_prefix(job))


def time_prefix(job: Job) -> float | None:
    """Seconds that the backbone took in this run for one item at the chosen size; where the cache had them all, what was
    measured on this machine before, or None."""
    if job.plan["size_px"] in job.timed:
        return job.timed[job.plan["size_px"]]
    steps = ["features", f"features, {job.plan['size_px']}"]
    if job.plan["size_px"] == job.facts.native_px:  # at which aspect rules are compared
        steps.append(f"features, {job.plan['aspect']}")
    for step in steps:
        if (found := job.journal.find(step)) is not None:
            return (
                job.journal.spent(step) * max(1, job.facts.n_slices) / float(found.get("images") or found["computed"])
            )
    speed = find_speed(job.facts.name, job.plan["size_px"], job.plan["precision"], job.hardware)
    return None if speed is None else max(1, job.facts.n_slices) / speed.prefix_items_s


def _climb(job: Job, strategies: Strategies) -> tuple[Climb, Selection]:
    """Try the planned rungs on all development items and choose one."""
    final = 0.0 if job.plan["final"] == "ensemble" else FINAL_FOLDS
    rules = Rules(read_duration(job.plan["budget"]), job.plan["useful_gain"], job.options.seed, final)
    rungs, development = list_rungs(job.plan, job.facts), job.development()
    found = Ladder(strategies, development, job.journal, job.listener, rules, job.spent_s).climb(rungs)
    return found, choose_rung(found.eligible, development)


def _settle_final(job: Job, chosen: TriedRung, n_folds: int) -> None:
    """Settle what the chosen rung delivers, where that goes by the folds it has."""
    if job.plan["final"] == "auto" and chosen.rung.line is not None:
        whole = len(chosen.folds) == n_folds
        reason = f"the chosen rung has {len(chosen.folds)} of {n_folds} folds"
        if not whole:
            reason += f", and the budget has time for {count_things(count_refits(job, chosen), 'network')} of all items"
        job.plan = job.plan.decide("final", "ensemble" if whole else "refit", reason)


def _record_selection(plan: Plan, climbed: Climb, selection: Selection) -> Plan:
    if plan["rung"] is not None:
        return plan
    names = [each.rung.name for each in climbed.eligible]
    stops = [stop for stop in climbed.stops if "before" in stop and stop["before"].partition(" ")[0] not in CONTROLS]
    stops = [stop for stop in stops if stop["reason"] != FAILED]
    reason = f"the first whose paired log-loss is within one standard error of the best, {names[selection.best]}"
    if stops:
        reason += f"; the ladder ended before {stops[0]['before']}: {stops[0]['reason']}"
    if climbed.short:
        n_folds = min(len(each.folds) for each in climbed.eligible)
        reason += f"; the budget left no time for all folds of {', '.join(climbed.short)}"
        compared = f"all were compared on {n_folds} of {climbed.n_folds} folds"
        reason += f", so that {compared if n_folds < climbed.n_folds else 'none of these can be chosen'}"
    return plan.decide("rung", names[selection.chosen], reason, describe_candidates(names, selection))
