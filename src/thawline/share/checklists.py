"""Two checklists of the field as tables: what each item asks, where a run answers it, and what only the study can state.

CLAIM, 2024 update: Tejani et al., Radiology: Artificial Intelligence 6(4):e240300 (2024). TRIPOD+AI: Collins et al., BMJ
385:e078378 (2024). Items are numbered as published; what they ask is told in our own short words, and the published text
is what counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from thawline.share.study import Study

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
    "growth": "More patients",
    "ladder": "Ladder",
    "findings": "Audit",
    "errors": "Errors",
    "cost": "Cost",
    "versions": "Versions",
    "limits": "Limits",
}
BLANK = "not stated"


class Row(NamedTuple):
    """One item: its number, what it asks, the sections of the page and the keys of the study file that answer it.

    ``says`` is what holds of every run.
    """

    number: str
    asks: str
    sections: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    says: str = ""


CLAIM = (
    Row("1", "title or abstract name the kind of AI", (), ("title",)),
    Row("2", "abstract in sections"),
    Row("3", "background, intended use, clinical role", (), ("background", "intended_use")),
    Row("4", "aims and hypotheses", (), ("objectives",)),
    Row("5", "prospective or retrospective", (), ("design",)),
    Row("6", "goal of the study", (), ("objectives",)),
    Row("7", "where the data come from", ("data",), ("data_source", "setting", "dates")),
    Row("8", "who is in, who is not", ("data",), ("eligibility",)),
    Row("9", "what is done to images first", ("methods", "plan")),
    Row("10", "parts of images or data that were picked", ("plan", "data")),
    Row("11", "how identities were removed", (), ("deidentification",)),
    Row("12", "missing data", ("data",), ("missing_data",)),
    Row("13", "how images were acquired", ("data",), ("acquisition",)),
    Row("14", "how the reference was made", (), ("reference_standard",)),
    Row("15", "why that reference", (), ("reference_rationale",)),
    Row("16", "who annotated, with what training", (), ("readers",)),
    Row("17", "how the test part was annotated", (), ("reference_standard", "blinding")),
    Row("18", "agreement of annotators", (), ("reader_agreement",)),
    Row("19", "how data were parted", ("methods", "data")),
    Row("20", "the level at which parts are disjoint", ("methods", "data")),
    Row("21", "size of the sample and why", ("growth", "data"), ("sample_size_rationale",)),
    Row("22", "the model in detail", ("methods", "plan", "ladder")),
    Row("23", "software and libraries", ("versions",)),
    Row("24", "what parameters start from", ("versions", "methods")),
    Row("25", "training, augmentation, hyperparameters", ("plan", "ladder")),
    Row("26", "how the final model was selected", ("ladder", "plan")),
    Row("27", "ensembles", ("methods",)),
    Row("28", "metrics", ("results",)),
    Row("29", "statistics of uncertainty", ("results", "limits")),
    Row("30", "robustness, sensitivity", ("subgroups", "findings")),
    Row("31", "how decisions are explained"),
    Row("32", "evaluation on data of the same source", ("results",)),
    Row("33", "test on data from elsewhere", (), ("external_test",)),
    Row("34", "registration of a trial", (), ("registration",)),
    Row("35", "numbers in and out, as a diagram", ("data",)),
    Row("36", "patients of each part", ("data", "subgroups"), ("demographics",)),
    Row("37", "performance on every part", ("results",)),
    Row("38", "diagnostic accuracy with its precision", ("results", "decision", "readers")),
    Row("39", "what goes wrong", ("errors", "findings")),
    Row("40", "limits of the study", ("limits", "warnings"), ("limitations",)),
    Row("41", "what follows for practice", (), ("implications", "intended_use")),
    Row("42", "where the full protocol is", (), ("protocol",)),
    Row("43", "where software, model and data are", ("versions",), ("availability",)),
    Row("44", "funding and role of funders", (), ("funding",)),
)
TRIPOD_AI = (
    Row("1", "title: model, patients, outcome", (), ("title",)),
    Row("2", "abstract by its own list"),
    Row("3a", "medical context and why a model", (), ("background",)),
    Row("3b", "patients, purpose and users", (), ("target_population", "intended_use", "users")),
    Row("3c", "known inequalities in health", (), ("inequalities",)),
    Row("4", "objectives: develop, evaluate or both", (), ("objectives",)),
    Row("5a", "sources of development and test data", ("data",), ("data_source",)),
    Row("5b", "dates of the data", (), ("dates",)),
    Row("6a", "setting, number and place of centres", ("data",), ("setting",)),
    Row("6b", "eligibility", ("data",), ("eligibility",)),
    Row("6c", "treatments", (), ("treatments",)),
    Row("7", "preparation and checks of the data", ("methods", "findings")),
    Row("8a", "outcome and how it is found", ("data",), ("reference_standard", "reference_rationale")),
    Row("8b", "who judged the outcome", (), ("readers",)),
    Row("8c", "blinding of those who judged it", (), ("blinding",)),
    Row("9a", "choice of predictors", ("methods",), (), "the pixels of the image; none were picked"),
    Row("9b", "definition and measurement of predictors", ("data",), ("acquisition",)),
    Row("9c", "who judged subjective predictors", (), (), "nobody: pixels are read as they are"),
    Row("10", "sample size and why", ("growth", "data"), ("sample_size_rationale",)),
    Row("11", "missing data", ("data",), ("missing_data",)),
    Row("12a", "what data served what, and how they were parted", ("methods", "data")),
    Row("12b", "how predictors enter the analysis", ("methods", "plan")),
    Row("12c", "kind of model, building, tuning, validation", ("methods", "plan", "ladder")),
    Row("12d", "differences between clusters", ("subgroups",)),
    Row("12e", "measures and plots of performance", ("results", "calibration", "decision")),
    Row("12f", "updating of a model", (), (), "none: the model is new"),
    Row("12g", "how predictions of the evaluation were made", ("methods",)),
    Row("13", "imbalance of classes", ("data", "plan")),
    Row("14", "fairness and what was done for it", ("subgroups",)),
    Row("15", "output of the model, thresholds", ("decision", "results")),
    Row("16", "how development and evaluation differ", ("data",)),
    Row("17", "ethics and consent", (), ("ethics", "consent")),
    Row("18a", "funding", (), ("funding",)),
    Row("18b", "conflicts of interest", (), ("conflicts",)),
    Row("18c", "protocol", (), ("protocol",)),
    Row("18d", "registration", (), ("registration",)),
    Row("18e", "where the data are", (), ("availability",)),
    Row("18f", "where the code is", ("versions",), ("availability",)),
    Row("19", "part of patients and the public", (), ("involvement",)),
    Row("20a", "flow of participants, with and without outcome", ("data",)),
    Row("20b", "characteristics of participants", ("data", "subgroups"), ("demographics",)),
    Row("20c", "evaluation data beside development data", ("data",)),
    Row("21", "numbers in each analysis", ("results", "data")),
    Row("22", "the model in full, so that it can be used", ("versions", "methods"), ("availability",)),
    Row("23a", "performance with intervals, of subgroups too", ("results", "calibration", "subgroups")),
    Row("23b", "heterogeneity between clusters", ("subgroups",)),
    Row("24", "results of updating", (), (), "none: the model is new"),
    Row("25", "interpretation, fairness, earlier studies", (), ("implications",)),
    Row("26", "limits", ("limits", "warnings"), ("limitations",)),
    Row("27a", "poor or missing input in use", ("doubts",)),
    Row("27b", "what users must do and know", (), ("users",)),
    Row("27c", "next steps", ("growth",), ("implications",)),
)
CHECKLISTS = {"CLAIM, 2024 update": CLAIM, "TRIPOD+AI": TRIPOD_AI}


def fill_checklists(study: Study, sections: Collection[str]) -> list[dict[str, Any]]:
    """Return both checklists with what answers each item; ``sections`` are those that the page has."""
    filled = []
    for name, rows in CHECKLISTS.items():
        answered = [fill_row(row, study.stated, sections) for row in rows]
        n_open = sum(row["is_blank"] for row in answered)
        filled.append({"name": name, "rows": answered, "n_items": len(rows), "n_blank": n_open})
    return filled


def fill_row(row: Row, stated: Mapping[str, str], sections: Collection[str]) -> dict[str, Any]:
    """Return one item with the sections that answer it, what is stated, and what only the study can state and does not.

    It is blank where neither a section nor the study file says anything.
    """
    where = [{"id": each, "name": SECTIONS[each]} for each in row.sections if each in sections]
    given = {key: stated[key] for key in row.keys if key in stated}
    said = [row.says] if row.says else []
    return {
        "number": row.number,
        "asks": row.asks,
        "where": where,
        "stated": [*said, *given.values()],
        "missing": [key for key in row.keys if key not in stated],
        "is_blank": not (where or said or given),
    }


def list_sections(summary: Mapping[str, Any]) -> list[str]:
    """Return the ids of the sections that the page of a summary has."""
    absent = {
        "warnings": not summary["warnings"],
        "readers": not summary["readers"],
        "decision": not summary["decision"],
        "doubts": not (summary["doubts"] or summary["familiarity"]),
        "subgroups": not summary["subgroups"],
        "growth": not summary.get("growth"),
        "findings": not (summary["findings"] or summary["shortcuts"]),
        "errors": not summary["examples"],
    }
    return [section for section in SECTIONS if not absent.get(section, False)]
