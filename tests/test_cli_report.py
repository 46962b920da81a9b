"""Reports from the command line: forms, files, and a study file that joins a run without changing it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import make_films
from thawline import load_model
from thawline.cli import app
from thawline.share.study import read_study

pytestmark = pytest.mark.slow
write_run = runpy.run_path(str(Path(__file__).parent / "share" / "test_report.py"))["write_run"]


def call(*arguments: object) -> Any:
    """Run a command in this process; ``stdout``, ``stderr`` and ``exit_code`` of what it did."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def write_study(folder: Path, text: str) -> Path:
    (folder / "study.toml").write_text(text, "utf-8")
    return folder / "study.toml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("reports") / "run", n_patients=30)


def test_the_template_needs_no_run(tmp_path: Path) -> None:
    done = call("report", "--study-template")
    assert done.exit_code == 0
    assert read_study(write_study(tmp_path, done.stdout)).stated == {}


def test_forms_figures_and_tables(run: Path, tmp_path: Path) -> None:
    wanted = ("--format", "md", "--out", tmp_path / "paper.md", "--figures", tmp_path / "f", "--tables", tmp_path / "t")
    done = call("report", run, *wanted)
    assert (done.exit_code, done.stdout.split()) == (0, [str(tmp_path / name) for name in ("paper.md", "f", "t")])
    assert (tmp_path / "paper.md").read_text("utf-8").startswith("# Thawline report")
    assert {"roc.svg", "roc.pdf"} < {path.name for path in (tmp_path / "f").iterdir()}
    assert "metrics.csv" in {path.name for path in (tmp_path / "t").iterdir()}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--format", "doc"), "expected one of html, pdf, md, json; found 'doc'"),
        (("--study", "nowhere.toml"), "nowhere.toml: expected a study file"),
    ],
)
def test_what_cannot_be_used_is_refused(run: Path, wrong: tuple[str, ...], said: str) -> None:
    done = call("report", run, *wrong)
    assert (done.exit_code, said in done.stderr) == (2, True)


def test_without_a_browser_there_is_no_pdf(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_CHROMIUM", "nothing-of-the-kind")
    done = call("report", run, "--format", "pdf")
    assert (done.exit_code, "THAWLINE_CHROMIUM" in done.stderr) == (2, True)
    assert not (run / "report.pdf").exists()


def test_a_study_file_joins_a_run_and_changes_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    films, run = make_films(tmp_path / "films", n_patients=20, views=(1, 1)), tmp_path / "run"
    study = write_study(films, "[study]\nethic = 'board 7'\n")
    start = ("run", films, "--out", run, "--head", "linear", "--audit", "none")
    refused = call(*start)
    assert (refused.exit_code, "did you mean ethics?" in refused.stderr, run.exists()) == (2, True, False)
    study.write_text("[study]\nethics = 'board 7'\n", "utf-8")
    assert call(*start).exit_code == 0
    assert "board 7" in (run / "report.html").read_text("utf-8")
    spec, metrics = ((run / name).read_bytes() for name in ("spec.json", "metrics.json"))
    other = write_study(tmp_path, "[study]\nethics = 'board 8'\n[cost]\nprice_per_hour = 2.0\n")
    done = call(*start, "--study", other)
    assert (done.exit_code, "holds this run already" in done.stderr) == (0, True)
    page = (run / "report.html").read_text("utf-8")
    assert ("board 8" in page, "board 7" in page, "At 2 an hour the run cost" in page) == (True, False, True)
    study.unlink()
    assert (
        call(
            "report",
            run,
            "--study",
            write_study(tmp_path, "[study]\nethics = 'board 9'\nintended_use = 'a second look'\n"),
        ).exit_code
        == 0
    )
    assert "board 9" in (run / "report.html").read_text("utf-8")
    assert "- **Intended use**: a second look\n" in (run / "model" / "card.md").read_text("utf-8")
    load_model(run)  # which checks its files
    assert [spec, metrics] == [(run / name).read_bytes() for name in ("spec.json", "metrics.json")]
    assert json.loads(spec)["options"].get("study") is None
