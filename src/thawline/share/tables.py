"""The numbers of a report as tables, for CSV files and Markdown: one row an estimate, never an item or a patient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from thawline.share.checklists import BLANK

ENDS = ("value", "low", "high")
OF_CLASS = ("auc", "average_precision", "sensitivity", "specificity", "brier", "ece", "log_loss")
Cell: TypeAlias = str | int | float | bool | None
Rows: TypeAlias = list[list[Cell]]


class Table(NamedTuple):
    """A table: ``key`` names its file; ``columns`` that end in value, low and high are those of one estimate."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: Rows


def list_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return every table of `TABLES` that has rows, of what `summary.summarise` returns."""
    tables = [Table(key, title, columns, make(summary)) for key, title, columns, make in TABLES]
    return [table for table in tables if table.rows]


def take_ends(estimate: Mapping[str, Any]) -> list[Cell]:
    """Return value, lower and upper end of an estimate."""
    return [estimate[key] for key in ENDS]


def list_flow(summary: Mapping[str, Any]) -> Rows:
    """Return how many items were found, left out, and in each part, by class."""
    flow = summary["flow"]
    rows: Rows = [["found", "", "", flow["n_found"], None]]
    for out in flow["left_out"]:
        rows += [["left out", out["reason"], name, count, None] for name, count in out["classes"].items()]
    rows.append(["took part", "", "", flow["n_items"], flow["n_patients"]])
    for part in flow["parts"]:
        rows += [[part["name"], "", row["name"], row["n_items"], row["n_patients"]] for row in part["rows"]]
    return rows


def list_metrics(summary: Mapping[str, Any]) -> Rows:
    """Return every metric of every part."""
    parts = [part["name"] for part in summary["parts"]]
    return [
        [part, row["name"], row["note"], *take_ends(estimate), estimate["level"], estimate["method"]]
        for row in summary["scores"]
        for part, estimate in zip(parts, row["estimates"], strict=True)
    ]


def list_classes(summary: Mapping[str, Any]) -> Rows:
    """Return the metrics of each class against the rest."""
    return [
        [table["part"], row["name"], row["n_items"], row["n_patients"], key, *take_ends(row[key])]
        for table in summary["classes"]
        for row in table["rows"]
        for key in OF_CLASS
        if key in row
    ]


def list_confusion(summary: Mapping[str, Any]) -> Rows:
    """Return the cells of the confusion matrix."""
    found = summary["confusion"] or {"rows": [], "classes": []}
    return [
        [row["name"], called, cell["n_items"]]
        for row in found["rows"]
        for called, cell in zip(found["classes"], row["cells"], strict=True)
    ]


def list_roc(summary: Mapping[str, Any]) -> Rows:
    """Return the points of the ROC curves."""
    return [
        [curve["name"], false, true]
        for curve in summary["curves"]["roc"]
        for false, true in zip(curve["fpr"], curve["tpr"], strict=True)
    ]


def list_calibration(summary: Mapping[str, Any]) -> Rows:
    """Return slope, intercept, error and Brier score with its parts."""
    rows: Rows = []
    for row in summary["calibration"]["rows"]:
        own = [row["part"], row["name"]]
        rows += [[*own, key, *take_ends(row[key])] for key in ("slope", "intercept")]
        rows += [
            [*own, key, row[key], None, None] for key in ("ece", "score", "reliability", "resolution", "uncertainty")
        ]
    return rows


def list_bins(summary: Mapping[str, Any]) -> Rows:
    """Return the bins of the reliability curves."""
    columns = ("confidence", "frequency", "low", "high", "count")
    return [
        [curve["name"], *cells, int(count)]
        for curve in summary["curves"]["reliability"]
        for *cells, count in zip(*(curve[column] for column in columns), strict=True)
    ]


def list_decision(summary: Mapping[str, Any]) -> Rows:
    """Return the rates at the threshold."""
    found, parts = summary["decision"], [part["name"] for part in summary["parts"]]
    return [
        [part, row["name"], row["note"], found["threshold"], *take_ends(estimate)]
        for row in (found or {"rows": []})["rows"]
        for part, estimate in zip(parts, row["estimates"], strict=True)
    ]


def list_benefit(summary: Mapping[str, Any]) -> Rows:
    """Return net benefit by threshold."""
    if not summary["decision"]:
        return []
    curve = summary["decision"]["net_benefit"]
    columns = [curve["thresholds"], *(curve[who][end] for who in ("model", "treat_all") for end in ENDS)]
    return [list(cells) for cells in zip(*columns, strict=True)]


def list_doubts(summary: Mapping[str, Any]) -> Rows:
    """Return coverage and size of prediction sets."""
    parts = [part["name"] for part in summary["parts"]]
    return [
        [part, row["name"], *take_ends(estimate)]
        for row in (summary["doubts"] or {"rows": []})["rows"]
        for part, estimate in zip(parts, row["estimates"], strict=True)
    ]


def list_risk(summary: Mapping[str, Any]) -> Rows:
    """Return the share of wrong answers by the share of items answered."""
    if not summary["doubts"]:
        return []
    curve = summary["doubts"]["curve"]
    return [[share, *take_ends(risk)] for share, risk in zip(curve["coverages"], curve["risks"], strict=True)]


def list_subgroups(summary: Mapping[str, Any]) -> Rows:
    """Return the metrics of each part of the items by a column."""
    return [
        [
            table["name"],
            row["name"],
            row["n_items"],
            row["n_patients"],
            row["n_rarest"],
            metric,
            *take_ends(estimate),
            p,
        ]
        for table in summary["subgroups"]
        for row in table["rows"]
        for metric, estimate, p in zip(table["metrics"], row["estimates"], table["p_values"], strict=True)
    ]


def list_readers(summary: Mapping[str, Any]) -> Rows:
    """Return each reader beside the model."""
    return [
        [row["name"], row["n_items"], row["n_patients"], *take_ends(row["specificity"]), row["measure"],
         *(end for key in ("reader", "model", "difference") for end in take_ends(row[key])), row["p_value"]]
        for row in summary["readers"]
    ]  # fmt: skip


def list_nested(summary: Mapping[str, Any]) -> Rows:
    """Return each part put aside, what was chosen without it, and the AUC there."""
    keys = ("repeat", "fold", "n_items", "n_patients", "rung", "calibration", "threshold")
    found = summary["nested"] or {"rows": []}
    return [[*(row[key] for key in keys), *take_ends(row["auc"])] for row in found["rows"]]


def list_growth(summary: Mapping[str, Any]) -> Rows:
    """Return the AUC that is foretold by patients to learn from."""
    return [[row["n_patients"], *take_ends(row["auc"])] for row in summary["growth"]["rows"]]


def list_rungs(summary: Mapping[str, Any]) -> Rows:
    """Return the rungs of the ladder."""
    return [
        [rung["rung"], rung["name"], rung["chosen"], rung["control"], rung["ratio"], *take_ends(rung["auc"]),
         *take_ends(rung["gain"]), rung["log_loss"], rung["difference"], rung["standard_error"], rung["seconds"]]
        for rung in summary["ladder"]
    ]  # fmt: skip


def list_cost(summary: Mapping[str, Any]) -> Rows:
    """Return what each step and the whole cost."""
    cost, keys = summary["cost"], ("cpu_seconds", "peak_rss_mib", "energy_wh", "money")
    rows: Rows = [[row["name"], row["seconds"], *(row[key] for key in keys)] for row in cost["rows"]]
    return [*rows, ["total", cost["total"], *(cost[key] for key in keys)]]


def list_strategies(summary: Mapping[str, Any]) -> Rows:
    """Return what each rung of the ladder cost beside its AUC."""
    keys = ("seconds", "cpu_seconds", "peak_rss_mib", "energy_wh", "money")
    return [
        [row["name"], row["chosen"], row["control"], *(row[key] for key in keys), *take_ends(row["auc"])]
        for row in summary["cost"]["strategies"]
    ]


def list_inference(summary: Mapping[str, Any]) -> Rows:
    """Return what predicting costs with the delivered model."""
    found = summary["cost"]["inference"]
    keys = ("per_items", "seconds", "cpu_seconds", "peak_rss_mib", "energy_wh", "money", "start_seconds", "model_mib")
    return [[found[key] for key in keys]]


def list_checks(place: int) -> Callable[[Mapping[str, Any]], Rows]:
    """Return what lists the items of one of the checklists."""

    def list_items(summary: Mapping[str, Any]) -> Rows:
        return [[row["number"], row["asks"], *_answer(row)] for row in summary["checklists"][place]["rows"]]

    return list_items


def _answer(row: Mapping[str, Any]) -> Iterable[str]:
    said: Sequence[str] = row["stated"]
    yield ", ".join(section["name"] for section in row["where"])
    yield " ".join(said) if said else BLANK if row["missing"] or row["is_blank"] else ""


TABLES: tuple[tuple[str, str, tuple[str, ...], Callable[[Mapping[str, Any]], Rows]], ...] = (
    ("flow", "Items and patients", ("step", "reason", "class", "items", "patients"), list_flow),
    ("metrics", "All metrics", ("part", "metric", "note", *ENDS, "level", "method"), list_metrics),
    ("classes", "Each class against the rest", ("part", "class", "items", "patients", "metric", *ENDS), list_classes),
    ("confusion", "Confusion matrix", ("truth", "called", "items"), list_confusion),
    ("roc", "ROC curves", ("class", "false_positive_rate", "true_positive_rate"), list_roc),
    ("calibration", "Calibration", ("part", "class", "figure", *ENDS), list_calibration),
    ("calibration_bins", "Bins of the reliability curves", ("class", "predicted", "observed", "low", "high", "items"),
     list_bins),
    ("decision", "Rates at the threshold", ("part", "rate", "note", "threshold", *ENDS), list_decision),
    ("net_benefit", "Net benefit", ("threshold", *(f"{who}_{end}" for who in ("model", "treat_all") for end in ENDS)),
     list_benefit),
    ("doubts", "Prediction sets and errors", ("part", "figure", *ENDS), list_doubts),
    ("risk_coverage", "Errors by share answered", ("coverage", *ENDS), list_risk),
    ("subgroups", "Subgroups",
     ("column", "part", "items", "patients", "patients_of_rarest_class", "metric", *ENDS, "p_corrected"), list_subgroups),
    ("readers", "Beside readers",
     ("reader", "items", "patients", *(f"specificity_{end}" for end in ENDS), "compared",
      *(f"{key}_{end}" for key in ("reader", "model", "difference") for end in ENDS), "p_corrected"), list_readers),
    ("nested", "Nested cross-validation",
     ("repeat", "part", "items", "patients", "chosen", "calibration", "threshold", *ENDS), list_nested),
    ("growth", "AUC by patients to learn from", ("patients", *ENDS), list_growth),
    ("ladder", "The ladder",
     ("rung", "name", "chosen", "control", "ratio", *(f"auc_{end}" for end in ENDS), *(f"gain_{end}" for end in ENDS),
      "log_loss", "difference", "standard_error", "seconds"), list_rungs),
    ("cost", "Cost by step", ("step", "seconds", "cpu_seconds", "peak_mib", "energy_wh", "money"), list_cost),
    ("cost_by_strategy", "Cost by strategy",
     ("strategy", "chosen", "control", "seconds", "cpu_seconds", "peak_mib", "energy_wh", "money",
      *(f"auc_{end}" for end in ENDS)), list_strategies),
    ("cost_of_predicting", "Cost of predicting",
     ("items", "seconds", "cpu_seconds", "peak_mib", "energy_wh", "money", "start_seconds", "model_mib"), list_inference),
    ("claim", "CLAIM, 2024 update", ("item", "asks", "answered_in", "stated"), list_checks(0)),
    ("tripod_ai", "TRIPOD+AI", ("item", "asks", "answered_in", "stated"), list_checks(1)),
)  # fmt: skip
