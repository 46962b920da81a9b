"""Validation on data that a run has never seen: what `thawline validate` does.

The finished model predicts, calibrated and at its threshold; nothing is fitted. What it reaches is held against what it did
in the run, and the new data against those it was made from. The run folder stays as it is, but for the folder of results.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import thawline
from thawline.audit.items import Inspection, inspect_items
from thawline.data.dataset import Dataset, is_named, load_dataset
from thawline.data.lesions import number_lesions
from thawline.data.scan import Look
from thawline.data.splits import make_groups
from thawline.data.strata import check_strata, list_strata
from thawline.drift import compare_classes, compare_images, compare_probabilities, describe_strangeness
from thawline.errors import DataError, LeakError, OptionError, bullets
from thawline.files import require_empty, write_atomic, write_json
from thawline.folder import VALIDATIONS
from thawline.journal import Journal
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.comparisons import compare_independent
from thawline.judgement import (
    THRESHOLD,
    Scored,
    evaluate_part,
    judge_calibration,
    judge_decision,
    judge_doubts,
    judge_subgroups,
)
from thawline.ledger import digest_test, record_opening
from thawline.options import RunOptions, check_task
from thawline.share.bundle import Model, find_problem, load_model
from thawline.share.drifted import list_notable
from thawline.share.finished import Finished, read_finished
from thawline.share.folder import Predictions, is_telling, list_names
from thawline.share.headline import find_headline
from thawline.share.results import format_csv, name_lesions
from thawline.share.safeguards import describe_doubts, name_doubts
from thawline.share.validation import render_validation, summarise_validation
from thawline.share.words import count_things
from thawline.types import MISSING, Estimate, Listener, SilentListener, plain

if TYPE_CHECKING:
    from thawline.types import FloatArray, Labels

EXTERNAL = "external"
COMPARED = (  # metrics that are held against those of the run
    *("auc", "average_precision", "accuracy", "balanced_accuracy", "sensitivity", "specificity"),
    *("exact_match", "weighted_kappa", "grade_error", "brier", "log_loss"),
)


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation hands back: the folder it was written to, and its numbers."""

    folder: Path
    metrics: dict[str, Any]

    @property
    def page(self) -> Path:
        """Path of the page."""
        return self.folder / "validation.html"


def validate(
    run: Path | str,
    data: Path | str,
    out: Path | str | None = None,
    *,
    labels: Path | None = None,
    keys: str | None = None,
    prevalence: float | None = None,
    subgroups: str = "auto",
    device: str = "auto",
    allow_outside: bool = False,
    allow_leak: bool = False,
    skip_unreadable: bool = False,
    listener: Listener | None = None,
) -> Validation:
    """Judge the model of a finished ``run`` on ``data`` of its classes, and write a page and numbers.

    They go to the new folder ``out``, else to one of the run's own. ``prevalence`` is that which predictive values are told
    for, else the one the run was made for, else the share in the data. ``subgroups`` are columns as in a run.
    Raises InputError for what cannot be used, and LeakError where patients or images of the run's development part are among
    the data, unless ``allow_leak``.
    """
    run, data, listener = Path(run), Path(data), listener or SilentListener()
    if prevalence is not None and not 0 < prevalence < 1:
        raise OptionError(f"--prevalence: expected a share between 0 and 1, found {prevalence}")
    folder = Path(out) if out is not None else _name_folder(run, data)
    require_empty(folder, "the validation")  # before minutes of work, not after
    finished = read_finished(run)
    model = load_model(run, device=device, listener=listener)
    dataset = load_dataset(data, labels=labels, keys=keys, allow_outside=allow_outside, multilabel=model.multilabel)
    missing = check_classes(dataset, model, data)
    check_strata(dataset.items, subgroups)  # refused now, not after minutes
    check_task(RunOptions(prevalence=prevalence, subgroups=subgroups), model.classes, multilabel=model.multilabel)
    inspection = _inspect(dataset, model, RunOptions(skip_unreadable=skip_unreadable), listener)
    shared = find_shared(inspection, finished)
    if (shared["patients"] or shared["images"]) and not allow_leak:
        raise LeakError(_describe_shared(shared, data, run))
    if missing:
        listener.warn(
            f"{data} has no items of {', '.join(missing)}: nothing is said of them, nor by a mean over classes"
        )
    part, strangeness = _predict(model, inspection, listener)
    listener.begin("judging")
    prevalence = finished.choices["prevalence"] if prevalence is None else prevalence
    draws, strata = _recall_draws(run), list_strata(inspection.dataset.items, subgroups)
    metrics = {
        **_describe(finished, model, inspection, missing, shared, listener),
        **_judge(part, finished, model, prevalence, draws),
        "subgroups": None
        if model.multilabel
        else judge_subgroups(part, strata, finished.metrics["task"], find_positive(model)),
        "drift": _measure_drift(part, inspection, finished, model, strangeness),
    }
    metrics["compared"] = None if missing else compare_figures(metrics[EXTERNAL], finished.metrics)
    metrics["drift"]["notable"] = list_notable(metrics["drift"])
    _write(folder, metrics, part, strangeness, inspection.dataset, model, finished)
    listener.end(count_things(len(part.labels), "item"))
    return Validation(folder, metrics)


def _name_folder(run: Path, data: Path) -> Path:
    """Return a new folder of the run for a validation on these data: their name, and the first free number."""
    name = re.sub(r"[^\w-]+", "-", data.absolute().stem).strip("-") or "data"
    taken = {path.name for path in (run / VALIDATIONS).glob(f"{name}-*")}
    number = next(k for k in range(1, len(taken) + 2) if f"{name}-{k}" not in taken)
    return run / VALIDATIONS / f"{name}-{number}"


def check_classes(dataset: Dataset, model: Model, data: Path) -> list[str]:
    """Return the classes of the model that the data lack. Raises DataError for others than those of the model."""
    if dataset.multilabel != model.multilabel:
        kinds = {True: "several labels an item", False: "one class an item"}
        raise DataError(
            f"{data}: expected {kinds[model.multilabel]}, as the model was made for; found {kinds[dataset.multilabel]}"
        )
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        near = {name: difflib.get_close_matches(name, model.classes, n=1) for name in unknown}
        lines = [f"{name}" + (f" (did you mean {near[name][0]}?)" if near[name] else "") for name in unknown]
        raise DataError(
            f"{data}: expected classes among those of the model, {', '.join(model.classes)}; found {len(unknown)} others:\n"
            f"{bullets(lines)}\nCall them as the model does, or leave their items out"
        )
    return [name for name in model.classes if name not in dataset.classes]


def place_labels(dataset: Dataset, classes: Sequence[str]) -> Labels:
    """Return the labels of items by the places of the model's classes: `Dataset.labels`; of a label that the data lack
    nothing is known."""
    own = dataset.labels()
    places = [list(classes).index(name) for name in dataset.classes]
    if own.ndim == 1:
        return np.array(places, np.int64)[own]
    labels = np.full((len(own), len(classes)), MISSING, np.int64)
    labels[:, places] = own
    return labels


def _inspect(dataset: Dataset, model: Model, options: RunOptions, listener: Listener) -> Inspection:
    """Look at every item and leave out what a run would; splits within the data mean nothing here."""
    items = tuple(dataclasses.replace(item, split=None) for item in dataset.items)
    whole = dataclasses.replace(dataset, items=items, split_given=False)
    looks = [
        dataclasses.replace(look, facts=None, problem=problem)
        if (problem := find_problem(look, model.contract))
        else look
        for look in model.look(dataset.contents, listener)
    ]
    return inspect_items(whole, looks, options, listener)


def find_shared(inspection: Inspection, finished: Finished) -> dict[str, Any]:
    """Return how many patients, and items by their pixels, are of the run's development part, and of its test part.

    Counts alone; those of images are None where the run folder holds no digests. Patients count where both name them.
    """
    named = {item.patient for item in inspection.dataset.items if is_named(item)}
    pixels = [fact.pixel_digest for fact in inspection.facts]
    found: dict[str, Any] = {}
    for part, suffix in (("development", ""), ("test", "_of_test")):
        found[f"patients{suffix}"] = len(named & finished.patients[part])
        known = finished.pixels
        found[f"images{suffix}"] = None if known is None else sum(digest in known[part] for digest in pixels)
    return found | {"patients_comparable": bool(named) and any(finished.patients.values())}


def _describe_shared(shared: Mapping[str, Any], data: Path, run: Path) -> str:
    patients, images = count_things(shared["patients"], "patient"), count_things(shared["images"] or 0, "image")
    return (
        f"{data} shares {patients} by id and {images} by their pixels with the development part of {run}, expected none: "
        "the model has learnt from them, and figures would be too good. Leave them out; where both number patients from 1 "
        "and they are other people, put a prefix before the ids. --allow-leak goes on all the same, and the page says so"
    )


def _predict(model: Model, inspection: Inspection, listener: Listener) -> tuple[Scored, FloatArray | None]:
    """Return predictions of the items that take part, and how unlike development these are."""
    dataset, looks = (
        inspection.dataset,
        [Look(digest, facts) for digest, facts in zip(inspection.digests, inspection.facts, strict=True)],
    )
    probabilities = model.predict_looked(dataset.contents, looks, listener)
    strangeness = model.measure_strangeness(dataset.contents, inspection.digests, listener)
    groups = make_groups([item.patient for item in dataset.items], inspection.identical)
    labels = place_labels(dataset, model.classes)
    places, lesions = np.arange(len(labels)), number_lesions(dataset.items)
    return Scored(labels, probabilities, groups, places, lesions=lesions), strangeness


def _recall_draws(run: Path) -> FloatArray | None:
    """Return the thresholds that resamples of development would have chosen, None where it was not chosen."""
    choice = Journal(run).find(THRESHOLD)
    return None if choice is None else np.asarray(choice["draws"], np.float64)


def _describe(
    finished: Finished,
    model: Model,
    inspection: Inspection,
    missing: Sequence[str],
    shared: Mapping[str, Any],
    listener: Listener,
) -> dict[str, Any]:
    """Return what was judged on what: the task and the model, the items by counts, overrides and openings."""
    record, dataset = inspection.record, inspection.dataset
    overrides = list(record["overrides"]) + (["--allow-leak"] if shared["patients"] or shared["images"] else [])
    digest = digest_test(fact.pixel_digest for fact in inspection.facts)
    try:
        openings = record_opening(digest, finished.plan_digest)
    except OSError as error:
        openings = None
        listener.warn(f"the ledger of openings cannot be written: {error}; set THAWLINE_DATA to a writable folder")
    reasons = [str(entry["reason"]) for entry in record["left_out"]]
    return {
        "schema": 1,
        "thawline": thawline.__version__,
        "task": dict(finished.metrics["task"]),
        "model": model.digest,
        "data": {
            "n_items": len(dataset.items),
            "n_left_out": len(reasons),
            "n_unreadable": len(record["unreadable"]),
            "patients_given": dataset.patients_given,
            "n_blank_patients": dataset.n_blank_patients,
            "missing_classes": list(missing),
            "content": digest,
        },
        "shared": dict(shared),
        "overrides": overrides,
        "openings": openings,
    }


def _judge(
    part: Scored, finished: Finished, model: Model, prevalence: float | None, draws: FloatArray | None
) -> dict[str, Any]:
    """Return metrics, calibration, decision and doubts."""
    seed, names = finished.seed, model.classes
    section = evaluate_part(part, finished.metrics["task"], seed)
    areas = measure_areas(part.labels, part.probabilities, part.groups, range(len(names)))
    if len(present := np.flatnonzero(~np.isnan(areas.values))) < len(names):  # of which alone a mean can be told
        section["auc_present"] = plain(estimate_auc(areas.take(present.tolist())))
    positive, decision = find_positive(model), None
    if positive is not None:
        decision = judge_decision(part, positive, model.threshold, prevalence=prevalence, draws=draws, seed=seed)
    return {
        EXTERNAL: section,
        "calibration": judge_calibration(part, names, positive, seed),
        "decision": decision,
        "doubts": None if model.multilabel else judge_doubts(part, model.safeguards, seed),
    }


def find_positive(model: Model) -> int | None:
    """Return the place of the positive class of two, None where there is no such."""
    return model.classes.index(model.positive) if not model.multilabel and model.positive in model.classes else None


def _measure_drift(
    part: Scored, inspection: Inspection, finished: Finished, model: Model, strangeness: FloatArray | None
) -> dict[str, Any]:
    """Return how the data differ from those of development."""
    positive, names = find_positive(model), model.classes
    columns = {name: k for k, name in enumerate(names) if positive in (None, k)}
    return {
        "images": compare_images(finished.fingerprint, inspection.facts),
        "classes": compare_classes(finished.fingerprint, part.labels, part.groups, names),
        "probabilities": compare_probabilities(finished.predicted, (part.probabilities, part.groups), columns),
        "familiarity": describe_strangeness(model.safeguards.familiarity, strangeness, part.groups),
    }


def compare_figures(section: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return how much more each metric is than in the part of the run that makes its headline."""
    part = find_headline(metrics)
    found = {}
    for name in COMPARED:
        if name in section and name in metrics[part]:
            compared = compare_independent(*(read_estimate(each[name]) for each in (section, metrics[part])))
            p_value = compared.p_value if np.isfinite(compared.p_value) else None
            found[name] = {"difference": plain(compared.difference), "p_value": p_value}
    return {"with": part, "metrics": found}


def read_estimate(data: Mapping[str, Any]) -> Estimate:
    """Return an estimate of `metrics.json`; nan for what is not defined."""
    value, low, high = (np.nan if data[key] is None else float(data[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, data["level"], data["method"])


def format_rows(part: Scored, strangeness: FloatArray | None, dataset: Dataset, model: Model) -> str:
    """Return `predictions.csv`: each item with its label, what was called, probabilities and doubts. Private to the run."""
    doubts = describe_doubts(model.safeguards, part.probabilities, strangeness, model.classes)
    called, lesions = model.name_classes(part.probabilities), name_lesions(dataset.items)
    rows = []
    for place, (item, name, doubt) in enumerate(zip(dataset.items, called, doubts, strict=True)):
        own = [names[place] for names in lesions.values()]
        given = [f"{value:.9g}" for value in part.probabilities[place]]
        rows.append([item.path, item.patient, *own, item.label, name, *given, *doubt.values()])
    columns = [f"p_{name}" for name in model.classes], name_doubts(model.safeguards)
    return format_csv(["item", "patient", *lesions, "label", "predicted", *columns[0], *columns[1]], rows)


def _write(
    folder: Path,
    metrics: Mapping[str, Any],
    part: Scored,
    strangeness: FloatArray | None,
    dataset: Dataset,
    model: Model,
    finished: Finished,
) -> None:
    """Write predictions, numbers and page; the page last, so that what has one is whole."""
    rows = ({"item": item.path, "patient": item.patient, "lesion": item.lesion} for item in dataset.items)
    names = {text for row in rows for text in list_names(row)}
    predictions = Predictions(
        part.labels, part.probabilities, frozenset(filter(is_telling, names - set(model.classes)))
    )
    summary = summarise_validation(metrics, finished.metrics, predictions)
    write_atomic(folder / "predictions.csv", format_rows(part, strangeness, dataset, model))
    write_json(folder / "metrics.json", metrics)
    write_atomic(folder / "validation.html", render_validation(summary).encode("utf-8", "replace"))
