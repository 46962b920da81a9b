"""The page of a validation on new data: its numbers beside those of the run become one plain dict, and that a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thawline.share.cautions import FEW_OF_A_CLASS, Caution, say
from thawline.share.drifted import NOTHING, describe_strangeness, draw_shift, tabulate_drift
from thawline.share.figures import Caption, draw_net_benefit, draw_reliability, draw_risk, draw_roc
from thawline.share.folder import Predictions, withhold
from thawline.share.headline import PARTS, WHERE, list_parts
from thawline.share.judged import (
    pick_curves,
    summarise_calibration,
    summarise_decision,
    summarise_doubts,
    summarise_subgroups,
)
from thawline.share.report import describe_reliability, describe_risk, make_environment
from thawline.share.summary import (
    SCORES,
    count_lesions,
    explain_headline,
    list_estimates,
    summarise_classes,
    summarise_confusion,
    summarise_curves,
    summarise_scores,
    take_counts,
)
from thawline.share.words import (
    count_things,
    format_interval,
    format_number,
    format_signed,
    take_estimate,
    take_number,
    write_p,
    write_percent,
)

NAMES = {"external": "External", **PARTS}
PRIVATE = ("warnings", "notable", "drift", "subgroups", "familiarity")  # what texts of the data may have come into
OVERRIDES = {
    "--allow-leak": "patients or images that the model has learnt from are among the data. The figures are too good by an "
    "unknown amount.",
    "--skip-unreadable": "items that cannot be read, or not by this model, were left out.",
}


def summarise_validation(
    found: Mapping[str, Any], metrics: Mapping[str, Any], predictions: Predictions
) -> dict[str, Any]:
    """Return all that the page shows as plain data; ``found`` is what the validation measured, ``metrics`` the run's own.

    Names of the ``predictions`` appear nowhere.
    """
    own, task = {"external": found["external"]}, found["task"]
    sections = own | {key: metrics[key] for key in list_parts(metrics)}
    auc, keys = take_headline(found["external"]), list(sections)
    curves = summarise_curves({"task": task, **own}, "external", predictions)
    calibration = summarise_calibration({**metrics["calibration"], "external": found["calibration"]}, keys, "external")
    calibration["rows"] = [row | {"part": NAMES[row["part"]]} for row in calibration["rows"]]
    names = [curve["name"] for curve in curves["roc"]]
    curves["reliability"] = pick_curves(calibration.pop("curves"), names)
    summary = {
        "task": task,
        "parts": [{"key": key, "name": NAMES[key], **take_counts(section)} for key, section in sections.items()],
        "auc": auc,
        "meaning": [*explain_auc(task, found["external"], auc), *describe_difference(found["compared"])],
        "data": dict(found["data"]),
        "scores": join_differences(summarise_scores(task, sections), found["compared"]),
        "lesions": count_lesions(found["external"]),
        "against": None if found["compared"] is None else NAMES[found["compared"]["with"]].lower(),
        "classes": [summarise_classes("External", found["external"], task["classes"])],
        "confusion": summarise_confusion(found["external"].get("confusion")),
        "curves": curves,
        "calibration": calibration,
        "decision": summarise_decision(join_parts(found, metrics, "decision"), keys, "external"),
        "doubts": summarise_doubts(join_parts(found, metrics, "doubts"), keys, "external"),
        "familiarity": describe_strangeness(found["drift"]["familiarity"]),
        "subgroups": summarise_subgroups({"external": found["subgroups"]}, "external"),
        "drift": tabulate_drift(found["drift"]),
        "shifts": {
            name: shift["quantiles"] for name, shift in found["drift"]["probabilities"].items() if name in names
        },
        "notable": found["drift"]["notable"] or [NOTHING],
        "warnings": list_warnings(found),
        "methods": sorted({str(estimate["method"]) for estimate in list_estimates(own)} - {""}),
        "versions": {"thawline": found["thawline"], "model": found["model"], "data": found["data"]["content"]},
    }
    return summary | {key: withhold(summary[key], predictions.names) for key in PRIVATE}


def take_headline(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the AUC, or that of the classes that there are where the data lack some."""
    return take_estimate(section, "auc_present" if "auc_present" in section else "auc")


def explain_auc(task: Mapping[str, Any], section: Mapping[str, Any], auc: Mapping[str, Any]) -> list[str]:
    """Return what the headline means, in plain sentences."""
    if "auc_present" not in section:
        return explain_headline(task, section, auc)
    present = [name for name, row in section["per_class"].items() if take_estimate(row, "auc")["value"] is not None]
    mean = f"The AUC is the mean of those that can be told, of {', '.join(present) or 'none'}, each against the rest."
    return [mean, *explain_headline(task, section, take_estimate({}, "auc"))[1:]]


def join_parts(found: Mapping[str, Any], metrics: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return what `metrics.json` has of the run under a key, with the new data as one more part; None where it has none."""
    return None if found[key] is None or metrics[key] is None else {**metrics[key], "external": found[key]}


def join_differences(rows: Sequence[Mapping[str, Any]], compared: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rows of scores, each with its difference from the run's; the p-value is told of the AUC alone."""
    keys, joined = {name: key for key, name in SCORES.items()}, []
    for row in rows:
        found = (compared or {"metrics": {}})["metrics"].get(keys.get(row["name"], ""), {})
        p_value = take_number(found.get("p_value")) if row["name"] == SCORES["auc"] else None
        p_text = "" if p_value is None else write_p(p_value)
        joined.append({**row, "difference": take_estimate(found, "difference"), "p_value": p_text})
    return joined


def describe_difference(compared: Mapping[str, Any] | None) -> list[str]:
    """Return how far the AUC lies from that of the run, in a sentence."""
    if compared is None:
        return ["It is not held against the run's: that is a mean over classes of which these data lack some."]
    found = compared["metrics"]["auc"]
    difference, p_value = take_estimate(found, "difference"), take_number(found["p_value"])
    if difference["value"] is None or p_value is None:
        return []
    where = "in the run's test part" if compared["with"] == "test" else f"in {WHERE[compared['with']]}"
    more = "more" if difference["value"] > 0 else "less"
    ends = {key: difference[key] for key in ("low", "high")}
    said = (
        f"The AUC is {format_number(abs(difference['value']))} {more} than {where} (difference "
        f"{format_signed(difference['value'])} {format_interval(ends, signed=True)}, {write_p(p_value)})."
    )
    return [said if difference["value"] else f"The AUC is the same {where}."]


def list_warnings(found: Mapping[str, Any]) -> list[Caution]:
    """Return what a reader must know before believing the numbers, the gravest first."""
    data, shared = found["data"], found["shared"]
    said = [say("warning", f"{flag}: {OVERRIDES.get(flag, 'a check was overridden.')}") for flag in found["overrides"]]
    if not data["patients_given"]:
        said.append(
            say(
                "warning",
                "No patients were given: every item counts as a patient of its own, and the intervals are too narrow.",
            )
        )
    if (openings := found["openings"]) is not None and openings["plans"] > 1:
        times, plans = count_things(openings["count"], "time"), count_things(openings["plans"], "plan")
        said.append(
            say(
                "warning",
                f"These data were opened {times} by {plans}: choosing a model by them makes figures too good.",
            )
        )
    if data["missing_classes"]:
        missing = ", ".join(data["missing_classes"])
        said.append(
            say(
                "caution",
                f"There are no items of {missing}: nothing is said of them, and means over classes lack them.",
            )
        )
    if data["n_left_out"]:
        text = f"{count_things(data['n_left_out'], 'item')} left out: of {data['n_unreadable']} the image could not be read."
        said.append(say("caution", text))
    return [*said, *describe_shared(shared), *describe_few(found["external"])]


def describe_shared(shared: Mapping[str, Any]) -> list[Caution]:
    """Return what of the data the run knows, and what could not be compared."""
    said = []
    patients, images = shared["patients_of_test"], shared["images_of_test"] or 0
    if patients or images:
        of_test = f"{count_things(patients, 'patient')} and {count_things(images, 'image')}"
        said.append(say("caution", f"{of_test} are of the run's test part too: the two are not independent."))
    if not shared["patients_comparable"]:
        said.append(say("caution", "Whether patients are of the run's data is not known: one of the two names none."))
    if shared["images"] is None:
        text = (
            "Whether images are of the run's data is not known: the run is of a version that kept no digests of them."
        )
        said.append(say("caution", text))
    return said


def describe_few(section: Mapping[str, Any]) -> list[Caution]:
    """Return the caution that follows from few patients of a class."""
    counts = {name: row["n_patients"] for name, row in section["per_class"].items()}
    few = ", ".join(f"{name} ({count})" for name, count in counts.items() if 0 < count < FEW_OF_A_CLASS)
    return [say("caution", f"Classes with fewer than {FEW_OF_A_CLASS} patients: {few}.")] if few else []


def render_validation(summary: Mapping[str, Any]) -> str:
    """Return the page for a summary; everything in it is escaped, and a missing key is an error."""
    figures = draw_validation(summary)
    return make_environment().get_template("validation.html.j2").render(**summary, figures=figures)


def draw_validation(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the page as SVG text."""
    curves, decision, doubts = summary["curves"], summary["decision"], summary["doubts"]
    names = ", ".join(f"{curve['name']} {format_number(curve['auc'])}" for curve in curves["roc"])
    caption = Caption("roc", f"ROC curve, external data. Area under the curve: {names}.")
    return {
        "roc": draw_roc(curves["roc"], caption, curves["operating_point"]) if curves["roc"] else None,
        "reliability": [
            draw_reliability(bins, Caption(f"reliability-{line}", describe_reliability(bins, "external data")), line)
            for line, bins in enumerate(curves["reliability"])
        ],
        "net_benefit": decision
        and draw_net_benefit(
            decision["net_benefit"], Caption("benefit", f"Decision curve, external data. {decision['useful']}")
        ),
        "risk": doubts and draw_risk(doubts["curve"], Caption("risk", describe_risk(doubts["curve"], "external data"))),
        "shifts": [
            draw_shift(name, quantiles, Caption(f"shift-{line}", describe_shift(name, quantiles)))
            for line, (name, quantiles) in enumerate(summary["shifts"].items())
        ],
    }


def describe_shift(name: str, quantiles: Mapping[str, Any]) -> str:
    """Return two distributions in words, for readers who do not see them."""
    said = []
    for part, what in (("development", "development"), ("external", "external data")):
        quarters = ", ".join(
            f"{write_percent(level)} up to {value:.2f}"
            for level, value in zip(quantiles["levels"], quantiles[part], strict=True)
            if level in (0.25, 0.5, 0.75)
        )
        said.append(f"{what}: {quarters}")
    return f"Share of patients up to each probability of {name}. {'; '.join(said)}."
