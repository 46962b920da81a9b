"""The race on losses that are known: who runs, who goes on, what the time allows, and what a resumed run finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thawline import race
from thawline.errors import DataError, TrainingError
from thawline.journal import Journal
from thawline.learn.weight_files import Weights
from thawline.options import RunOptions
from thawline.types import SilentListener

LOSSES = {"net_a": (0.5, 0.2, 0.1), "net_b": (0.4, 0.5, 0.5), "resnet_c": (0.6, 0.6, 0.6), "vgg_d": (0.7, 0.7, 0.7)}
ORDER = ["vgg_d", "resnet_c", "net_a", "net_b"]  # families that did well elsewhere first, others as they come


def make_candidates(names: Sequence[str]) -> list[Weights]:
    return [SimpleNamespace(architecture=SimpleNamespace(name=name)) for name in names]  # type: ignore[misc]


def make_job(folder: Path, spent_s: Callable[[], float] = lambda: 0.0) -> Any:
    folds = np.arange(30) % 3
    return SimpleNamespace(
        journal=Journal(folder),
        options=RunOptions(budget="40s"),
        listener=SilentListener(),
        spent_s=spent_s,
        splits=SimpleNamespace(folds=folds),
        development_items=lambda: np.arange(30),
        development=lambda _: SimpleNamespace(list_folds=lambda: sorted(set(folds.tolist()))),
    )


def run_race(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: Mapping[str, Sequence[float] | None] = LOSSES,
    spent_s: Callable[[], float] = lambda: 0.0,
) -> tuple[str, dict[str, dict[str, Any]], list[tuple[str, int]]]:
    """Race on the losses by fold, None for who cannot run; return the winner, the evidence by name, and who ran when."""
    calls: list[tuple[str, int]] = []

    def open_racer(_job: Any, weights: Weights, _chosen: Any) -> Callable[[int], dict[str, Any]]:
        name = weights.architecture.name

        def fit(fold: int) -> dict[str, Any]:
            calls.append((name, fold))
            known = losses[name]
            if known is None:
                raise TrainingError(f"{name} cannot be trained")
            return {"loss": known[fold], "items": 10}

        return fit

    monkeypatch.setattr(race, "_open_racer", open_racer)
    folder.mkdir(exist_ok=True)
    winner, _, evidence = race.run_race(make_job(folder, spent_s), make_candidates(list(losses)))
    return winner.architecture.name, {row["candidate"]: row for row in evidence}, calls


def test_the_better_half_goes_on_after_each_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner, evidence, calls = run_race(tmp_path / "run", monkeypatch)
    assert calls == [*((name, 0) for name in ORDER), ("net_b", 1), ("net_a", 1)]
    assert winner == "net_a"  # .35 in the mean of two folds, the other .45
    assert {name: row["folds"] for name, row in evidence.items()} == {"net_a": 2, "net_b": 2, "resnet_c": 1, "vgg_d": 1}
    assert evidence["net_a"]["log_loss"] == pytest.approx(0.35)


def test_modern_networks_begin_and_those_that_did_badly_elsewhere_come_last_of_the_known() -> None:
    names = ["mnasnet_100", "lenet", "tf_efficientnet_lite0", "vit_base_dino", "tf_efficientnetv2_s", "convnext_tiny"]
    found = [each.architecture.name for each in race.order_by_prior(make_candidates(names))]
    assert found == [
        "convnext_tiny",
        "tf_efficientnetv2_s",
        "vit_base_dino",
        "tf_efficientnet_lite0",
        "mnasnet_100",
        "lenet",
    ]


def test_a_resumed_run_races_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_race(tmp_path / "run", monkeypatch)
    winner, evidence, calls = run_race(tmp_path / "run", monkeypatch, spent_s=lambda: 1e9)  # the ladder took its time
    assert (winner, evidence, calls) == (*first[:2], [])


def test_a_race_that_was_killed_runs_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(n_allowed: int) -> Callable[[], float]:
        asked: list[int] = []

        def spent_s() -> float:
            asked.append(1)
            if len(asked) > n_allowed:
                raise KeyboardInterrupt
            return 0.0

        return spent_s

    with pytest.raises(KeyboardInterrupt):
        run_race(tmp_path / "run", monkeypatch, spent_s=stop(3))
    winner, _, calls = run_race(tmp_path / "run", monkeypatch)
    assert winner == "net_a"
    assert 0 < len(calls) < 6  # of the whole race


def test_who_has_not_run_when_the_time_is_spent_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner, evidence, calls = run_race(tmp_path / "run", monkeypatch, spent_s=lambda: 10.1)  # a quarter of 40 s is 10
    assert calls == [(ORDER[0], 0)]
    assert winner == ORDER[0]
    assert all("time for the race was spent" in evidence[name]["note"] for name in ORDER[1:])
    assert [evidence[name]["log_loss"] for name in ORDER[1:]] == [None] * 3


def test_who_cannot_be_raced_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner, evidence, _ = run_race(tmp_path / "run", monkeypatch, {**LOSSES, "net_a": None})
    assert winner == "net_b"
    assert "net_a cannot be trained" in evidence["net_a"]["note"]


def test_a_race_that_nobody_can_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="none of the backbones could be raced: could not be raced: net_a cannot be"):
        run_race(tmp_path / "run", monkeypatch, {"net_a": None, "net_b": None})
