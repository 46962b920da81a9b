"""A run that was killed goes on from its journal and ends as if nothing had happened."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from thawline.cli import app
from thawline.data.phantoms import PhantomOptions, make_phantoms

pytestmark = [pytest.mark.alone, pytest.mark.slow]
HEADS = ["linear", "svm", "k_nn", "gradient_boosting"]
PATIENCE_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Case:
    """Films that are not square (three aspect rules to compare), a plan of four heads, and a run nobody stopped."""

    data: Path
    plan: Path
    whole: Path

    def command(self, out: Path) -> list[str]:
        options = ["--folds", "2", "--plan", str(self.plan)]
        return [sys.executable, "-m", "thawline.cli", "run", str(self.data), "--out", str(out), *options]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    make_phantoms(folder / "data", PhantomOptions(n_patients=20, size_px=64, views=(1, 1)))
    plan = json.loads(call("run", folder / "data", "--folds", "2", "--plan-only", "--json", "--quiet").stdout)
    next(choice for choice in plan["choices"] if choice["name"] == "heads")["value"] = HEADS
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    case = Case(folder / "data", folder / "plan.json", folder / "whole")
    subprocess.run(case.command(case.whole), check=True, capture_output=True)
    return case


@pytest.fixture
def cold_cache(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the converted network and no features, so that extraction is there to be interrupted."""
    shutil.copytree(Path(os.environ["THAWLINE_CACHE"]) / "engine", tmp_path / "cache" / "engine")
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def call(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.stderr
    return done


def read_lines(run: Path) -> list[dict[str, Any]]:
    """Whole lines of the journal so far."""
    path = run / "journal.jsonl"
    text = path.read_text("utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def stop(command: list[str], run: Path, n_lines: int, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a run and stop it as soon as its journal has ``n_lines`` lines."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(read_lines(run)) < n_lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.003)
        process.send_signal(how)
        said, complained = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def drop_costs(run: Path) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics["ladder"] = [{k: v for k, v in rung.items() if k != "seconds"} for rung in metrics["ladder"]]
    return {key: value for key, value in metrics.items() if key != "cost"}


def check_same(run: Path, whole: Path) -> None:
    """Compare what a resumed run ends with, with a run that was never stopped."""
    names = ("predictions.csv", "plan.json", "splits.csv", "fingerprint.json", "examples.json")
    assert [name for name in names if (run / name).read_bytes() != (whole / name).read_bytes()] == []
    assert drop_costs(run) == drop_costs(whole)
    files = [{path.relative_to(each).as_posix() for path in each.rglob("*") if path.is_file()} for each in (run, whole)]
    assert files[0] == files[1]
    for name in ("model/head.json", "model/weights.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("n_lines", [1, 3, 6, 12, 19])
def test_killed_run_resumes_to_the_same_result(n_lines: int, case: Case, cold_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed = stop(case.command(out), out, n_lines, signal.SIGKILL)
    kept = read_lines(out)
    assert killed.returncode == -signal.SIGKILL
    assert n_lines <= len(kept)
    assert kept[-1]["unit"] != "done"
    done = subprocess.run(case.command(out), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (0, 5), done.stderr
    lines = read_lines(out)
    assert lines[: len(kept)] == kept
    finished = [line["unit"] for line in lines if "fold" in line["unit"]]
    assert len(finished) == len(set(finished))
    check_same(out, case.whole)


def test_killed_several_times_over(case: Case, cold_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for n_lines in (2, 8, 15):
        assert stop(case.command(out), out, n_lines, signal.SIGKILL).returncode == -signal.SIGKILL
    subprocess.run(case.command(out), capture_output=True, check=True)
    check_same(out, case.whole)


@pytest.mark.parametrize("file", ["plan.json", "model/contract.json", "predictions.csv"])
def test_killed_while_files_are_written(file: str, case: Case, tmp_path: Path) -> None:
    """The last lines of the journal and half a file of the end: both are made anew."""
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    units = [json.loads(line)["unit"] for line in lines]
    kept = units.index("final")
    (out / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    (out / file).write_bytes((out / file).read_bytes()[:50])
    for name in ("metrics.json", "report.html"):
        (out / name).unlink()
    subprocess.run(case.command(out), capture_output=True, check=True)
    check_same(out, case.whole)


def test_damaged_result_of_a_unit_is_computed_again(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
    (out / "units" / "rung_0_linear_fold_1.npz").write_bytes(b"half a fi")
    subprocess.run(case.command(out), capture_output=True, check=True)
    check_same(out, case.whole)


def test_interrupted_run_says_how_to_go_on(case: Case, cold_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted = stop(case.command(out), out, 3, signal.SIGINT)
    assert interrupted.returncode == 130
    assert interrupted.stdout == ""
    assert "interrupted: finished work is kept; the same command goes on from there" in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    kept = read_lines(out)
    subprocess.run(case.command(out), capture_output=True, check=True)
    assert read_lines(out)[: len(kept)] == kept
    check_same(out, case.whole)


def test_interrupted_extraction_keeps_the_features_it_has(case: Case, cold_cache: Path, tmp_path: Path) -> None:
    make_phantoms(tmp_path / "data", PhantomOptions(n_patients=300, size_px=64, views=(1, 1), seed=1))
    command = case.command(tmp_path / "run")
    command[4] = str(tmp_path / "data")
    assert stop(command, tmp_path / "run", 1, signal.SIGINT).returncode == 130
    rows = sum(path.stat().st_size for path in (cold_cache / "features").glob("*/*.keys")) // 32
    assert 0 < rows < 300


def test_finished_run_is_returned_as_it_is(case: Case) -> None:
    before = {path: path.stat().st_mtime_ns for path in case.whole.rglob("*")}
    done = subprocess.run(case.command(case.whole), capture_output=True, text=True, check=True)
    assert "holds this run already, finished; --no-resume starts it over" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in case.whole.rglob("*")} == before


def test_no_resume_starts_over(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    (out / "units" / "left over.npz").write_bytes(b"of an earlier run")
    before = read_lines(out)
    subprocess.run([*case.command(out), "--no-resume"], capture_output=True, check=True)
    check_same(out, case.whole)
    assert [line["unit"] for line in read_lines(out)][0] == "read"
    assert read_lines(out) != before  # measured anew


def test_changed_images_are_refused(case: Case, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(case.data, data)
    shutil.copytree(case.whole, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with (data / "manifest.csv").open(newline="") as stream:
        name = next(csv.DictReader(stream))["path"]
    with Image.open(data / name) as image:
        turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned.save(data / name)
    command = dataclasses.replace(case, data=data).command(out)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the images have changed since" in done.stderr
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    subprocess.run([*command, "--no-resume"], capture_output=True, check=True)
    assert (out / "metrics.json").is_file()
