"""Runs of several labels an item, from end to end: some of them unknown, above a thaw line and on frozen features."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from typer.testing import CliRunner

import thawline
from helpers import COSTS, MARKS, Notes, make_marked_films, read_rows, stop_at_second_fold, write_rows
from thawline import auditing
from thawline.cli import app
from thawline.data.label_sets import parse_labels
from thawline.errors import DataError, OptionError
from thawline.types import MISSING

pytestmark = pytest.mark.slow

FAST = {"audit": "leaks", "backbone": "tiny", "size_px": 64, "folds": 2, "views": 1}
THAWED = {**FAST, "thaw_line": "conv_head"}
FROZEN = {**FAST, "head": "linear"}


@pytest.fixture(scope="module", autouse=True)
def weights(tiny_file: Path) -> Iterator[None]:
    """Let the smallest network be found by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_WEIGHTS", str(tiny_file.parent))
        yield


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    return make_marked_films(tmp_path_factory.mktemp("films"))


def run(data: Path, out: Path, **options: Any) -> thawline.RunResult:
    return thawline.run(data, out, listener=options.pop("listener", Notes()), **options)


@pytest.fixture(scope="module")
def finished(films: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> thawline.RunResult:
    """One finished run above the top line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(tmp_path_factory.mktemp("ledger")))
        return run(films[0], tmp_path_factory.mktemp("finished") / "run", **THAWED)


def read_part(run: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    """Labels, probabilities and rows of a part of predictions.csv."""
    rows = [row for row in read_rows(run / "predictions.csv") if row["split"] == split]
    given = np.array([[float(row[f"p_{name}"]) for name in MARKS] for row in rows])
    return parse_labels([row["label"] for row in rows], MARKS), given, rows


def drop_costs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: drop_costs(entry) for key, entry in value.items() if key not in (*COSTS, "cost")}
    return [drop_costs(entry) for entry in value] if isinstance(value, list) else value


def test_the_task_and_its_numbers_are_those_of_the_tables(
    finished: thawline.RunResult, films: tuple[Path, np.ndarray]
) -> None:
    metrics = finished.metrics
    assert (metrics["task"]["kind"], metrics["task"]["classes"]) == ("multilabel", list(MARKS))
    assert metrics["task"]["positive"] is None
    truth = dict(zip(sorted(row["path"] for row in read_rows(films[0] / "manifest.csv")), films[1], strict=True))
    for part, split in (("test", "test"), ("validation", "development")):
        labels, given, rows = read_part(finished.folder, split)
        known = labels != MISSING
        assert 0.1 < 1 - known.mean() < 0.4
        assert (labels == np.array([truth[row["item"]] for row in rows]))[known].all()
        section = metrics[part]
        assert section["accuracy"]["value"] == pytest.approx(accuracy_score(labels[known] == 1, given[known] >= 0.5))
        losses = [log_loss(labels[known[:, k], k], given[known[:, k], k]) for k in range(3)]
        assert section["log_loss"]["value"] == pytest.approx(np.mean(losses), rel=1e-6)
        folds = np.array([row["fold"] for row in rows])
        for k, name in enumerate(MARKS):
            areas = [
                roc_auc_score(labels[part_of, k], given[part_of, k])
                for fold in np.unique(folds)
                if (part_of := known[:, k] & (folds == fold)).any()
            ]
            assert section["per_class"][name]["auc"]["value"] == pytest.approx(np.mean(areas))
    (rung,) = metrics["ladder"]
    assert (rung["thaw_line"], rung["chosen"]) == ("conv_head", True)
    assert rung["log_loss"] == pytest.approx(metrics["validation"]["item_log_loss"]["value"])
    assert metrics["validation"]["auc"]["value"] > 0.8  # the marks are plain to see


def test_splits_keep_patients_whole_and_hold_both_values(finished: thawline.RunResult) -> None:
    rows = read_rows(finished.folder / "splits.csv")
    for part in {(row["split"], row["fold"]) for row in rows}:
        own = [row for row in rows if (row["split"], row["fold"]) == part]
        labels = parse_labels([row["label"] for row in own], MARKS)
        assert all({0, 1} <= set(column) for column in labels.T.tolist())
    assert len({(row["patient"], row["split"], row["fold"]) for row in rows}) == len({row["patient"] for row in rows})


def test_the_model_is_an_ensemble_that_predicts_what_the_run_did(
    finished: thawline.RunResult, films: tuple[Path, np.ndarray]
) -> None:
    model = finished.load_model()
    assert (model.head.name, model.multilabel, model.classes) == ("ensemble", True, MARKS)
    _, given, rows = read_part(finished.folder, "test")
    files = [films[0] / row["item"] for row in rows]
    np.testing.assert_allclose(model.predict_proba(files), given, atol=1e-4)
    assert np.abs(given.sum(axis=1) - 1).max() > 0.1  # each by itself
    called = ["|".join(name for name, one in zip(MARKS, row, strict=True) if one >= 0.5) or "none" for row in given]
    assert model.predict(files) == called
    found = CliRunner().invoke(app, ["predict", str(finished.folder), *map(str, files[:3]), "--quiet"])
    table = list(csv.DictReader(found.stdout.splitlines()))
    assert [row["predicted"] for row in table] == called[:3]
    np.testing.assert_allclose([[float(row[f"p_{name}"]) for name in MARKS] for row in table], given[:3], atol=1e-4)


def test_report_card_and_plan_say_each_label(finished: thawline.RunResult) -> None:
    page = finished.report.read_text("utf-8")
    assert "Image classification by 3 labels" in page
    assert "Each label, on the items where it is known" in page
    assert "What is known of each label" in page
    assert "Exact match" in page
    assert "Confusion matrix" not in page
    assert "one class" not in page
    card = (finished.folder / "model" / "card.md").read_text("utf-8")
    assert "multilabel; labels bar, disc, ring, each with a probability of its own" in card
    choices = {choice["name"]: choice for choice in finished.plan["choices"]}
    assert choices["task"]["reason"].startswith("3 labels an item, had by: bar ")
    fingerprint = json.loads((finished.folder / "fingerprint.json").read_text("utf-8"))
    counts = fingerprint["classes"]["disc"]
    assert counts["items"] + counts["negative_items"] + counts["missing_items"] == fingerprint["n_items"]
    parts = fingerprint["multilabel"]
    assert parts["development"]["items"] + parts["test"]["items"] == fingerprint["n_items"]
    for example in json.loads((finished.folder / "examples.json").read_text("utf-8")):
        assert {example["label"], example["predicted"]} in [{name, f"no {name}"} for name in MARKS]
        assert 0.5 <= example["probability"] <= 1


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    films: tuple[Path, np.ndarray], finished: thawline.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at_second_fold(patch)
        with pytest.raises(KeyboardInterrupt):
            run(films[0], tmp_path / "run", **THAWED)
    again = run(films[0], tmp_path / "run", **THAWED)
    assert again.n_resumed > 0
    assert drop_costs(again.metrics) == drop_costs(finished.metrics)


def test_frozen_features_with_joined_names_and_a_given_split(films: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """The same labels in one column, uncertain and left-out items, heads that are refitted, a table of NIH's kind."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = read_rows(films[0] / "manifest.csv")
    for row, truth in zip(sorted(rows, key=lambda row: row["path"]), films[1], strict=True):
        (data / row["path"]).write_bytes((films[0] / row["path"]).read_bytes())
        names = "|".join(name for name, has in zip(MARKS, truth, strict=True) if has)
        row |= {"label": names or "No Finding", "split": "test" if int(row["patient"][1:]) % 4 == 0 else "train"}
        for name in MARKS:
            del row[f"label:{name}"]
    rows[5]["label"] = ""
    rows[6]["label"] = "?ring|bar"
    write_rows(data / "manifest.csv", rows)
    notes = Notes()
    result = run(data, tmp_path / "run", multilabel=True, tta=True, listener=notes, **FROZEN)
    assert f"1 of {len(rows)} items were left out, as none of their labels is known" in notes.warnings
    assert result.metrics["task"]["kind"] == "multilabel"
    labels, given, test = read_part(result.folder, "test")
    assert {int(row["patient"][1:]) % 4 for row in test} == {0}
    model = result.load_model()
    assert [type(head).__name__ for head in model.head.heads] == ["LinearHead"] * 3  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.predict_proba([data / row["item"] for row in test]), given, atol=1e-4)
    assert result.metrics["test"]["n_complete"] == (labels != MISSING).all(axis=1).sum()
    with pytest.raises(OptionError, match="--sampling balanced: belongs to one label an item"):
        run(data, tmp_path / "other", multilabel=True, sampling="balanced", **FROZEN)


def test_folds_are_sites_and_a_stated_threshold_calls_each_label(
    films: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    about = {**FROZEN, "folds": 5, "threshold": "0.3", "calibration": "platt", "subgroups": "none"}
    result = run(films[0], tmp_path / "run", validation="site:scanner", **about)
    scanners = {row["path"]: row["scanner"] for row in read_rows(films[0] / "manifest.csv")}
    rows = [row for row in read_rows(result.folder / "splits.csv") if row["split"] == "development"]
    assert len({(row["fold"], scanners[row["item"]]) for row in rows}) == len({row["fold"] for row in rows}) == 2
    labels, given, _ = read_part(result.folder, "test")
    known = labels != MISSING
    found = result.metrics["test"]["accuracy"]["value"]
    assert found == pytest.approx(accuracy_score(labels[known] == 1, given[known] >= 0.3))
    choices = {choice["name"]: choice["value"] for choice in result.plan["choices"]}
    assert [choices[name] for name in ("calibration", "coverage", "prevalence")] == ["platt", None, None]
    assert "Conformal prediction sets" not in result.report.read_text("utf-8")
    with pytest.raises(OptionError, match="--test: no item has 'Z' in column 'scanner'"):
        run(films[0], tmp_path / "other", test="site:scanner=Z", **FROZEN)
    by_scanner = run(films[0], tmp_path / "other", test="site:scanner=A", **FROZEN)
    splits = read_rows(by_scanner.folder / "splits.csv")
    assert {(row["split"] == "test", scanners[row["item"]] == "A") for row in splits} == {(True, True), (False, False)}


def test_what_is_uncertain_is_what_is_not_known(films: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    rows = read_rows(films[0] / "manifest.csv")
    for row in rows:
        for name in MARKS:
            row[f"label:{name}"] = row[f"label:{name}"] or ("u" if name == "bar" else "-1")
    (tmp_path / "images").symlink_to(films[0] / "images")
    write_rows(tmp_path / "manifest.csv", rows)
    blank, uncertain = (thawline.load_dataset(each, allow_outside=True) for each in (films[0], tmp_path))
    assert blank.items == uncertain.items
    assert "labels are said to be uncertain (-1 or u) and count as not known" in uncertain.notes[0]


def test_what_contradicts_and_options_of_one_label_are_refused_or_left_out(
    films: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    for options, said in (
        ({"positive": "bar"}, "--positive bar: belongs to one label an item"),
        ({"grades": "bar,disc,ring"}, "--grades bar,disc,ring: belongs to one label an item"),
        ({"threshold": "sensitivity:0.9"}, "--threshold sensitivity:0.9: belongs to one label an item"),
        ({"prevalence": 0.05}, "--prevalence 0.05: belongs to one label an item"),
        ({"coverage": 0.8}, "--coverage 0.8: belongs to one label an item"),
        ({"subgroups": "scanner"}, "--subgroups scanner: belongs to one label an item"),
    ):
        with pytest.raises(OptionError, match=said):
            run(films[0], tmp_path / "refused", **FROZEN, **options)
    plan = thawline.plan_only(films[0], thawline.RunOptions(**THAWED), listener=Notes()).to_json()
    next(choice for choice in plan["choices"] if choice["name"] == "recipe")["value"]["balance"] = "sampling"
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    with pytest.raises(OptionError, match="expected balance none or weights for several labels"):
        run(films[0], tmp_path / "refused", plan=tmp_path / "plan.json", **THAWED)
    data = tmp_path / "copies"
    (data / "images").mkdir(parents=True)
    rows = read_rows(films[0] / "manifest.csv")
    for row in rows:
        (data / row["path"]).write_bytes((films[0] / row["path"]).read_bytes())
    first = next(row for row in rows if row["label:bar"] == "1" and row["label:disc"] == "")
    agreeing = {**first, "path": "images/agreeing.png", "label:disc": "1"}
    for row, name in ((agreeing, "agreeing"), ({**first, "label:bar": "0"}, "torn")):
        source = first if name == "agreeing" else next(r for r in rows if r["label:bar"] == "1" and r is not first)
        (data / "images" / f"{name}.png").write_bytes((data / source["path"]).read_bytes())
        rows.append({**row, "path": f"images/{name}.png"})
    write_rows(data / "manifest.csv", rows)
    notes = Notes()
    result = run(data, tmp_path / "run", listener=notes, **FROZEN)
    assert any(each.startswith("left out 1 sets of identical images with different labels") for each in notes.warnings)
    audit = json.loads((result.folder / "audit.json").read_text("utf-8"))
    assert (len(audit["identical"]), len(audit["contradicting"])) == (2, 1)


def test_the_audit_tells_what_predicts_which_label(
    films: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_judge_by_network", lambda *_: [])  # which takes the most time, and is tested beside
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = read_rows(films[0] / "manifest.csv")
    for row, truth in zip(sorted(rows, key=lambda row: row["path"]), films[1], strict=True):
        content = (films[0] / row["path"]).read_bytes()
        (data / row["path"]).write_bytes(content + b" " * 3000 * int(truth[2]))  # longer files with a ring
    write_rows(data / "manifest.csv", rows)
    found = auditing.audit_data(data, listener=Notes())
    (size,) = [each for each in found.shortcuts if each.source == "compression"]
    assert (size.label, size.auc) == ("ring", pytest.approx(1, abs=0.02))
    (finding,) = [each for each in found.findings if each.name == "shortcut: compression"]
    assert "alone it predicts the label ring, and others less well, with an AUC of" in finding.text
    (table,) = [each for each in found.tables if each.title == "data"]
    assert list(table.rows) == ["all, with", "all, without", "all, not known"]
    assert [sum(row[k][0] for row in table.rows.values()) for k in range(3)] == [len(rows)] * 3
    assert "patients with and without the rarest label" in found.support


def test_estimator_of_several_labels(films: tuple[Path, np.ndarray]) -> None:
    import pandas as pd

    rows = sorted(read_rows(films[0] / "manifest.csv"), key=lambda row: row["path"])
    paths, patients = [films[0] / row["path"] for row in rows], [row["patient"] for row in rows]
    y = np.array([[float(row[f"label:{name}"] or "nan") for name in reversed(MARKS)] for row in rows])
    model = thawline.ThawClassifier(backbone="tiny", folds=3).fit(paths, y, groups=patients)
    given = model.predict_proba(paths)
    assert model.classes_.tolist() == [0, 1, 2]
    known = ~np.isnan(y)
    assert all(roc_auc_score(y[known[:, k], k], given[known[:, k], k]) > 0.9 for k in range(3))
    np.testing.assert_array_equal(model.predict(paths), given >= 0.5)
    y[3] = np.nan
    framed = thawline.ThawClassifier(backbone="tiny", folds=3)
    framed.fit(paths, pd.DataFrame(y, columns=list(reversed(MARKS))), groups=patients)
    assert framed.classes_.tolist() == list(reversed(MARKS))
    assert np.corrcoef(framed.predict_proba(paths)[:, 0], given[:, 0])[0, 1] > 0.9
    with pytest.raises(DataError, match="as its label 0"):
        model.fit(paths, np.where(known, y, 5), groups=patients)


def test_nested_cross_validation_of_labels(films: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    result = run(films[0], tmp_path / "run", **FROZEN, nested="1")
    nested, rows = result.metrics["nested"], read_rows(tmp_path / "run" / "predictions_nested.csv")
    assert len(rows) == nested["n_items"] == result.metrics["test"]["n_items"] + result.metrics["validation"]["n_items"]
    truth = np.array([parse_labels([row["label"]], MARKS)[0] for row in rows])
    folds = np.array([row["fold"] for row in rows])
    aucs = []
    for place, name in enumerate(MARKS):
        given = np.array([float(row[f"p_{name}"]) for row in rows])
        known = truth[:, place] != MISSING
        inside = [known & (folds == fold) for fold in sorted(set(folds))]
        aucs.append([roc_auc_score(truth[part, place], given[part]) for part in inside])
    for own, name in zip(aucs, MARKS, strict=True):
        assert min(own) <= nested["per_class"][name]["auc"]["value"] <= max(own)
    page = result.report.read_text("utf-8")
    assert "AUC by nested cross-validation" in page
    assert "AUC, micro" in page
