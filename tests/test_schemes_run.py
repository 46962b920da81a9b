"""Runs whose folds are sites, and whose test part are the latest patients or one site."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import thawline
from helpers import Notes, make_films
from thawline.errors import OptionError

pytestmark = pytest.mark.slow


def add_years(data: Path) -> dict[str, dict[str, str]]:
    """Give each patient of a manifest a year, in their order; return the rows by path."""
    path = data / "manifest.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    patients = sorted({row["patient"] for row in rows})
    for row in rows:
        row["year"] = str(1990 + patients.index(row["patient"]))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {row["path"]: row for row in rows}


def test_sites_are_left_out_and_the_latest_are_tested(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=40)
    rows = add_years(data)
    about = {"validation": "site:scanner", "test": "time:year", "head": "linear"}
    run = thawline.run(data, tmp_path / "run", listener=Notes(), **about)
    with (tmp_path / "run" / "splits.csv").open(encoding="utf-8", newline="") as stream:
        splits = list(csv.DictReader(stream))
    tested = {rows[row["item"]]["year"] for row in splits if row["split"] == "test"}
    assert tested == {str(year) for year in range(2022, 2030)}
    folds = {(row["fold"], rows[row["item"]]["scanner"]) for row in splits if row["split"] != "test"}
    assert len(folds) == len({fold for fold, _ in folds}) == 2
    plan = {each["name"]: each for each in json.loads((tmp_path / "run" / "plan.json").read_text("utf-8"))["choices"]}
    assert any("each a value of scanner" in choice["reason"] for choice in plan.values())
    assert run.metrics["test"]["n_patients"] == 8


def test_a_test_part_is_not_chosen_twice(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=24, split=True)
    with pytest.raises(OptionError, match="--test: chooses a test part, and these data come with one"):
        thawline.run(data, tmp_path / "run", test="site:scanner=A", listener=Notes())
