"""What the plan leaves open and the run's own development items settle: precision, aspect rule and size of the input.

And what whole slides will take, before it begins.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.label_sets import find_strata
from thawline.data.slices import choose_places
from thawline.judge.comparisons import choose_within_one_se
from thawline.learn.engine import open_engine, smallest_cosine
from thawline.learn.facts import takes_size
from thawline.learn.features import batch_inputs, open_space, prepare_all
from thawline.learn.heads import cross_fit
from thawline.learn.slice_rows import name_row, take_single
from thawline.learn.speed import time_tiles
from thawline.plan import MEASURED_ITEMS
from thawline.share.results import describe_candidates
from thawline.state import Job

if TYPE_CHECKING:
    from thawline.types import Features, Groups, IntArray

LEAST_COSINE = 0.99  # a narrower precision is taken where every checked item agrees this well with f32
CHECKED_ITEMS, CHECKED_TILES = 64, 4
LEAST_OF_CLASS = 50  # items of a class that a sample has, where there are so many


def measure_precision(job: Job) -> None:
    """Settle an open precision: bf16 where the features of some of the run's own items agree with f32."""
    if job.plan["precision"] is not None:
        return

    def measure() -> dict[str, Any]:
        chosen = job.development_items()[:CHECKED_ITEMS]
        features = {}
        for precision in ("f32", "bf16"):
            contract = job.plan.contract(job.facts, precision=precision)
            contract = dataclasses.replace(contract, reading=contract.reading.show_tiles(CHECKED_TILES))
            engine = open_engine(job.weights, contract, job.hardware)
            inputs = prepare_all(job.source(chosen, contract).contents, contract, job.hardware.cores)
            features[precision] = np.concatenate(list(engine.run(batch_inputs(inputs, engine.batch_items))))
        return {"cosine": smallest_cosine(features["bf16"], features["f32"]), "n_items": len(chosen)}

    found = job.journal.unit("precision", measure)
    agrees = found["cosine"] >= LEAST_COSINE
    reason = f"smallest cosine of bf16 with f32 features over {found['n_items']} items: {found['cosine']:.4f}"
    evidence = [{"candidate": "bf16", "smallest_cosine": found["cosine"], "least_wanted": LEAST_COSINE}]
    job.plan = job.plan.decide("precision", "bf16" if agrees else "f32", reason, evidence)


def forecast_tiles(job: Job) -> None:
    """Say, and record, how many tiles of whole slides are to be computed, and how long that takes by some of the first."""
    if job.options.tile_px is None:
        return
    began = time.perf_counter()
    job.listener.begin("tiles")
    contract = job.plan.contract(job.facts)
    space = open_space(*take_single(job.weights, contract), job.hardware)
    counts = dict(zip(job.inspection.digests, (facts.slices for facts in job.inspection.facts), strict=True))
    missing = {
        digest: sum(name_row(digest, index) not in space for index in {*choose_places(count, contract.reading)})
        for digest, count in counts.items()
    }
    first = next((place for place, digest in enumerate(job.inspection.digests) if missing[digest]), None)
    found: dict[str, Any] = {"slides": len(counts), "tissue": sum(counts.values()), "to_compute": sum(missing.values())}
    note = f"{found['slides']} slides, {found['tissue']:,} tiles of tissue, {found['to_compute']:,} to compute"
    if first is not None:
        open_s, tile_s = time_tiles(job.dataset.contents[first], job.weights, contract, job.hardware)
        n_opened = sum(count > 0 for count in missing.values())
        seconds = found["to_compute"] * tile_s + n_opened * open_s / job.hardware.cores
        found |= {"tiles_per_second": 1 / tile_s, "minutes": seconds / 60}
        note += f", {1 / tile_s:.0f} a second: about {found['minutes']:.1f} min"
    job.journal.record("tiles", found, time.perf_counter() - began + job.journal.spent("tiles"))
    job.listener.end(note)


def measure_aspect(job: Job) -> None:
    """Settle an open aspect rule."""
    _measure(job, "aspect", job.plan.find("aspect").candidates or ())


def measure_size(job: Job) -> None:
    """Settle an open size of the input, among those that the backbone takes."""
    candidates = job.plan.find("size_px").candidates or ()
    if job.plan["size_px"] is None and not takes_size(job.weights, candidates[-1]):
        job.plan = job.plan.decide("size_px", candidates[0], f"{job.facts.name} takes images of this size only")
    _measure(job, "size_px", candidates)


def _measure(job: Job, name: str, candidates: Sequence[Any]) -> None:
    """Settle an open choice of the input contract: the linear head out of fold on each, compared as rungs are."""
    if job.plan[name] is not None:
        return
    chosen = sample_items(job)
    development = job.development(chosen)
    losses = []
    for candidate in candidates:
        contract = job.plan.contract(job.facts, **{name: candidate})
        features = job.extract(chosen, contract, f"features, {candidate}").features

        def compare(features: Features = features) -> dict[str, Any]:
            about = (development.labels, development.groups, development.folds, development.n_classes)
            found = cross_fit("linear", features, *about, seed=job.options.seed, n_jobs=job.hardware.cores)
            return {"probabilities": found.probabilities}

        probabilities = job.journal.unit(f"choice {name} {candidate}", compare)["probabilities"]
        losses.append(development.losses(probabilities))
    selection = choose_within_one_se(np.stack(losses), development.groups[development.scored()])
    reason = (
        f"the first in this order whose out-of-fold log-loss, frozen features and linear head on {len(chosen)} development "
        f"items, is within one standard error of the best ({candidates[selection.best]})"
    )
    job.plan = job.plan.decide(name, candidates[selection.chosen], reason, describe_candidates(candidates, selection))


def sample_items(job: Job) -> IntArray:
    """Positions of all development items or, where those are many, of some: every class in proportion, but none left with
    few, and as many patients of each as there are before a second item of one.

    Where one part is scored and the rest only trained on, the scored one is half of them, or all there is of it.
    """
    positions = job.development_items()
    is_scored = job.splits.folds[positions] >= 0
    scored, rest = positions[is_scored], positions[~is_scored]
    n_scored = min(len(scored), MEASURED_ITEMS // 2) if len(rest) else MEASURED_ITEMS
    parts = (scored, n_scored), (rest, MEASURED_ITEMS - n_scored)
    return np.sort(np.concatenate([_sample(job, part, n_items) for part, n_items in parts]))


def _sample(job: Job, positions: IntArray, n_items: int) -> IntArray:
    """Draw about so many of the positions by class; all where there are no more."""
    if len(positions) <= n_items:
        return positions
    drawn = np.random.Generator(np.random.PCG64(job.options.seed)).permutation(positions)
    kept = []
    strata = find_strata(job.labels[drawn])
    for label in np.unique(strata):
        own = drawn[strata == label]
        share = max(round(n_items * len(own) / len(drawn)), LEAST_OF_CLASS)
        kept.append(own[np.argsort(_count_before(job.groups[own]), kind="stable")][:share])
    return np.concatenate(kept)


def _count_before(groups: Groups) -> IntArray:
    """Return how many items of the same group come before each."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], groups[order])
    before = np.empty(len(groups), np.int64)
    before[order] = np.arange(len(groups)) - first
    return before
