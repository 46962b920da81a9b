"""A run on DICOM files: patients stay together, and nothing that names one leaves the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import thawline
from helpers import Notes, make_dicom, make_films, save_dicom
from thawline.types import Reading

pytestmark = pytest.mark.slow

TELLING = ("MUSTERMANN", "19480229", "XK-4711-", "HOSPITAL")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of DICOM files, two a patient, whose patients would be recognised."""
    drawn, folder = make_films(tmp_path_factory.mktemp("drawn"), contrast=0.8), tmp_path_factory.mktemp("films")
    with (drawn / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        with Image.open(drawn / row["path"]) as image:
            stored = np.asarray(image.convert("L"), np.uint16) * 16
        tags = {
            "PatientID": f"XK-4711-{row['patient']}",
            "PatientBirthDate": "19480229",
            "InstitutionName": f"HOSPITAL {number % 3 > 0}",
            "BitsStored": 12,
            "HighBit": 11,
        }
        path = folder / row["label"] / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(save_dicom(make_dicom(stored, WindowCenter="2048", WindowWidth="4096", **tags)))
    return folder


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> thawline.RunResult:
    options = {"strategy": "feature_extractor", "controls": "none"}
    return thawline.run(films, tmp_path_factory.mktemp("run") / "run", listener=Notes(), **options)


def test_patients_stay_together(finished: thawline.RunResult) -> None:
    with (finished.folder / "splits.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        parts.setdefault(row["patient"], set()).add((row["split"], row.get("fold", "")))
    assert 10 < len(parts) < len(rows)
    assert all(len(part) == 1 for part in parts.values())


def test_its_model_reads_such_files_as_the_run_did(finished: thawline.RunResult, films: Path) -> None:
    with (finished.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    found = finished.load_model().predict_proba([films / row["item"] for row in rows])
    expected = [[float(row["p_healthy"]), float(row["p_lesion"])] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_names_a_patient(finished: thawline.RunResult) -> None:
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert not [word for word in TELLING if word.encode() in content], path.name


def test_its_report_counts_the_sites_under_keys(finished: thawline.RunResult) -> None:
    data, site = json.loads((finished.folder / "audit.json").read_text("utf-8"))["tables"]
    assert (data["title"], site["title"]) == ("data", "institution, under keys")
    assert len(site["counts"]) == 2
    page = finished.report.read_text("utf-8")
    assert all(f'<th scope="row">{key}</th>' in page for key in site["counts"])
    assert "What these data can support" in page


def test_windows_are_the_models_too(films: Path, tmp_path: Path) -> None:
    options = {"strategy": "feature_extractor", "controls": "none", "window": "2048/4096,1000/2000,3000/2000"}
    found = thawline.run(films, tmp_path / "run", listener=Notes(), **options)
    model = found.load_model()
    assert model.contract.reading == Reading(("2048/4096", "1000/2000", "3000/2000"))
    with (found.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    expected = [[float(row["p_healthy"]), float(row["p_lesion"])] for row in rows]
    np.testing.assert_allclose(model.predict_proba([films / row["item"] for row in rows]), expected, atol=1e-4)
    assert {choice["name"]: choice["value"] for choice in found.plan["choices"]}["window"] == options["window"]
