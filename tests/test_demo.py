"""The demo: made-up films that a real network finds the lesions in, as well as one may expect and no better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from thawline import cli
from thawline.cli import app

pytestmark = pytest.mark.slow


def call(*arguments: object, command: str = "demo") -> Any:
    done = CliRunner().invoke(app, [command, *(str(each) for each in arguments)])
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture(scope="module", autouse=True)
def first_rung(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The first rung alone, since the whole ladder takes minutes: a budget that is spent at once leaves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "DEMO_BUDGET", "0.01s")
        patch.setenv("THAWLINE_DATA", str(tmp_path_factory.mktemp("ledger")))
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo at its default contrast: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, call("--out", folder).stdout


def test_lesions_of_default_contrast_are_found_but_not_all(demo: tuple[Path, str]) -> None:
    metrics = json.loads((demo[0] / "run-seed0" / "metrics.json").read_text("utf-8"))
    assert 0.80 < metrics["validation"]["auc"]["value"] < 0.95
    assert metrics["test"]["auc"]["low"] > 0.5
    assert metrics["test"]["n_patients"] + metrics["validation"]["n_patients"] == 200


def test_demo_ends_with_five_lines_and_the_path_of_the_report(demo: tuple[Path, str]) -> None:
    lines = demo[1].splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("Test AUC 0.")
    assert lines[4] == f"Report: {demo[0] / 'run-seed0' / 'report.html'}"
    assert Path(lines[4].removeprefix("Report: ")).is_file()


def test_second_demo_returns_the_first(demo: tuple[Path, str]) -> None:
    before = (demo[0] / "run-seed0" / "journal.jsonl").read_bytes()
    again = call("--out", demo[0])
    assert again.stdout == demo[1]
    assert "holds this run already" in again.stderr
    assert "phantoms" not in again.stderr
    assert (demo[0] / "run-seed0" / "journal.jsonl").read_bytes() == before


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    found = json.loads(call("--out", tmp_path, "--contrast", "0", "--json").stdout)
    auc = found["metrics"]["validation"]["auc"]
    assert auc["low"] < 0.55
    assert auc["high"] > 0.45
    assert auc["value"] == pytest.approx(0.5, abs=0.15)
    assert Path(found["report"]) == tmp_path / "run-seed0-contrast0" / "report.html"


def test_thawing_the_top_of_the_network_gains_on_these_films(demo: tuple[Path, str], tmp_path: Path) -> None:
    """What the whole demo shows: the first line is better out of fold than the frozen network, and is chosen."""
    rungs = ["--strategy", "feature_extractor,fine_tuning", "--thaw-line", "conv_head"]
    flags = [*rungs, "--controls", "none", "--audit", "none"]
    call(demo[0] / "films-seed0", "--out", tmp_path / "run", *flags, command="run")
    frozen, thawed = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["ladder"]
    assert (frozen["thaw_line"], thawed["thaw_line"]) == (None, "conv_head")
    assert thawed["log_loss"] < frozen["log_loss"] - 0.01
    assert thawed["chosen"]
    assert sum(epochs > 0 for epochs in thawed["epochs"]) >= 3
