"""Nested cross-validation: every patient is judged by choices that others made, and no run of its own says otherwise."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import thawline
from helpers import Notes, make_films, read_rows
from thawline import nesting
from thawline.errors import DataError, OptionError
from thawline.judgement import Scored, judge_decision
from thawline.plan import make_plan
from thawline.share.exports import export_report
from thawline.share.summary import summarise
from thawline.share.tables import list_tables
from thawline.types import Estimate

USUAL = {
    "head": "linear",
    "audit": "none",
    "precision": "f32",
    "threshold": "sensitivity:0.8",
    "nested": "1",
    "folds": 3,
}


def run_nested(data: Path, out: Path, **options: Any) -> thawline.RunResult:
    """Run on films, or a table beside them, with the smallest network, whose weights lie beside them."""
    folder = data if data.is_dir() else data.parent
    tiny = {"backbone": "tiny", "weights": folder / "tiny.safetensors", "size_px": 64}
    return thawline.run(data, out, listener=options.pop("listener", Notes()), **{**USUAL, **tiny, **options})


def take_values(run: Path) -> dict[str, Any]:
    return {each["name"]: each["value"] for each in json.loads((run / "plan.json").read_text("utf-8"))["choices"]}


def list_units(run: Path) -> list[str]:
    return [json.loads(line)["unit"] for line in (run / "journal.jsonl").read_text("utf-8").splitlines()]


def drop_times(metrics: dict[str, Any]) -> str:
    kept = {key: value for key, value in metrics.items() if key not in ("cost", "ladder")}
    return json.dumps(kept, sort_keys=True)


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of each test's own."""
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    data = make_films(tmp_path_factory.mktemp("films") / "data", n_patients=30, scanners=3, contrast=1.0)
    for name in ("tiny.safetensors", "tiny.json"):
        shutil.copy(tiny_file.with_name(name), data / name)
    return data


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with nested cross-validation."""
    folder = tmp_path_factory.mktemp("nested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        run_nested(films, folder / "run")
    return folder / "run"


def take_metrics(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text("utf-8"))
    return found


def test_means_over_repeats_are_of_values_and_of_ends() -> None:
    first, second = (
        {"n_items": 4, "auc": Estimate(*ends, method="DeLong").to_json(), "none": None, "per_class": {"a": {"f": each}}}
        for ends, each in (
            ((0.8, 0.6, 0.9), Estimate(0.5, 0.25, 0.75, method="m").to_json()),
            ((0.7, 0.6, 0.8), {**Estimate(0.5, 0.0, 1.0, method="m").to_json(), "low": None}),
        )
    )
    found = nesting.average_sections([first, second])
    assert (found["n_items"], found["none"]) == (4, None)
    assert [found["auc"][key] for key in ("value", "low", "high")] == pytest.approx([0.75, 0.6, 0.85])
    assert found["auc"]["method"] == "DeLong; means over 2 repeats"
    assert found["per_class"]["a"]["f"]["low"] is None
    assert found["per_class"]["a"]["f"]["high"] == 0.875
    assert nesting.average_sections([first]) == first


def test_thresholds_of_each_fold_call_as_one_does_where_they_are_equal() -> None:
    draw = np.random.default_rng(0)
    truth, groups = draw.integers(0, 2, 60), np.arange(60) // 2
    scores = np.clip(draw.normal(0.4 + 0.2 * truth, 0.2), 0, 1)
    about = truth, np.column_stack([1 - scores, scores]), groups, np.arange(60)
    given = {"prevalence": 0.1, "draws": None, "seed": 0}
    one = judge_decision(Scored(*about), 1, 0.45, **given)
    same = judge_decision(Scored(*about, thresholds=np.full(60, 0.45)), 1, 0.45, **given)
    assert same == one
    own = np.where(groups % 2, 0.3, 0.6)
    found = judge_decision(Scored(*about, thresholds=own), 1, 0.45, **given)
    assert found["counts"]["true_positives"] == int(((scores >= own) & (truth == 1)).sum())
    assert found["counts"]["false_positives"] == int(((scores >= own) & (truth == 0)).sum())


@pytest.mark.slow
def test_every_patient_is_judged_once_by_models_of_the_others(films: Path, finished: Path) -> None:
    rows, metrics = read_rows(finished / "predictions_nested.csv"), take_metrics(finished)
    manifest = {row["path"]: row for row in read_rows(films / "manifest.csv")}
    assert sorted(row["item"] for row in rows) == sorted(manifest)
    folds: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(manifest[row["item"]]["patient"], set()).add(row["fold"])
    assert {len(own) for own in folds.values()} == {1}
    nested = metrics["nested"]
    assert (nested["headline"], nested["n_folds"], nested["n_repeats"]) == (True, 5, 1)
    assert (nested["n_patients"], nested["n_items"]) == (30, len(manifest))
    aucs = []
    for fold in sorted({row["fold"] for row in rows}):
        own = [row for row in rows if row["fold"] == fold]
        aucs.append(roc_auc_score([row["label"] == "lesion" for row in own], [float(row["p_lesion"]) for row in own]))
    assert [row["auc"]["value"] for row in nested["folds"]] == pytest.approx(aucs)
    assert min(aucs) <= nested["auc"]["value"] <= max(aucs)
    called = [float(row["p_lesion"]) >= float(row["threshold"]) for row in rows]
    right = [call == (row["label"] == "lesion") for call, row in zip(called, rows, strict=True)]
    assert nested["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert metrics["decision"]["nested"]["rates"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert {key for key, value in metrics["calibration"].items() if value} == {"map", "validation", "test", "nested"}


@pytest.mark.slow
def test_a_part_put_aside_is_what_a_run_with_it_as_given_test_part_says(
    films: Path, finished: Path, tmp_path: Path
) -> None:
    """The strictest referee: a run that is told nothing but that this part is the test part."""
    rows = read_rows(finished / "predictions_nested.csv")
    aside = {row["item"]: row for row in rows if row["fold"] == "3"}
    manifest = read_rows(films / "manifest.csv")
    path = films / "third.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient", "split"])
        for row in manifest:
            part = "test" if row["path"] in aside else "train"
            writer.writerow([row["path"], row["label"], row["patient"], part])
    run_nested(path, tmp_path / "run", nested="never")
    tested = [row for row in read_rows(tmp_path / "run" / "predictions.csv") if row["split"] == "test"]
    assert {row["item"] for row in tested} == set(aside)
    assert [row["p_lesion"] for row in tested] == [aside[row["item"]]["p_lesion"] for row in tested]
    assert {f"{take_values(tmp_path / 'run')['threshold']:.9g}"} == {row["threshold"] for row in aside.values()}


@pytest.mark.slow
def test_the_runs_own_test_part_is_one_of_the_parts(finished: Path) -> None:
    nested = {row["item"]: row for row in read_rows(finished / "predictions_nested.csv")}
    tested = [row for row in read_rows(finished / "predictions.csv") if row["split"] == "test"]
    assert {nested[row["item"]]["fold"] for row in tested} == {"1"}
    assert all(row["p_lesion"] == nested[row["item"]]["p_lesion"] for row in tested)
    assert not (finished / "nested").exists()
    assert take_values(finished)["headline"] == "nested cross-validation"


@pytest.mark.slow
def test_the_report_leads_with_it_and_says_what_was_chosen(finished: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    auc = take_metrics(finished)["nested"]["auc"]["value"]
    assert "AUC by nested cross-validation" in page
    assert f'<p class="big">{auc:.3f}' in page
    assert "All 5 parts chose feature extractor, linear head." in page
    assert "at the threshold of each part" in page.lower()
    assert "In nested cross-validation each of 5 parts of the patients was put aside in turn" in page
    assert "nested folds" in (finished / "model" / "card.md").read_text("utf-8")
    rows = next(table.rows for table in list_tables(summarise(finished)) if table.key == "nested")
    assert [row[-3] for row in rows] == [row["auc"]["value"] for row in take_metrics(finished)["nested"]["folds"]]
    assert "AUC, nested cross-validation: **" in export_report(finished, "md", finished.parent / "it.md").read_text(
        "utf-8"
    )


@pytest.mark.slow
def test_an_interrupted_one_goes_on_and_comes_to_the_same(
    films: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, done = nesting.deliver, []

    def stop_at_third(job: Any, *about: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.out.name)
        return whole(job, *about)

    with monkeypatch.context() as patch:
        patch.setattr(nesting, "deliver", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            run_nested(films, tmp_path / "run")
    assert done == ["nested-1-fold-2", "nested-1-fold-3"]
    assert "nested 1 fold 4 rung 0 linear fold 2" in list_units(tmp_path / "run")
    monkeypatch.setattr(nesting, "deliver", lambda job, *about: (done.append(job.out.name), whole(job, *about))[1])
    result = run_nested(films, tmp_path / "run")
    assert done == [f"nested-1-fold-{fold}" for fold in (2, 3, 4, 5)]
    units = list_units(tmp_path / "run")
    assert len(units) == len(set(units))  # nothing was done twice
    assert not [path.name for path in (tmp_path / "run" / "units").iterdir() if "fold_4_" in path.name]
    assert result.n_resumed > 0
    assert drop_times(result.metrics) == drop_times(take_metrics(finished))


@pytest.mark.slow
def test_what_the_parts_cost_is_counted_with_what_was_killed(finished: Path) -> None:
    cost = take_metrics(finished)["cost"]
    lines = [json.loads(line) for line in (finished / "journal.jsonl").read_text("utf-8").splitlines()]
    inner = [line for line in lines if line["unit"].startswith("nested ")]
    assert cost["seconds"]["nested"] == pytest.approx(sum(line["seconds"] for line in inner), abs=0.01)
    assert cost["cpu_seconds"]["nested"] == pytest.approx(sum(line["spent"]["cpu_s"] for line in inner), abs=0.05)
    assert cost["seconds"]["heads"] == pytest.approx(
        sum(line["seconds"] for line in lines if line["unit"].startswith("rung ")), abs=0.01
    )
    assert cost["seconds"]["total"] >= cost["seconds"]["nested"] + cost["seconds"]["heads"]


@pytest.mark.slow
def test_the_positive_class_is_that_of_the_run_where_parts_would_name_another(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of names that say nothing the rarer class of development is the positive one, which differs between parts."""
    names, kept, seen = {"healthy": "adenoma", "lesion": "carcinoma"}, dict[str, list[str]](), set[str]()
    path = films / "names.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        for row in read_rows(films / "manifest.csv"):  # as many images of both, one a patient
            own = kept.setdefault(row["label"], [])
            if len(own) < 12 and row["patient"] not in seen:
                own.append(row["path"])
                seen.add(row["patient"])
                writer.writerow([row["path"], names[row["label"]], row["patient"]])
    whole, ruled, chosen = nesting.deliver, list[str](), list[str]()

    def note(inner: Any, *about: Any) -> Any:
        free = dataclasses.replace(inner.options, positive=None)
        ruled.append(make_plan(inner.fingerprint, inner.hardware, inner.facts, free)["positive"])
        chosen.append(inner.plan["positive"])
        return whole(inner, *about)

    monkeypatch.setattr(nesting, "deliver", note)
    result = run_nested(path, tmp_path / "run")
    assert set(ruled) == {"adenoma", "carcinoma"}  # what each part would say by itself
    assert set(chosen) == {result.metrics["task"]["positive"]}


@pytest.mark.slow
def test_a_part_has_the_budget_that_the_runs_choices_had(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, found = nesting.deliver, list[tuple[float, float, dict[int, float]]]()
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))  # of which the run knows what the backbone takes

    def note(inner: Any, *about: Any) -> Any:
        before_s = sum(outer.seconds(name) for name in nesting.BEFORE)
        found.append((before_s, inner.spent_s() - before_s - inner.journal.seconds(""), dict(inner.timed)))
        return whole(inner, *about)

    def keep(job: Any, *about: Any) -> Any:
        nonlocal outer
        outer = job.journal
        return judge(job, *about)

    outer: Any = None
    judge = nesting._judge_aside
    monkeypatch.setattr(nesting, "_judge_aside", keep)
    monkeypatch.setattr(nesting, "deliver", note)
    run_nested(films, tmp_path / "run")
    assert len(found) == 4
    for before_s, rest_s, timed in found:
        assert before_s > 0
        assert rest_s > -0.01  # what the run had spent before its choices, and what the part has
        assert list(timed) == [64]
        assert timed[64] > 0


@pytest.mark.slow
def test_one_image_above_eight_bits_may_be_put_aside(tmp_path: Path, films: Path, finished: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(films, data)
    aside = next(row for row in read_rows(finished / "predictions_nested.csv") if row["fold"] == "2")
    path = data / aside["item"]
    with Image.open(path) as image:
        wide = np.asarray(image.convert("L")).astype(np.uint16) * 200
    Image.fromarray(wide).save(path)
    result = run_nested(data, tmp_path / "run")
    again = next(row for row in read_rows(tmp_path / "run" / "predictions_nested.csv") if row["item"] == aside["item"])
    assert (again["fold"], result.metrics["nested"]["n_folds"]) == ("2", 5)


@pytest.mark.slow
def test_too_few_patients_to_put_some_aside(tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    shutil.copytree(films, data)
    rows = read_rows(data / "manifest.csv")
    sick = sorted({row["patient"] for row in rows if row["label"] == "lesion"})[:3]
    with (data / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        writer.writerows(
            [row["path"], row["label"], row["patient"]]
            for row in rows
            if row["label"] == "healthy" or row["patient"] in sick
        )
    with pytest.raises(
        DataError, match="nested cross-validation: with a part of the patients put aside, expected at least"
    ):
        run_nested(data, tmp_path / "asked", hold_test=True, threshold="0.5")
    assert not (tmp_path / "asked" / "units").exists()  # before any work
    monkeypatch.setattr("thawline.plan_judging.FEW_PATIENTS", 400)
    result = run_nested(data, tmp_path / "run", hold_test=True, nested="auto", threshold="0.5")
    assert result.metrics["nested"] is None
    assert "too few patients to put some aside" in (tmp_path / "run" / "plan.json").read_text("utf-8")


@pytest.mark.slow
def test_a_plan_file_cannot_ask_for_it_beside_one_given_validation_part(
    tmp_path: Path, films: Path, finished: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(films, data)
    rows = read_rows(data / "manifest.csv")
    patients = sorted({row["patient"] for row in rows})
    with (data / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient", "split"])
        for row in rows:
            part = ("train", "val", "test")[patients.index(row["patient"]) * 3 // len(patients)]
            writer.writerow([row["path"], row["label"], row["patient"], part])
    about = {"validation": "given", "folds": 5, "threshold": "0.5"}
    plan = thawline.plan_only(
        data,
        thawline.RunOptions(head="linear", audit="none", precision="f32", backbone="tiny", size_px=64,
                            weights=data / "tiny.safetensors", validation="given"),
        listener=Notes(),
    ).to_json()  # fmt: skip
    next(choice for choice in plan["choices"] if choice["name"] == "nested")["value"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    with pytest.raises(OptionError, match="--plan: nested: expected 0 beside --validation given"):
        run_nested(data, tmp_path / "run", nested="auto", plan=tmp_path / "plan.json", **about)


@pytest.mark.slow
def test_repeats_deal_the_patients_anew(films: Path, tmp_path: Path) -> None:
    metrics = run_nested(films, tmp_path / "run", nested="2").metrics
    rows = read_rows(tmp_path / "run" / "predictions_nested.csv")
    dealt = [{row["item"]: row["fold"] for row in rows if row["repeat"] == repeat} for repeat in ("1", "2")]
    assert dealt[0].keys() == dealt[1].keys()
    assert dealt[0] != dealt[1]
    nested = metrics["nested"]
    assert [(row["repeat"], row["fold"]) for row in nested["folds"]] == [(r, f) for r in (1, 2) for f in range(1, 6)]
    values = [each["value"] for each in nested["auc_by_repeat"]]
    assert nested["auc"]["value"] == pytest.approx(np.mean(values))
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "The patients were dealt 2 times; figures are means over these" in page
    assert f"of which the AUC ran from {min(values):.3f} to {max(values):.3f}" in page


@pytest.mark.slow
def test_a_closed_test_part_takes_no_part(films: Path, tmp_path: Path) -> None:
    result = run_nested(films, tmp_path / "run", hold_test=True)
    closed = {row["item"] for row in read_rows(tmp_path / "run" / "splits.csv") if row["split"] == "test"}
    judged = {row["item"] for row in read_rows(tmp_path / "run" / "predictions_nested.csv")}
    assert closed
    assert not closed & judged
    assert result.metrics["test"] is None
    assert result.metrics["nested"]["headline"]
    assert "AUC by nested cross-validation" in result.report.read_text("utf-8")


@pytest.mark.slow
def test_a_chosen_test_part_keeps_the_headline_and_sites_are_put_aside(films: Path, tmp_path: Path) -> None:
    result = run_nested(films, tmp_path / "run", validation="site:scanner", test="site:scanner=C", folds=5)
    nested, manifest = result.metrics["nested"], {row["path"]: row for row in read_rows(films / "manifest.csv")}
    assert (nested["headline"], nested["n_folds"]) == (False, 2)
    rows = read_rows(tmp_path / "run" / "predictions_nested.csv")
    sites = {fold: {manifest[row["item"]]["scanner"] for row in rows if row["fold"] == fold} for fold in ("1", "2")}
    assert [len(own) for own in sites.values()] == [1, 1]
    assert set.union(*sites.values()) == {"A", "B"}
    page = result.report.read_text("utf-8")
    assert "AUC on the test part" in page
    assert "Each of 2 parts of the development patients was put aside in turn" in page


@pytest.mark.slow
def test_few_patients_get_it_where_the_budget_has_time_for_it(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thawline.plan_judging.FEW_PATIENTS", 400)
    notes = Notes()
    result = run_nested(films, tmp_path / "short", nested="auto", budget="0.1s", listener=notes)
    assert result.metrics["nested"] is None
    assert any("no nested cross-validation: forecast to take" in warning for warning in notes.warnings)
    assert take_values(tmp_path / "short")["headline"] == "test part"
    again = run_nested(films, tmp_path / "long", nested="auto", budget="none")
    assert again.metrics["nested"]["headline"]
    assert (take_values(tmp_path / "long")["nested"], again.metrics["nested"]["n_folds"]) == (1, 5)


@pytest.mark.slow
def test_its_plan_can_be_given_to_the_next_run(films: Path, finished: Path, tmp_path: Path) -> None:
    given = tmp_path / "plan.json"
    given.write_text((finished / "plan.json").read_text("utf-8"), "utf-8")
    result = run_nested(films, tmp_path / "run", plan=given, nested="auto")
    assert result.metrics["nested"]["headline"]
    assert {row["threshold"] for row in result.metrics["nested"]["folds"]} == {take_values(finished)["threshold"]}


@pytest.mark.slow
def test_thawed_networks_and_several_classes(tmp_path: Path, tiny_file: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=36)
    for name in ("tiny.safetensors", "tiny.json"):
        shutil.copy(tiny_file.with_name(name), data / name)
    rows = read_rows(data / "manifest.csv")
    with (data / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        for row in rows:
            label = "other" if row["label"] == "healthy" and int(row["patient"][1:]) % 2 else row["label"]
            writer.writerow([row["path"], label, row["patient"]])
    about = {"head": None, "thaw_line": "conv_head", "controls": "none", "threshold": "0.5", "budget": "none"}
    metrics = run_nested(data, tmp_path / "run", **about, folds=2).metrics
    assert {row["rung"] for row in metrics["nested"]["folds"]} == {"fine_tuning conv_head"}
    assert metrics["nested"]["headline"]
    assert len(metrics["nested"]["confusion"]["classes"]) == 3
    assert metrics["decision"] is None
    assert metrics["doubts"]["nested"]["sets"]["coverage"]["value"] > 0.5
