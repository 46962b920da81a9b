"""The command line: what goes to which stream, which exit code, and never a traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import thawline
from helpers import make_films
from thawline import job
from thawline.cli import app
from thawline.cost import read_duration
from thawline.data import phantoms
from thawline.data.phantoms import PhantomOptions, make_phantoms
from thawline.options import RunOptions, list_strategies


def call(*arguments: object) -> Any:
    """Run a command in this process; ``stdout``, ``stderr`` and ``exit_code`` of what it did."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def start(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "thawline.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, **environment}, check=False
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("films") / "data", n_patients=20, views=(1, 1))


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made through the command line, beside what it printed (``said.txt``)."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        done = call("run", films, "--out", folder / "run", "--head", "linear")
    assert done.exit_code == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout, "utf-8")
    (folder / "steps.txt").write_text(done.stderr, "utf-8")
    return folder / "run"


def test_the_demo_has_the_time_to_thaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tests give it no time, since a whole climb takes minutes."""
    given: list[RunOptions] = []
    monkeypatch.setattr(phantoms, "make_phantoms", lambda *_: None)
    monkeypatch.setattr(job, "run", lambda _data, _out, options, **_: given.append(options) or sys.exit(0))
    assert call("demo", "--out", tmp_path).exit_code == 0
    (options,) = given
    assert 60 <= read_duration(options.budget) <= 110
    assert "fine_tuning" in list_strategies(options)


def test_version() -> None:
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"thawline {thawline.__version__}\n")


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([name] for name in ("run", "demo", "predict", "report", "cache", "doctor", "backbones", "weights")),
        ["backbones", "show"],
        *(["weights", name] for name in ("list", "get", "verify", "pack", "import")),
    ],
)
def test_help_names_every_command_and_option(command: list[str]) -> None:
    done = call(*command, "--help")
    assert done.exit_code == 0
    expected = {
        "": ["run", "demo", "predict", "report", "cache", "doctor", "backbones", "weights"],
        "run": [f"--{name.replace('_', '-')}" for name in RunOptions.__slots__]
        + ["--plan-only", "--no-resume", "--out"],
        "demo": ["--out", "--contrast", "--seed", "--quiet", "--json"],
        "predict": ["--out", "--device", "--skip-unreadable", "--allow-outside", "--json"],
        "report": ["--help"],
        "cache": ["--clear", "--json"],
        "doctor": ["--online", "--json"],
        "backbones": [
            "--family",
            "--largest",
            "--slowest",
            "--licence",
            "--free",
            "--present",
            "--measure",
            "--table1",
            "show",
        ],
        "backbones show": ["NAME", "--json"],
        "weights": ["list", "get", "verify", "pack", "import"],
        "weights list": ["--json"],
        "weights get": ["NAME", "--json"],
        "weights verify": ["folder", "--json"],
        "weights pack": ["folder", "NAME", "--json"],
        "weights import": ["file", "--as", "--out", "--preprocessing", "--licence", "--pretrained-on"],
    }[" ".join(command)]
    assert [name for name in expected if name not in done.stdout] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["nonsense"],
        ["run", "data", "--colour", "red"],
        ["run", "data", "--folds", "many"],
        ["predict", "run"],
        ["report"],
        ["demo", "--seed", "x"],
    ],
)
def test_wrong_usage_gives_2(arguments: list[str]) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage: thawline" in done.stderr or "usage" in done.stderr.lower()


def test_run_needs_a_folder_to_write_to(films: Path) -> None:
    done = call("run", films)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: expected --out RUN, the folder to write the run to; found none\n"


@pytest.mark.slow
def test_run_ends_with_five_lines_that_agree_with_the_metrics(finished: Path) -> None:
    lines = (finished.parent / "said.txt").read_text("utf-8").splitlines()
    metrics = json.loads((finished / "metrics.json").read_text("utf-8"))
    assert len(lines) == 5
    assert lines[0].startswith(f"Test AUC {metrics['test']['auc']['value']:.3f} [")
    assert f"{metrics['test']['n_items']} items of {metrics['test']['n_patients']} patients" in lines[0]
    assert lines[1].startswith(f"Cross-validated AUC {metrics['validation']['auc']['value']:.3f} [")
    assert lines[2] == "Chosen: efficientnet_lite0, feature extractor, linear head, of 1 rung tried"
    assert f"{metrics['cost']['seconds']['total']:.1f} s" in lines[3]
    assert lines[4] == f"Report: {finished / 'report.html'}"


@pytest.mark.slow
def test_steps_go_to_standard_error(finished: Path) -> None:
    steps = (finished.parent / "steps.txt").read_text("utf-8")
    said = [line.split("  ")[0] for line in steps.splitlines()]
    assert {"reading", "features", "linear", "final model", "judging"} <= set(said)
    assert said[0] == "reading"
    assert said[-1] == "judging"


@pytest.mark.slow
def test_quiet_prints_results_only(finished: Path, films: Path, tmp_path: Path) -> None:
    done = call("run", films, "--out", tmp_path / "run", "--head", "linear", "--quiet")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 5
    assert done.stderr == ""


@pytest.mark.slow
def test_finished_run_as_json(finished: Path, films: Path) -> None:
    done = call("run", films, "--out", finished, "--head", "linear", "--json", "--quiet")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "run": str(finished),
        "report": str(finished / "report.html"),
        "metrics": json.loads((finished / "metrics.json").read_text("utf-8")),
    }
    assert done.stderr.startswith(f"warning: {finished} holds this run already, finished")


@pytest.mark.slow
def test_another_run_in_the_same_folder_is_refused(finished: Path, films: Path) -> None:
    for resume in ("--resume", "--no-resume"):
        done = call("run", films, "--out", finished, "--head", "linear", "--seed", "5", resume)
        assert done.exit_code == 2
        assert "holds another run (seed: 0 there, 5 now" in done.stderr
    assert (finished / "metrics.json").is_file()


@pytest.mark.slow
def test_plan_in_words_and_as_json(films: Path) -> None:
    words = call("run", films, "--plan-only", "--quiet")
    assert words.exit_code == 0
    assert re.search(r"^positive +lesion +rule ", words.stdout, re.MULTILINE)
    assert re.search(
        r"^rung +\? +empirical .*\(among linear, svm, .*, fine_tuning blocks.5, .*, fine_tuning_from_scratch conv_stem\)$",
        words.stdout,
        re.MULTILINE,
    )
    assert re.search(r"^lines +\['conv_head', 'blocks.6', .*'conv_stem'\] +fixed ", words.stdout, re.MULTILINE)
    done = call("run", films, "--plan-only", "--json", "--quiet")
    choices = {choice["name"]: choice["value"] for choice in json.loads(done.stdout)["choices"]}
    assert choices["positive"] == "lesion"
    assert choices["lines"][:: len(choices["lines"]) - 1] == ["conv_head", "conv_stem"]
    assert choices["rung"] is None


def test_plan_follows_the_options_of_thawing(films: Path) -> None:
    wanted = {"--ratio": 0.8, "--mixup": 0.2, "--modality": "xray", "--views": 1, "--final": "refit"}
    flags = [part for pair in wanted.items() for part in pair]
    done = call("run", films, "--plan-only", "--json", "--quiet", "--side-matters", *flags)
    assert done.exit_code == 0, done.stderr
    choices = {choice["name"]: choice for choice in json.loads(done.stdout)["choices"]}
    assert choices["lines"]["value"] == ["blocks.5"]
    assert choices["rung"]["value"] == "fine_tuning blocks.5"
    assert choices["recipe"]["value"]["mixup"] == 0.2
    assert choices["augmentation"]["reason"].startswith("xray: ")
    assert not choices["augmentation"]["value"]["flip_sides"]
    assert (choices["views"]["value"], choices["final"]["value"], choices["controls"]["value"]) == (1, "refit", [])
    assert {choices[name]["kind"] for name in ("lines", "rung", "recipe", "augmentation", "views", "final")} == {
        "given"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["--strategy", "prompting"], "--strategy: expected some of feature_extractor, "),
        (["--ratio", "0.5", "--last-layers", "2"], "--ratio and --last-layers: expected one of them"),
        (["--ratio", "2"], "--ratio: expected a share above 0 and at most 1, found 2.0"),
        (["--thaw-line", "blocks.9"], "--thaw-line: expected one of conv_head, blocks.6, "),
        (["--blocks", "blocks.5:blocks.4"], "--blocks: expected LOWEST:HIGHEST among, from the top down, conv_head, "),
        (["--blocks", ":blocks.4"], "--blocks: expected one of conv_head, "),
        (["--last-layers", "500"], "--last-layers: expected at most "),
        (["--controls", "hog"], "--controls: expected some of handcrafted, random_init, or none; found 'hog'"),
        (["--mixup", "nan"], "--mixup: expected 0 or more, found nan"),
        (["--loss", "hinge"], "--loss: expected one of cross_entropy, focal; found 'hinge'"),
        (
            ["--head", "svm", "--thaw-line", "blocks.5"],
            "--thaw-line: belongs to --strategy fine_tuning; leave out --head",
        ),
    ],
)
def test_wrong_options_of_thawing_give_2_and_say_why(wanted: list[str], message: str, films: Path) -> None:
    done = call("run", films, "--plan-only", "--quiet", *wanted)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")


@pytest.mark.slow
def test_printed_plan_can_be_given_back(finished: Path, films: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(call("run", films, "--plan-only", "--json", "--quiet", "--head", "linear").stdout, "utf-8")
    done = call("run", films, "--out", tmp_path / "run", "--head", "linear", "--plan", plan, "--quiet")
    assert done.exit_code == 0, done.stderr
    written = [json.loads((run / "plan.json").read_text("utf-8")) for run in (finished, tmp_path / "run")]
    assert written[0] == written[1]


@pytest.mark.slow
def test_predict_as_csv_as_json_and_into_a_file(finished: Path, films: Path, tmp_path: Path) -> None:
    images = sorted((films / "images").iterdir())[:3]
    done = call("predict", finished, *images, "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["item"] for row in rows] == [str(path) for path in images]
    assert list(rows[0]) == ["item", "predicted", "p_healthy", "p_lesion", "set", "abstain", "unfamiliar"]
    written = call("predict", finished, *images, "--out", tmp_path / "new" / "found.csv", "--quiet")
    assert (written.exit_code, written.stdout) == (0, "")
    assert (tmp_path / "new" / "found.csv").read_text("utf-8") == done.stdout
    lines = [json.loads(line) for line in call("predict", finished, *images, "--json", "--quiet").stdout.splitlines()]
    said = {True: "yes", False: "no"}
    assert [{key: said.get(value, str(value)) for key, value in line.items()} for line in lines] == rows


@pytest.mark.slow
def test_predict_skips_unreadable_images_only_when_told(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    refused = call("predict", finished, tmp_path)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "broken.png" in refused.stderr
    skipped = call("predict", finished, tmp_path, "--skip-unreadable", "--json", "--quiet")
    assert (skipped.exit_code, skipped.stdout) == (0, "")
    assert "left out 1 unreadable images of 1" in skipped.stderr


@pytest.mark.slow
def test_report_is_written_anew_the_same(finished: Path) -> None:
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    done = call("report", finished)
    assert (done.exit_code, done.stdout) == (0, f"{finished / 'report.html'}\n")
    assert (finished / "report.html").read_bytes() == before


def test_report_of_nothing(tmp_path: Path) -> None:
    done = call("report", tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "metrics.json" in done.stderr


def test_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    space = tmp_path / "cache" / "features" / "abc"
    space.mkdir(parents=True)
    (space / "rows.npy").write_bytes(b"x" * 2**20)
    shown = json.loads(call("cache", "--json").stdout)
    assert shown["folder"] == str(tmp_path / "cache")
    assert shown["spaces"] == [{"kind": "features", "name": "abc", "mib": 1.0}]
    assert "features   abc" in call("cache").stdout
    cleared = call("cache", "--clear")
    assert (cleared.exit_code, cleared.stdout.splitlines()[-1]) == (0, "freed 1.0 MiB")
    assert not space.exists()
    assert json.loads(call("cache", "--json").stdout)["spaces"] == []


def test_wrong_cache_limit_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "much")
    done = call("cache")
    assert done.exit_code == 2
    assert "THAWLINE_CACHE_MIB: expected a whole number of MiB, found 'much'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--version"], 0, ""),
        (["run", "nowhere", "--out", "x"], 2, "error: nowhere does not exist"),
        (["demo", "--contrast", "7", "--out", "x"], 2, "error: Phantom option contrast"),
        (["predict", "nowhere", "nothing.png"], 2, "error: nothing.png does not exist"),
    ],
)
def test_exit_codes_of_processes(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thawline.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_whole_run_as_a_process(films: Path, tmp_path: Path) -> None:
    done = start("run", films, "--out", tmp_path / "run", "--head", "linear", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["metrics"]["chosen"]["head"] == "linear"
    assert not re.search("Traceback|Warning", done.stderr)
    found = start("predict", tmp_path / "run", films, "--quiet")
    assert (found.returncode, found.stderr) == (0, "")
    assert len(found.stdout.splitlines()) == 21


@pytest.mark.slow
def test_reader_that_has_seen_enough_ends_the_process_quietly(finished: Path, films: Path) -> None:
    command = [sys.executable, "-m", "thawline.cli", "predict", str(finished), str(films), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(120)
        assert process.stderr is not None
        said = process.stderr.read()
    assert "Traceback" not in said
    assert process.returncode == 0


@pytest.mark.slow
def test_leak_gives_3(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "data", PhantomOptions(n_patients=20, size_px=64, split=True, leak=1))
    done = start("run", tmp_path / "data", "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: the given split leaks" in done.stderr
    assert "Traceback" not in done.stderr
