"""The forms of a report: the same numbers in each, figures and tables as files, and nobody's name in any of them."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from thawline.errors import OptionError, OutputError
from thawline.share.exports import FORMS, export_report, write_figures, write_tables
from thawline.share.markdown import escape, merge_ends
from thawline.share.summary import summarise
from thawline.share.tables import TABLES, list_tables

pytestmark = pytest.mark.slow
write_run = runpy.run_path(str(Path(__file__).with_name("test_report.py")))["write_run"]
KEYS = {key for key, *_ in TABLES} - {"nested"}  # which these runs have not
NAMES = re.compile(r"MRN-|Jane|Doe|ward 7|Scan of")
STUDY = """
[study]
intended_use = "second look at films <b>of the ward</b>"
ethics = "board 12/2026; see MRN-d00003"
[cost]
price_per_hour = 36
currency = "EUR"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("exports") / "run", n_patients=40)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("exports") / "run", ("a|b", "<i>", "=1+1"), n_patients=30, test=False)


def read_metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text("utf-8"))


def test_json_is_the_summary_without_pictures(run: Path, tmp_path: Path) -> None:
    path = export_report(run, "json", tmp_path / "said.json")
    found = json.loads(path.read_text("utf-8"))
    assert found["auc"]["value"] == read_metrics(run)["test"]["auc"]["value"]
    assert "data:image" not in path.read_text("utf-8")
    assert found.keys() == summarise(run).keys()


def test_markdown_has_every_metric_and_the_texts(run: Path) -> None:
    path = export_report(run, "md")
    assert path == run / "report.md"
    text, summary = path.read_text("utf-8"), summarise(run)
    for key in ("auc", "accuracy", "brier"):
        estimate = read_metrics(run)["test"][key]
        assert f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" in text
    assert escape(summary["methods_text"]) in text
    assert all(escape(told["text"]) in text for told in summary["plain"])
    rows = [line for line in text.splitlines() if line.startswith("| 44 |")]
    assert rows == ["| 44 | funding and role of funders | – | not stated |"]
    path.unlink()


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_no_form_names_anybody(run: Path, several: Path, tmp_path: Path, form: str) -> None:
    for each in (run, several):
        assert NAMES.findall(export_report(each, form, tmp_path / form).read_text("utf-8")) == []


def test_what_the_study_file_states_is_escaped_and_withheld(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    (own / "study.toml").write_text(STUDY, "utf-8")
    page = export_report(own).read_text("utf-8")
    assert "second look at films &lt;b&gt;of the ward&lt;/b&gt;" in page
    assert "board 12/2026; see [withheld]" in page
    assert "At 36 EUR an hour the run cost 3.71 EUR" in page
    assert "<b>of the ward" not in export_report(own, "md").read_text("utf-8")


def test_another_form_is_refused(run: Path) -> None:
    with pytest.raises(OptionError, match=r"--format: expected one of html, pdf, md, json; found 'doc'"):
        export_report(run, "doc")


def test_every_figure_of_the_page_is_an_svg_and_a_pdf(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    paths = write_figures(run, folder)
    n_drawn = export_report(run, "html", tmp_path / "page.html").read_text("utf-8").count("<svg")
    assert len(paths) == 2 * n_drawn == len(list(folder.iterdir()))
    for path in folder.glob("*.svg"):
        assert ET.fromstring(path.read_bytes()).tag == "{http://www.w3.org/2000/svg}svg"
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    again = write_figures(run, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    with pytest.raises(OutputError, match="expected a new or empty folder for figures"):
        write_figures(run, folder)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_tables_hold_the_numbers_of_the_metrics(run: Path, tmp_path: Path) -> None:
    paths = write_tables(run, tmp_path / "tables")
    assert {path.stem for path in paths} == KEYS
    assert NAMES.findall("".join(path.read_text("utf-8") for path in paths)) == []
    test, found = read_metrics(run)["test"], read_table(tmp_path / "tables" / "metrics.csv")
    auc = next(row for row in found if (row["part"], row["metric"]) == ("Test", "AUC"))
    assert [float(auc[end]) for end in ("value", "low", "high")] == [
        test["auc"][end] for end in ("value", "low", "high")
    ]
    cells = read_table(tmp_path / "tables" / "confusion.csv")
    assert sum(int(cell["items"]) for cell in cells) == test["n_items"]
    curve = read_metrics(run)["decision"]["test"]["net_benefit"]
    benefit = read_table(tmp_path / "tables" / "net_benefit.csv")
    assert [float(row["threshold"]) for row in benefit] == curve["thresholds"]
    bins = read_table(tmp_path / "tables" / "calibration_bins.csv")
    assert sum(int(row["items"]) for row in bins) == test["n_items"]
    assert read_table(tmp_path / "tables" / "cost.csv")[-1]["seconds"] == "371.4"


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_table_has_as_many_cells_as_columns(run: Path, several: Path, key: str) -> None:
    found = [table for each in (run, several) for table in list_tables(summarise(each)) if table.key == key]
    assert found
    for table in found:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_markdown_survives_hostile_names(several: Path, tmp_path: Path) -> None:
    text = export_report(several, "md", tmp_path / "report.md").read_text("utf-8")
    assert "<i>" not in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) > 8
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines[0]


def test_ends_become_one_column() -> None:
    names, rows = merge_ends(
        ("metric", "auc_value", "low", "high", "n"), [["a", 0.5, 0.25, 0.75, 3], ["b", None, None, None, 4]]
    )
    assert names == ["metric", "auc", "n"]
    assert rows == [["a", "0.500 [0.250, 0.750]", "3"], ["b", "–", "4"]]


def test_every_form_is_offered() -> None:
    assert list(FORMS) == ["html", "pdf", "md", "json"]
