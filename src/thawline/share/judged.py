"""What is said on the page of calibration, decisions, doubts and subgroups: parts of `metrics.json` as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thawline.share.figures import MAX_CURVES
from thawline.share.rungs import translate_rung
from thawline.share.words import (
    NARROW,
    count_things,
    format_number,
    format_percent,
    put_in_words,
    take_estimate,
    take_number,
)

RATES = {  # key: name on the page, and what it means
    "sensitivity": ("Sensitivity", "of those with the condition, called"),
    "specificity": ("Specificity", "of those without, not called"),
    "ppv": ("Positive predictive value", "of those called, with the condition; at the share in these data"),
    "npv": ("Negative predictive value", "of those not called, without; at the share in these data"),
    "ppv_at_prevalence": ("Positive predictive value", "at the stated prevalence"),
    "npv_at_prevalence": ("Negative predictive value", "at the stated prevalence"),
    "lr_positive": ("Likelihood ratio, called", "how much being called raises the odds"),
    "lr_negative": ("Likelihood ratio, not called", "how much not being called lowers the odds"),
    "diagnostic_odds_ratio": ("Diagnostic odds ratio", ""),
    "youden": ("Youden's index", "sensitivity + specificity − 1"),
}
SETS = {
    "coverage": "Sets that hold the true class",
    "patient_coverage": "The same, as a mean over patients",
    "single": "Sets of exactly one class: the model answers",
    "size": "Classes in a set, mean",
}
MEASURES = {"auc": "AUC", "sensitivity": "Sensitivity", "specificity": "Specificity", "accuracy": "Accuracy"}
SHOWN_COVERAGES = (0.5, 0.8, 0.9, 1.0)


def summarise_calibration(calibration: Mapping[str, Any], parts: Sequence[str], part: str) -> dict[str, Any]:
    """Return the map in use, a row of figures for each class and part, and the curves of the headline's part."""
    rows = [
        {
            "part": key,
            "name": str(name),
            **{figure: take_estimate(found, figure) for figure in ("slope", "intercept")},
            "ece": take_number(found["ece_debiased"]),
            **{
                term: take_number(found["brier"][term])
                for term in ("score", "reliability", "resolution", "uncertainty")
            },
        }
        for key in parts
        for name, found in calibration[key].items()
    ]
    curves = {str(name): found["curve"] for name, found in calibration[part].items()}
    return {"map": put_in_words(calibration["map"]), "rows": rows, "curves": curves}


def pick_curves(curves: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the reliability curves of some classes, as `figures.draw_reliability` takes them."""
    return [{"name": name, **curves[name]} for name in names[:MAX_CURVES] if name in curves]


def summarise_decision(decision: Mapping[str, Any] | None, parts: Sequence[str], part: str) -> dict[str, Any] | None:
    """Return threshold, rates of each part, what they come to among 1,000 patients, and net benefit; None without any."""
    if decision is None:
        return None
    sections = [decision[key] for key in parts]
    rows = [
        {"name": name, "note": note, "estimates": [take_estimate(section["rates"], key) for section in sections]}
        for key, (name, note) in RATES.items()
        if any(key in section["rates"] for section in sections)
    ]
    own, choice = decision[part], decision["choice"]
    return {
        "threshold": float(own["threshold"]),
        "prevalence": float(own["prevalence"]),
        "rows": rows,
        "choice": None if choice is None else describe_choice(choice),
        "workload": describe_workload(own["workload"], float(own["prevalence"])),
        "net_benefit": own["net_benefit"],
        "useful": describe_benefit(own["net_benefit"]),
    }


def describe_choice(choice: Mapping[str, Any]) -> list[str]:
    """Return how the threshold was chosen and what to expect of it, in sentences."""
    said = [f"The threshold was chosen out of fold, for {choice['rule']}."]
    for name in ("sensitivity", "specificity"):
        expected, apparent = take_estimate(choice[name], "expected"), take_number(choice[name]["apparent"])
        if expected["value"] is not None and apparent is not None:
            said.append(
                f"On the patients that chose it, its {name} is {format_number(apparent)}; of new ones "
                f"{format_number(expected['value'])} [{format_number(expected['low'])}, {format_number(expected['high'])}] "
                "is to be expected."
            )
    return said + ([str(choice["note"])] if choice["note"] else [])


def describe_workload(workload: Mapping[str, Any], prevalence: float) -> list[str]:
    """Return what the threshold comes to among so many patients, in sentences."""
    counts = {key: take_estimate(workload, key) for key in ("called", "found", "missed", "wrongly_called")}
    if any(estimate["value"] is None for estimate in counts.values()):
        return []
    said = {key: _say_count(estimate) for key, estimate in counts.items()}
    n_patients = count_things(int(workload["n_patients"]), "patient")
    return [
        f"Of {n_patients}, {workload['diseased']} of whom have the condition ({format_percent(prevalence)}), the model "
        f"calls {said['called']}: {said['found']} rightly and {said['wrongly_called']} wrongly. It misses {said['missed']}."
    ]


def _say_count(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None else f" [{low:.0f}, {high:.0f}]"
    return f"{estimate['value']:.0f}{interval}"


def describe_benefit(curve: Mapping[str, Any]) -> str:
    """Return at which thresholds deciding by the model is surely better than treating all or none, in a sentence."""
    better = [
        threshold
        for threshold, low in zip(curve["thresholds"], curve["gain"]["low"], strict=True)
        if low is not None and low > 0
    ]
    if not better:
        return "At no threshold is deciding by the model surely better than treating all patients or none."
    return (
        f"Deciding by the model is surely better than treating all patients or none at thresholds from "
        f"{format_number(min(better), 2)} to {format_number(max(better), 2)}."
    )


def summarise_doubts(doubts: Mapping[str, Any] | None, parts: Sequence[str], part: str) -> dict[str, Any] | None:
    """Return prediction sets and the risk among items answered; None where items have several labels."""
    if doubts is None:
        return None
    sections = [doubts[key] for key in parts]
    rows = [
        {"name": name, "estimates": [take_estimate(section.get("sets", {}), key) for section in sections]}
        for key, name in SETS.items()
    ]
    curves = [section["risk_coverage"] for section in sections]
    for share in SHOWN_COVERAGES:
        place = min(range(len(curves[0]["coverages"])), key=lambda k: abs(curves[0]["coverages"][k] - share))
        name = f"Wrong among the surest {format_percent(share)}" if share < 1 else "Wrong among all"
        rows.append({"name": name, "estimates": [take_estimate({"r": each["risks"][place]}, "r") for each in curves]})
    return {"rows": rows, "curve": doubts[part]["risk_coverage"]}


def describe_familiarity(familiarity: Mapping[str, Any] | None) -> str:
    """Return how many images of the test part are unlike those of development, in a sentence; empty where none can tell."""
    if familiarity is None:
        return ""
    if familiarity["note"]:
        return str(familiarity["note"])
    expected = format_percent(1 - float(familiarity["share"]))
    said = f"An image counts as unfamiliar where its features are unlike those of development; {expected} of such images do."
    if n_items := familiarity["n_test_items"]:
        flagged = familiarity["n_unfamiliar"]
        said += f" Of the test part {flagged} of {n_items} do ({format_percent(flagged / n_items)})."
    return said


def summarise_nested(nested: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return each part put aside with what was chosen for it, and what that says, in sentences; None without any."""
    if nested is None:
        return None
    several = len({row["backbone"] for row in nested["folds"]}) > 1
    rows = [
        {
            **{key: int(row[key]) for key in ("repeat", "fold", "n_items", "n_patients")},
            "rung": f"{row['backbone']}, {translate_rung(row['rung'])}" if several else translate_rung(row["rung"]),
            "calibration": str(row["calibration"]),
            "threshold": float(row["threshold"]),
            "auc": take_estimate(row, "auc"),
        }
        for row in nested["folds"]
    ]
    n_repeats, aucs = int(nested["n_repeats"]), [row["value"] for row in nested["auc_by_repeat"]]
    said = _describe_choices([str(row["rung"]) for row in rows])
    if n_repeats > 1 and None not in aucs:
        said.append(
            f"The patients were dealt {n_repeats} times; figures are means over these, of which the AUC ran from "
            f"{format_number(min(aucs))} to {format_number(max(aucs))}. Curves and counts, and what is said of calibration, "
            "decisions, doubts, readers and subgroups, are of the first."
        )
    about = {"n_repeats": n_repeats, "n_folds": int(nested["n_folds"]), "whole": bool(nested["whole"])}
    warnings = [f"Part {row['fold']}: {text}" for row in nested["folds"] for text in row["warnings"]]
    return {**about, "rows": rows, "said": said, "warnings": warnings}


def _describe_choices(rungs: list[str]) -> list[str]:
    """Return whether the parts agree on what is best."""
    counts = {name: rungs.count(name) for name in sorted(set(rungs), key=lambda name: (-rungs.count(name), name))}
    if len(counts) == 1:
        return [f"All {len(rungs)} parts chose {next(iter(counts))}."]
    chosen = ", ".join(f"{name} ({count})" for name, count in counts.items())
    return [f"Of {count_things(len(rungs), 'part')} put aside, the others chose {chosen}."]


def summarise_subgroups(subgroups: Mapping[str, Any] | None, part: str) -> list[dict[str, Any]]:
    """Return a table for each metadata column: its parts with their metrics, and how likely chance alone parts them so."""
    tables = []
    for column, found in ((subgroups or {}).get(part) or {}).items():
        metrics = [key for key in MEASURES if key in found["p_values"]]
        tables.append(
            {
                "name": put_in_words(column),
                "metrics": [
                    RATES[key][0] if key in RATES else {"auc": "AUC"}.get(key, key.capitalize()) for key in metrics
                ],
                "rows": [
                    {
                        "name": str(each["value"]),
                        **{key: int(each[key]) for key in ("n_items", "n_patients", "n_rarest")},
                        "is_small": bool(each["is_small"]),
                        "estimates": [take_estimate(each, key) for key in metrics],
                    }
                    for each in found["parts"]
                ],
                "p_values": [take_number(found["p_values_corrected"][key]) for key in metrics],
            }
        )
    return tables


def summarise_readers(readers: Mapping[str, Any] | None, part: str) -> list[dict[str, Any]]:
    """Return a row for each reader, with the model beside; ``point`` is that of a reader who calls."""
    return [
        {
            "name": str(name),
            "measure": "AUC" if found["scores"] else "Sensitivity",
            **{key: int(found[key]) for key in ("n_items", "n_patients")},
            **{key: take_estimate(found, key) for key in ("reader", "model", "difference", "specificity")},
            "p_value": take_number(found["p_value_corrected"]),
            "point": None if found["scores"] else {k: take_estimate(found, k) for k in ("sensitivity", "specificity")},
        }
        for name, found in ((readers or {}).get(part) or {}).items()
    ]


def summarise_growth(growth: Mapping[str, Any]) -> dict[str, Any]:
    """Return the learning curve as rows and points, and what it foretells in sentences; of too few patients only a note."""
    if "sizes" not in growth:
        return {"note": str(growth["note"]), "rows": [], "curve": None, "said": []}
    rows = [{"n_patients": int(row["n_patients"]), "auc": take_estimate({"a": row}, "a")} for row in growth["foretold"]]
    curve = {
        "sizes": growth["sizes"],
        "aucs": growth["aucs"],
        "shown": {key: [row[key] for row in growth["shown"]] for key in ("n_patients", "value", "low", "high")},
        "delivered": {"n_patients": growth["delivered"]["n_patients"], **take_estimate(growth["delivered"], "auc")},
    }
    said = [describe_wanted(row) for row in growth["wanted"]]
    said += [
        f"A test part of {count_things(int(row['n_patients']), 'patient')} would give the AUC an interval "
        f"{format_number(row['width'], 2)} wide."
        for row in growth["test_patients"]
    ]
    return {
        "note": str(growth["note"]),
        "rows": rows,
        "curve": curve,
        "said": [*said, *describe_check(growth["check"])],
    }


def describe_wanted(row: Mapping[str, Any]) -> str:
    """Return how many patients an AUC takes, in a sentence."""
    found = take_estimate(row, "n_patients")
    wanted = format_number(row["auc"], 2)
    if found["value"] is None:
        return f"An AUC of {wanted} is out of reach of this head by more patients alone, as far as the curve tells."
    low, high = (None if found[key] is None else f"{found[key]:,.0f}".replace(",", NARROW) for key in ("low", "high"))
    interval = f" [{low}, {high or '∞'}]" if low else ""
    return f"An AUC of {wanted} takes {count_things(round(found['value']), 'patient')}{interval} to learn from."


def describe_check(check: Mapping[str, Any] | None) -> list[str]:
    """Return how well the curve foretold itself from half of the patients, in a sentence."""
    if check is None:
        return []
    points = format_number(abs(check["error_points"]), 1)
    held = "holds" if check["held"] else "does not hold"
    return [
        f"As a check, the AUC of {count_things(int(check['n_patients']), 'patient')} was foretold from half of them: it was "
        f"off by {points} points (hundredths), and the interval {held} what was measured."
    ]
