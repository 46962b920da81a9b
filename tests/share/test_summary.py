"""Rows of what several items are of: as many as the sections have, with their counts."""

from __future__ import annotations

from typing import Any

from thawline.share.summary import count_lesions, summarise_levels


def make_estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "level": 0.95, "method": ""}


def make_level(auc: float, **counts: int) -> dict[str, Any]:
    return {**counts, "auc": make_estimate(auc), "accuracy": make_estimate(auc - 0.2)}


def test_lesions_stand_before_patients_with_their_counts() -> None:
    lesions = make_level(0.9, n_lesions=12, n_patients=7, n_left_out=2), make_level(0.8, n_lesions=40, n_patients=20)
    sections = {
        "test": {"lesion_level": lesions[0], "patient_level": make_level(0.7, n_patients=6)},
        "validation": {"lesion_level": lesions[1] | {"n_left_out": 0}, "patient_level": None},
    }
    rows = summarise_levels(sections)
    assert [row["name"] for row in rows] == [
        "AUC per lesion",
        "Accuracy per lesion",
        "AUC per patient",
        "Accuracy per patient",
    ]
    assert [row["note"] for row in rows[1:3]] == ["12 and 40 lesions; left out, mixed labels: 2 and 0", "6 patients"]
    assert [each["value"] for each in rows[0]["estimates"]] == [0.9, 0.8]
    assert [each["value"] for each in rows[2]["estimates"]] == [0.7, None]
    assert count_lesions(sections["test"]) == {"n_lesions": 12, "n_patients": 7, "n_left_out": 2}


def test_runs_of_data_without_lesions_have_no_rows_of_them() -> None:
    assert summarise_levels({"test": {"patient_level": None}, "validation": {"lesion_level": None}}) == []
    assert count_lesions({"lesion_level": None}) is None
    assert count_lesions({"patient_level": None}) is None
    kept = {"test": {"lesion_level": make_level(0.9, n_lesions=12, n_patients=7, n_left_out=0)}}
    assert summarise_levels(kept)[0]["note"] == "12 lesions"
