"""The main job from end to end, on phantoms: what it writes, what it decides, and what it never lets through."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

import thawline
from helpers import COSTS, Notes, make_films, read_rows, write_rows
from thawline import delivery, job, state
from thawline.errors import DataError, LeakError, OptionError
from thawline.learn.engine import detect_hardware
from thawline.learn.weights import find_weights
from thawline.ledger import ledger_path
from thawline.options import RunOptions
from thawline.share import bundle
from thawline.types import Hardware

pytestmark = pytest.mark.slow

FILES = {
    "spec.json",
    "fingerprint.json",
    "audit.json",
    "plan.json",
    "splits.csv",
    "journal.jsonl",
    "predictions.csv",
    "metrics.json",
    "examples.json",
    "report.html",
    "model/familiarity.safetensors",
    "model/weights.safetensors",
    "model/head.safetensors",
    "model/head.json",
    "model/contract.json",
    "model/card.md",
}
METRICS = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")
FROZEN = "feature_extractor,feature_extractor_hybrid"
TELLING = ("MUSTERMANN", "ERIKA", "19631123")
Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Finished:
    data: Path
    run: Path
    result: thawline.RunResult
    warnings: list[str]


def run_job(data: Path, out: Path, **options: Any) -> thawline.RunResult:
    given = {"head": "linear", "audit": "leaks", "precision": "f32", **options}  # which leaves none to be measured
    return thawline.run(data, out, listener=given.pop("listener", Notes()), **given)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def list_units(run: Path) -> list[str]:
    return [json.loads(line)["unit"] for line in (run / "journal.jsonl").read_text("utf-8").splitlines()]


def take_values(run: Path) -> dict[str, Any]:
    return {choice["name"]: choice["value"] for choice in read_json(run / "plan.json")["choices"]}


def find_choice(run: Path, name: str) -> dict[str, Any]:
    return next(choice for choice in read_json(run / "plan.json")["choices"] if choice["name"] == name)


def drop_costs(metrics: dict[str, Any]) -> dict[str, Any]:
    ladder = [{key: value for key, value in rung.items() if key not in COSTS} for rung in metrics["ladder"]]
    return {**{key: value for key, value in metrics.items() if key != "cost"}, "ladder": ladder}


def watch_extraction(patch: pytest.MonkeyPatch, films: Path, note: Callable[[list[str]], object]) -> None:
    """Call ``note`` with the names of all films whose features are extracted, by the run or by its model."""
    real = state.extract

    def watch(contents: Sequence[Any], *rest: Any) -> Any:
        note([each.relative_to(films).as_posix() for each in contents if isinstance(each, Path)])
        return real(contents, *rest)

    patch.setattr(state, "extract", watch)
    patch.setattr(bundle, "extract", watch)


def take_part(rows: Sequence[Row], split: str, name: str) -> tuple[Any, Any]:
    """Labels (1 for the class ``name``) and its probabilities."""
    part = [row for row in rows if row["split"] == split]
    return np.array([row["label"] == name for row in part]), np.array([float(row[f"p_{name}"]) for row in part])


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of each test's own, so that counts do not depend on the order of tests."""
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    return ledger_path()


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One finished run on films whose names and patients would give people away."""
    folder = tmp_path_factory.mktemp("main")
    data = make_films(folder / "data", side=None)
    rows = read_rows(data / "manifest.csv")
    for row in rows:
        name = row["path"].replace("images/p", "images/MUSTERMANN_19631123_")
        (data / row["path"]).rename(data / name)
        row["path"], row["patient"] = name, f"MUSTERMANN^ERIKA^{row['patient']}"
    write_rows(data / "manifest.csv", rows)
    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        patch.setattr("thawline.inference.SLOW_S", 2.0)  # as in use
        yield Finished(
            data, folder / "run", run_job(data, folder / "run", listener=notes, audit="full"), notes.warnings
        )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("films") / "data")


@pytest.fixture(scope="module")
def split_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("split") / "data", n_patients=36, split=True)


# What a run writes


def test_run_folder_holds_exactly_what_the_contract_names(main: Finished) -> None:
    found = {path.relative_to(main.run).as_posix() for path in main.run.rglob("*") if path.is_file()}
    own = {name for name in found if not name.startswith(("units/", "examples/"))}
    assert own == FILES
    shown = [
        item for each in read_json(main.run / "audit.json")["findings"] for group in each["shown"] for item in group
    ]
    pictures = {row["image"] for row in [*read_json(main.run / "examples.json"), *shown]}
    assert {name for name in found if name.startswith("examples/")} == pictures
    lines = [json.loads(line) for line in (main.run / "journal.jsonl").read_text("utf-8").splitlines()]
    assert {name for name in found if name.startswith("units/")} == {
        line["arrays"]["file"] for line in lines if "arrays" in line
    }


def test_metrics_have_the_shape_of_the_contract(main: Finished) -> None:
    metrics = read_json(main.run / "metrics.json")
    assert metrics == main.result.metrics
    assert metrics["schema"] == 1
    assert metrics["task"] == {
        "kind": "binary",
        "classes": ["healthy", "lesion"],
        "positive": "lesion",
        "threshold": 0.5,
    }
    assert metrics["chosen"] == {
        "backbone": "efficientnet_lite0",
        "strategy": "feature_extractor",
        "thaw_line": None,
        "thawed_fraction": 0.0,
        "head": "linear",
        "n_networks": None,
    }
    for part in ("test", "validation"):
        for name in METRICS:
            assert set(metrics[part][name]) == {"value", "low", "high", "level", "method"}
            assert metrics[part][name]["low"] <= metrics[part][name]["value"] <= metrics[part][name]["high"]
        assert set(metrics[part]["per_class"]) == {"healthy", "lesion"}
    assert [rung["chosen"] for rung in metrics["ladder"]] == [True]
    assert {"rung", "strategy", "thaw_line", "auc", "seconds"} <= set(metrics["ladder"][0])
    seconds = metrics["cost"]["seconds"]
    assert {"read", "features", "heads", "training", "total"} <= set(seconds)
    assert seconds["total"] == pytest.approx(sum(value for name, value in seconds.items() if name != "total"), abs=0.01)
    assert metrics["cost"]["peak_rss_mib"] > 0
    (rung,) = metrics["ladder"]
    assert 0 < rung["cpu_seconds"] < metrics["cost"]["cpu_seconds"]["total"]
    assert 0 < rung["energy_wh"] < metrics["cost"]["energy_wh"]
    assert rung["peak_rss_mib"] is None or 0 < rung["peak_rss_mib"] <= metrics["cost"]["peak_rss_mib"]


def test_predicting_is_timed_by_development_items_that_are_all_computed(main: Finished) -> None:
    found = read_json(main.run / "metrics.json")["cost"]["inference"]
    assert (found["measured_on"], found["per_items"]) == ("development", 1000)
    assert min(found[key] for key in ("seconds", "cpu_seconds", "energy_wh", "start_seconds")) > 0
    passes = [unit for unit in list_units(main.run) if unit.startswith("inference of ")]
    assert passes[-1] == f"inference of {found['n_items']} items"
    assert len(passes) > 1
    files = [path for path in (main.run / "model").iterdir() if path.name != "card.md"]
    assert found["model_mib"] == pytest.approx(sum(path.stat().st_size for path in files) / 2**20, abs=0.006)
    assert f"Predicting 1 000 items takes {found['seconds']:.1f} s" in (main.run / "model" / "card.md").read_text(
        "utf-8"
    )


def test_predictions_hold_every_item_once_with_probabilities_that_sum_to_one(main: Finished) -> None:
    rows = read_rows(main.run / "predictions.csv")
    given = {row["path"]: row for row in read_rows(main.data / "manifest.csv")}
    assert list(rows[0]) == ["item", "patient", "split", "label", "fold", "p_healthy", "p_lesion"]
    assert sorted(row["item"] for row in rows) == sorted(given)
    assert all(
        row["label"] == given[row["item"]]["label"] and row["patient"] == given[row["item"]]["patient"] for row in rows
    )
    assert all(abs(float(row["p_healthy"]) + float(row["p_lesion"]) - 1) < 1e-8 for row in rows)
    assert {row["fold"] for row in rows if row["split"] == "test"} == {""}
    assert {row["fold"] for row in rows if row["split"] == "development"} == set("01234")


def test_no_patient_crosses_a_split_or_a_fold(main: Finished) -> None:
    parts: dict[str, set[tuple[str, str]]] = {}
    for row in read_rows(main.run / "predictions.csv"):
        parts.setdefault(row["patient"], set()).add((row["split"], row["fold"]))
    assert all(len(found) == 1 for found in parts.values())
    kept = [{key: row[key] for key in ("item", "split", "fold")} for row in read_rows(main.run / "predictions.csv")]
    assert kept == [{key: row[key] for key in ("item", "split", "fold")} for row in read_rows(main.run / "splits.csv")]


def test_test_metrics_are_those_scikit_learn_finds_in_the_predictions(main: Finished) -> None:
    truth, score = take_part(read_rows(main.run / "predictions.csv"), "test", "lesion")
    section = main.result.metrics["test"]
    assert section["n_items"] == len(truth)
    assert section["auc"]["value"] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert section["accuracy"]["value"] == pytest.approx(accuracy_score(truth, score >= 0.5), abs=1e-12)
    assert section["brier"]["value"] == pytest.approx(brier_score_loss(truth, score), abs=1e-7)
    assert section["log_loss"]["value"] == pytest.approx(log_loss(truth, score), abs=1e-6)


def test_validation_auc_lies_within_those_of_its_folds_and_accuracy_is_pooled(main: Finished) -> None:
    rows = [row for row in read_rows(main.run / "predictions.csv") if row["split"] == "development"]
    truth, score = take_part(rows, "development", "lesion")
    folds = np.array([row["fold"] for row in rows])
    each = [roc_auc_score(truth[folds == fold], score[folds == fold]) for fold in "01234"]
    section = main.result.metrics["validation"]
    assert min(each) <= section["auc"]["value"] <= max(each)
    assert section["accuracy"]["value"] == pytest.approx(accuracy_score(truth, score >= 0.5), abs=1e-12)


def test_nothing_but_the_private_tables_names_a_patient_a_file_or_a_path(main: Finished) -> None:
    private = {"predictions.csv", "splits.csv"}
    looked_at = [path for path in main.run.rglob("*") if path.is_file() and path.name not in private]
    looked_at += [path for path in Path(os.environ["THAWLINE_CACHE"]).rglob("*") if path.is_file()]
    looked_at.append(main.run.parent / "ledger" / "test_openings.jsonl")
    words = [word.encode() for word in (*TELLING, str(main.data), str(main.run), str(Path.home() / "x")[:-2] + os.sep)]
    telling = {path.name: word for path in looked_at for word in words if word in path.read_bytes()}
    assert telling == {}
    assert all(word.encode() in (main.run / "predictions.csv").read_bytes() for word in TELLING)  # the search finds


def test_audit_states_how_often_the_test_part_was_opened(main: Finished) -> None:
    assert read_json(main.run / "audit.json")["test_openings"] == {"count": 1, "plans": 1}
    line = json.loads((main.run.parent / "ledger" / "test_openings.jsonl").read_text("utf-8"))
    assert line["plan"] == read_json(main.run / "plan.json")["digest"]
    assert "opened 1 time by 1 plan" in (main.run / "report.html").read_text("utf-8").replace("\u202f", " ")


def test_a_finished_run_is_returned_untouched(main: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest_files() -> dict[str, str]:
        files = [path for path in main.run.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before, notes = digest_files(), Notes()
    monkeypatch.setattr(state, "extract", None)  # nothing is computed again
    again = run_job(main.data, main.run, listener=notes, audit="full")
    assert again.metrics == main.result.metrics
    assert digest_files() == before
    assert "finished" in notes.warnings[-1]


def test_result_opens_its_model_and_its_report(main: Finished) -> None:
    assert main.result.load_model().classes == ("healthy", "lesion")
    assert main.result.report.read_text("utf-8").startswith("<!doctype html>")
    assert main.warnings == []


def test_spec_names_versions_and_weights_but_no_path(main: Finished) -> None:
    spec = read_json(main.run / "spec.json")
    assert spec["environment"]["packages"]["torch"]
    assert re.fullmatch("[0-9a-f]{64}", spec["weights"]["sha256"])
    assert str(main.data) not in json.dumps(spec)


def test_spec_leaves_out_what_is_not_installed(main: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "find_version", lambda name: None if name == "openvino" else "1.0")
    about = thawline.load_dataset(main.data), RunOptions(), [find_weights("efficientnet_lite0")]
    packages = job.make_spec(*about, detect_hardware("cpu"), None)["environment"]["packages"]
    assert packages == dict.fromkeys(set(job.PACKAGES) - {"openvino"}, "1.0")


# What it decides


def test_plan_only_writes_nothing_and_leaves_open_what_is_to_be_measured(main: Finished, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    plan = thawline.plan_only(main.data, RunOptions(), listener=Notes())
    assert sorted(tmp_path.rglob("*")) == before
    assert plan["aspect"] is None
    assert plan["rung"] is None
    assert plan["lines"][0] == "conv_head"
    assert plan.find("aspect").candidates == ("squash", "letterbox", "crop")
    assert plan["positive"] == "lesion"


def test_plan_is_settled_with_its_evidence(main: Finished) -> None:
    aspect = find_choice(main.run, "aspect")
    assert [row["candidate"] for row in aspect["evidence"]] == aspect["candidates"] == ["squash", "letterbox", "crop"]
    assert aspect["value"] in aspect["candidates"]
    losses = {row["candidate"]: row["log_loss"] for row in aspect["evidence"]}
    chosen = next(row for row in aspect["evidence"] if row["candidate"] == aspect["value"])
    assert chosen["difference"] == pytest.approx(losses[aspect["value"]] - min(losses.values()), abs=1e-12)
    assert chosen["difference"] <= (chosen["standard_error"] or 0)
    assert all(choice["reason"] and choice["kind"] for choice in read_json(main.run / "plan.json")["choices"])


@pytest.mark.slow
def test_same_seed_gives_the_same_run_and_another_seed_another_split(films: Path, tmp_path: Path) -> None:
    first, second = (run_job(films, tmp_path / name) for name in ("first", "second"))
    assert (first.folder / "predictions.csv").read_bytes() == (second.folder / "predictions.csv").read_bytes()
    assert (first.folder / "plan.json").read_bytes() == (second.folder / "plan.json").read_bytes()
    assert drop_costs(first.metrics) == drop_costs(second.metrics)
    other = run_job(films, tmp_path / "other", seed=1)
    parts = [[row["split"] for row in read_rows(each.folder / "splits.csv")] for each in (first, other)]
    assert parts[0] != parts[1]


@pytest.mark.slow
def test_test_part_influences_nothing_that_is_decided(split_films: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "data"
    (spoilt / "images").mkdir(parents=True)
    rows, noise = read_rows(split_films / "manifest.csv"), np.random.Generator(np.random.PCG64(0))
    for row in rows:
        if row["split"] == "test":
            row["label"] = {"lesion": "healthy", "healthy": "lesion"}[row["label"]]
            Image.fromarray(noise.integers(0, 256, (58, 58), np.uint8)).save(spoilt / row["path"])
        else:
            (spoilt / row["path"]).write_bytes((split_films / row["path"]).read_bytes())
    write_rows(spoilt / "manifest.csv", rows)
    results = [run_job(data, tmp_path / name) for name, data in (("whole", split_films), ("spoilt", spoilt))]
    whole, other = (each.folder for each in results)
    assert take_values(whole) == take_values(other)
    assert results[0].metrics["validation"] == results[1].metrics["validation"]
    assert drop_costs(results[0].metrics)["ladder"] == drop_costs(results[1].metrics)["ladder"]
    assert (whole / "model/head.safetensors").read_bytes() == (other / "model/head.safetensors").read_bytes()
    kept = [
        [row for row in read_rows(run / "predictions.csv") if row["split"] == "development"] for run in (whole, other)
    ]
    assert kept[0] == kept[1]
    assert results[0].metrics["test"] != results[1].metrics["test"]


@pytest.mark.slow
def test_plan_is_written_before_the_test_part_is_opened(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    out, real_record = tmp_path / "run", delivery.record_opening
    watch_extraction(monkeypatch, films, lambda names: seen.extend((n, (out / "plan.json").is_file()) for n in names))

    def watch_record(test_digest: str, plan_digest: str) -> Any:
        assert read_json(out / "plan.json")["digest"] == plan_digest
        return real_record(test_digest, plan_digest)

    monkeypatch.setattr(delivery, "record_opening", watch_record)
    run_job(films, out)
    test = {row["item"] for row in read_rows(out / "splits.csv") if row["split"] == "test"}
    assert {name for name, _ in seen} > test
    assert all(plan_written for name, plan_written in seen if name in test)
    assert not all(plan_written for _, plan_written in seen)
    units = list_units(out)
    assert units.index("final") < units.index("test") < units.index("done")
    assert not any(unit.startswith(("rung", "aspect")) for unit in units[units.index("final") :])


@pytest.mark.slow
def test_held_test_part_stays_closed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Path
) -> None:
    extracted: set[str] = set()
    watch_extraction(monkeypatch, films, extracted.update)
    result = run_job(films, tmp_path / "run", hold_test=True)
    rows = read_rows(tmp_path / "run" / "splits.csv")
    assert extracted == {row["item"] for row in rows if row["split"] == "development"}
    assert result.metrics["test"] is None
    assert {row["split"] for row in read_rows(tmp_path / "run" / "predictions.csv")} == {"development"}
    assert read_json(tmp_path / "run" / "audit.json")["test_openings"] is None
    assert not ledger.exists()
    assert "test part was kept closed" in (tmp_path / "run" / "model" / "card.md").read_text("utf-8")


@pytest.mark.slow
def test_openings_add_up_over_runs_and_plans(films: Path, tmp_path: Path) -> None:
    for count, (options, plans) in enumerate([({}, 1), ({}, 1), ({"class_weight": "balanced"}, 2)], 1):
        run_job(films, tmp_path / f"run{count}", **options)
        assert read_json(tmp_path / f"run{count}" / "audit.json")["test_openings"] == {"count": count, "plans": plans}
    assert "opened 3 times by 2 plans" in (tmp_path / "run3/report.html").read_text("utf-8").replace("\u202f", " ")


@pytest.mark.slow
def test_ledger_that_cannot_be_written_is_said_and_does_not_stop_the_run(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "file" / "folder"))
    notes = Notes()
    run_job(films, tmp_path / "run", listener=notes)
    assert any("THAWLINE_DATA" in warning for warning in notes.warnings)
    assert read_json(tmp_path / "run" / "audit.json")["test_openings"] is None


# Options


@pytest.mark.slow
def test_given_validation_part_is_the_one_scored_fold(split_films: Path, tmp_path: Path) -> None:
    result = run_job(split_films, tmp_path / "run", validation="given")
    given = read_rows(split_films / "manifest.csv")
    rows = read_rows(tmp_path / "run" / "predictions.csv")
    scored = {row["item"] for row in rows if row["split"] == "development"}
    assert scored == {row["path"] for row in given if row["split"] == "val"}
    assert {row["item"] for row in rows if row["split"] == "test"} == {
        row["path"] for row in given if row["split"] == "test"
    }
    truth, score = take_part(rows, "development", "lesion")
    assert result.metrics["validation"]["auc"]["value"] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


def test_given_validation_needs_a_given_split(films: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--validation given: expected a split column"):
        run_job(films, tmp_path / "run", validation="given")


@pytest.mark.slow
def test_positive_class_as_given(films: Path, tmp_path: Path) -> None:
    result = run_job(films, tmp_path / "run", positive="healthy")
    truth, score = take_part(read_rows(tmp_path / "run" / "predictions.csv"), "test", "healthy")
    assert result.metrics["task"]["positive"] == "healthy"
    assert result.metrics["test"]["sensitivity"]["value"] == pytest.approx(float((score >= 0.5)[truth].mean()))
    assert find_choice(tmp_path / "run", "positive")["kind"] == "given"


def test_positive_class_that_is_none(films: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--positive: expected one of healthy, lesion; found 'cancer'"):
        run_job(films, tmp_path / "run", positive="cancer")


@pytest.mark.slow
def test_balanced_weights_move_the_fit_but_not_the_prevalence(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=40, prevalence=0.25, contrast=0.0)
    means = []
    for weight in ("none", "balanced"):
        result = run_job(data, tmp_path / weight, class_weight=weight)
        _, score = take_part(read_rows(result.folder / "predictions.csv"), "development", "lesion")
        means.append(float(score.mean()))
    assert find_choice(tmp_path / "balanced", "class_weight")["kind"] == "given"
    assert means[0] != means[1]
    assert means == pytest.approx([0.25, 0.25], abs=0.12)  # weights alone would bring them near 0.5


@pytest.mark.slow
def test_films_of_16_bits(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", bits=16)
    result = run_job(data, tmp_path / "run")
    assert take_values(result.folder)["wide_range"] == [0.0, 4095.0]
    rows = [row for row in read_rows(result.folder / "predictions.csv") if row["split"] == "test"]
    found = result.load_model().predict_proba([data / row["item"] for row in rows])
    assert found[:, 1] == pytest.approx([float(row["p_lesion"]) for row in rows], abs=1e-4)


@pytest.mark.slow
def test_several_classes(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = read_rows(films / "manifest.csv")
    for row in rows:
        row["label"] = ("ten", "9", "Ärger, groß")[int(row["patient"][1:]) % 3]
        (data / row["path"]).write_bytes((films / row["path"]).read_bytes())
    write_rows(data / "manifest.csv", rows)
    result = run_job(data, tmp_path / "run")
    classes = ["9", "ten", "Ärger, groß"]
    assert result.metrics["task"] == {"kind": "multiclass", "classes": classes, "positive": None, "threshold": 0.5}
    test = [row for row in read_rows(tmp_path / "run" / "predictions.csv") if row["split"] == "test"]
    table = np.array([[float(row[f"p_{name}"]) for name in classes] for row in test])
    truth = np.array([classes.index(row["label"]) for row in test])
    expected = np.mean([roc_auc_score(truth == k, table[:, k]) for k in range(3)])
    assert table.sum(axis=1) == pytest.approx(np.ones(len(table)), abs=1e-8)
    assert result.metrics["test"]["auc"]["value"] == pytest.approx(expected, abs=1e-12)
    assert result.metrics["test"]["accuracy"]["value"] == pytest.approx((table.argmax(axis=1) == truth).mean())
    monkeypatch.setattr(job, "scan", lambda *_: pytest.fail("an image was read"))
    for wish in ({"threshold": "sensitivity:0.9"}, {"threshold": "0.3"}, {"prevalence": 0.05}, {"positive": "9"}):
        with pytest.raises(OptionError, match=f"--{next(iter(wish))} .*: belongs to a task of two classes, found 3"):
            run_job(data, tmp_path / "other", **wish)
    for wish in ({"validation": "site:hospital"}, {"test": "time:year"}, {"validation": "given"}, {"positive": "none"}):
        with pytest.raises(OptionError, match=f"--{next(iter(wish))}"):
            run_job(data, tmp_path / "other", **wish)


@pytest.mark.slow
def test_grades_in_their_order(films: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows, grades = read_rows(films / "manifest.csv"), ("none", "mild", "grave")
    for row in rows:
        row["label"] = grades[int(row["patient"][1:]) % 3]
        (data / row["path"]).write_bytes((films / row["path"]).read_bytes())
    write_rows(data / "manifest.csv", rows)
    result = run_job(data, tmp_path / "run", grades="none, mild,grave")
    assert result.metrics["task"]["kind"] == "ordinal"
    assert result.metrics["task"]["classes"] == list(grades)
    test = [row for row in read_rows(tmp_path / "run" / "predictions.csv") if row["split"] == "test"]
    called = [grades[int(np.argmax([float(row[f"p_{name}"]) for name in grades]))] for row in test]
    apart = [abs(grades.index(row["label"]) - grades.index(call)) for row, call in zip(test, called, strict=True)]
    assert result.metrics["test"]["grade_error"]["value"] == pytest.approx(np.mean(apart))
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Weighted kappa" in page
    assert result.load_model().classes == grades
    for wrong in ("none,mild", "none,mild,worse"):
        with pytest.raises(DataError, match="--grades: expected each of three classes"):
            run_job(data, tmp_path / "other", grades=wrong)


@pytest.mark.slow
def test_edited_plan_is_followed_and_marked_as_given(main: Finished, tmp_path: Path) -> None:
    plan = thawline.plan_only(main.data, RunOptions(strategy=FROZEN), listener=Notes()).to_json()
    edits = {"aspect": "crop", "precision": "f32", "heads": ["linear", "k_nn"], "threshold": 0.4}
    for choice in plan["choices"]:
        choice["value"] = edits.get(choice["name"], choice["value"])
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan), "utf-8")
    result = run_job(main.data, tmp_path / "run", plan=file, head=None, strategy=FROZEN)
    values = take_values(result.folder)
    assert {name: values[name] for name in edits} == edits
    changed = {"aspect", "heads", "threshold"}  # precision is f32 anyway
    assert {name for name in changed if find_choice(result.folder, name)["kind"] == "given"} == changed
    assert [rung["head"] for rung in result.metrics["ladder"]] == ["linear", "k_nn"]
    model = result.load_model()
    assert (model.contract.aspect, model.threshold) == ("crop", 0.4)
    units = list_units(result.folder)
    assert not any(unit.startswith("aspect") for unit in units)
    rung = find_choice(result.folder, "rung")
    assert rung["kind"] == "empirical"
    assert rung["value"] == result.metrics["chosen"]["head"]
    losses = [rung["log_loss"] for rung in result.metrics["ladder"]]
    chosen = next(rung for rung in result.metrics["ladder"] if rung["chosen"])
    assert chosen["difference"] == pytest.approx(chosen["log_loss"] - min(losses), abs=1e-12)


@pytest.mark.slow
def test_plan_of_a_finished_run_can_be_given_to_the_next(main: Finished, tmp_path: Path) -> None:
    again = run_job(main.data, tmp_path / "run", plan=main.run / "plan.json")
    assert again.metrics["test"]["auc"] == main.result.metrics["test"]["auc"]
    assert find_choice(again.folder, "rung")["kind"] == "given"


@pytest.mark.slow
def test_spent_budget_stops_after_the_first_rung_and_says_so(films: Path, tmp_path: Path) -> None:
    result = run_job(films, tmp_path / "run", head=None, budget="0.01s")
    assert [rung["head"] for rung in result.metrics["ladder"]] == ["linear"]
    lines = [json.loads(line) for line in (tmp_path / "run/journal.jsonl").read_text("utf-8").splitlines()]
    stop = next(line for line in lines if line["unit"] == "stop before svm")
    assert stop["value"]["reason"] == "budget"
    assert stop["value"]["budget_s"] == 0.01
    assert stop["value"]["spent_s"] > 0.01
    assert result.metrics["stops"][0] == stop["value"]
    assert [each["before"] for each in result.metrics["stops"][-2:]] == ["handcrafted", "fine_tuning conv_head"]
    assert "the ladder ended before svm: budget" in find_choice(tmp_path / "run", "rung")["reason"]


@pytest.mark.slow
def test_one_strategy_tries_its_own_heads_only(films: Path, tmp_path: Path) -> None:
    result = run_job(films, tmp_path / "run", head=None, strategy="frozen")
    assert [(rung["strategy"], rung["head"]) for rung in result.metrics["ladder"]] == [("feature_extractor", "linear")]
    assert read_json(tmp_path / "run" / "spec.json")["options"]["strategy"] == "feature_extractor"


# What it refuses, and what it finds


def test_leaking_patients_are_refused_by_name(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=30, split=True, leak=2, duplicates=1)
    with pytest.raises(LeakError) as caught:
        run_job(data, tmp_path / "run")
    rows = read_rows(data / "manifest.csv")
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["patient"], set()).add(row["split"])
    crossing = [patient for patient, found in parts.items() if len(found) > 1]
    assert len(crossing) == 2
    for row in rows:
        if row["patient"] in crossing:
            assert f"{row['path']} ({row['split']})" in str(caught.value)
    assert "2 patients and 1 sets of identical images" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_allowed_leak_is_in_audit_and_report(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=30, split=True, leak=2)
    run_job(data, tmp_path / "run", allow_leak=True)
    audit = read_json(tmp_path / "run" / "audit.json")
    assert [leak["kind"] for leak in audit["across_split"]] == ["patient", "patient"]
    assert audit["overrides"] == ["--allow-leak"]
    rows = read_rows(tmp_path / "run" / "splits.csv")
    named = {rows[number]["patient"] for leak in audit["across_split"] for number in leak["items"]}
    assert len(named) == 2
    first = audit["findings"][0]
    assert (first["name"], first["severity"]) == ("patients across splits", "fatal")
    assert first["groups"] == [leak["items"] for leak in audit["across_split"]]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "--allow-leak: " in page
    assert "on both sides of the split" in page
    assert all(f'alt="Item {item["item"]}: ' in page for group in first["shown"] for item in group)


@pytest.mark.slow
def test_planted_copies_are_listed_and_kept_together(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=30, duplicates=3, contradicting=2)
    notes = Notes()
    run_job(data, tmp_path / "run", listener=notes)
    audit, rows = read_json(tmp_path / "run" / "audit.json"), read_rows(tmp_path / "run" / "splits.csv")
    assert len(audit["identical"]) == 5
    assert len(audit["contradicting"]) == 2
    for group in audit["contradicting"]:
        assert {rows[number]["split"] for number in group} == {"left_out"}
        assert len({rows[number]["label"] for number in group}) == 2
    for group in audit["identical"]:
        assert len({(rows[number]["split"], rows[number]["fold"]) for number in group}) == 1
    assert {entry["item"] for entry in audit["left_out"]} == {n for group in audit["contradicting"] for n in group}
    assert any("2 sets of identical images with different labels" in warning for warning in notes.warnings)
    assert any("3 sets of identical images; each stays together" in warning for warning in notes.warnings)
    pixels = [[Image.open(data / rows[number]["item"]).tobytes() for number in group] for group in audit["identical"]]
    assert all(len(set(group)) == 1 for group in pixels)
    for name in ("identical images with different labels", "identical images"):
        (finding,) = [each for each in audit["findings"] if each["name"] == name]
        assert all((tmp_path / "run" / item["image"]).is_file() for group in finding["shown"] for item in group)
        assert name.capitalize() in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_labels_of_a_closed_test_part_are_held_back_where_they_contradict_as_well(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=36, split=True)
    rows = read_rows(data / "manifest.csv")
    tested = next(row for row in rows if row["split"] == "test")
    shutil.copy(data / tested["path"], data / "images" / "again.png")
    other = "lesion" if tested["label"] == "healthy" else "healthy"
    write_rows(data / "manifest.csv", [*rows, {**tested, "path": "images/again.png", "label": other}])
    run_job(data, tmp_path / "run", hold_test=True)
    audit = read_json(tmp_path / "run" / "audit.json")
    (finding,) = [each for each in audit["findings"] if each["name"] == "identical images with different labels"]
    assert [item["label"] for item in finding["shown"][0]] == ["held back", "held back"]


@pytest.mark.slow
def test_near_duplicates_stay_together_where_no_patient_is_named(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", side=None, views=(1, 1), size_px=128)
    rows = read_rows(data / "manifest.csv")
    for number, row in enumerate(rows[:8]):
        with Image.open(data / row["path"]) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data / "images" / f"mirrored {number}.png")
    planted = [{"path": f"images/mirrored {number}.png", "label": row["label"]} for number, row in enumerate(rows[:8])]
    write_rows(data / "manifest.csv", [*({"path": row["path"], "label": row["label"]} for row in rows), *planted])
    pairs = {(row["path"], new["path"]) for row, new in zip(rows, planted, strict=False)}

    run_job(data, tmp_path / "run")
    place = {row["item"]: (row["split"], row["fold"]) for row in read_rows(tmp_path / "run" / "splits.csv")}
    assert all(place[first] == place[second] for first, second in pairs)
    audit = read_json(tmp_path / "run" / "audit.json")
    (finding,) = [each for each in audit["findings"] if each["name"].startswith("near")]
    assert (finding["name"], len(finding["groups"]), len(finding["shown"])) == ("near-duplicates", 8, 3)
    assert all((tmp_path / "run" / item["image"]).is_file() for group in finding["shown"] for item in group)
    assert read_json(tmp_path / "run" / "fingerprint.json")["n_patients"] == 24
    assert "near-duplicates as one" in (tmp_path / "run" / "report.html").read_text("utf-8")

    plan = thawline.plan_only(data, RunOptions(head="linear", audit="none"))
    (reason,) = [choice.reason for choice in plan.choices if choice.name == "split"]
    assert "near-duplicates" not in reason


def test_labels_without_meaning_give_an_auc_near_one_half(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=60, views=(1, 1))
    rows, found = read_rows(data / "manifest.csv"), []
    for seed in range(3):
        labels = np.random.Generator(np.random.PCG64(seed)).permutation([row["label"] for row in rows])
        manifest = tmp_path / "data" / f"shuffled{seed}.csv"
        write_rows(manifest, [{**row, "label": str(label)} for row, label in zip(rows, labels, strict=True)])
        found.append(run_job(manifest, tmp_path / f"run{seed}").metrics["validation"]["auc"]["value"])
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)  # three standard errors


@pytest.mark.slow
def test_patients_left_blank_count_as_their_own_and_are_counted(films: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = read_rows(films / "manifest.csv")
    for row in rows[:5]:
        row["patient"] = ""
    for row in rows:
        (data / row["path"]).write_bytes((films / row["path"]).read_bytes())
    write_rows(data / "manifest.csv", rows)
    run_job(data, tmp_path / "run")
    assert read_json(tmp_path / "run" / "fingerprint.json")["n_blank_patients"] == 5
    assert "5 items without a patient" in (tmp_path / "run/report.html").read_text("utf-8").replace("\u202f", " ")


def test_unknown_option_is_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown option colour: expected some of backbone"):
        run_job(films, tmp_path / "run", colour="red")


def test_examples_are_the_most_confident_errors(main: Finished) -> None:
    rows = read_rows(main.run / "splits.csv")
    predictions = {row["item"]: row for row in read_rows(main.run / "predictions.csv")}
    examples = read_json(main.run / "examples.json")
    for example in examples:
        row = predictions[rows[example["item"]]["item"]]
        assert row["split"] == "test"
        assert row["label"] == example["label"] != example["predicted"]
        assert float(row[f"p_{example['predicted']}"]) == pytest.approx(example["probability"], abs=1e-8)
        assert Image.open(io.BytesIO((main.run / example["image"]).read_bytes())).size == (160, 160)
    assert [each["probability"] for each in examples] == sorted((e["probability"] for e in examples), reverse=True)
    wrong = [row for row in predictions.values() if row["split"] == "test" and float(row[f"p_{row['label']}"]) < 0.5]
    assert len(examples) == min(len(wrong), 8)


@pytest.mark.parametrize(("precision", "bf16"), [("auto", True), ("bf16", True), ("f32", False)])
def test_float32_is_that_of_training_too(monkeypatch: pytest.MonkeyPatch, precision: str, bf16: bool) -> None:
    monkeypatch.setattr(job, "detect_hardware", lambda _: Hardware(2, 4096, bf16=True))
    assert job._find_hardware(RunOptions(precision=precision)).bf16 is bf16
