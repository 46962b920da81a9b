"""Runs above a thaw line, from end to end: what they deliver, resume, remember and leave alone."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import thawline
from helpers import COSTS, Notes, make_films, stop_at_second_fold
from thawline import choosing, delivery, job, race
from thawline.errors import OptionError
from thawline.journal import Journal
from thawline.learn import ensemble, ladder, strategies
from thawline.learn.engine import detect_hardware
from thawline.learn.loading import read_backbone_tensors
from thawline.learn.weights import find_weights

pytestmark = pytest.mark.slow

FAST = {"audit": "leaks", "backbone": "tiny", "size_px": 64, "thaw_line": "conv_head", "folds": 2, "views": 1}
TELLING = "MUSTERMANN"


@pytest.fixture(scope="module", autouse=True)
def weights(tiny_file: Path) -> Iterator[None]:
    """Let the smallest network be found by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_WEIGHTS", str(tiny_file.parent))
        yield


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square films of two views a patient, whose patients would be recognised."""
    folder = tmp_path_factory.mktemp("films")
    make_films(folder, n_patients=30, views=(1, 2), contrast=0.6)
    manifest = folder / "manifest.csv"
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "patient": f"{TELLING}{row['patient']}"} for row in rows)
    return folder


def run(films: Path, out: Path, **options: Any) -> thawline.RunResult:
    return thawline.run(films, out, listener=Notes(), **{**FAST, **options})


def read_test_rows(run: Path, films: Path) -> tuple[list[Path], np.ndarray]:
    """Files of the test part and the probabilities that the run gave them."""
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    names = [name for name in rows[0] if name.startswith("p_")]
    return [films / row["item"] for row in rows], np.array([[float(row[name]) for name in names] for row in rows])


def drop_seconds(value: Any) -> Any:
    """What a run decided and found, without what it cost."""
    if isinstance(value, dict):
        return {
            key: drop_seconds(entry)
            for key, entry in value.items()
            if key not in (*COSTS, "cost", "spent_s", "forecast_s")
        }
    return [drop_seconds(entry) for entry in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> thawline.RunResult:
    """One finished run above the top line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(tmp_path_factory.mktemp("ledger")))
        return run(films, tmp_path_factory.mktemp("finished") / "run")


def test_the_chosen_rung_is_said_with_its_ratio_and_its_folds(finished: thawline.RunResult) -> None:
    chosen = finished.metrics["chosen"]
    assert (chosen["strategy"], chosen["thaw_line"]) == ("fine_tuning", "conv_head")
    assert chosen["thawed_fraction"] == pytest.approx(0.1703, abs=1e-3)
    (rung,) = finished.metrics["ladder"]
    assert rung["chosen"]
    assert len(rung["learning_rates"]) == len(rung["epochs"]) == len(rung["curves"]) == 2
    assert finished.metrics["cost"]["seconds"]["training"] > 0
    assert {choice["name"]: choice["value"] for choice in finished.plan["choices"]}["rung"] == "fine_tuning conv_head"


def test_the_model_is_an_ensemble_that_predicts_what_the_run_did(finished: thawline.RunResult, films: Path) -> None:
    model = finished.load_model()
    assert model.head.name == "ensemble"
    assert model.weights.thaw_line == "conv_head"
    files, expected = read_test_rows(finished.folder, films)
    np.testing.assert_allclose(model.predict_proba(files), expected, atol=1e-4)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)


def test_what_lies_below_the_line_is_the_pretrained_network(finished: thawline.RunResult) -> None:
    pretrained = read_backbone_tensors(find_weights("tiny"))
    kept = load_file(finished.folder / "model" / "weights.safetensors")
    for name, tensor in pretrained.items():
        np.testing.assert_array_equal(kept[name], tensor.numpy())
    members = {name.split(".")[1] for name in kept if name.startswith("members.")}
    assert members == {"0", "1", "2"}  # of the two folds, and the frozen heads of both
    trained = {name.split(".", 3)[3] for name in kept if name.startswith("members.0.suffix.")}
    assert trained
    assert all(name.startswith(("conv_head.", "bn2.")) for name in trained)
    frozen = {
        name.removeprefix("members.2.suffix."): kept[name] for name in kept if name.startswith("members.2.suffix.")
    }
    assert frozen.keys() == trained
    for name, tensor in frozen.items():
        np.testing.assert_array_equal(tensor, pretrained[name].numpy())
    rows = [len(kept[f"members.{number}.linear.bias"]) for number in range(3)]
    assert rows == [2, 2, 4]


def test_running_statistics_of_the_members_are_those_of_the_pretrained_network(finished: thawline.RunResult) -> None:
    pretrained = read_backbone_tensors(find_weights("tiny"))
    kept = load_file(finished.folder / "model" / "weights.safetensors")
    statistics = [name for name in kept if name.startswith("members.") and ".running_" in name and ".suffix." in name]
    assert statistics
    for name in statistics:
        np.testing.assert_array_equal(kept[name], pretrained[name.split(".suffix.")[1]].numpy())


def test_no_patient_is_named_in_report_model_or_journal(finished: thawline.RunResult) -> None:
    public = [finished.report, finished.folder / "journal.jsonl", *(finished.folder / "model").iterdir()]
    assert not [path.name for path in public if TELLING.encode() in path.read_bytes()]


def test_weights_of_single_folds_are_gone_at_the_end(finished: thawline.RunResult) -> None:
    units = [path.name for path in (finished.folder / "units").iterdir()]
    assert any("fold_0" in name for name in units)
    assert not [name for name in units if "weights" in name]


def test_a_killed_run_goes_on_at_the_next_fold_and_ends_as_if_nothing_had_happened(
    films: Path, finished: thawline.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    whole = strategies.thaw_fold
    with monkeypatch.context() as patch:
        thawed = stop_at_second_fold(patch)
        with pytest.raises(KeyboardInterrupt):
            run(films, tmp_path / "run")
    units = [json.loads(line)["unit"] for line in (tmp_path / "run" / "journal.jsonl").read_text("utf-8").splitlines()]
    assert "rung 0 fine_tuning conv_head fold 0" in units
    assert "rung 0 fine_tuning conv_head fold 1" not in units

    def note(thaw: Any, fold: int, *about: Any) -> Any:
        thawed.append(fold)
        return whole(thaw, fold, *about)

    monkeypatch.setattr(strategies, "thaw_fold", note)
    again = run(films, tmp_path / "run")
    assert thawed == [0, 1]
    assert again.n_resumed > 0
    assert drop_seconds(again.metrics) == drop_seconds(finished.metrics)


def test_weights_of_a_fold_that_were_lost_are_trained_again_to_the_same(
    films: Path, finished: thawline.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    with monkeypatch.context() as patch:
        patch.setattr("thawline.job.deliver", lambda *_: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception):
            run(films, tmp_path / "run")
    lost = list((tmp_path / "run" / "units").glob("*fold_1_weights.npz"))
    assert lost
    lost[0].unlink()
    again = run(films, tmp_path / "run")
    kept, expected = (load_file(each.folder / "model" / "weights.safetensors") for each in (again, finished))
    assert kept.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(kept[name], tensor)


def test_refitting_delivers_one_network(films: Path, tmp_path: Path) -> None:
    result = run(films, tmp_path / "run", final="refit")
    model = result.load_model()
    assert [len(scales) for scales in model.head.scales] == [2]  # type: ignore[attr-defined]
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(model.predict_proba(files), expected, atol=1e-4)


def test_networks_of_all_items_are_not_trained_again_where_a_run_was_killed_after_them(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "open_test", stop)
        with pytest.raises(KeyboardInterrupt):
            run(films, tmp_path / "run", final="refit")
    monkeypatch.setattr(ensemble, "train", stop)
    result = run(films, tmp_path / "run", final="refit")
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(result.load_model().predict_proba(files), expected, atol=1e-4)
    assert not [path.name for path in (result.folder / "units").iterdir() if "weights" in path.name]


@pytest.mark.skipif(not detect_hardware("cpu").bf16, reason="this processor has no bf16 arithmetic")
@pytest.mark.parametrize(("shift", "precision"), [(None, "bf16"), (0.02, "bf16"), (0.04, "f32")])
def test_a_network_that_bf16_changes_too_much_computes_in_f32(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float | None, precision: str
) -> None:
    if shift is not None:
        monkeypatch.setattr(delivery, "measure_shift", lambda *_: shift)
    result = run(films, tmp_path / "run", precision="bf16")
    assert result.load_model().contract.precision == precision
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(result.load_model().predict_proba(files), expected, atol=1e-4)
    if shift is None:
        assert 0 < Journal(result.folder).find("final precision")["shift"] < 0.03  # type: ignore[index]


def test_a_block_leaves_what_lies_above_it_alone(films: Path, tmp_path: Path) -> None:
    result = run(films, tmp_path / "run", thaw_line=None, blocks="blocks.4:blocks.4", train_norms=False)
    pretrained = read_backbone_tensors(find_weights("tiny"))
    kept = load_file(result.folder / "model" / "weights.safetensors")
    above = [name for name in kept if name.startswith("members.0.suffix.conv_head.")]
    assert above
    for name in above:
        np.testing.assert_array_equal(kept[name], pretrained[name.split(".suffix.")[1]].numpy())


def test_a_plan_file_cannot_train_folded_normalisation(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    describe = choosing.describe_backbone
    monkeypatch.setattr(
        choosing,
        "describe_backbone",
        lambda *about, **what: dataclasses.replace(describe(*about, **what), folded_batchnorm=True),
    )
    plan = thawline.plan_only(films, thawline.RunOptions(**FAST), listener=Notes()).to_json()
    next(choice for choice in plan["choices"] if choice["name"] == "recipe")["value"]["train_norms"] = True
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    with pytest.raises(OptionError, match="--train-norms: batch normalisation of tiny was folded"):
        run(films, tmp_path / "run", plan=tmp_path / "plan.json")


def test_a_line_that_stays_scouted_is_reported_with_its_folds(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fold of two is scouted, and one line is said to be behind the best: it keeps that fold."""
    monkeypatch.setattr(ladder, "SCOUTED_PATIENTS", 1)
    monkeypatch.setattr(ladder, "SCOUTED_OF_CLASS", 1)
    monkeypatch.setattr(ladder, "_describe_lag", lambda found, best, _: lag if found.rung.line == "blocks.4" else None)
    lag = {"reason": "behind", "best": "linear", "difference": 0.2, "standard_error": 0.1}
    limits = {"thaw_line": None, "head": None, "controls": "none"}
    plan = thawline.plan_only(films, thawline.RunOptions(**{**FAST, **limits}), listener=Notes()).to_json()
    choices = {choice["name"]: choice for choice in plan["choices"]}
    choices["heads"]["value"], choices["lines"]["value"] = ["linear"], ["conv_head", "blocks.4"]
    choices["recipe"]["value"]["epochs"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    result = run(films, tmp_path / "run", **limits, plan=tmp_path / "plan.json")
    rows = {rung["thaw_line"]: rung for rung in result.metrics["ladder"]}
    assert {line: rung["n_folds"] for line, rung in rows.items()} == {None: 2, "conv_head": 2, "blocks.4": 1}
    assert not rows["blocks.4"]["chosen"]
    assert rows["blocks.4"]["difference"] is None
    assert len(rows["blocks.4"]["epochs"]) == 1
    assert {"within": "fine_tuning blocks.4", "folds": 1, "n_folds": 2, **lag} in result.metrics["stops"]
    page = (result.folder / "report.html").read_text("utf-8")
    assert "Fine tuning from blocks.4 was left after 1 of 2" in page
    assert "triangles lines that were judged on some folds only" in page
    assert '<span class="of">1 of 2 folds</span>' in page


def test_a_line_that_the_budget_left_on_some_folds_is_delivered_as_networks_of_all_items(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"reason": "budget", "budget_s": 10.0, "spent_s": 9.0, "forecast_s": 5.0}
    monkeypatch.setattr(ladder, "SCOUTED_PATIENTS", 1)
    monkeypatch.setattr(ladder, "SCOUTED_OF_CLASS", 1)
    monkeypatch.setattr(ladder, "_describe_lag", lambda found, *_: short if found.rung.line else None)
    for module in (delivery, ensemble):  # so few films may teach nothing
        monkeypatch.setattr(module, "find_stop", lambda _: 1)

    def choose_last(tried: Any, development: Any) -> Any:
        return dataclasses.replace(ladder.choose_rung(tried, development), chosen=len(tried) - 1)

    monkeypatch.setattr(choosing, "choose_rung", choose_last)
    limits = {"thaw_line": None, "strategy": "feature_extractor,fine_tuning", "controls": "none", "tta": True}
    plan = thawline.plan_only(films, thawline.RunOptions(**{**FAST, **limits}), listener=Notes()).to_json()
    choices = {choice["name"]: choice for choice in plan["choices"]}
    choices["lines"]["value"] = ["conv_head"]
    choices["recipe"]["value"]["epochs"] = 2
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    result = run(films, tmp_path / "run", **limits, plan=tmp_path / "plan.json")
    found = {choice["name"]: choice for choice in result.plan["choices"]}
    assert result.metrics["chosen"]["thaw_line"] == "conv_head"
    assert (found["final"]["value"], result.metrics["chosen"]["n_networks"]) == ("refit", 3)
    assert "the budget has time for 3 networks of all items" in found["final"]["reason"]
    assert "all were compared on 1 of 2 folds" in found["rung"]["reason"]
    with (result.folder / "splits.csv").open(encoding="utf-8", newline="") as stream:
        n_scouted = sum(row["fold"] == "0" for row in csv.DictReader(stream))
    assert result.metrics["validation"]["n_items"] == n_scouted
    page = (result.folder / "report.html").read_text("utf-8")
    assert "3 networks with a seed each, trained on all development patients" in page
    assert "on the folds that all candidates have" in page
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(result.load_model().predict_proba(files), expected, atol=1e-4)


@pytest.mark.parametrize("control", ["handcrafted", "random_init"])
def test_a_control_that_is_asked_for_alone_is_delivered(films: Path, tmp_path: Path, control: str) -> None:
    limits: dict[str, Any] = {"thaw_line": None, "strategy": control}
    if control == "random_init":
        limits["seed"] = 1  # with 0 the network begins as one that keeps nothing of these films
        plan = thawline.plan_only(films, thawline.RunOptions(**{**FAST, **limits}), listener=Notes()).to_json()
        next(choice for choice in plan["choices"] if choice["name"] == "recipe")["value"]["epochs"] = 1
        (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
        limits["plan"] = tmp_path / "plan.json"
    result = run(films, tmp_path / "run", **limits)
    assert result.metrics["chosen"]["strategy"] == control
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(result.load_model().predict_proba(files), expected, atol=1e-4)


def test_controls_are_reported_and_not_chosen(films: Path, tmp_path: Path) -> None:
    result = run(films, tmp_path / "run", thaw_line=None, strategy="linear probe,hand-crafted")
    by_strategy = {rung["strategy"]: rung for rung in result.metrics["ladder"]}
    assert set(by_strategy) == {"feature_extractor", "handcrafted"}
    assert by_strategy["feature_extractor"]["chosen"]
    assert by_strategy["handcrafted"]["log_loss"] > 0
    assert by_strategy["handcrafted"]["difference"] is None


def test_several_backbones_race_and_one_goes_on(films: Path, tmp_path: Path) -> None:
    names = ["tiny", "efficientnet_lite0"]
    result = run(films, tmp_path / "run", thaw_line=None, size_px=None, head="linear", backbone=",".join(names))
    assert result.metrics["chosen"]["backbone"] in names
    choice = next(choice for choice in result.plan["choices"] if choice["name"] == "backbone")
    assert choice["kind"] == "empirical"
    assert {row["candidate"] for row in choice["evidence"]} == set(names)
    losses = {row["candidate"]: row["log_loss"] for row in choice["evidence"]}
    assert choice["value"] == min(losses, key=losses.__getitem__)
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(result.load_model().predict_proba(files), expected, atol=1e-4)


class CaughtError(Exception):
    """Holds what a patched class was made with."""


def catch(*about: Any, **_: Any) -> None:
    raise CaughtError(*about)


def test_candidates_race_at_a_low_resolution_for_few_epochs_with_their_upper_half_thawed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "Strategies", catch)
    with pytest.raises(CaughtError) as caught:
        run(films, tmp_path / "run", thaw_line=None, backbone="efficientnet_lite0,efficientnet_lite1", seed=3)
    source, _, _, settings, *_ = caught.value.args
    assert source.contract.size_px == 128
    assert (settings.recipe.epochs, settings.recipe.seed, settings.n_views) == (4, 3, 1)
    (line,) = settings.lines.values()
    assert 0.5 <= line.thawed_fraction < 1


def test_training_is_compiled_and_seeded_as_asked_on_the_device_that_was_found(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "Strategies", catch)
    for flag in (True, False):
        with pytest.raises(CaughtError) as caught:
            run(films, tmp_path / f"run-{flag}", compile=flag, seed=3)
        source, _, _, settings, *_ = caught.value.args
        recipe = settings.recipe
        assert (recipe.compiled, recipe.seed, recipe.device) == (flag, 3, source.hardware.device)


def test_the_engine_of_torch_that_a_gpu_has_comes_to_the_same_as_openvino(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views, lines, training, delivery and prediction through the other engine; the two round otherwise, in both parts."""
    found = {}
    for engine in ("", "torch"):
        monkeypatch.setenv("THAWLINE_ENGINE", engine)
        found[engine] = run(films, tmp_path / f"run-{engine}", precision="f32")
        files, expected = read_test_rows(found[engine].folder, films)
        np.testing.assert_allclose(found[engine].load_model().predict_proba(files), expected, atol=1e-4)
    tables = [read_test_rows(result.folder, films)[1] for result in found.values()]
    np.testing.assert_allclose(*tables, atol=0.02)
    assert "torch" in json.loads((found["torch"].folder / "spec.json").read_text("utf-8"))["environment"]["engine"]


@pytest.mark.parametrize("limits", [{"thaw_line": None, "head": "linear"}, {}], ids=["frozen", "thawed"])
def test_views_are_averaged_where_that_helps_and_the_model_repeats_it(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    monkeypatch.setattr(delivery, "paired_difference", lambda *_: (1.0, 0.1))  # so that it helps
    result = run(films, tmp_path / "run", tta=True, calibration="none", **limits)  # which might make all alike
    choice = next(choice for choice in result.plan["choices"] if choice["name"] == "tta")
    assert (choice["value"], choice["kind"], len(choice["evidence"])) == (True, "empirical", 2)
    model = result.load_model()
    assert [view.number for view in model.views] == ([0, 1] if not limits else [0, 1, 2, 3, 4])
    files, expected = read_test_rows(result.folder, films)
    np.testing.assert_allclose(model.predict_proba(files), expected, atol=1e-4)
    alone = dataclasses.replace(model, views=model.views[:1]).predict_proba(files)
    assert np.abs(alone - expected).max() > 1e-3
    assert result.metrics["validation"]["log_loss"]["value"] == pytest.approx(choice["evidence"][1]["log_loss"])


def test_views_are_left_where_they_do_not_help(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "paired_difference", lambda *_: (-1.0, 0.1))
    result = run(films, tmp_path / "run", tta=True, thaw_line=None, head="linear")
    assert len(result.load_model().views) == 1
