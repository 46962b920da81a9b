"""The end of a run: the final model, and the test part opened once."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.cost import read_duration
from thawline.inference import count_computed
from thawline.journal import Value
from thawline.judge.comparisons import paired_difference
from thawline.learn.augment import CLEAN
from thawline.learn.bags import LINE
from thawline.learn.ensemble import (
    calibrate_members,
    find_stop,
    make_frozen_member,
    name_members,
    refit,
    take_weights,
)
from thawline.learn.ladder import TriedRung, time_trial
from thawline.learn.strategies import Strategies, split_weights
from thawline.ledger import digest_test, record_opening
from thawline.measure import CHECKED_ITEMS
from thawline.share.bundle import Model, save_model
from thawline.share.safeguards import Safeguards
from thawline.state import Job
from thawline.types import SilentListener

if TYPE_CHECKING:
    from thawline.judge.calibration import Scales
    from thawline.types import Probabilities

FINAL_FOLDS = 1.6  # trainings of a fold that one on all items takes: a fold learns four fifths of four fifths
REFITS = "networks of all items"  # what the journal calls their number
MOST_SHIFT = 0.03  # of probabilities in the mean, that bf16 may bring
MOST_REFITS = 3  # networks of all items: more predict more slowly, and little better


def deliver(job: Job, chosen: TriedRung, strategies: Strategies, safeguards: Safeguards) -> Model:
    """Make the final model of the chosen rung, and save it."""
    job.listener.begin("final model")
    job.journal.begin()
    at, before_s = time.perf_counter(), job.journal.seconds("final ")
    contract = job.plan.contract(job.facts)
    # what lies above the line of slices computes in f32, from features at rest
    through_engine = chosen.rung.line not in (None, LINE)
    if through_engine:
        contract = dataclasses.replace(contract, feature_dtype="float32")
    if chosen.rung.line is None:
        parts, value = _refit_head(chosen, strategies)
    else:
        parts, value = _keep_networks(job, chosen, strategies)
    save = functools.partial(
        save_model,
        job.out / "model",
        weights=job.weights,
        hardware=job.hardware,
        task=job.describe_task(),
        views=strategies.views if job.plan["tta"] else (CLEAN,),
        safeguards=safeguards,
        **parts,
    )
    model = save(contract=contract)
    narrow = through_engine and contract.precision != "f32"
    if narrow and (shift := measure_shift(job, model)) > MOST_SHIFT:
        job.listener.warn(
            f"in {contract.precision} the trained network changes probabilities by {shift:.3f} in the mean: its model "
            "computes in f32, which is slower"
        )
        model = save(contract=dataclasses.replace(contract, precision="f32"))
    if "final" not in job.journal:
        own_units_s = job.journal.seconds("final ") - before_s
        job.journal.record("final", value, time.perf_counter() - at - own_units_s)
    job.listener.end(", ".join(f"{name.replace('_', ' ')} {number}" for name, number in value.items()))
    return model


def measure_shift(job: Job, model: Model) -> float:
    """Return by how much the probabilities of some development items change, in the mean, where a model computes in f32.

    The folds were scored with the trained part in f32; the engine computes all of it in the precision of the features.
    """

    def measure() -> Value:
        found = []
        for precision in ("f32", model.contract.precision):
            other = dataclasses.replace(model, contract=dataclasses.replace(model.contract, precision=precision))
            source = job.source(job.development_items()[:CHECKED_ITEMS], other.contract)
            found.append(other.classify(source.contents, source.digests, SilentListener()))
        return {"shift": float(np.abs(found[1] - found[0]).mean())}

    return float(job.journal.unit("final precision", measure)["shift"])


def _refit_head(chosen: TriedRung, strategies: Strategies) -> tuple[dict[str, Any], Value]:
    """Fit the chosen head again on all development patients."""
    head, strength = strategies.fit_final(chosen.rung)
    parts = {"head": head, "texture": chosen.rung.strategy == "handcrafted"}
    return parts, {"head": chosen.rung.head, "strength": float(strength)}


def _keep_networks(job: Job, chosen: TriedRung, strategies: Strategies) -> tuple[dict[str, Any], Value]:
    """Keep the networks of all folds, each blended by its own held-out fold, or train some for their median of epochs."""
    rung, development = chosen.rung, job.development().keep_folds(len(chosen.folds))
    folds: Mapping[int, Value] = {
        fold: job.journal.find(rung.fold_unit(fold)) or {} for fold in development.list_folds()
    }
    if job.plan["final"] == "refit":

        def keep(number: int, make: Callable[[], Value]) -> Value:
            return job.journal.unit(f"final network {number} weights", make)

        networks, heads, head = refit(strategies.thaw(rung), folds, rung.name, _recall_refits(job), keep)
    else:
        head = calibrate_members(folds, development)
        found = [split_weights(_find_member(job, chosen, strategies, fold)) for fold in folds]
        networks, heads = [network for network, _ in found], [frozen for _, frozen in found if frozen is not None]
    members = list(networks)
    if heads:
        members.append(take_weights(make_frozen_member(strategies.stages.suffix(str(rung.line)), heads)))
    parts = {"head": head, "members": name_members(members), "thaw_line": rung.line}
    return parts, {"networks": len(networks), "mean_scales": np.mean(head.scales, axis=0).round(2).tolist()}


def count_refits(job: Job, chosen: TriedRung) -> int:
    """Return how many networks of all items the budget has time for, one at least; a resumed run has as many as before."""

    def count() -> Value:
        if not (stop := find_stop(chosen.folds)):
            return {"n_networks": 1}
        refit_s = time_trial(job.journal, chosen) * FINAL_FOLDS * stop / job.plan["recipe"]["epochs"]
        left_s = read_duration(job.plan["budget"]) - job.spent_s()
        return {"n_networks": next((n for n in range(MOST_REFITS, 1, -1) if n * refit_s <= left_s), 1)}

    return int(job.journal.unit(REFITS, count)["n_networks"])


def _recall_refits(job: Job) -> int:
    """Return how many networks of all items were planned; one where `--final refit` asks for it."""
    return int((job.journal.find(REFITS) or {"n_networks": 1})["n_networks"])


def _find_member(job: Job, chosen: TriedRung, strategies: Strategies, fold: int) -> Value:
    """Return the weights of one fold; trained again, with the same result, where their file was lost."""
    unit = chosen.rung.fold_unit(fold)
    found = job.journal.find(f"{unit} weights")
    return strategies.train_again(chosen.rung, fold) if found is None else found


def measure_tta(job: Job, chosen: TriedRung, strategies: Strategies) -> TriedRung:
    """Settle an open test-time augmentation for the chosen rung; return the rung as it will be delivered."""
    if job.plan["tta"] is False:
        return chosen
    if chosen.rung.strategy == "handcrafted":
        job.plan = job.plan.decide("tta", False, "handcrafted features are taken of the image as it is")
        return chosen
    rung, development = chosen.rung, job.development().keep_folds(len(chosen.folds))
    probabilities = np.full_like(chosen.probabilities, np.nan)
    job.listener.begin("test-time views", len(development.list_folds()))
    for fold, record in zip(development.list_folds(), chosen.folds, strict=True):
        scales = record.get("scales", ())

        def score(fold: int = fold, scales: Scales = scales) -> Value:
            weights = _find_member(job, chosen, strategies, fold) if rung.line else {}
            return {"probabilities": strategies.score_views(rung, fold, weights, scales)}

        value = job.journal.unit(f"views of {rung.fold_unit(fold)}", score)
        probabilities[development.folds == fold] = value["probabilities"]
        job.listener.advance()
    losses = development.losses(chosen.probabilities), development.losses(probabilities)
    gain, error = paired_difference(*losses, development.groups[development.scored()])
    job.listener.end(f"log-loss {losses[1].mean():.4f} over views, {losses[0].mean():.4f} without")
    if job.plan["tta"] is None:
        evidence = [
            {"candidate": name, "log_loss": float(each.mean())}
            for name, each in zip((False, True), losses, strict=True)
        ]
        reason = (
            f"out of fold, {len(strategies.views)} views change the log-loss by {-gain:+.4f} "
            f"(standard error {error:.4f})"
        )
        job.plan = job.plan.decide("tta", gain > error, reason, evidence)
    return dataclasses.replace(chosen, probabilities=probabilities) if job.plan["tta"] else chosen


def open_test(job: Job, model: Model) -> Probabilities | None:
    """Predict the test part with the finished model, once; the ledger counts it. None where it stays closed."""
    if job.options.hold_test:
        return None
    found = job.journal.find("test")
    if found is not None:
        return np.asarray(found["probabilities"], np.float64)
    positions = np.flatnonzero(job.splits.is_test)
    digest = digest_test(job.inspection.facts[index].pixel_digest for index in positions)
    try:
        openings = record_opening(digest, job.plan.digest())
    except OSError as error:
        openings = None
        job.listener.warn(
            f"the ledger of test openings cannot be written: {error}; set THAWLINE_DATA to a writable folder"
        )
    job.journal.begin()
    at = time.perf_counter()
    source = job.source(positions, model.contract)
    views = model.extract_views(source.contents, source.digests, job.listener, "features, test")
    probabilities, n_computed = model.score(views), count_computed(views)
    value: Value = {"probabilities": probabilities, "openings": openings, "n_computed": n_computed}
    strangeness = model.measure_strangeness(source.contents, source.digests, job.listener, "familiarity, test")
    if strangeness is not None:
        value["strangeness"] = strangeness
    job.journal.record("test", value, time.perf_counter() - at)
    return probabilities
