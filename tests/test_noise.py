"""Nothing that is tuned sees what judges it: where labels are noise, the test part says so."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import thawline
from helpers import Notes, make_films
from thawline.options import RunOptions

N_SEEDS, LEAST_COVERED = 50, 43  # of 50 intervals that hold in 95 % of cases, fewer than 43 do once in a thousand times
N_NESTED, LEAST_NESTED = 10, 7  # likewise
OPTIONS = {"size_px": 64, "folds": 2, "audit": "none", "controls": "none", "budget": "none", "precision": "f32",
           "threshold": "sensitivity:0.8", "backbone": "tiny"}  # fmt: skip


def permute_labels(data: Path, seed: int) -> Path:
    """Write a manifest in which patients have one another's labels; return its path."""
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = {row["patient"]: row["label"] for row in rows}
    given = dict(zip(labels, np.random.default_rng(seed).permutation(list(labels.values())), strict=True))
    path = data / f"noise{seed}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        writer.writerows([row["path"], given[row["patient"]], row["patient"]] for row in rows)
    return path


def write_plan(data: Path, tiny_file: Path, path: Path, *lines: str) -> Path:
    """Write a plan of two heads and some lines, as a whole ladder would take a quarter of an hour for all seeds."""
    plan = thawline.plan_only(data, RunOptions(weights=tiny_file, **OPTIONS)).to_json()
    edits = {"heads": ["linear", "k_nn"], "lines": list(lines)}
    for choice in plan["choices"]:
        choice["value"] = edits.get(choice["name"], choice["value"])
    path.write_text(json.dumps(plan), "utf-8")
    return path


def leave_out_the_page(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Spare what comes after the numbers, half of the time, and give the test a ledger of its own."""
    patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
    patch.setattr("thawline.job.write_report", lambda _: None)
    patch.setattr("thawline.job.measure_growth", lambda *_: {"note": "not measured"})
    patch.setattr("thawline.judging.write_examples", lambda *_: None)


@pytest.mark.slow
def test_labels_that_are_noise_are_found_out(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels permuted by patient go through all of it: heads, a thaw line, the choice, calibration, threshold and sets."""
    leave_out_the_page(tmp_path, monkeypatch)
    data = make_films(tmp_path / "data", n_patients=50, views=(1, 1), contrast=1.0)
    plan = write_plan(data, tiny_file, tmp_path / "plan.json", "conv_head")
    found, chosen = [], set()
    for seed in range(N_SEEDS):
        noise, out = permute_labels(data, seed), tmp_path / f"run{seed}"
        run = thawline.run(noise, out, plan=plan, weights=tiny_file, listener=Notes(), **OPTIONS)
        found.append(run.metrics["test"]["auc"])
        chosen.add(run.metrics["chosen"]["head"] + str(run.metrics["chosen"]["thaw_line"]))
        assert [rung["thaw_line"] for rung in run.metrics["ladder"]] == [None, None, "conv_head"]
    values = np.array([each["value"] for each in found])
    assert abs(values.mean() - 0.5) < 3 * values.std(ddof=1) / np.sqrt(N_SEEDS)
    assert sum(each["low"] <= 0.5 <= each["high"] for each in found) >= LEAST_COVERED
    assert len(chosen) > 1


@pytest.mark.slow
def test_nested_cross_validation_of_noise_says_so(
    tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every patient is judged, nothing that judges has chosen either."""
    leave_out_the_page(tmp_path, monkeypatch)
    data = make_films(tmp_path / "data", n_patients=40, views=(1, 1), contrast=1.0)
    plan = write_plan(data, tiny_file, tmp_path / "plan.json")
    found = []
    for seed in range(N_NESTED):
        noise, out = permute_labels(data, seed), tmp_path / f"run{seed}"
        run = thawline.run(noise, out, plan=plan, weights=tiny_file, nested="1", listener=Notes(), **OPTIONS)
        assert run.metrics["nested"]["n_patients"] == 40
        found.append(run.metrics["nested"]["auc"])
    values = np.array([each["value"] for each in found])
    assert abs(values.mean() - 0.5) < 3 * values.std(ddof=1) / np.sqrt(N_NESTED)
    assert sum(each["low"] <= 0.5 <= each["high"] for each in found) >= LEAST_NESTED
