"""Options of training in whole runs of a network so small that they take seconds: what is asked for is what is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import thawline
from helpers import Notes, make_films
from thawline import job
from thawline.errors import OptionError
from thawline.learn import engine
from thawline.options import RunOptions

pytestmark = pytest.mark.slow
FAST = {"audit": "leaks", "controls": "none", "folds": 2, "views": 1, "size_px": 64}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square films, which leave no aspect rule to measure."""
    return make_films(tmp_path_factory.mktemp("films"), views=(1, 1), contrast=0.6)


def run(films: Path, out: Path, weights: Path, **options: Any) -> thawline.RunResult:
    return thawline.run(films, out, listener=Notes(), weights=weights, backbone="tiny", **{**FAST, **options})


def find_value(result: thawline.RunResult, name: str) -> Any:
    return next(choice["value"] for choice in result.plan["choices"] if choice["name"] == name)


def test_layers_head_and_weighted_rates_reach_the_training(films: Path, tmp_path: Path, tiny_file: Path) -> None:
    asked = {"last_layers": 3, "head_layers": 2, "auto_rgn": True, "mixup": 0.0, "loss": "focal"}
    result = run(films, tmp_path / "run", tiny_file, **asked)
    recipe = find_value(result, "recipe")
    assert (recipe["auto_rgn"], recipe["mixup"], recipe["focal"]) == (True, 0.0, 2.0)
    (line,) = find_value(result, "lines")
    steps = job.plan_only(films, RunOptions(weights=tiny_file, backbone="tiny", sequence="layers", size_px=64))
    assert steps["lines"][2] == line == result.metrics["chosen"]["thaw_line"]
    tensors = load_file(result.folder / "model" / "weights.safetensors")
    assert any(".hidden." in name for name in tensors)  # of two fully connected layers


def test_a_block_of_layers_whose_lowest_is_a_whole_block(films: Path, tmp_path: Path, tiny_file: Path) -> None:
    about = {"weights": tiny_file, "backbone": "tiny", "size_px": 64}
    layers = job.plan_only(films, RunOptions(**about, sequence="layers"))["lines"]
    blocks = job.plan_only(films, RunOptions(**about))["lines"]
    highest = next(name for name in layers if name not in blocks)
    result = run(films, tmp_path / "run", tiny_file, sequence="layers", blocks=f"{layers[-1]}:{highest}")
    (rung,) = result.metrics["ladder"]
    assert rung["strategy"] == "fine_tuning"  # what lies above stays frozen
    assert 0 < rung["thawed_fraction"] < 1


def test_without_a_budget_the_same_seed_gives_the_same_result(films: Path, tmp_path: Path, tiny_file: Path) -> None:
    options: dict[str, Any] = {"budget": "none", "strategy": "feature_extractor,fine_tuning", "useful_gain": 0.0}
    about = RunOptions(**{**FAST, **options, "weights": tiny_file, "backbone": "tiny"})
    plan = job.plan_only(films, about, listener=Notes()).to_json()
    choices = {choice["name"]: choice for choice in plan["choices"]}
    choices["lines"]["value"], choices["recipe"]["value"]["epochs"] = ["conv_head", "blocks.3"], 3
    options["plan"] = tmp_path / "plan.json"
    options["plan"].write_text(json.dumps(plan), "utf-8")
    first, again = (run(films, tmp_path / name, tiny_file, **options) for name in ("first", "again"))
    for name in ("test", "validation"):
        assert first.metrics[name] == again.metrics[name]
    assert (first.folder / "predictions.csv").read_bytes() == (again.folder / "predictions.csv").read_bytes()
    assert first.plan["digest"] == again.plan["digest"]
    assert len(first.metrics["ladder"]) > 2


def test_a_resumed_run_keeps_the_room_that_its_views_were_planned_by(
    films: Path, tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    options = {"thaw_line": "blocks.4", "views": None}
    with monkeypatch.context() as killed:
        killed.setattr(job, "deliver", stop)
        with pytest.raises(KeyboardInterrupt):
            run(films, tmp_path / "run", tiny_file, **options)
    monkeypatch.setattr(engine, "_find_cache_room_mib", lambda _: 0)  # the disk has been filled since
    result = run(films, tmp_path / "run", tiny_file, **options)
    assert find_value(result, "views") == 4
    assert find_value(result, "cached_lines") == ["blocks.4"]
    assert find_value(run(films, tmp_path / "other", tiny_file, **options), "views") == 0


def test_the_cost_is_that_of_every_unit(films: Path, tmp_path: Path, tiny_file: Path) -> None:
    result = run(films, tmp_path / "run", tiny_file, thaw_line="blocks.4", tta=True)
    entries = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text("utf-8").splitlines()]
    taken, seconds = {entry["unit"]: entry["seconds"] for entry in entries}, result.metrics["cost"]["seconds"]
    assert seconds["total"] == pytest.approx(sum(taken.values()), abs=0.01)
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.01)
    assert seconds["views"] == pytest.approx(
        sum(taken[name] for name in taken if name.startswith("views of")), abs=0.01
    )


def test_views_that_a_plan_file_asks_for_are_what_is_validated(films: Path, tmp_path: Path, tiny_file: Path) -> None:
    options = RunOptions(**{**FAST, "weights": tiny_file, "backbone": "tiny", "head": "linear"})
    plan = job.plan_only(films, options).to_json()
    for choice in plan["choices"]:
        if choice["name"] == "tta":
            choice["value"] = True
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    found = {
        name: thawline.run(films, tmp_path / name, options, plan=file, listener=Notes()).metrics["validation"]
        for name, file in (("one", None), ("several", tmp_path / "plan.json"))
    }
    assert found["one"]["log_loss"] != found["several"]["log_loss"]


def test_a_plan_file_is_of_one_backbone(films: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(job.plan_only(films, RunOptions(head="linear")).to_json()), "utf-8")
    with pytest.raises(
        OptionError, match="--plan: expected one --backbone, found efficientnet_lite0, efficientnet_lite1"
    ):
        thawline.run(films, tmp_path / "run", backbone="efficientnet_lite0,efficientnet_lite1", plan=file)
    assert not (tmp_path / "run").exists()
