"""The race: several backbones, thawed for a few epochs at low resolution; the better half goes on until one is left.

A small image tells which network will be best at full size far better than a frozen one does (Doerrich et al., Scientific
Reports 15:7669, 2025: Kendall's tau .63 against .08), so candidates run at 128 pixels, or at their own size where they take
no other, and thaw their upper half. Each round adds one grouped fold (successive halving: Jamieson and Talwalkar, AISTATS
2016). Every fold is journaled, and so is the result: a resumed run races no more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.cost import read_duration
from thawline.errors import DataError, ThawlineError
from thawline.judge.metrics import item_log_loss
from thawline.learn.facts import describe_backbone, takes_size
from thawline.learn.features import extract
from thawline.learn.ladder import LEAST_SHARE, Rung
from thawline.learn.strategies import Settings, Strategies
from thawline.learn.weight_files import Weights
from thawline.measure import sample_items
from thawline.plan import find_depth
from thawline.state import Job
from thawline.types import Augmentation, Recipe, SilentListener

if TYPE_CHECKING:
    from thawline.types import IntArray

SIZE_PX, EPOCHS, VIEWS = 128, 4, 1
SHARE_OF_BUDGET = 0.25
RESULT = "race result"  # what the journal calls it
PRIORS = {  # part of a name: AUC (%) of end-to-end training beside the mean of densenet, resnet and vgg, over data sets of
    # MedMNIST: of Doerrich et al. 2025 (12 at 224 px), of Juodelyte et al. (11), or the mean of both; the first part that
    # fits a name counts
    "convnext": 1.05,
    "efficientnetv2": 0.34,
    "vgg": 0.30,
    "densenet": 0.16,
    "alexnet": -0.05,
    "googlenet": -0.38,
    "resnet": -0.46,
    "mobilenet": -0.62,
    "dino": -1.05,
    "eva02": -2.35,
    "clip": -3.12,
    "vit": -0.87,
    "shufflenet": -0.95,
    "efficientnet": -3.31,
    "mnasnet": -4.82,
}


def order_by_prior(candidates: Sequence[Weights]) -> list[Weights]:
    """Return candidates, those of families that did well elsewhere first; unknown ones keep their order behind them."""

    def rate(weights: Weights) -> float:
        name = weights.architecture.name.lower()
        return -next((prior for part, prior in PRIORS.items() if part in name), -math.inf)

    return sorted(candidates, key=rate)


def run_race(job: Job, candidates: Sequence[Weights]) -> tuple[Weights, str, list[dict[str, Any]]]:
    """Race the candidates on development folds; return the winner, the reason and one row of evidence a candidate.

    A quarter of the budget is for the race: when it is spent, the best so far wins, and who has not run by then, the last by
    prior, is left out. Raises DataError where no candidate can be raced.
    """
    found = job.journal.find(RESULT)
    if found is None:
        name, reason, evidence = _race(job, candidates)
        found = {"winner": name, "reason": reason, "evidence": evidence}
        job.journal.record(RESULT, found, 0.0)
    winner = next(each for each in candidates if each.architecture.name == found["winner"])
    return winner, found["reason"], found["evidence"]


def _race(job: Job, candidates: Sequence[Weights]) -> tuple[str, str, list[dict[str, Any]]]:
    chosen = sample_items(job)
    folds = job.development(chosen).list_folds()
    left, losses = order_by_prior(candidates), {each.architecture.name: [] for each in candidates}  # type: ignore[var-annotated]
    budget_s, rounds = SHARE_OF_BUDGET * read_duration(job.options.budget), 0
    notes: dict[str, str] = {}

    @functools.cache
    def open_racer(name: str) -> Callable[[int], dict[str, Any]]:
        return _open_racer(job, next(each for each in candidates if each.architecture.name == name), chosen)

    job.listener.begin("race")
    for fold in folds:
        for weights in left:
            name = weights.architecture.name
            if any(losses.values()) and job.spent_s() > budget_s:
                notes.setdefault(name, "not raced any further: the time for the race was spent")
                continue
            unit = f"race {name} fold {fold}"
            try:
                value = job.journal.unit(unit, lambda n=name, f=fold: open_racer(n)(f))  # type: ignore[misc]
                losses[name].append(value["loss"])
            except ThawlineError as error:
                notes[name] = f"could not be raced: {error}"
        left = [each for each in left if losses[each.architecture.name]]
        if not left:
            raise DataError(f"none of the backbones could be raced: {'; '.join(notes.values())}")
        rounds = max(map(len, losses.values()))
        whole = [each for each in left if len(losses[each.architecture.name]) == rounds]
        left = sorted(whole, key=lambda each: float(np.mean(losses[each.architecture.name])))[: (len(left) + 1) // 2]
        if len(left) == 1 or job.spent_s() > budget_s:
            break
    winner = left[0].architecture.name
    job.listener.end(f"{winner} of {len(candidates)}")
    evidence = [
        {"candidate": name, "folds": len(found), "log_loss": float(np.mean(found)) if found else None}
        | ({"note": notes[name]} if name in notes else {})
        for name, found in losses.items()
    ]
    reason = (
        f"won a race of {len(candidates)} at {SIZE_PX} px (or their own size, where they take no other) on {len(chosen)} "
        f"development items: {rounds} folds of {EPOCHS} epochs, the better half of the candidates going on after each fold"
    )
    return winner, reason, evidence


def _open_racer(job: Job, weights: Weights, chosen: IntArray) -> Callable[[int], dict[str, Any]]:
    """Prepare one candidate at low resolution; the result thaws its upper half for a fold, and returns the log-loss."""
    size_px = SIZE_PX if takes_size(weights, SIZE_PX) else weights.architecture.size_px
    facts = describe_backbone(weights, size_px=size_px, depth=find_depth(job.fingerprint, job.options))
    contract = job.plan.contract(facts, size_px=size_px, interpolation=facts.interpolation, precision="f32")
    source = job.source(chosen, contract)._replace(weights=weights)
    features = extract(*source, SilentListener()).features
    line = next((line for line in facts.lines if line.thawed_fraction >= LEAST_SHARE), None)
    batch_items = job.plan["recipe"]["batch_items"]
    recipe = Recipe(epochs=EPOCHS, batch_items=batch_items, device=job.hardware.device, seed=job.options.seed)
    augmentation = Augmentation.from_json(job.plan["augmentation"])
    lines = {line.name: line} if line else {}
    settings = Settings(None, recipe, lines, tuple(lines), VIEWS, augmentation, seed=job.options.seed)
    development = job.development(chosen)
    strategies = Strategies(source, features, development, settings, SilentListener())
    rung = Rung(0, "fine_tuning", line=line.name) if line else Rung(0, "feature_extractor")

    def race(fold: int) -> dict[str, Any]:
        value, _ = strategies.fit(rung, fold)
        losses = item_log_loss(development.labels[development.folds == fold], value["probabilities"])
        return {"loss": float(losses.mean()), "items": len(losses)}

    return race
