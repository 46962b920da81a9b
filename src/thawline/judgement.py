"""What is settled on out-of-fold predictions before the test part is opened, and what all of it is worth.

Calibration, the threshold, prediction sets and the limit of familiarity are chosen on development items, each scored by
models that have not seen it; the test part only measures them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.lesions import number_lesions
from thawline.data.readings import list_readings
from thawline.data.strata import list_strata, take_parts
from thawline.errors import DataError
from thawline.journal import Value
from thawline.judge.calibrators import Calibrator, choose_calibrator, fit_calibrator
from thawline.judge.comparisons import correct_holm
from thawline.judge.conformal import fit_sets, judge_sets, make_sets
from thawline.judge.decision_curve import net_benefit
from thawline.judge.decisions import choose_threshold
from thawline.judge.evaluation import evaluate, predict_labels
from thawline.judge.familiarity import Familiarity, fit_familiarity
from thawline.judge.label_evaluation import evaluate_labels
from thawline.judge.operating_point import count_workload, judge_threshold
from thawline.judge.readers import judge_reader
from thawline.judge.reliability import (
    brier_parts,
    calibration_slope,
    debiased_ece,
    reliability_bands,
    take_each_class,
)
from thawline.judge.selective import risk_coverage
from thawline.judge.subgroups import Part, judge_column
from thawline.learn.ladder import TriedRung
from thawline.options import read_threshold
from thawline.share.safeguards import Safeguards
from thawline.state import Job
from thawline.types import MULTILABEL, plain

if TYPE_CHECKING:
    from thawline.types import BoolArray, Features, FloatArray, Groups, IntArray, Labels, Precision, Probabilities

CALIBRATION = "judgement calibration"  # units of the journal
THRESHOLD = "judgement threshold"
CURVE_THRESHOLDS = tuple(k / 100 for k in range(1, 100))
N_PATIENTS = 1000  # that the workload is told of


@dataclasses.dataclass(frozen=True)
class Scored:
    """Predictions of items that no model had seen: out of fold, or of the test part; ``places`` are those of the items.

    ``lesions`` say which lesion each item is of, where the data do. Where each fold chose by itself,
    ``thresholds``, (items,), and the classes that prediction ``sets`` hold, (items, classes), are those of its own.
    """

    labels: Labels
    probabilities: Probabilities
    groups: Groups
    places: IntArray
    folds: IntArray | None = None
    lesions: IntArray | None = None
    thresholds: FloatArray | None = None
    sets: BoolArray | None = None

    def take(self, chosen: BoolArray) -> Scored:
        """Return some of the items."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        taken: dict[str, Any] = {name: None if each is None else each[chosen] for name, each in arrays.items()}
        return Scored(**taken)


def settle(job: Job, chosen: TriedRung, features: Features) -> tuple[TriedRung, Safeguards]:
    """Settle calibration, threshold and safeguards; return the rung with calibrated probabilities, and the safeguards.

    ``features`` are those of the development items, of the frozen backbone.
    """
    chosen, calibrator = settle_calibration(job, chosen)
    settle_threshold(job, chosen)
    return chosen, make_safeguards(job, chosen, calibrator, features)


def settle_calibration(job: Job, chosen: TriedRung) -> tuple[TriedRung, Calibrator]:
    """Settle how probabilities are calibrated; return the rung with calibrated ones, and the map that the model gets.

    The predictions of a fold are calibrated by a map that is fitted on those of the other folds.
    """
    part = take_scored(job, chosen)
    multilabel = job.plan["task"] == MULTILABEL

    def choose() -> Value:
        if (kind := job.plan["calibration"]) is not None:
            fitted = fit_calibrator(kind, part.labels, part.probabilities, part.groups, multilabel=multilabel)
            return {"calibrator": fitted.to_json(), "tried": []}
        fitted, tried = choose_calibrator(
            part.labels, part.probabilities, part.groups, multilabel=multilabel, seed=job.options.seed
        )
        return {"calibrator": fitted.to_json(), "tried": list(tried)}

    found = job.journal.unit(CALIBRATION, choose)
    calibrator = Calibrator.from_json(found["calibrator"])
    if job.plan["calibration"] is None:
        evidence = [{"candidate": row["kind"], "log_loss": row["log_loss"]} for row in found["tried"]]
        reason = "out of fold: the simplest map within one standard error of the least log-loss"
        job.plan = job.plan.decide("calibration", calibrator.kind, reason, evidence)
    if calibrator.kind == "none":
        return chosen, calibrator
    development = job.development().keep_folds(len(chosen.folds))
    probabilities = chosen.probabilities.copy()
    for fold in development.list_folds():
        held = development.folds == fold
        others = (development.folds >= 0) & ~held
        given = development.labels[others], chosen.probabilities[others], development.groups[others]
        try:
            own = fit_calibrator(calibrator.kind, *given, multilabel=multilabel)
        except DataError:  # a single fold, or others that lack a class: it stays as it is
            continue
        probabilities[held] = own.apply(chosen.probabilities[held])
    return dataclasses.replace(chosen, probabilities=probabilities), calibrator


def settle_threshold(job: Job, chosen: TriedRung) -> None:
    """Settle an open threshold of two classes by what it reaches out of fold."""
    if job.plan["threshold"] is not None:
        return
    found = job.journal.unit(THRESHOLD, lambda: describe_choice(job, take_scored(job, chosen)))
    value, reached = found["threshold"]["value"], found["reached"]
    if value is None or not 0 < value < 1:
        job.listener.warn(f"--threshold {job.options.threshold}: {found['note'] or 'cannot be reached'}; 0.5 is used")
        value = 0.5
    note = "" if reached else f"; {found['note']}"
    job.plan = job.plan.decide("threshold", float(value), f"{found['rule']}, chosen out of fold{note}")


def describe_choice(job: Job, part: Scored) -> Value:
    """Return the threshold that the options wish for, and what to expect of it, as plain data; draws as an array."""
    kind, wanted = read_threshold(job.options.threshold)
    positive = list(job.dataset.classes).index(job.plan["positive"])
    found = choose_threshold(
        part.labels == positive,
        part.probabilities[:, positive],
        part.groups,
        sensitivity=wanted if kind == "sensitivity" else None,
        specificity=wanted if kind == "specificity" else None,
        cost_ratio=wanted if kind == "cost" else None,
        seed=job.options.seed,
    )
    rates = {
        name: {
            "expected": plain(rate.expected),
            "apparent": plain(rate.apparent),
            "out_of_bag": plain(rate.out_of_bag),
        }
        for name, rate in (("sensitivity", found.sensitivity), ("specificity", found.specificity))
    }
    about = {"rule": found.rule, "reached": found.reached, "note": found.note}
    return {"threshold": plain(found.threshold), **rates, **about, "draws": found.draws}


def make_safeguards(job: Job, chosen: TriedRung, calibrator: Calibrator, features: Features) -> Safeguards:
    """Return what goes with the head of the model: calibration, the rule of prediction sets, and familiarity."""
    part, sets = take_scored(job, chosen), None
    if job.plan["task"] != MULTILABEL:
        sets = fit_sets(part.labels, part.probabilities, part.groups, coverage=job.plan["coverage"])
        if sets.note:
            job.plan = job.plan.decide("coverage", sets.coverage, sets.note)
            job.listener.warn(sets.note)
    precision: Precision = job.plan["precision"] or "f32"
    return Safeguards(calibrator, sets, _fit_familiarity(job, chosen, features), precision)


def _fit_familiarity(job: Job, chosen: TriedRung, features: Features) -> Familiarity | None:
    """Return what tells images unlike those of development, None for handcrafted features, or where nothing can be told."""
    if chosen.rung.strategy == "handcrafted":
        return None
    development = job.development()
    labels = development.labels if development.labels.ndim == 1 else np.zeros(len(features), np.int64)
    try:
        return fit_familiarity(features, labels, development.groups, seed=job.options.seed)
    except DataError as error:
        job.listener.warn(f"the model will not tell unfamiliar images: {error}")
        return None


def take_scored(job: Job, chosen: TriedRung) -> Scored:
    """Return the out-of-fold predictions of a rung."""
    development = job.development().keep_folds(len(chosen.folds))
    scored = development.scored()
    arrays = development.labels[scored], chosen.probabilities[scored], development.groups[scored]
    places = job.development_items()[scored]
    return Scored(*arrays, places, development.folds[scored], lesions=take_lesions(job, places))


def take_test(job: Job, probabilities: Probabilities) -> Scored:
    """Return the predictions of the test part."""
    places = np.flatnonzero(job.splits.is_test)
    return Scored(job.labels[places], probabilities, job.groups[places], places, lesions=take_lesions(job, places))


def take_lesions(job: Job, places: IntArray) -> IntArray | None:
    """Return which lesion each of some items is of, None where the data do not say."""
    lesions = number_lesions(job.dataset.items)
    return None if lesions is None else lesions[places]


def evaluate_part(part: Scored, task: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return all metrics of predictions; ``task`` is that of `metrics.json`."""
    arrays, names = (part.labels, part.probabilities, part.groups), task["classes"]
    if task["kind"] == MULTILABEL:
        return evaluate_labels(*arrays, names, task["threshold"], folds=part.folds, lesions=part.lesions, seed=seed)
    about = names, task["positive"], task["threshold"] if part.thresholds is None else part.thresholds
    ordinal = task["kind"] == "ordinal"
    return evaluate(*arrays, *about, folds=part.folds, lesions=part.lesions, seed=seed, ordinal=ordinal)


def judge_calibration(part: Scored, names: Sequence[str], positive: int | None, seed: int) -> dict[str, Any]:
    """Return how good calibration is, of two classes for the positive one, else for each of them, by name.

    Slope and intercept by logistic recalibration, the calibration error without its bias, the parts of the Brier score, and
    the reliability curve with its band.
    """
    taken = take_each_class(part.labels, part.probabilities, part.groups)
    columns = range(len(taken)) if positive is None else [positive]
    return {names[k]: _judge_class(*taken[k], seed) for k in columns}


def _judge_class(truth: Labels, given: FloatArray, groups: Groups, seed: int) -> dict[str, Any]:
    slope, intercept = calibration_slope(truth, given, groups)
    parts = brier_parts(truth, given, groups)
    return {
        "slope": plain(slope),
        "intercept": plain(intercept),
        "ece_debiased": plain(debiased_ece(truth, given, groups)),
        "brier": {"score": plain(parts.score), **plain(parts)},
        "curve": plain(reliability_bands(truth, given, groups, seed=seed)),
    }


def judge_decision(
    part: Scored,
    positive: int,
    threshold: float,
    *,
    prevalence: float | None,
    draws: FloatArray | None,
    seed: int,
) -> dict[str, Any]:
    """Return what a threshold does to items: counts, rates, net benefit, and of 1,000 patients how many are called.

    ``draws`` are thresholds that resamples of development would have chosen, which the intervals then carry.
    """
    truth, scores = part.labels == positive, part.probabilities[:, positive]
    called, cut = scores, threshold
    if part.thresholds is not None:  # each fold's own: what they call is cut anywhere between no and yes
        called, cut = (scores >= part.thresholds).astype(np.float64), 0.5
    found = judge_threshold(truth, called, part.groups, cut, prevalence=prevalence, threshold_draws=draws, seed=seed)
    share = prevalence if prevalence is not None else float(truth.mean())
    workload = count_workload(found.rates["sensitivity"], found.rates["specificity"], share, N_PATIENTS)
    curve = net_benefit(truth, scores, part.groups, CURVE_THRESHOLDS, prevalence=prevalence, seed=seed)
    return {
        "threshold": threshold,
        "prevalence": share,
        "counts": {
            name: getattr(found, name)
            for name in ("true_positives", "false_negatives", "false_positives", "true_negatives")
        },
        "rates": {name: plain(rate) for name, rate in found.rates.items()},
        "workload": plain(workload),
        "net_benefit": plain(curve),
    }


def judge_doubts(part: Scored, safeguards: Safeguards, seed: int) -> dict[str, Any]:
    """Return how good prediction sets are, and what is gained by answering the most confident items only."""
    found: dict[str, Any] = {
        "risk_coverage": plain(risk_coverage(part.labels, part.probabilities, part.groups, seed=seed))
    }
    sets = part.sets
    if sets is None and safeguards.sets is not None:
        sets = make_sets(safeguards.sets, part.probabilities)
    if sets is not None:
        found["sets"] = plain(judge_sets(part.labels, sets, part.groups))
    return found


def assess(
    job: Job, parts: Mapping[str, Scored | None], safeguards: Safeguards, strangeness: FloatArray | None
) -> dict[str, Any]:
    """Return what `metrics.json` holds beside the metrics: calibration, decision, doubts, familiarity and subgroups.

    Each has the ``parts`` "validation", out of fold, "test" and "nested", None where there is none; ``strangeness`` is that
    of the test items. What a task does not have, a decision of several classes, is None.
    """
    names, seed, several = job.dataset.classes, job.options.seed, job.plan["task"] == MULTILABEL
    positive = list(names).index(job.plan["positive"]) if job.plan["positive"] in names and not several else None

    task, strata = job.describe_task(), list_strata(job.dataset.items, job.options.subgroups)

    def judge_parts(judge: Callable[[Scored], dict[str, Any]]) -> dict[str, Any]:
        return {name: None if part is None else judge(part) for name, part in parts.items()}

    found: dict[str, Any] = {
        "calibration": {"map": job.plan["calibration"]}
        | judge_parts(lambda part: judge_calibration(part, names, positive, seed)),
        "decision": None,
        "readers": None,
        "doubts": None if several else judge_parts(lambda part: judge_doubts(part, safeguards, seed)),
        "familiarity": _describe_familiarity(safeguards, strangeness),
        "subgroups": None if several else judge_parts(lambda part: judge_subgroups(part, strata, task, positive)),
    }
    if positive is not None:
        readings = list_readings(job.dataset.items)
        found["readers"] = judge_parts(lambda part: judge_readings(part, positive, readings))
        choice = job.journal.find(THRESHOLD)
        about = {"prevalence": job.plan["prevalence"], "seed": seed}
        draws = None if choice is None else np.asarray(choice.pop("draws"), np.float64)
        found["decision"] = {"choice": choice} | {
            name: None
            if part is None
            else judge_decision(part, positive, job.plan["threshold"], draws=draws if name == "test" else None, **about)
            for name, part in parts.items()
        }
    return found


def _describe_familiarity(safeguards: Safeguards, strangeness: FloatArray | None) -> dict[str, Any] | None:
    """Return how unfamiliar images are told, and how many of the test part are."""
    fitted = safeguards.familiarity
    if fitted is None:
        return None
    flagged = None if strangeness is None else int((np.asarray(strangeness) > fitted.limit).sum())
    n_items = None if strangeness is None else len(strangeness)
    about = {"kind": fitted.kind, "share": fitted.share, "limit": plain(fitted.limit), "note": fitted.note}
    return about | {"n_test_items": n_items, "n_unfamiliar": flagged}


def judge_readings(part: Scored, positive: int, readings: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Return the model beside each reader of all items, by name, on those of this part that the reader saw.

    P-values are corrected for the number of readers (Holm). Readers who saw no items of one class are left out.
    """
    truth, scores = part.labels == positive, part.probabilities[:, positive]
    found = {name: judge_reader(truth, scores, said[part.places], part.groups) for name, said in readings.items()}
    kept = {name: each for name, each in found.items() if each is not None}
    corrected = correct_holm([each.compared.p_value for each in kept.values()])
    return {
        name: {
            **{key: getattr(each, key) for key in ("scores", "n_items", "n_patients")},
            **{
                key: None if (estimate := getattr(each, key)) is None else plain(estimate)
                for key in ("sensitivity", "specificity", "reader", "model")
            },
            "difference": plain(each.compared.difference),
            "p_value": plain(each.compared.p_value),
            "p_value_corrected": plain(corrected[place]),
        }
        for place, (name, each) in enumerate(kept.items())
    }


def judge_subgroups(
    part: Scored, strata: Mapping[str, Sequence[str]], task: Mapping[str, Any], positive: int | None
) -> dict[str, Any]:
    """Return the metrics of each part of the items by metadata columns, and whether the parts of a column differ.

    ``strata`` are the parts of all items by column. P-values are corrected for the number of columns (Holm), each metric by
    itself.
    """
    threshold = task["threshold"] if part.thresholds is None else part.thresholds
    called = predict_labels(part.probabilities, task["classes"], task["positive"], threshold)
    about = part.labels, part.probabilities, called, part.groups
    taken = take_parts(strata, part.places.tolist())
    columns = {name: judge_column(parts, *about, positive=positive, folds=part.folds) for name, parts in taken.items()}
    metrics = next(iter(columns.values())).p_values if columns else {}
    corrected = {metric: correct_holm([each.p_values[metric] for each in columns.values()]) for metric in metrics}
    return {
        name: {
            "parts": [_describe_part(each) for each in column.parts],
            "p_values": plain(column.p_values),
            "p_values_corrected": {metric: plain(values[place]) for metric, values in corrected.items()},
        }
        for place, (name, column) in enumerate(columns.items())
    }


def _describe_part(part: Part) -> dict[str, Any]:
    counts = {key: getattr(part, key) for key in ("n_items", "n_patients", "n_rarest", "is_small")}
    estimates = {metric: plain(estimate) for metric, estimate in part.metrics.items()}
    return {"value": part.value, **counts, **estimates}
