"""The main job on real images: it runs on data as found, states what is wrong with them, and reaches known figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom

import thawline
from helpers import Notes
from thawline.data.manifest import read_manifest
from thawline.data.scan import scan
from thawline.errors import LeakError
from thawline.judge.metrics import roc_auc
from thawline.options import RunOptions
from thawline.share.bundle import Model
from thawline.types import SilentListener

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))


def run_squashed(data: Path, folder: Path, size_px: int | None = 224, **options: Any) -> thawline.RunResult:
    """Run with the linear head, one size and one aspect rule, given in a plan, which extracts features only once."""
    given = RunOptions(head="linear", size_px=size_px, audit="none", **options)
    plan = thawline.plan_only(data, given, listener=Notes()).to_json()
    next(choice for choice in plan["choices"] if choice["name"] == "aspect")["value"] = "squash"
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    return thawline.run(data, folder / "run", given, plan=folder / "plan.json", listener=Notes())


def read_audit(result: thawline.RunResult) -> dict[str, Any]:
    return dict(json.loads((result.folder / "audit.json").read_text("utf-8")))


def read_splits(result: thawline.RunResult) -> list[dict[str, str]]:
    with (result.folder / "splits.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_covid_ct_on_its_official_split(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "covid-ct"
    result = run_squashed(data, tmp_path)
    metrics, audit = result.metrics, read_audit(result)
    official = {row.path: row.split for row in read_manifest(data / "manifest.csv").rows}
    assert {row["item"]: row["split"] == "test" for row in read_splits(result)} == {
        path: split == "test" for path, split in official.items()
    }
    assert (metrics["test"]["n_items"], metrics["validation"]["n_items"]) == (203, 425 + 118)
    assert metrics["test"]["n_patients"] + metrics["validation"]["n_patients"] == 384
    assert (audit["across_split"], audit["identical"], audit["left_out"]) == ([], [], [])
    assert metrics["task"]["positive"] == "COVID"
    assert metrics["test"]["auc"]["value"] > 0.75


def test_brain_mri_has_22_groups_of_identical_images(shared_data: Path, tmp_path: Path) -> None:
    notes = Notes()
    given = {"head": "linear", "size_px": 224, "precision": "f32"}
    result = thawline.run(shared_data / "brain-mri", tmp_path / "run", listener=notes, **given)
    audit, rows = read_audit(result), read_splits(result)
    assert len(rows) == 253
    assert len(audit["identical"]) == 22
    assert audit["contradicting"] == []
    assert all(len({(rows[n]["split"], rows[n]["fold"]) for n in group}) == 1 for group in audit["identical"])
    assert any("22 sets of identical images" in warning for warning in notes.warnings)
    (near,) = [each for each in audit["findings"] if each["name"] == "near-duplicates"]
    assert len(near["groups"]) == 18
    assert all(len({(rows[n]["split"], rows[n]["fold"]) for n in group}) == 1 for group in near["groups"])
    assert result.metrics["task"]["positive"] == "yes"
    assert result.metrics["validation"]["auc"]["value"] > 0.8


def test_brain_mri_with_a_network_of_the_weights_folder(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(shared_data.parent / "weights"))
    result = run_squashed(shared_data / "brain-mri", tmp_path, backbone="mobilenetv2_100")
    assert result.metrics["chosen"]["backbone"] == "mobilenet2"
    assert result.metrics["validation"]["auc"]["value"] > 0.8
    monkeypatch.delenv("THAWLINE_WEIGHTS")  # the model folder has all it needs
    test = [row for row in read_splits(result) if row["split"] == "test"][:3]
    found = result.load_model().predict_proba([shared_data / "brain-mri" / row["item"] for row in test])
    with (result.folder / "predictions.csv").open(newline="") as stream:
        told = {row["item"]: float(row["p_yes"]) for row in csv.DictReader(stream)}
    assert found[:, 1] == pytest.approx([told[row["item"]] for row in test], abs=1e-4)


def test_breast_ultrasound_leaves_out_its_contradicting_pair(shared_data: Path, tmp_path: Path) -> None:
    result = run_squashed(shared_data / "breast-us", tmp_path)
    audit, rows = read_audit(result), read_splits(result)
    (pair,) = audit["contradicting"]
    assert {rows[number]["label"] for number in pair} == {"malignant", "benign"}
    assert [row["split"] for row in rows].count("left_out") == 2
    assert result.metrics["test"]["n_items"] + result.metrics["validation"]["n_items"] == 778
    page = result.report.read_text("utf-8").replace("\u202f", " ")
    assert "identical images with different labels" in page.lower()
    (finding,) = [each for each in audit["findings"] if each["name"] == "identical images with different labels"]
    assert len(finding["shown"][0]) == 2
    assert "No patients were given" in page
    assert result.metrics["validation"]["auc"]["value"] > 0.8


def test_chest_films_by_patient(shared_data: Path, tmp_path: Path) -> None:
    result = run_squashed(shared_data / "chest-xray3", tmp_path)
    rows, metrics = read_splits(result), result.metrics
    places: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        places.setdefault(row["patient"], set()).add((row["split"], row["fold"]))
    assert all(len(found) == 1 for found in places.values())
    assert metrics["task"]["classes"] == ["Covid-19", "No_findings", "Pneumonia"]
    fingerprint = json.loads((result.folder / "fingerprint.json").read_text("utf-8"))
    assert (fingerprint["n_items"], fingerprint["n_blank_patients"]) == (1124, 124)
    assert metrics["validation"]["auc"]["value"] > 0.88
    assert metrics["validation"]["per_class"]["Covid-19"]["auc"]["value"] > 0.9


def test_pneumonia_mnist_is_read_and_its_copies_across_the_split_are_found(shared_data: Path) -> None:
    data = shared_data / "npz" / "pneumoniamnist.npz"
    plan = thawline.plan_only(data, RunOptions(allow_leak=True, audit="none"), listener=Notes())
    assert plan["task"] == "binary"
    assert plan["split"] == "as given"
    assert plan["aspect"] == "squash"
    with pytest.raises(LeakError, match="8 sets of identical images") as caught:
        thawline.plan_only(data, RunOptions(), listener=Notes())
    assert "train/01706 (train), val/00236 (val)" in str(caught.value)


def test_a_larger_input_is_taken_where_it_gains(shared_data: Path, tmp_path: Path) -> None:
    result = run_squashed(shared_data / "brain-mri", tmp_path, size_px=None, hold_test=True, seed=3)
    size = next(choice for choice in result.plan["choices"] if choice["name"] == "size_px")
    assert (size["value"], size["candidates"]) == (288, [224, 288])
    small, large = size["evidence"]
    assert small["difference"] > small["standard_error"] > 0
    assert large["log_loss"] == pytest.approx(small["log_loss"] - small["difference"])
    assert result.load_model().contract.size_px == 288


OTHERS, LEAST_AUC, LEAST_FLAGGED = 100, 0.97, 0.95  # images of each other set; found were .999 and all


def measure_strangeness(model: Model, files: list[Path]) -> np.ndarray:
    digests = [look.digest for look in scan(files, 1, SilentListener())]
    found = model.measure_strangeness(files, digests, SilentListener())
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["breast-us", "chest-xray3"])
def test_images_of_other_kinds_are_unfamiliar_and_those_of_new_patients_are_not(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    result = run_squashed(shared_data / name, tmp_path, size_px=128, precision="f32")
    model = result.load_model()
    fitted = model.safeguards.familiarity
    assert fitted is not None
    rows = read_splits(result)
    same = measure_strangeness(model, [shared_data / name / row["item"] for row in rows if row["split"] == "test"])
    told = result.metrics["familiarity"]
    assert (told["n_test_items"], told["n_unfamiliar"]) == (len(same), int((same > fitted.limit).sum()))
    odds = (
        (fitted.n_patients + 1) * (1 - fitted.share),
        (fitted.n_patients + 1) * fitted.share,
    )  # of a limit from so many
    low, high = betabinom.ppf([0.001, 0.999], len(same), *odds)
    assert max(low, 1) <= told["n_unfamiliar"] <= high < 0.15 * len(same)
    others = {"breast-us": "*/*", "chest-xray3": "images/*", "covid-ct": "images/*", "brain-mri": "*/*", "dicom": "*/*"}
    for other, pattern in others.items():
        if other == name:
            continue
        files = sorted((shared_data / other).glob(pattern))
        strange = measure_strangeness(model, files[:: max(1, len(files) // OTHERS)][:OTHERS])
        auc = roc_auc(np.repeat([0, 1], [len(same), len(strange)]), np.concatenate([same, strange]))
        assert auc > LEAST_AUC, other
        assert (strange > fitted.limit).mean() > LEAST_FLAGGED, other
