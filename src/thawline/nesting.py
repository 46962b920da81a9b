"""Nested grouped cross-validation: a run's choices made again with each part of the patients put aside in turn.

One test part of few patients leaves a wide interval, and figures out of fold are too good where the same folds have chosen.
Here every patient is judged by a model all of whose choices, from the plan to the threshold, others made (Varma and Simon,
BMC Bioinformatics 7:91, 2006). It tells what the procedure is worth, not one model.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.choosing import Chosen, choose, describe_weights, time_prefix
from thawline.cost import read_duration
from thawline.data.fingerprint import make_fingerprint
from thawline.data.schemes import fold_other_sites
from thawline.data.splits import TEST_FOLDS, fold_others, make_folds
from thawline.delivery import deliver
from thawline.errors import DataError, OptionError
from thawline.folder import NESTED_FOLDER
from thawline.journal import Branch, Value
from thawline.judge.conformal import make_sets
from thawline.judgement import Scored, evaluate_part, take_lesions
from thawline.learn.weight_files import Weights
from thawline.options import NEVER
from thawline.plan import EDITABLE, Plan, make_plan, settle_headline
from thawline.plan_judging import NESTED
from thawline.share.results import format_csv, name_lesions
from thawline.state import Job
from thawline.types import SilentListener

if TYPE_CHECKING:
    from thawline.data.dataset import Dataset
    from thawline.data.splits import Splits
    from thawline.types import BoolArray, IntArray, Probabilities

UNIT = "judgement nested"  # of the journal: whether the budget has time for it
STRIDE = 7919  # between the seeds of repeats, more than those that a deal of folds tries
CHOICES = ("race", "precision", "choice", "judgement", "rung", "views of", "final")  # units that each part does again
BEFORE = ("read", "audit", "features", "tiles")  # what the run had spent of its budget before them
OF_SPLITS = ("nested", "cached_lines")  # choices of a plan file that go by the number of items, or are not of a part


@dataclasses.dataclass(frozen=True)
class Nested:
    """Predictions of all items judged, once a repeat, and what each part put aside was judged by."""

    repeats: tuple[Scored, ...]
    folds: tuple[dict[str, Any], ...]


class _Remembering(SilentListener):
    """Nobody watches a part; what is warned of stands with it in the report."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keep it."""
        self.warnings.append(message)


def check_parts(job: Job) -> None:
    """See to it, before any work, that the patients outside of each part can be folded.

    Where they cannot, nested cross-validation is left out if the plan left it open. Raises DataError if it was asked for,
    and OptionError where there is one given validation part.
    """
    if job.plan["nested"] == 0:
        return
    if job.options.validation == "given":
        raise OptionError("--plan: nested: expected 0 beside --validation given, which leaves no folds to put aside")
    try:
        for repeat in range(job.plan["nested"] or 1):
            parts = _deal(job, repeat)
            for fold in range(int(parts.max()) + 1):
                _split_others(job, (parts == fold) | (parts < 0), _seed(job, repeat))
    except DataError as error:
        if job.plan["nested"] is not None:
            raise DataError(f"nested cross-validation: with a part of the patients put aside, {error}") from error
        job.plan = job.plan.decide("nested", 0, f"too few patients to put some aside: {error}")


def settle_nesting(job: Job, given: Plan | None) -> None:
    """Settle whether the budget has time for it, and where the headline comes from, by what the choices took so far."""
    if given is not None:
        check_parts(job)  # as often as the file says, which was not known before
    if job.plan["nested"] is None:

        def forecast() -> Value:
            seconds = sum(job.journal.seconds(name) for name in CHOICES) * _count_parts(job)
            left_s = read_duration(job.plan["budget"]) - job.spent_s()
            return {
                "fits": seconds <= left_s,
                "forecast_s": seconds,
                "left_s": left_s if math.isfinite(left_s) else None,
            }

        found = job.journal.unit(UNIT, forecast)
        left = "" if found["left_s"] is None else f", of which {max(found['left_s'], 0):.0f} s are left"
        reason = f"forecast to take {found['forecast_s']:.0f} s of the budget{left}"
        job.plan = job.plan.decide("nested", int(found["fits"]), reason)
        if not found["fits"]:
            job.listener.warn(
                f"no nested cross-validation: {reason}; with --nested 1, or a longer --budget, it makes the headline"
            )
    job.plan = settle_headline(job.plan, job.fingerprint, job.options)


def cross_validate(
    job: Job, candidates: Sequence[Weights], given: Plan | None, chosen: Chosen, test: Probabilities | None
) -> Nested | None:
    """Put each part of the patients aside, make all choices on the others, and predict it; None where the plan says so.

    ``chosen`` and ``test``, the predictions of the test part, are the run's own: where that part is one of those dealt, they
    serve for it.
    """
    n_repeats = job.plan["nested"]
    if not n_repeats:
        return None
    if given is not None:  # of which the rest is about other splits
        kept = [choice for choice in given.choices if choice.name in EDITABLE and choice.name not in OF_SPLITS]
        given = dataclasses.replace(given, choices=tuple(kept))
    job.listener.begin("nested folds", n_repeats * _count_parts(job, whole=True))
    repeats, rows = [], []
    for repeat in range(n_repeats):
        parts = _deal(job, repeat)
        found = {}
        for fold in range(int(parts.max()) + 1):
            own = None if repeat else _take_own(job, parts == fold, chosen, test)
            found[fold] = own or _judge_aside(job, candidates, given, parts, repeat, fold)
            job.listener.advance()
        repeats.append(_gather(job, parts, found))
        rows += [_describe_fold(job, repeats[-1], found[fold], repeat, fold) for fold in found]
    shutil.rmtree(job.out / NESTED_FOLDER, ignore_errors=True)
    job.listener.end(f"{len(rows)} parts of the patients put aside in turn")
    return Nested(tuple(repeats), tuple(rows))


def describe_nested(job: Job, nested: Nested) -> dict[str, Any]:
    """Return what `metrics.json` holds of it: metrics, of several repeats their means, and each part with what it chose."""
    task, seed = job.describe_task(), job.options.seed
    sections = [evaluate_part(part, task, seed) for part in nested.repeats]
    return {
        **average_sections(sections),
        "headline": job.plan["headline"] == NESTED,
        "whole": _is_whole(job),
        "n_repeats": len(sections),
        "n_folds": len(nested.folds) // len(sections),
        "folds": list(nested.folds),
        "auc_by_repeat": [section["auc"] for section in sections],
    }


def format_nested(dataset: Dataset, nested: Nested) -> str:
    """Return `predictions_nested.csv`: every item by models that others made, with the part that it was put aside in."""
    lesions, rows = name_lesions(dataset.items), []
    for number, part in enumerate(nested.repeats, 1):
        parts = part.places, part.folds, part.thresholds, part.probabilities
        for place, fold, threshold, given in zip(*parts, strict=True):  # type: ignore[arg-type]
            item, own = dataset.items[place], [f"{value:.9g}" for value in (threshold, *given)]
            lesion = [cells[place] for cells in lesions.values()]
            rows.append([item.path, item.patient, *lesion, number, item.label, int(fold) + 1, *own])
    columns = ["repeat", "label", "fold", "threshold", *(f"p_{name}" for name in dataset.classes)]
    return format_csv(["item", "patient", *lesions, *columns], rows)


def average_sections(sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first section with the means of all for every estimate, and of both ends of its interval.

    All judge the same patients, so that their mean varies less than each of them: the interval is a cautious one. An
    estimate that one of them lacks is None.
    """
    first = dict(sections[0])
    if len(sections) == 1:
        return first
    if {"value", "low", "high", "method"} <= first.keys():
        ends = {key: [section[key] for section in sections] for key in ("value", "low", "high")}
        means = {key: None if None in found else float(np.mean(found)) for key, found in ends.items()}
        return first | means | {"method": f"{first['method']}; means over {len(sections)} repeats"}
    return {
        key: average_sections([section[key] for section in sections])
        if isinstance(value, Mapping) and all(isinstance(section[key], Mapping) for section in sections)
        else value
        for key, value in first.items()
    }


def _is_whole(job: Job) -> bool:
    """Tell whether all patients take turns, the test part being one of the parts drawn; else those of development do."""
    options = job.options
    return not (job.dataset.split_given or options.test or options.hold_test) and options.validation == "folds"


def _deal(job: Job, repeat: int) -> IntArray:
    """Return the part of each item, -1 for those of a test part that somebody chose, or that stays closed."""
    options, seed = job.options, _seed(job, repeat)
    if _is_whole(job):
        return make_folds(job.labels, job.groups, seed, TEST_FOLDS)[0]
    if repeat == 0 or options.validation != "folds":
        return job.splits.folds
    rest, parts = ~job.splits.is_test, np.full(len(job.labels), -1, np.int64)
    parts[rest] = make_folds(job.labels[rest], job.groups[rest], seed, options.folds)[0]
    return parts


def _seed(job: Job, repeat: int) -> int:
    return int((job.options.seed + STRIDE * repeat) % 2**32)


def _count_parts(job: Job, *, whole: bool = False) -> int:
    """Return the number of parts of a repeat; of the first one without the run's own test part, unless ``whole``."""
    n_parts = int(_deal(job, 0).max()) + 1
    return n_parts - (_is_whole(job) and not whole)


def _take_own(job: Job, aside: BoolArray, chosen: Chosen, test: Probabilities | None) -> Value | None:
    """Return what the run itself says of its test part, None where that is not the part put aside."""
    if test is None or not np.array_equal(aside, job.splits.is_test):
        return None
    return _keep(job, chosen, np.flatnonzero(aside), test)


def _judge_aside(
    job: Job, candidates: Sequence[Weights], given: Plan | None, parts: IntArray, repeat: int, fold: int
) -> Value:
    """Return what models of the other parts predict of the one put aside."""
    name = f"nested {repeat + 1} fold {fold + 1}"
    branch, folder = Branch(job.journal, name), job.out / NESTED_FOLDER / name.replace(" ", "-")
    value = job.journal.find(name)
    if value is None:
        at, before_s = time.perf_counter(), branch.seconds("")
        inner = _put_aside(job, candidates, parts, repeat, fold, branch, folder)
        found = choose(inner, candidates, given)
        model = deliver(inner, found.rung, found.strategies, found.safeguards)
        items = np.flatnonzero(parts == fold)
        source = inner.source(items, model.contract)
        value = _keep(inner, found, items, model.classify(source.contents, source.digests, inner.listener))
        own_units_s = branch.seconds("") - before_s
        job.journal.record(name, value, time.perf_counter() - at - own_units_s)
    branch.discard("")
    shutil.rmtree(folder, ignore_errors=True)
    return value


def _put_aside(
    job: Job, candidates: Sequence[Weights], parts: IntArray, repeat: int, fold: int, branch: Branch, folder: Path
) -> Job:
    """Return a job of its own on the items outside a part, planned as if it were the test part; it can be resumed.

    Its budget begins where that of the run's own choices did. What it is told of the part is which of two classes is the
    positive one, and where the others have none above 8 bits, the black and white of the run.
    """
    seed = _seed(job, repeat)
    options = dataclasses.replace(
        job.options, audit="none", hold_test=True, nested=NEVER, seed=seed, positive=job.plan["positive"]
    )
    splits = _split_others(job, (parts == fold) | (parts < 0), seed)
    about = job.dataset, job.inspection.facts, job.labels, job.groups, splits, job.fingerprint["n_together"]
    fingerprint = make_fingerprint(*about)
    if fingerprint["wide_range"] is None:
        fingerprint["wide_range"] = job.fingerprint["wide_range"]
    facts = describe_weights(candidates[0], options, fingerprint)
    spent_s = sum(job.journal.seconds(name) for name in BEFORE) + branch.seconds("")
    prefix_s = time_prefix(job)
    return dataclasses.replace(
        job,
        out=folder,
        options=options,
        listener=_Remembering(),
        journal=branch,
        weights=candidates[0],
        splits=splits,
        fingerprint=fingerprint,
        plan=make_plan(fingerprint, job.hardware, facts, options),
        facts=facts,
        began=time.perf_counter() - spent_s,
        timed={} if prefix_s is None else {job.plan["size_px"]: prefix_s},
    )


def _split_others(job: Job, aside: BoolArray, seed: int) -> Splits:
    """Return folds of the items that are not put aside, by site where the run's own are."""
    about = job.labels, job.groups, aside, seed, job.options.folds
    if job.options.validation == "folds":
        return fold_others(*about)
    return fold_other_sites(job.dataset.items, *about, sites=job.options.validation)


def _keep(job: Job, chosen: Chosen, items: IntArray, probabilities: Probabilities) -> Value:
    """Return predictions of items with what was chosen for them."""
    warnings = job.listener.warnings if isinstance(job.listener, _Remembering) else []
    value: Value = {
        "items": items,
        "probabilities": probabilities,
        "rung": chosen.rung.rung.name,
        "backbone": job.facts.name,
        "size_px": job.plan["size_px"],
        "warnings": warnings,
        "calibration": job.plan["calibration"],
        "threshold": job.plan["threshold"],
    }
    if chosen.safeguards.sets is not None:
        value["sets"] = make_sets(chosen.safeguards.sets, probabilities)
    return value


def _gather(job: Job, parts: IntArray, found: Mapping[int, Value]) -> Scored:
    """Return the predictions of all parts of a repeat, in the order of the items."""
    places = np.flatnonzero(parts >= 0)
    shape = len(parts), len(job.dataset.classes)
    probabilities, sets, thresholds = np.full(shape, np.nan), np.zeros(shape, bool), np.full(len(parts), np.nan)
    for value in found.values():
        probabilities[value["items"]], thresholds[value["items"]] = value["probabilities"], value["threshold"]
        if "sets" in value:
            sets[value["items"]] = value["sets"]
    return Scored(
        job.labels[places],
        probabilities[places],
        job.groups[places],
        places,
        parts[places],
        take_lesions(job, places),
        thresholds[places],
        sets[places] if all("sets" in value for value in found.values()) else None,
    )


def _describe_fold(job: Job, part: Scored, value: Value, repeat: int, fold: int) -> dict[str, Any]:
    """Return a part as `metrics.json` has it: what was chosen for it, and how good that is on it."""
    section = evaluate_part(part.take(np.isin(part.places, value["items"])), job.describe_task(), job.options.seed)
    chosen = {key: value[key] for key in ("backbone", "size_px", "rung", "calibration", "threshold", "warnings")}
    counts = {key: section[key] for key in ("n_items", "n_patients", "auc")}
    return {"repeat": repeat + 1, "fold": fold + 1, **chosen, **counts}
