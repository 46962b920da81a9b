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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import thawline
from helpers import COSTS
from thawline.cli import app
from thawline.data.phantoms import PhantomOptions, make_phantoms
from thawline.types import SilentListener

pytestmark = pytest.mark.slow
HEADS = ["linear", "svm", "k_nn", "gradient_boosting"]
FROZEN = ("--folds", "2", "--strategy", "feature_extractor,hybrid", "--nested", "never")  # for children, too
PATIENCE_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Case:
    """Films that are not square (three aspect rules to compare), a plan of four heads, and a run nobody stopped."""

    data: Path
    plan: Path
    whole: Path

    def arguments(self, out: Path) -> list[str]:
        return ["run", str(self.data), "--out", str(out), *FROZEN, "--plan", str(self.plan)]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let children be interrupted although these tests may run in the background, where Ctrl-C is ignored and inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    make_phantoms(folder / "data", PhantomOptions(n_patients=20, size_px=64, views=(1, 1)))
    plan = json.loads(call("run", folder / "data", *FROZEN, "--plan-only", "--json", "--quiet").stdout)
    next(choice for choice in plan["choices"] if choice["name"] == "heads")["value"] = HEADS
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    case = Case(folder / "data", folder / "plan.json", folder / "whole")
    call(*case.arguments(case.whole))
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


def stop(arguments: list[str], run: Path, n_lines: int, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a run in a process of its own and stop it as soon as its journal has ``n_lines`` lines."""
    command = [sys.executable, "-m", "thawline.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(read_lines(run)) < n_lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.003)
        process.send_signal(how)
        said, complained = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def drop_costs(run: Path) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics["ladder"] = [{k: v for k, v in rung.items() if k not in COSTS} for rung in metrics["ladder"]]
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


@pytest.mark.parametrize("n_lines", [1, 3, 6, 19])
def test_killed_run_resumes_to_the_same_result(n_lines: int, case: Case, cold_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed = stop(case.arguments(out), out, n_lines, signal.SIGKILL)
    kept = read_lines(out)
    assert killed.returncode == -signal.SIGKILL
    assert n_lines <= len(kept)
    assert kept[-1]["unit"] != "done"
    assert call(*case.arguments(out)).stdout.count("\n") == 5
    lines = read_lines(out)
    assert lines[: len(kept)] == kept
    finished = [line["unit"] for line in lines if "fold" in line["unit"]]
    assert len(finished) == len(set(finished))
    check_same(out, case.whole)


def test_killed_several_times_over(case: Case, cold_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for n_lines in (2, 14):
        assert stop(case.arguments(out), out, n_lines, signal.SIGKILL).returncode == -signal.SIGKILL
    call(*case.arguments(out))
    check_same(out, case.whole)


@pytest.mark.parametrize("file", ["plan.json", "model/contract.json", "predictions.csv"])
def test_killed_while_files_are_written(file: str, case: Case, tmp_path: Path) -> None:
    """A line of the journal that was cut, and half a file of the end: both are made anew."""
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = [json.loads(line)["unit"] for line in lines].index("final")
    (out / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    (out / file).write_bytes((out / file).read_bytes()[:50])
    for name in ("metrics.json", "report.html"):
        (out / name).unlink()
    call(*case.arguments(out))
    check_same(out, case.whole)


def test_damaged_result_of_a_unit_is_computed_again(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
    (out / "units" / "rung_0_linear_fold_1.npz").write_bytes(b"half a fi")
    call(*case.arguments(out))
    check_same(out, case.whole)


def test_interrupted_run_says_how_to_go_on(case: Case, cold_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted = stop(case.arguments(out), out, 3, signal.SIGINT)
    assert interrupted.returncode == 130
    assert interrupted.stdout == ""
    assert "interrupted: finished work is kept; the same command goes on from there" in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    kept = read_lines(out)
    call(*case.arguments(out))
    assert read_lines(out)[: len(kept)] == kept
    check_same(out, case.whole)


def test_interrupted_extraction_keeps_the_features_it_has(case: Case, cold_cache: Path, tmp_path: Path) -> None:
    class Impatient(SilentListener):
        """Interrupts, as Ctrl-C does, once eight items are extracted."""

        step = ""

        def begin(self, step: str, total: int | None = None) -> None:
            self.step = step

        def advance(self, units: int = 1) -> None:
            if self.step.startswith("features"):
                raise KeyboardInterrupt

    options = {"folds": 2, "strategy": "feature_extractor,hybrid", "audit": "full", "nested": "never"}
    with pytest.raises(KeyboardInterrupt):
        thawline.run(case.data, tmp_path / "run", plan=case.plan, listener=Impatient(), **options)
    assert sum(path.stat().st_size for path in (cold_cache / "features").glob("*/*.keys")) == 8 * 32
    steps = call(*case.arguments(tmp_path / "run")).stderr
    assert "8 computed, 8 from the cache" in steps
    check_same(tmp_path / "run", case.whole)


def test_finished_run_is_returned_as_it_is(case: Case) -> None:
    before = {path: path.stat().st_mtime_ns for path in case.whole.rglob("*")}
    done = call(*case.arguments(case.whole))
    assert "holds this run already, finished; --no-resume starts it over" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in case.whole.rglob("*")} == before


def test_no_resume_starts_over(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    (out / "units" / "left over.npz").write_bytes(b"of an earlier run")
    before = read_lines(out)
    call(*case.arguments(out), "--no-resume")
    check_same(out, case.whole)
    assert read_lines(out)[0]["unit"] == "read"
    assert read_lines(out) != before  # measured anew


def test_a_run_begun_with_another_plan_is_not_mixed_with_this_one(case: Case, tmp_path: Path) -> None:
    """As where it was begun on a machine that has bf16, or by a version that plans otherwise."""
    out = tmp_path / "run"
    shutil.copytree(case.whole, out)
    lines = read_lines(out)
    (planned,) = [line for line in lines if line["unit"] == "plan"]
    planned["value"]["precision"], planned["value"]["views"] = "f16", 9
    kept = [line for line in lines if line["unit"] != "done"]
    (out / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in kept), "utf-8")
    refused = CliRunner().invoke(app, case.arguments(out))
    assert refused.exit_code == 2
    assert "plans otherwise than" in refused.stderr
    assert "(views, precision)" in refused.stderr or "(precision, views)" in refused.stderr
    call(*case.arguments(out), "--no-resume")


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
    arguments = dataclasses.replace(case, data=data).arguments(out)
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "the images have changed since" in refused.stderr
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    call(*arguments, "--no-resume")
    assert (out / "metrics.json").is_file()
