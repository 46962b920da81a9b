"""Lesions in a column of the manifest: figures per lesion of a run and of a validation, and no lesion's name outside."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

import thawline
from helpers import Notes, make_films, read_rows, write_rows
from thawline.errors import OutputError
from thawline.share.exports import export_report, write_tables
from thawline.validating import Validation, validate

pytestmark = pytest.mark.slow
TELLING = ("MEIER-77-arm", "MEIER-77-back")
Rows = list[dict[str, str]]


def pair_patients(data: Path, prefix: str = "") -> Path:
    """Make lesions of two phantoms each, views of one patient; leave out some names, and call one view otherwise."""
    rows = read_rows(data / "manifest.csv")
    for number, row in enumerate(rows):
        phantom = int(row["patient"].removeprefix("p"))
        named = "" if number % 11 == 5 else TELLING[phantom % 2]
        row |= {"patient": f"{prefix}case-{phantom // 2}", "lesion": named}
    pairs = itertools.pairwise([row for row in rows if row["lesion"]])
    first, second = next(pair for pair in pairs if len({(row["patient"], row["lesion"]) for row in pair}) == 1)
    second["label"] = next(row["label"] for row in rows if row["label"] != first["label"])
    write_rows(data / "manifest.csv", rows)
    return data


def merge_lesions(rows: Rows) -> tuple[Any, Any, Any, set[str], int]:
    """Truth, mean probability and fold of each lesion whose items agree, their patients, and how many do not agree."""
    lesions: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in rows:
        lesions[(row["patient"], row["lesion"]) if row["lesion"] else ("", row["item"])].append(row)
    kept = [each for each in lesions.values() if len({row["label"] for row in each}) == 1]
    truth = np.array([each[0]["label"] == "lesion" for each in kept])
    score = np.array([np.mean([float(row["p_lesion"]) for row in each]) for each in kept])
    folds = np.array([each[0].get("fold", "") for each in kept])
    return truth, score, folds, {each[0]["patient"] for each in kept}, len(lesions) - len(kept)


def check_level(level: dict[str, Any], rows: Rows, threshold: float) -> None:
    truth, score, folds, patients, n_left_out = merge_lesions(rows)
    counts = [level[name] for name in ("n_lesions", "n_patients", "n_left_out")]
    assert counts == [len(truth), len(patients), n_left_out]
    areas = [roc_auc_score(truth[folds == fold], score[folds == fold]) for fold in np.unique(folds)]
    assert level["auc"]["value"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert level["accuracy"]["value"] == pytest.approx(accuracy_score(truth, score >= threshold))
    assert f"of {len(patients)} patients" in level["accuracy"]["method"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lesions")
    films = pair_patients(make_films(folder / "films", n_patients=80, views=(1, 3), contrast=1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        thawline.run(films, folder / "run", head="linear", audit="none", listener=Notes())
    return folder / "run"


@pytest.fixture(scope="module")
def validated(run: Path) -> Validation:
    films = pair_patients(make_films(run.parent / "other", n_patients=40, views=(1, 3), seed=5), "elsewhere-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(run.parent / "ledger"))
        return validate(run, films, run.parent / "validated", listener=Notes())


def test_figures_per_lesion_are_those_of_the_predictions(run: Path) -> None:
    metrics = thawline.job.read_result(run).metrics
    rows = read_rows(run / "predictions.csv")
    for part, split in (("test", "test"), ("validation", "development")):
        own = [row for row in rows if row["split"] == split]
        check_level(metrics[part]["lesion_level"], own, metrics["task"]["threshold"])
        level, patients = metrics[part]["lesion_level"], metrics[part]["patient_level"]
        assert level["n_patients"] > (patients or {"n_patients": 0})["n_patients"]  # whose lesions differ count here
    assert sum(metrics[part]["lesion_level"]["n_left_out"] for part in ("test", "validation")) == 1


def test_no_lesion_crosses_parts_and_only_private_tables_name_one(run: Path, validated: Validation) -> None:
    parts: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for row in read_rows(run / "splits.csv"):
        parts[row["patient"], row["lesion"]].add((row["split"], row["fold"]))
    assert len(parts) > 40
    assert {len(found) for found in parts.values()} == {1}
    export_report(run, "md")
    write_tables(run, run / "tables")
    private = ("predictions.csv", "splits.csv")
    files = [
        path for folder in (run, validated.folder, Path(os.environ["THAWLINE_CACHE"])) for path in folder.rglob("*")
    ]
    named = [path for path in files if path.is_file() and any(name.encode() in path.read_bytes() for name in TELLING)]
    assert {path.name for path in named} == set(private)


def test_every_form_of_the_report_tells_of_lesions(run: Path) -> None:
    level = thawline.job.read_result(run).metrics["test"]["lesion_level"]
    page = (run / "report.html").read_text("utf-8")
    text = export_report(run, "md", run.parent / "said.md").read_text("utf-8")
    for said in ("AUC per lesion", "Accuracy per lesion"):
        assert said in page
        assert said in text
    counted = f"{level['n_lesions']} lesions of {level['n_patients']} patients"
    assert f"Figures per lesion are of the mean probabilities of a lesion's images ({counted}" in text
    write_tables(run, run.parent / "tables")
    rows = read_rows(run.parent / "tables" / "metrics.csv")
    (row,) = [row for row in rows if (row["part"], row["metric"]) == ("Test", "AUC per lesion")]
    ends = [float(row[end]) for end in ("value", "low", "high")]
    assert ends == pytest.approx([level["auc"][end] for end in ("value", "low", "high")])
    assert "left out, mixed labels" in row["note"]


def test_validation_tells_of_lesions_too(run: Path, validated: Validation) -> None:
    metrics = validated.metrics
    check_level(
        metrics["external"]["lesion_level"],
        read_rows(validated.folder / "predictions.csv"),
        metrics["task"]["threshold"],
    )
    page = validated.page.read_text("utf-8")
    assert "AUC per lesion" in page
    assert "A lesion counts with the mean of its images" in page


def test_lesions_named_otherwise_are_another_run(run: Path) -> None:
    rows = read_rows(run.parent / "films" / "manifest.csv")
    write_rows(run.parent / "films" / "again.csv", [row | {"lesion": ""} for row in rows])
    with pytest.raises(OutputError, match="of other items"):
        thawline.run(run.parent / "films" / "again.csv", run, head="linear", audit="none")
