"""The size of the input, measured or given, in whole runs of a network so small that they take seconds."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import thawline
from helpers import Notes, make_films
from thawline import measure

pytestmark = pytest.mark.slow
HEADS = {"strategy": "feature_extractor", "controls": "none", "folds": 2}
THAWED = {"thaw_line": "blocks.4", "controls": "none", "folds": 2, "views": 1, "mixup": 0.0}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square films with more detail than the network was trained on, which leave no aspect rule to measure."""
    return make_films(tmp_path_factory.mktemp("films"), side=100, size_px=128, views=(1, 1), contrast=0.6)


def run(films: Path, out: Path, weights: Path, **options: Any) -> thawline.RunResult:
    return thawline.run(films, out, listener=Notes(), weights=weights, backbone="tiny", audit="leaks", **options)


def find_choice(result: thawline.RunResult, name: str) -> dict[str, Any]:
    return next(choice for choice in result.plan["choices"] if choice["name"] == name)


def list_units(result: thawline.RunResult) -> list[str]:
    lines = (result.folder / "journal.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line).get("unit", "") for line in lines]


def check_predictions(result: thawline.RunResult, films: Path) -> np.ndarray:
    """Check that the model repeats what the run predicted of the test part, and return it."""
    with (result.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    names = [name for name in rows[0] if name.startswith("p_")]
    expected = np.array([[float(row[name]) for name in names] for row in rows])
    found = result.load_model().predict_proba([films / row["item"] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    return expected


def test_the_size_is_measured_and_delivered(films: Path, tmp_path: Path, tiny_file: Path) -> None:
    result = run(films, tmp_path / "run", tiny_file, **HEADS)
    size = find_choice(result, "size_px")
    assert size["candidates"] == [64, 96] == [row["candidate"] for row in size["evidence"]]
    losses = {row["candidate"]: row["log_loss"] for row in size["evidence"]}
    assert losses[64] != losses[96]
    chosen = next(row for row in size["evidence"] if row["candidate"] == size["value"])
    assert chosen["difference"] == pytest.approx(losses[size["value"]] - min(losses.values()), abs=1e-12)
    assert chosen["difference"] <= (chosen["standard_error"] or 0)
    assert result.load_model().contract.size_px == size["value"]
    assert [unit for unit in list_units(result) if "size_px" in unit] == ["choice size_px 64", "choice size_px 96"]
    assert result.metrics["cost"]["seconds"]["choices"] > 0
    check_predictions(result, films)


def test_the_prefix_is_forecast_from_what_measuring_took(
    films: Path, tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    result = run(films, tmp_path / "run", tiny_file, strategy="feature_extractor,fine_tuning", **THAWED)
    entries = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text("utf-8").splitlines()]
    units = {entry["unit"]: entry for entry in entries}
    size = find_choice(result, "size_px")["value"]
    aspect = find_choice(result, "aspect")["value"]
    step = units.get(f"features, {size}") or units[f"features, {aspect}"]
    assert "features" not in units  # all of them had been computed
    forecast = next(entry["value"] for name, entry in units.items() if name.endswith("blocks.4 forecast"))
    n_items, n_views = step["value"]["computed"], 1
    each_s = step["seconds"] / n_items
    assert forecast["once_s"] == pytest.approx(n_items * (n_views + 1) * each_s, rel=1e-3)


@pytest.mark.parametrize(("better", "expected"), [(96, 96), (64, 64), (None, 64)])
def test_the_larger_size_is_for_a_gain_beyond_its_error(
    films: Path, tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch, better: int | None, expected: int
) -> None:
    asked: list[int] = []
    whole = measure.cross_fit

    def fit(*args: Any, **options: Any) -> Any:
        """A fit as it is, but that the size which is to win knows three quarters of the labels."""
        found = whole(*args, **options)
        asked.append((64, 96)[len(asked)])
        labels = args[2]
        known = np.full_like(found.probabilities, 0.5)
        if asked[-1] == better:
            known[np.arange(len(labels)), labels] = 0.9
            known[np.arange(len(labels)), 1 - labels] = 0.1
        return dataclasses.replace(found, probabilities=known)

    monkeypatch.setattr(measure, "cross_fit", fit)
    result = run(films, tmp_path / "run", tiny_file, **HEADS)
    assert asked == [64, 96]
    assert result.load_model().contract.size_px == expected


def test_a_network_of_one_size_keeps_it(
    films: Path, tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "takes_size", lambda weights, size_px: False)
    result = run(films, tmp_path / "run", tiny_file, **HEADS)
    size = find_choice(result, "size_px")
    assert (size["value"], size["reason"]) == (64, "tiny takes images of this size only")
    assert not any("size_px" in unit for unit in list_units(result))


def test_a_given_size_is_thawed_and_delivered_and_may_come_from_a_plan_file(
    films: Path, tmp_path: Path, tiny_file: Path
) -> None:
    asked = run(films, tmp_path / "asked", tiny_file, size_px=96, **THAWED)
    assert asked.metrics["chosen"]["thaw_line"] == "blocks.4"
    assert asked.load_model().contract.size_px == 96
    assert not any("size_px" in unit for unit in list_units(asked))
    expected = check_predictions(asked, films)

    options = thawline.options.RunOptions(weights=tiny_file, backbone="tiny", **THAWED)
    plan = thawline.plan_only(films, options, listener=Notes()).to_json()
    next(choice for choice in plan["choices"] if choice["name"] == "size_px")["value"] = 96
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    edited = run(films, tmp_path / "edited", tiny_file, plan=tmp_path / "plan.json", **THAWED)
    assert find_choice(edited, "size_px")["kind"] == "given"
    assert find_choice(edited, "cached_lines")["value"] == find_choice(asked, "cached_lines")["value"]
    np.testing.assert_allclose(check_predictions(edited, films), expected, atol=1e-6)


# --- what is measured on ----------------------------------------------------------------------------------------------


def sample(
    labels: np.ndarray,
    groups: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    folds: np.ndarray | None = None,
) -> np.ndarray:
    folds = np.zeros(len(labels), np.int64) if folds is None else folds
    monkeypatch.setattr(measure, "MEASURED_ITEMS", most)
    positions = np.arange(len(labels)) + 5  # the first ones are test items
    about = {"labels": np.concatenate([labels[:5], labels]), "groups": np.concatenate([groups[:5], groups])}
    splits = SimpleNamespace(folds=np.concatenate([folds[:5], folds]))
    job = SimpleNamespace(development_items=lambda: positions, options=SimpleNamespace(seed=3), splits=splits, **about)
    return np.asarray(measure.sample_items(job)) - 5  # type: ignore[arg-type]


def test_few_patients_with_many_items_are_all_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty patients with 300 slices: whole patients would leave five of them, perhaps of one class."""
    groups = np.repeat(np.arange(40), 300)
    labels = (groups % 5 == 0).astype(np.int64)
    found = sample(labels, groups, monkeypatch, 1500)
    assert len(found) == len(set(found.tolist())) == 1500
    counts = np.bincount(groups[found], minlength=40)
    assert counts.min() >= 37
    assert counts.max() <= 38
    assert labels[found].mean() == pytest.approx(labels.mean(), abs=0.01)


def test_a_rare_class_keeps_enough_items_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = (np.arange(20_000) < 80).astype(np.int64)
    found = sample(labels, np.arange(20_000), monkeypatch, 1500)
    assert labels[found].sum() == 50
    assert 1490 <= len(found) <= 1560


@pytest.mark.parametrize(("n_given", "n_scored"), [(30, 30), (5_000, 750)])
def test_of_a_given_validation_part_as_many_are_in_the_sample_as_there_are_up_to_half(
    monkeypatch: pytest.MonkeyPatch, n_given: int, n_scored: int
) -> None:
    labels, is_given = np.arange(20_000) % 2, np.arange(20_000) >= 20_000 - n_given
    found = sample(labels, np.arange(20_000), monkeypatch, 1500, np.where(is_given, 0, -1))
    assert len(found) == 1500
    assert is_given[found].sum() == n_scored
    assert labels[found][is_given[found]].mean() == 0.5


def test_all_items_are_measured_on_where_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(60) % 2
    np.testing.assert_array_equal(sample(labels, np.arange(60), monkeypatch, 60), np.arange(60))
