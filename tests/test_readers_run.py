"""Readers in columns of the manifest are held beside the model, on items of the same part, and are seen by no model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import thawline
from helpers import Notes, make_films
from thawline.errors import DataError


def add_readers(data: Path, odd: str = "1") -> dict[str, dict[str, str]]:
    """Give every film a reader who is always right, and one who scores the films of some patients; return the rows."""
    path = data / "manifest.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        right = str(int(row["label"] == "lesion"))
        row |= {
            "reader:A": odd if number == 3 and odd != "1" else right,
            "reader:B": f"{right}.5" if number % 3 else "",
        }
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {row["path"]: row for row in rows}


@pytest.mark.slow
def test_readers_are_judged_on_what_they_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    films = make_films(tmp_path / "films", n_patients=40, views=(1, 1))
    rows = add_readers(films)
    notes = Notes()
    thawline.run(films, tmp_path / "run", head="linear", audit="none", listener=notes)
    assert not any("reader:" in each for each in notes.warnings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    with (tmp_path / "run" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        predicted = list(csv.DictReader(stream))
    for part, split in (("test", "test"), ("validation", "development")):
        found = metrics["readers"][part]
        own = [rows[row["item"]] for row in predicted if row["split"] == split]
        assert found["a"]["n_items"] == len(own)
        assert found["a"]["sensitivity"]["value"] == found["a"]["specificity"]["value"] == 1
        assert found["a"]["difference"]["value"] <= 0
        assert found["b"]["n_items"] == sum(bool(row["reader:B"]) for row in own)
        assert (found["b"]["scores"], found["b"]["reader"]["value"]) == (True, 1)
    assert "Beside readers" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_readers_are_said_to_be_left_aside_where_there_are_more_classes(tmp_path: Path) -> None:
    films = make_films(tmp_path / "films", n_patients=30, views=(1, 1))
    rows = [
        row | {"label": "odd"} if number % 3 == 0 else row for number, row in enumerate(add_readers(films).values())
    ]
    with (films / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    notes = Notes()
    plan = thawline.plan_only(films, thawline.RunOptions(head="linear", audit="none"), listener=notes)
    assert plan["task"] == "multiclass"
    assert [each for each in notes.warnings if "reader:" in each] == [
        "2 columns reader:NAME left aside: readers are held beside the model where there are two classes."
    ]


def test_a_cell_that_is_no_reading_is_refused_at_once(tmp_path: Path) -> None:
    films = make_films(tmp_path / "films", n_patients=20, views=(1, 1))
    add_readers(films, odd="maybe")
    with pytest.raises(DataError, match="column reader:a, item 3: expected 0, 1 or a score"):
        thawline.run(films, tmp_path / "run", head="linear")
    assert not (tmp_path / "run").exists()
