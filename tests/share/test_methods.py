"""The methods paragraph says what the run's files say, and leaves out what they do not."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from thawline.share.methods import tell_inputs, tell_judging, tell_software, tell_split
from thawline.share.summary import summarise

write_run = runpy.run_path(str(Path(__file__).with_name("test_report.py")))["write_run"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("methods") / "run", n_patients=40)


@pytest.mark.slow
def test_the_paragraph_of_a_run(run: Path) -> None:
    said = summarise(run)["methods_text"]
    for words in (
        "The data were 360 items of 120 patients (by class: COVID, 180; NonCOVID, 180).",
        "Of 363 items found, 3 were left out (2 could not be read, 1 identical items with different labels).",
        "A test part was drawn at random by patient, stratified by class, so that no patient stood in both parts.",
        "Development used 5 folds grouped by patient.",
        "The network was efficientnet_lite0, with pretrained weights (trained on ImageNet-1k; source: [withheld]; "
        "licence: Apache-2.0; SHA-256 c0c0c0c0c0c0).",
        "thaw line: conv_head: trained from there up",
        "6 candidates were compared on the same folds.",
        "of the best: fine tuning from conv_head.",
        "Probabilities passed Platt scaling, fitted on out-of-fold predictions. The threshold of 0.5 was set beforehand.",
        "before the test part was opened; the final model predicted it once.",
        "Software: Thawline 0.1.0, Python 3.11.9, torch 2.8.0, timm 1.0.20; seed 7.",
    ):
        assert words in said, words
    assert "effective items" not in said  # each interval has its own number of them


@pytest.mark.slow
def test_what_is_stated_joins_it(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    (own / "study.toml").write_text('[study]\nreference_standard = "PCR within a week."\n', "utf-8")
    assert "Reference standard: PCR within a week. " in summarise(own)["methods_text"]


@pytest.mark.slow
def test_without_a_network_none_is_told(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    metrics = json.loads((own / "metrics.json").read_text("utf-8"))
    for rung in metrics["ladder"]:
        rung["chosen"] = rung["strategy"] == "handcrafted"
    metrics["chosen"] |= {"strategy": "handcrafted", "thaw_line": None, "n_networks": None}
    (own / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    said = summarise(own)["methods_text"]
    assert "were used, without a network." in said
    assert "pretrained" not in said


def test_a_given_split_and_unknown_patients() -> None:
    data = {"split_given": True, "patients_given": False}
    assert tell_split(data, {}, {"n_folds": 4}) == [
        "The split into development and test parts was the one given with the data; no patients were known, so that each "
        "item counted as one.",
        "Development used 4 folds grouped by patient.",
    ]
    assert len(tell_split(data, {}, {})) == 1


@pytest.mark.parametrize(
    ("options", "split", "folds"),
    [
        ({"test": None, "validation": "folds"}, "A test part was drawn at random by patient", "grouped by patient."),
        ({"test": "time:year"}, "The latest patients by year were the test part", "grouped by patient."),
        ({"test": "site:clinic=North"}, "Patients with clinic North were the test part", "grouped by patient."),
        ({"validation": "site:clinic"}, "A test part was drawn", "each a clinic that the others did not have."),
    ],
)
def test_a_split_by_a_column_is_told_as_what_it_is(options: dict[str, Any], split: str, folds: str) -> None:
    data = {"split_given": False, "patients_given": True}
    said = tell_split(data, {}, {"n_folds": 4}, options)
    assert said[0].startswith(split)
    assert said[1].endswith(folds)


def test_inputs() -> None:
    choices: dict[str, Any] = {"size_px": 224, "aspect": "letterbox", "interpolation": "bicubic"}
    assert tell_inputs({"wide_range": [0.0, 4095.0]}, choices) == [
        "Images were resampled to 224 × 224 pixels (bicubic interpolation) and padded to a square.",
        "Images of more than 8 bits were scaled from 0 (black) to 4095 (white).",
    ]
    assert tell_inputs({"wide_range": None}, {}) == []


def test_a_chosen_threshold_and_a_closed_test_part() -> None:
    summary: dict[str, Any] = {
        "lesions": None,
        "calibration": {"map": "none"},
        "decision": {"threshold": 0.31, "choice": ["The threshold was chosen out of fold, for a sensitivity of 0.9."]},
        "methods": ["Wilson, 3 effective items", "Wilson, 5 effective items", "BCa bootstrap; 200 resamples"],
        "part": "validation",
        "parts": [{"key": "validation"}],
        "nested": None,
    }
    assert tell_judging(summary, {"coverage": 0.9}) == [
        "Probabilities were left as the model gives them.",
        "The threshold of 0.31 was chosen out of fold, for a sensitivity of 0.9.",
        "Conformal prediction sets were made for a coverage of 0.9.",
        "Intervals treat patients as what is sampled (Wilson, BCa bootstrap).",
        "The test part was not opened; figures are out of fold.",
    ]
    for n_left_out, rest in ((0, ""), (3, ", without 3 whose images differ in label")):
        lesions = {"n_lesions": 41, "n_patients": 1, "n_left_out": n_left_out}
        said = f"Figures per lesion are of the mean probabilities of a lesion's images (41 lesions of 1 patient{rest})."
        assert tell_judging({**summary, "lesions": lesions}, {})[2] == said


def test_versions_that_are_not_known_are_left_out() -> None:
    assert tell_software({"environment": {}, "thawline": "1", "seed": 0}) == ["Software: Thawline 1, Python; seed 0."]
