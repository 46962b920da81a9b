"""What is settled out of fold before the test part is opened, carried into the model, and measured on the test part."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import thawline
from helpers import Notes, make_films
from thawline.errors import OptionError
from thawline.judge.calibrators import Calibrator, fit_calibrator
from thawline.judge.conformal import fit_sets
from thawline.judge.familiarity import fit_familiarity
from thawline.judgement import plain
from thawline.predict import predict_files
from thawline.share.safeguards import Safeguards, describe_doubts, name_doubts


def add_columns(data: Path) -> None:
    """Give each patient of a manifest a sex and an age."""
    path = data / "manifest.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    patients = sorted({row["patient"] for row in rows})
    for row in rows:
        place = patients.index(row["patient"])
        row |= {"sex": "FM"[place % 2], "age": str(20 + place)}
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run on 80 small patients with a wished sensitivity, a given calibration and a prevalence."""
    folder = tmp_path_factory.mktemp("judged")
    add_columns(make_films(folder / "data", n_patients=80, contrast=1.0))
    wishes = {"threshold": "sensitivity:0.9", "calibration": "platt", "prevalence": 0.1, "coverage": 0.8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        thawline.run(folder / "data", folder / "run", head="linear", listener=Notes(), **wishes)
    return folder / "run", json.loads((folder / "run" / "metrics.json").read_text("utf-8"))


def read_rows(run: Path, split: str) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == split]


@pytest.mark.slow
def test_the_threshold_reaches_out_of_fold_what_is_wished(judged: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = judged
    threshold = metrics["task"]["threshold"]
    rows = read_rows(run, "development")
    found = np.array([float(row["p_lesion"]) for row in rows if row["label"] == "lesion"])
    assert np.mean(found >= threshold) >= 0.9
    next_higher = np.min(found[found >= threshold])
    assert np.mean(found > next_higher) < 0.9  # no higher threshold reaches it
    choice = metrics["decision"]["choice"]
    assert choice["threshold"]["value"] == pytest.approx(threshold)
    assert choice["sensitivity"]["expected"]["low"] < choice["sensitivity"]["apparent"]
    plan = {each["name"]: each for each in json.loads((run / "plan.json").read_text("utf-8"))["choices"]}
    assert plan["threshold"]["value"] == pytest.approx(threshold)
    assert "chosen out of fold" in plan["threshold"]["reason"]


@pytest.mark.slow
def test_the_test_part_is_judged_at_that_threshold(judged: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = judged
    decision, threshold = metrics["decision"]["test"], metrics["task"]["threshold"]
    rows = read_rows(run, "test")
    truth = np.array([row["label"] == "lesion" for row in rows])
    called = np.array([float(row["p_lesion"]) >= threshold for row in rows])
    assert decision["counts"] == {
        "true_positives": (truth & called).sum(),
        "false_negatives": (truth & ~called).sum(),
        "false_positives": (~truth & called).sum(),
        "true_negatives": (~truth & ~called).sum(),
    }
    assert decision["rates"]["sensitivity"]["value"] == pytest.approx(metrics["test"]["sensitivity"]["value"])
    carried, alone = decision["rates"]["sensitivity"], metrics["test"]["sensitivity"]
    assert "bootstrap" in carried["method"]  # of thresholds too
    assert "Wilson" in alone["method"]
    assert decision["prevalence"] == 0.1
    workload = decision["workload"]
    assert workload["diseased"] == 100
    assert workload["found"]["value"] + workload["missed"]["value"] == 100
    assert len(decision["net_benefit"]["model"]["value"]) == len(decision["net_benefit"]["thresholds"]) == 99


@pytest.mark.slow
def test_out_of_fold_predictions_are_calibrated_by_the_other_folds(judged: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = judged
    assert metrics["calibration"]["map"] == "platt"
    stated = json.loads((run / "model" / "contract.json").read_text("utf-8"))["safeguards"]
    calibrator = Calibrator.from_json(stated["calibrator"])
    assert calibrator.kind == "platt"
    for part in ("validation", "test"):
        found = metrics["calibration"][part]["lesion"]
        assert found["slope"]["low"] < found["slope"]["value"] < found["slope"]["high"]
        assert found["brier"]["score"] == pytest.approx(metrics[part]["brier"]["value"])
        assert len(found["curve"]["confidence"]) == len(found["curve"]["low"])


@pytest.mark.slow
def test_doubts_are_measured_and_predicted(judged: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, metrics = judged
    rows = read_rows(run, "test")
    data = run.parent / "data"
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(noise)
    text = predict_files(run, [*(data / row["item"] for row in rows), noise], listener=Notes())
    *found, strange = csv.DictReader(io.StringIO(text))
    assert strange["unfamiliar"] == "yes"
    assert sum(row["unfamiliar"] == "yes" for row in found) == metrics["familiarity"]["n_unfamiliar"]
    assert metrics["familiarity"]["n_unfamiliar"] <= 0.25 * len(rows)
    covered = [own["label"] in row["set"].split("|") for own, row in zip(rows, found, strict=True)]
    assert np.mean(covered) == pytest.approx(metrics["doubts"]["test"]["sets"]["coverage"]["value"])
    assert all((row["abstain"] == "yes") == (row["set"] not in ("healthy", "lesion")) for row in found)
    lines = predict_files(run, [noise], as_json=True, listener=Notes()).splitlines()
    assert json.loads(lines[0])["unfamiliar"] is True
    risks = metrics["doubts"]["validation"]["risk_coverage"]["risks"]
    assert risks[-1]["value"] >= risks[4]["value"]


@pytest.mark.slow
def test_subgroups_are_those_of_the_table(judged: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = judged
    found = metrics["subgroups"]["test"]
    assert list(found) == ["sex", "age", "scanner", "view"]
    assert sum(part["n_items"] for part in found["sex"]["parts"]) == metrics["test"]["n_items"]
    assert [part["value"] for part in found["age"]["parts"]] == ["18 to under 40", "40 to under 65", "65 and over"]
    assert all(part["is_small"] for part in found["age"]["parts"])
    of_validation = metrics["subgroups"]["validation"]["sex"]
    assert of_validation["p_values"]["auc"] <= of_validation["p_values_corrected"]["auc"] <= 1


@pytest.mark.slow
def test_a_learning_curve_is_continued(judged: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = judged
    found = metrics["growth"]
    n_patients = len({row["patient"] for row in read_rows(run, "development")})
    assert [row["n_patients"] for row in found["foretold"]] == [n_patients * times for times in (1, 2, 5, 10)]
    assert found["delivered"]["auc"]["value"] == pytest.approx(metrics["validation"]["auc"]["value"])
    assert found["sizes"][-1] == pytest.approx(0.75 * n_patients, abs=1)


@pytest.mark.slow
def test_a_coverage_that_so_few_patients_cannot_reach_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    data, notes = make_films(tmp_path / "data", n_patients=24), Notes()
    run = thawline.run(data, tmp_path / "run", head="linear", audit="none", coverage=0.99, listener=notes)
    said = "A coverage of 0.99 needs at least 99 patients"
    assert sum(each.startswith(said) for each in notes.warnings) == 1
    (choice,) = [each for each in run.plan["choices"] if each["name"] == "coverage"]
    assert (choice["value"], choice["kind"]) == (0.99, "given")
    assert choice["reason"].startswith(said)
    assert run.metrics["doubts"]["test"]["sets"]["coverage"]["value"] == 1
    assert said in run.report.read_text("utf-8")


@pytest.mark.slow
def test_a_column_that_is_not_there_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=12)
    with pytest.raises(OptionError, match="no column 'sex'"):
        thawline.run(data, tmp_path / "run", subgroups="sex", listener=Notes())
    assert not (tmp_path / "run").exists()


def make_safeguards(**parts: Any) -> Safeguards:
    draw = np.random.default_rng(0)
    labels, groups = np.arange(200) % 2, np.arange(200)
    probabilities = draw.dirichlet([1, 1], 200)
    return Safeguards(
        fit_calibrator("beta", labels, probabilities, groups),
        fit_sets(labels, probabilities, groups),
        fit_familiarity(draw.normal(size=(200, 5)).astype(np.float32), labels, groups),
        "bf16",
    )


def test_safeguards_come_back_as_they_were() -> None:
    safeguards = make_safeguards()
    again = Safeguards.from_json(json.loads(json.dumps(safeguards.to_json())), safeguards.arrays())
    assert again.to_json() == safeguards.to_json()
    given = np.array([[0.2, 0.8], [0.9, 0.1]])
    np.testing.assert_array_equal(again.calibrate(given), safeguards.calibrate(given))
    assert Safeguards.from_json(Safeguards().to_json(), {}) == Safeguards()
    np.testing.assert_array_equal(Safeguards().calibrate(given), given)


def test_doubts_are_said_of_what_there_is_a_rule_for() -> None:
    safeguards = make_safeguards()
    assert safeguards.familiarity is not None
    limit = safeguards.familiarity.limit
    rows = describe_doubts(safeguards, np.array([[0.5, 0.5], [0.001, 0.999]]), np.array([limit, 2 * limit]), ("a", "b"))
    assert rows == [
        {"set": "a|b", "abstain": True, "unfamiliar": False},
        {"set": rows[1]["set"], "abstain": rows[1]["set"] not in ("a", "b"), "unfamiliar": True},
    ]
    assert list(rows[0]) == name_doubts(safeguards)
    assert describe_doubts(Safeguards(), np.full((2, 2), 0.5), None, ("a", "b")) == [{}, {}]
    assert name_doubts(Safeguards()) == []


def test_records_become_plain_data() -> None:
    found = plain({"a": np.array([1.0, np.nan]), "b": (np.int64(3), np.inf), "c": Safeguards(), "d": "x"})
    assert json.loads(json.dumps(found, allow_nan=False))["a"] == [1.0, None]
    assert found["b"] == [3, None]
    assert found["c"]["precision"] == "f32"
