"""Two checklists of the field as tables: what each item asks, where a run answers it, and what only the study can state.

CLAIM, 2024 update: Tejani et al., Radiology: Artificial Intelligence 6(4):e240300 (2024). TRIPOD+AI: Collins et al., BMJ
385:e078378 (2024). Items are numbered as published; what they ask is told in our own short words, and the published text
is what counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from thawline.data.strata import CENTRES, TRAITS
from thawline.share.study import Study
from thawline.share.words import put_in_words

SECTIONS = {  # id of a section of the page: its name
    "summary": "In plain words",
    "warnings": "Warnings",
    "data": "Data",
    "plan": "Plan",
    "methods": "Methods",
    "results": "Results",
    "readers": "Readers",
    "calibration": "Calibration",
    "decision": "Decision",
    "doubts": "Doubts",
    "subgroups": "Subgroups",
    "traits": "Subgroups by traits of patients",
    "centres": "Subgroups by centre",
    "growth": "More patients",
    "ladder": "Ladder",
    "findings": "Audit",
    "errors": "Errors",
    "cost": "Cost",
    "versions": "Versions",
    "limits": "Limits",
}
WITHIN = {"traits": "subgroups", "centres": "subgroups"}  # what a section need not have: the section
BLANK = "not stated"


class Row(NamedTuple):
    """One item: its number, what it asks, the sections of the page and the keys of the study file that answer it.

    A section is named only where it tells what is asked, not where it is merely about the same thing. ``says`` is what holds
    of every run.
    """

    number: str
    asks: str
    sections: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    says: str = ""


UPDATING = "none: nothing of the model was changed by what the test part showed"
CLAIM = (
    Row("1", "title or abstract name the kind of AI", (), ("title",)),
    Row("2", "abstract in sections"),
    Row("3", "background, intended use, clinical role", (), ("background", "intended_use")),
    Row("4", "aims and hypotheses", (), ("objectives",)),
    Row("5", "prospective or retrospective", (), ("design",)),
    Row("6", "goal of the study", (), ("objectives",)),
    Row("7", "where the data come from", (), ("data_source", "setting", "dates")),
    Row("8", "who was to be in, who was not", (), ("eligibility",)),
    Row("9", "what is done to images first", ("methods", "plan")),
    Row("10", "parts of images or data that were picked", ("plan",)),
    Row("11", "how identities were removed", (), ("deidentification",)),
    Row("12", "missing data", ("data",), ("missing_data",)),
    Row("13", "how images were acquired", (), ("acquisition",)),
    Row("14", "how the reference was made", (), ("reference_standard",)),
    Row("15", "why that reference", (), ("reference_rationale",)),
    Row("16", "who annotated, with what training", (), ("readers",)),
    Row("17", "how the test part was annotated", (), ("reference_standard", "blinding")),
    Row("18", "agreement of annotators", (), ("reader_agreement",)),
    Row("19", "how data were parted", ("methods", "data")),
    Row("20", "the level at which parts are disjoint", ("methods", "data")),
    Row("21", "intended size of the test part and why", ("plan", "data"), ("sample_size_rationale",)),
    Row("22", "the model in detail", ("methods", "plan", "ladder")),
    Row("23", "software and libraries", ("versions",)),
    Row("24", "what parameters start from", ("versions", "methods")),
    Row("25", "training, augmentation, hyperparameters", ("methods", "plan", "ladder")),
    Row("26", "how the final model was selected", ("methods", "ladder", "plan")),
    Row("27", "ensembles", ("methods",)),
    Row("28", "metrics", ("results", "calibration")),
    Row("29", "statistics of significance and uncertainty", ("methods", "limits")),
    Row("30", "robustness, sensitivity", ("subgroups",)),
    Row("31", "how decisions are explained"),
    Row("32", "evaluation on data of the same source", ("results",)),
    Row("33", "test on data from elsewhere", (), ("external_test",)),
    Row("34", "registration of a trial", (), ("registration",)),
    Row("35", "numbers in and out, as a diagram", ("data",)),
    Row("36", "traits of the patients of each part", ("data", "traits"), ("demographics",)),
    Row("37", "performance on every part, with its uncertainty", ("results", "calibration")),
    Row("38", "diagnostic accuracy with its precision", ("results", "decision", "readers")),
    Row("39", "what goes wrong", ("errors",)),
    Row("40", "limits of the study", ("limits", "warnings"), ("limitations",)),
    Row("41", "what follows for practice", (), ("implications", "intended_use")),
    Row("42", "where the full protocol or more details are", (), ("protocol",)),
    Row("43", "where software, model and data can be had", (), ("availability",)),
    Row("44", "funding and role of funders", (), ("funding",)),
)
TRIPOD_AI = (
    Row("1", "title: developing or evaluating, patients, outcome", (), ("title",)),
    Row("2", "abstract by its own list"),
    Row("3a", "medical context, why a model, earlier ones", (), ("background",)),
    Row("3b", "patients, purpose and users", (), ("target_population", "intended_use", "users")),
    Row("3c", "known inequalities in health", (), ("inequalities",)),
    Row("4", "objectives: develop, evaluate or both", (), ("objectives",)),
    Row("5a", "sources of development and test data, how typical they are", (), ("data_source", "design")),
    Row("5b", "dates of the data", (), ("dates",)),
    Row("6a", "setting, number and place of centres", (), ("setting",)),
    Row("6b", "eligibility", (), ("eligibility",)),
    Row("6c", "treatments", (), ("treatments",)),
    Row("7", "preparation and checks of the data", ("methods", "plan", "findings")),
    Row("8a", "outcome, how and when it is found, why this one", (), ("reference_standard", "reference_rationale")),
    Row("8b", "who judged the outcome", (), ("readers",)),
    Row("8c", "blinding of those who judged it", (), ("blinding",)),
    Row("9a", "choice of predictors", ("methods",), (), "the pixels of the image and nothing beside them"),
    Row("9b", "definition and measurement of predictors", ("methods",), ("acquisition",)),
    Row("9c", "who judged subjective predictors", (), (), "nobody in the run; who cropped images before is not known"),
    Row("10", "sample size and why", ("plan", "data", "growth"), ("sample_size_rationale",)),
    Row("11", "missing data", ("data",), ("missing_data",)),
    Row("12a", "what data served what, and how they were parted", ("methods", "data")),
    Row("12b", "how predictors enter the analysis", ("methods", "plan")),
    Row("12c", "kind of model, building, tuning, validation", ("methods", "plan", "ladder")),
    Row("12d", "how differences between clusters, such as hospitals, were judged", ("centres",)),
    Row("12e", "measures and plots of performance", ("results", "calibration", "decision")),
    Row("12f", "updating of the model after its evaluation", (), (), UPDATING),
    Row("12g", "how predictions of the evaluation were made", ("methods", "versions")),
    Row("13", "what was done about imbalance of classes, and recalibration after it", ("plan", "calibration")),
    Row(
        "14",
        "what was done for fairness, and why",
        ("traits",),
        (),
        "nothing, beside comparing what subgroups there are",
    ),
    Row("15", "output of the model, thresholds", ("plan", "decision")),
    Row("16", "how development and evaluation data differ", ("data", "methods"), ("setting",)),
    Row("17", "ethics and consent", (), ("ethics", "consent")),
    Row("18a", "funding", (), ("funding",)),
    Row("18b", "conflicts of interest", (), ("conflicts",)),
    Row("18c", "protocol", (), ("protocol",)),
    Row("18d", "registration", (), ("registration",)),
    Row("18e", "where the data are", (), ("availability",)),
    Row("18f", "where the code is", ("versions",), ("availability",)),
    Row("19", "part of patients and the public", (), ("involvement",)),
    Row("20a", "flow of participants, with and without outcome", ("data",)),
    Row("20b", "characteristics of participants", ("data", "traits"), ("demographics", "treatments", "dates")),
    Row("20c", "evaluation data beside development data", ("data",), ("demographics",)),
    Row("21", "numbers in each analysis", ("data", "results", "ladder")),
    Row("22", "the model in full, so that it can be used", ("versions", "methods"), ("availability",)),
    Row("23a", "performance with intervals, of subgroups too", ("results", "calibration", "subgroups")),
    Row("23b", "differences between clusters, if judged", ("centres",)),
    Row("24", "results of updating", (), (), UPDATING),
    Row("25", "interpretation, fairness, earlier studies", (), ("implications",)),
    Row("26", "limits", ("limits", "warnings"), ("limitations",)),
    Row("27a", "poor or missing input in use", ("doubts",)),
    Row("27b", "what users must do and know", (), ("users",)),
    Row("27c", "next steps", ("growth",), ("implications",)),
)
CHECKLISTS = {"CLAIM, 2024 update": CLAIM, "TRIPOD+AI": TRIPOD_AI}


def fill_checklists(study: Study, sections: Collection[str]) -> list[dict[str, Any]]:
    """Return both checklists with what answers each item; ``sections`` are those of `SECTIONS` that the page has."""
    filled = []
    for name, rows in CHECKLISTS.items():
        answered = [fill_row(row, study.stated, sections) for row in rows]
        counts = {key: sum(row[f"is_{key}"] for row in answered) for key in ("blank", "partial")}
        filled.append(
            {"name": name, "rows": answered, "n_items": len(rows), **{f"n_{key}": n for key, n in counts.items()}}
        )
    return filled


def fill_row(row: Row, stated: Mapping[str, str], sections: Collection[str]) -> dict[str, Any]:
    """Return one item with the sections that answer it, what is stated, and what only the study can state and does not.

    It is blank where neither a section nor the study file says anything, and partial where they do and the study could state
    more.
    """
    where = [{"id": WITHIN.get(each, each), "name": SECTIONS[each]} for each in row.sections if each in sections]
    given = {key: stated[key] for key in row.keys if key in stated}
    said = [row.says] if row.says else []
    missing = [key for key in row.keys if key not in stated]
    is_blank = not (where or said or given)
    return {
        "number": row.number,
        "asks": row.asks,
        "where": where,
        "stated": [*said, *given.values()],
        "missing": missing,
        "is_blank": is_blank,
        "is_partial": bool(missing) and not is_blank,
    }


def list_sections(summary: Mapping[str, Any]) -> list[str]:
    """Return which of `SECTIONS` the page of a summary has."""
    columns = {table["name"] for table in summary["subgroups"]}
    absent = {
        "warnings": not summary["warnings"],
        "readers": not summary["readers"],
        "decision": not summary["decision"],
        "doubts": not (summary["doubts"] or summary["familiarity"]),
        "subgroups": not columns,
        "traits": columns.isdisjoint(map(put_in_words, TRAITS)),
        "centres": columns.isdisjoint(map(put_in_words, CENTRES)),
        "growth": not summary.get("growth"),
        "findings": not (summary["findings"] or summary["shortcuts"]),
        "errors": not summary["examples"],
    }
    return [section for section in SECTIONS if not absent.get(section, False)]
