"""A run folder as one plain dict: all that the report says, as numbers and texts without markup."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.share.cautions import list_cautions
from thawline.share.checklists import fill_checklists, list_sections
from thawline.share.expenses import summarise_cost
from thawline.share.figures import MAX_CURVES
from thawline.share.flow import summarise_flow
from thawline.share.folder import (
    NESTED_PREDICTIONS,
    Predictions,
    blame,
    read_image,
    read_json,
    read_names,
    read_predictions,
    withhold,
)
from thawline.share.headline import PARTS, find_headline, list_parts, name_threshold
from thawline.share.judged import (
    describe_familiarity,
    pick_curves,
    summarise_calibration,
    summarise_decision,
    summarise_doubts,
    summarise_growth,
    summarise_nested,
    summarise_readers,
    summarise_subgroups,
)
from thawline.share.methods import write_methods
from thawline.share.plain_language import tell_plainly
from thawline.share.rungs import (
    describe_delivery,
    describe_precision,
    describe_ratio,
    describe_thawing,
    explain_stop,
    find_chosen,
    summarise_rung,
    summarise_training,
    translate_rungs,
)
from thawline.share.study import Study, find_study
from thawline.share.words import (
    format_number,
    format_percent,
    format_plain,
    put_in_words,
    take_estimate,
    take_number,
)
from thawline.types import MISSING, MULTILABEL

if TYPE_CHECKING:
    from thawline.types import BoolArray, Labels

SCORES = {  # key in metrics.json: name on the page
    "auc": "AUC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "exact_match": "Exact match",
    "weighted_kappa": "Weighted kappa",
    "grade_error": "Grades between call and label",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "log_loss": "Log-loss",
}
MICRO = {"auc": "AUC", "average_precision": "Average precision", "f1": "F1"}  # key in metrics.json: name on the page
LEVELS = {"lesion_level": "lesion", "patient_level": "patient"}  # key in metrics.json: what several items are of
LOWER_IS_BETTER = ("grade_error", "brier", "ece", "log_loss")
OF_CLASS = ("auc", "average_precision", "sensitivity", "specificity")
OF_SOME = ("exact_match", "weighted_kappa", "grade_error")  # where items have several labels, or classes an order
PARTED = ("data", "split")  # tables of the audit that say what the report has by development and test
PRIVATE_OPTIONS = ("data", "out", "run")


def summarise(run: Path) -> dict[str, Any]:
    """Return all that the page shows as plain data: numbers, texts, lists and dicts, no markup.

    Raises ModelError that names the file which is missing or damaged.
    """
    metrics, plan, fingerprint, audit, spec = (
        read_json(run, f"{name}.json") for name in ("metrics", "plan", "fingerprint", "audit", "spec")
    )
    with blame(run, "metrics.json"):
        part, tested = find_headline(metrics), metrics["test"] is not None
        classes = [str(name) for name in metrics["task"]["classes"]]
        several = metrics["task"]["kind"] == MULTILABEL
    predictions = find_predictions(run, classes, part, multilabel=several)
    with blame(run, "plan.json"):
        choices = {choice["name"]: choice["value"] for choice in plan["choices"]}
        delivery = {name: choices[name] for name in ("highest_block", "final", "tta")}
    with blame(run, "metrics.json"):
        summary = summarise_metrics(metrics, part)
        summary["chosen"] = summarise_chosen(metrics, delivery)
        summary["n_networks"] = int(metrics["chosen"]["n_networks"] or 1)
        summary["curves"] = summarise_curves(metrics, part, predictions)
        summary |= summarise_judgement(metrics, part)
        summary |= withhold({key: summary[key] for key in ("subgroups", "readers")}, predictions.names)
        names = [curve["name"] for curve in summary["curves"]["roc"]]
        summary["curves"]["reliability"] = pick_curves(summary["calibration"].pop("curves"), names)
    with blame(run, "fingerprint.json"):
        summary["data"] = summarise_data(fingerprint, classes)
    with blame(run, "audit.json"):
        warnings = list_cautions(audit, fingerprint, metrics[part])
        summary["warnings"] = withhold(warnings, predictions.names)
        summary["findings"] = withhold(summarise_findings(run, audit["findings"]), predictions.names)
        summary["shortcuts"] = summarise_shortcuts(audit)
        summary["sites"] = withhold(summarise_tables(audit, classes, but=PARTED), predictions.names)
        summary["support"] = str(audit["support"])
    with blame(run, "plan.json"):
        summary["plan"] = withhold([summarise_choice(choice) for choice in plan["choices"]], predictions.names)
    with blame(run, "spec.json"):
        summary["versions"] = withhold(summarise_versions(spec, plan, fingerprint), predictions.names)
    summary["examples"] = summarise_examples(run)
    study = find_study(run)
    with blame(run, "metrics.json"):
        summary["cost"] = summarise_cost(metrics["cost"], summary["ladder"], study)
    with blame(run, "audit.json"):
        flow = summarise_flow(audit, fingerprint, classes, tested=tested)
        summary["flow"] = withhold(flow, predictions.names)
    with blame(run, "spec.json"):
        summary |= withhold(write_texts(summary, choices, fingerprint, spec, study), predictions.names)
    return summary


def find_predictions(run: Path, classes: Sequence[str], part: str, *, multilabel: bool) -> Predictions:
    """Return the predictions of a part; the names to keep off the page are those of all items."""
    if part != "nested":
        return read_predictions(run, classes, "test" if part == "test" else "development", multilabel=multilabel)
    found = read_predictions(run, classes, "1", multilabel=multilabel, column="repeat", name=NESTED_PREDICTIONS)
    return found._replace(names=found.names | read_names(run))


def write_texts(
    summary: Mapping[str, Any],
    choices: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    spec: Mapping[str, Any],
    study: Study,
) -> dict[str, Any]:
    """Return what is told of all the rest: in plain words, as methods, what is stated, and both checklists."""
    return {
        "plain": tell_plainly(summary, study, spec["options"]),
        "methods_text": write_methods(summary, choices, fingerprint, spec, study),
        "study": name_values(study.stated),
        "checklists": fill_checklists(study, list_sections(summary)),
    }


def summarise_metrics(metrics: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return headline, scores, classes, confusion, rungs and cost; ``part`` is the section that makes the headline."""
    sections = {key: metrics[key] for key in list_parts(metrics)}
    auc = take_estimate(sections[part], "auc")
    task, n_folds = dict(metrics["task"]), max(rung["n_folds"] for rung in metrics["ladder"])
    return {
        "part": part,
        "parts": [{"key": key, "name": PARTS[key], **take_counts(section)} for key, section in sections.items()],
        "task": task,
        "auc": auc,
        "meaning": explain_headline(task, sections[part], auc),
        "scores": summarise_scores(task, sections),
        "lesions": count_lesions(sections[part]),
        "methods": sorted({str(estimate["method"]) for estimate in list_estimates(sections)} - {""}),
        "classes": [summarise_classes(PARTS[key], section, task["classes"]) for key, section in sections.items()],
        "confusion": summarise_confusion(sections[part].get("confusion")),
        "ladder": [summarise_rung(rung, n_folds) for rung in metrics["ladder"]],
        "training": summarise_training(find_chosen(metrics["ladder"])),
        "other_training": [
            training for rung in metrics["ladder"] if not rung["chosen"] and (training := summarise_training(rung))
        ],
        "precision": describe_precision(metrics["ladder"]),
        "stops": [explain_stop(stop) for stop in metrics["stops"]],
        "nested": summarise_nested(metrics["nested"]),
        "threshold": name_threshold(task.get("threshold"), sections[part]),
    }


def summarise_judgement(metrics: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return calibration, decision, doubts, familiarity and subgroups; ``part`` is the section that makes the headline."""
    keys = list_parts(metrics)
    found = summarise_calibration(metrics["calibration"], keys, part)
    found["rows"] = [row | {"part": PARTS[row["part"]]} for row in found["rows"]]
    return {
        "calibration": found,
        "decision": summarise_decision(metrics["decision"], keys, part),
        "doubts": summarise_doubts(metrics["doubts"], keys, part),
        "familiarity": describe_familiarity(metrics["familiarity"]),
        "subgroups": summarise_subgroups(metrics["subgroups"], part),
        "growth": summarise_growth(metrics["growth"]),
        "readers": summarise_readers(metrics["readers"], part),
    }


def list_estimates(data: Any) -> list[Mapping[str, Any]]:
    """Return every estimate at any depth of `metrics.json`."""
    if not isinstance(data, Mapping):
        return []
    return (
        [data] if {"value", "method"} <= data.keys() else [e for entry in data.values() for e in list_estimates(entry)]
    )


def take_counts(section: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of items and of patients."""
    return {"n_items": int(section["n_items"]), "n_patients": int(section["n_patients"])}


def summarise_chosen(metrics: Mapping[str, Any], delivery: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what was chosen as (name, value) pairs in words.

    ``delivery`` holds the plan's choices of the highest block that is trained, of what is delivered, and of views.
    """
    chosen, rung, upper = metrics["chosen"], find_chosen(metrics["ladder"]), delivery["highest_block"]
    facts = {
        "Strategy": put_in_words(chosen["strategy"]),
        "Thaw line": describe_thawing(chosen, upper),
        "Fine-tuning ratio": describe_ratio(chosen),
        "Backbone": chosen["backbone"],
        "Head": put_in_words(chosen["head"]),
        "Delivered": describe_delivery(
            rung, delivery["final"], chosen["n_networks"], several_views=bool(delivery["tta"])
        ),
    }
    if chosen["strategy"] == "handcrafted":
        del facts["Backbone"], facts["Fine-tuning ratio"]
    return [{"name": name, "value": str(value)} for name, value in facts.items()]


def explain_headline(task: Mapping[str, Any], section: Mapping[str, Any], auc: Mapping[str, Any]) -> list[str]:
    """Return what the headline means, in plain sentences; an AUC is the share of pairs ranked rightly (Hanley 1982)."""
    classes, positive = task["classes"], task.get("positive")
    if task["kind"] == MULTILABEL:
        return explain_labels(task, section, auc)
    two = len(classes) == 2 and positive in classes
    if auc["value"] is None:
        said = ["The AUC is not defined here: at least one class has no items in this part."]
    else:
        first, second = (positive, next(n for n in classes if n != positive)) if two else ("one class", "another")
        mean = "" if two else f", averaged over the {len(classes)} classes"
        said = [
            f"Shown one item of {first} and one of {second}, the model gives the higher probability of "
            f"{first if two else 'the first class'} to the right one in {format_percent(auc['value'])} of such pairs{mean}; "
            f"by chance it would be {format_percent(0.5)}."
        ]
        if auc["low"] is not None and auc["high"] is not None and auc["low"] <= 0.5 <= auc["high"]:
            said.append("The interval includes 0.5: on these patients the model may be no better than chance.")
    found, cleared, right = (take_estimate(section, key)["value"] for key in ("sensitivity", "specificity", "accuracy"))
    if two and found is not None and cleared is not None:
        said.append(
            f"At {name_threshold(task.get('threshold'), section)} it finds {format_percent(found)} of the items "
            f"with {positive} and rightly clears {format_percent(cleared)} of the others."
        )
    elif right is not None:
        said.append(f"Its most likely class is the right one for {format_percent(right)} of the items.")
    return said


def explain_labels(task: Mapping[str, Any], section: Mapping[str, Any], auc: Mapping[str, Any]) -> list[str]:
    """Return what the headline means where items have several labels."""
    if auc["value"] is None:
        said = ["The AUC is not defined here: of a label, there are no items with it or none known to be without."]
    else:
        said = [
            "Shown one item with a label and one without, the model gives the higher probability of it to the right one in "
            f"{format_percent(auc['value'])} of such pairs, averaged over the {len(task['classes'])} labels; by chance it "
            f"would be {format_percent(0.5)}."
        ]
        if auc["low"] is not None and auc["high"] is not None and auc["low"] <= 0.5 <= auc["high"]:
            said.append("The interval includes 0.5: on these patients the model may be no better than chance.")
    right = take_estimate(section, "accuracy")["value"]
    if right is not None:
        said.append(
            f"At the threshold {format_number(task.get('threshold'), 2)} it is right on {format_percent(right)} of the "
            "labels that are known; what is not known of an item counts nowhere."
        )
    return said


def summarise_scores(task: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a metric with an estimate for every section, lesions and patients last."""
    binary = len(task["classes"]) == 2 and task.get("positive")
    several = task["kind"] == MULTILABEL
    of_class = f"of {task['positive']}" if binary else "mean over labels" if several else "mean over classes"
    notes = {
        **dict.fromkeys(LOWER_IS_BETTER, "lower is better"),
        **dict.fromkeys(("sensitivity", "specificity"), of_class),
        "weighted_kappa": "quadratic weights",
        "auc": of_class if binary or several else "mean over classes, one against the rest",
    }
    if several:
        counts = " and ".join(str(section["n_complete"]) for section in sections.values())
        notes |= {
            **dict.fromkeys(("balanced_accuracy",), of_class),
            **dict.fromkeys(("brier", "ece", "log_loss"), f"{of_class}, lower is better"),
            "accuracy": "of the labels that are known",
            "exact_match": f"{counts} items all of whose labels are known",
        }
    rows: list[dict[str, Any]] = [
        {"name": name, "note": notes.get(key, ""), "estimates": [take_estimate(s, key) for s in sections.values()]}
        for key, name in SCORES.items()
        if key not in OF_SOME or any(key in section for section in sections.values())
    ]
    return rows + summarise_micro(sections, "label" if several else "class") + summarise_levels(sections)


def summarise_micro(sections: Mapping[str, Mapping[str, Any]], one: str) -> list[dict[str, Any]]:
    """Return one row a micro average, none where there are two classes."""
    found = [section.get("micro") or {} for section in sections.values()]
    note = f"each pair of an item and a {one} counts alike"
    return [
        {"name": f"{name}, micro", "note": note, "estimates": [take_estimate(each, key) for each in found]}
        for key, name in MICRO.items()
        if any(found)
    ]


def summarise_levels(sections: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of lesions and of patients, as far as there are any, by the mean of their items."""
    rows = []
    for level, unit in LEVELS.items():
        found = [section.get(level) or {} for section in sections.values()]
        told = [each for each in found if each]
        if not told:
            continue
        note = f"{' and '.join(str(each[f'n_{unit}s']) for each in told)} {unit}s"
        if any(each.get("n_left_out") for each in told):
            note += f"; left out, mixed labels: {' and '.join(str(each['n_left_out']) for each in told)}"
        for key, name in (("auc", "AUC"), ("accuracy", "Accuracy")):
            values = [take_estimate(each, key) for each in found]
            rows.append({"name": f"{name} per {unit}", "note": note, "estimates": values})
    return rows


def count_lesions(section: Mapping[str, Any]) -> dict[str, int] | None:
    """Return how many lesions of how many patients are told of, and how many have items of several labels; None without."""
    found = section.get("lesion_level")
    return found and {key: int(found[key]) for key in ("n_lesions", "n_patients", "n_left_out")}


def summarise_classes(name: str, section: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the table of classes of one section."""
    rows = [
        {
            "name": str(label),
            **take_counts(section["per_class"][label]),
            **{key: take_estimate(section["per_class"][label], key) for key in OF_CLASS},
            **take_known(section["per_class"][label]),
        }
        for label in classes
    ]
    return {"part": name, "rows": rows}


def take_known(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table of one of several labels has beside: of how many items it is known, and how calibrated it is."""
    if "n_known" not in table:
        return {}
    counts = {name: int(table[name]) for name in ("n_known", "n_known_patients")}
    return {**counts, **{key: take_estimate(table, key) for key in ("brier", "ece", "log_loss")}}


def summarise_confusion(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the rows of the confusion matrix, each cell with its share of the row; None where there is none."""
    if confusion is None:
        return None
    rows = []
    for name, counts in zip(confusion["classes"], confusion["counts"], strict=True):
        total = sum(map(int, counts))
        cells = [{"n_items": int(count), "share": count / total if total else 0.0} for count in counts]
        rows.append({"name": str(name), "total": total, "cells": cells})
    return {"classes": [str(name) for name in confusion["classes"]], "rows": rows}


def summarise_curves(metrics: Mapping[str, Any], part: str, predictions: Predictions) -> dict[str, Any]:
    """Return ROC curves of the positive class, or of the classes with the lowest AUC where several."""
    from thawline.judge.metrics import roc_curve

    task, section = metrics["task"], metrics[part]
    classes, per_class = task["classes"], section["per_class"]
    aucs = {name: take_estimate(per_class[name], "auc")["value"] for name in classes}
    truths = {name: find_truth(predictions.labels, place) for place, name in enumerate(classes)}
    defined = [name for name, (_, truth) in truths.items() if len({*truth}) == 2]
    two = len(classes) == 2 and task.get("positive") in classes
    drawn = [name for name in defined if not two or name == task["positive"]]
    worst = sorted(drawn, key=lambda name: math.inf if aucs[name] is None else aucs[name])[:MAX_CURVES]
    curves: dict[str, Any] = {
        "roc": [],
        "n_left_out": len(drawn) - len(worst),
        "operating_point": None,
    }
    for name in sorted(worst, key=classes.index):
        known, truth = truths[name]
        scores = predictions.probabilities[known, classes.index(name)]
        false_positive, true_positive, _ = roc_curve(truth, scores)
        curves["roc"].append(
            {"name": str(name), "auc": aucs[name], "fpr": false_positive.tolist(), "tpr": true_positive.tolist()}
        )
    if two and curves["roc"]:
        curves["operating_point"] = {key: take_estimate(section, key) for key in ("sensitivity", "specificity")}
    return curves


def find_truth(labels: Labels, place: int) -> tuple[BoolArray, BoolArray]:
    """Return of which items it is known whether they are of a class, (items,), and of those whether they are."""
    if labels.ndim == 1:
        return labels >= 0, labels == place
    known = labels[:, place] != MISSING
    return known, labels[known, place] == 1


def summarise_data(fingerprint: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return counts for each class and part, and what the images are like."""
    parts = {name: fingerprint["parts"][name] for name in ("development", "test") if fingerprint["parts"].get(name)}
    rows = [
        {
            "name": name,
            "counts": [take_class(counts, name) for counts in (*parts.values(), fingerprint["classes"])],
        }
        for name in classes
    ]
    kept = (
        "n_items",
        "n_patients",
        "patients_given",
        "n_blank_patients",
        "n_together",
        "split_given",
        "imbalance",
        "wide_range",
    )
    return {
        **{key: fingerprint[key] for key in kept},
        **{
            key: [take_number(fingerprint[key][name]) for name in ("min", "median", "max")]
            for key in ("width_px", "height_px", "slices")
            if key in fingerprint
        },
        **{key: dict(fingerprint[key]) for key in ("bits", "channels", "formats")},
        "known": summarise_known(fingerprint),
        "parts": [*parts, "all"],
        "rows": rows,
    }


def summarise_known(fingerprint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return of each of several labels how many items have it, are known to be without, and are not known; else nothing."""
    if "multilabel" not in fingerprint:
        return []
    names = ("items", "negative_items", "negative_patients", "missing_items")
    return [
        {"name": name, **{key: int(counts[key]) for key in names}} for name, counts in fingerprint["classes"].items()
    ]


def take_class(counts: Mapping[str, Any], name: str) -> dict[str, int]:
    """Return items and patients of a class, zero where the part has none."""
    found = counts.get(name) or {"items": 0, "patients": 0}
    return {"n_items": int(found["items"]), "n_patients": int(found["patients"])}


def summarise_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return one choice of the plan with value and evidence in words; rungs are called what the ladder calls them."""
    candidates = choice.get("candidates") or []
    rungs = [choice["value"], *candidates] if choice["name"] == "rung" else []
    return {
        "name": put_in_words(choice["name"]),
        "value": translate_rungs(format_plain(choice["value"]), rungs),
        "kind": choice["kind"],
        "reason": translate_rungs(choice["reason"], rungs),
        "candidates": [translate_rungs(format_plain(candidate), rungs) for candidate in candidates],
        "evidence": [translate_rungs(describe_evidence(row), rungs) for row in choice.get("evidence") or []],
    }


def describe_evidence(row: Mapping[str, Any]) -> str:
    """Return what was measured of one candidate in words; a comparison by log-loss reads as in the ladder."""
    rest = {key: value for key, value in row.items() if key != "candidate"}
    loss, difference, error = (take_number(rest.get(key)) for key in ("log_loss", "difference", "standard_error"))
    said = format_plain(rest)
    if loss is not None and difference is not None:
        said = f"log-loss {format_number(loss)} (to the best {format_number(difference)} ± {format_number(error)})"
    return f"{format_plain(row['candidate'])}: {said}"


def summarise_versions(
    spec: Mapping[str, Any], plan: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """Return versions, digests, weights and options as (name, value) pairs."""
    environment = dict(spec["environment"])
    packages = environment.pop("packages", {})
    options = {key: value for key, value in spec["options"].items() if key not in PRIVATE_OPTIONS and value is not None}
    digests = {"Data": fingerprint["digest"], "Plan": plan["digest"], "Model": spec.get("model_digest")}
    return {
        "software": name_values({"thawline": spec["thawline"], **environment, **packages}),
        "digests": name_values({key: value for key, value in digests.items() if value}),
        "weights": name_values(spec.get("weights") or {}),
        "options": name_values({"seed": spec["seed"], **options}),
    }


def name_values(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a mapping as rows of name and value, in words."""
    return [{"name": put_in_words(name), "value": format_plain(value)} for name, value in values.items()]


def summarise_shortcuts(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how well each source predicts the labels; of several labels an item the one that it predicts best."""
    return [
        {"source": ": ".join(filter(None, (str(each["source"]), each.get("label")))), "auc": take_estimate(each, "auc")}
        for each in audit["shortcuts"]
    ]


def summarise_tables(audit: Mapping[str, Any], classes: Sequence[str], but: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the audit's tables of items and patients of each class, ``but`` those of these titles."""
    return [
        {
            "title": str(table["title"]),
            "rows": [
                {"name": str(name), "counts": [take_class(counts, label) for label in classes]}
                for name, counts in table["counts"].items()
            ],
        }
        for table in audit["tables"]
        if table["title"] not in but
    ]


def summarise_findings(run: Path, findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the audit's findings with some of their items as data URIs, and whether there are more."""
    return [
        {
            "name": str(finding["name"]),
            "severity": str(finding["severity"]),
            "text": str(finding["text"]),
            "more": sum(map(len, finding["groups"])) > sum(map(len, finding["shown"])),
            "groups": [
                [
                    {
                        "item": int(item["item"]),
                        "label": str(item["label"]),
                        "split": str(item["split"] or ""),
                        "remark": str(item.get("remark", "")),
                        "image": read_image(run, str(item["image"])),
                    }
                    for item in group
                ]
                for group in finding["shown"]
            ],
        }
        for finding in findings
    ]


def summarise_examples(run: Path) -> list[dict[str, Any]]:
    """Return the most confident errors with their images as data URIs; none where the run kept none."""
    if not (run / "examples.json").exists():
        return []
    with blame(run, "examples.json"):
        examples = json.loads((run / "examples.json").read_text("utf-8"))
        return [
            {
                "item": int(example["item"]),
                "label": str(example["label"]),
                "predicted": str(example["predicted"]),
                "probability": take_number(example["probability"]),
                "image": read_image(run, str(example["image"])) if example.get("image") else None,
            }
            for example in examples
        ]
