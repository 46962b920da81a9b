"""The model card: the figures of the run, the limits, and nobody's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thawline.learn.networks import Architecture
from thawline.learn.weight_files import Weights
from thawline.plan import Choice, Plan
from thawline.share.card import HEADLINES, restate_card, write_card
from thawline.share.study import Study


def make_estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": 0.95, "method": "patient bootstrap"}


def choose(
    strategy: str, line: str | None, head: str, fraction: float, epochs: list[int], n_networks: int = 1
) -> dict[str, Any]:
    """What metrics.json says of the chosen rung: in `chosen`, and in the ladder."""
    chosen = {"strategy": strategy, "thaw_line": line, "thawed_fraction": fraction, "head": head}
    ladder = [{"chosen": False}, {**chosen, "chosen": True, "epochs": epochs}]
    return {"chosen": {"backbone": "net", **chosen, "n_networks": n_networks}, "ladder": ladder}


FROZEN = choose("feature_extractor_hybrid", None, "svm", 0.0, [])


INFERENCE = {"measured_on": "development", "n_items": 32, "per_items": 1000, "seconds": 75.0, "cpu_seconds": 140.0,
             "energy_wh": 0.75, "peak_rss_mib": None, "start_seconds": 0.5, "energy_method": "estimated: by hand",
             "model_mib": 13.26}  # fmt: skip


def make_judgement() -> dict[str, Any]:
    """What is judged beside the metrics, of both parts alike."""
    half = make_estimate(0.5, 0.25, 0.75)
    brier = dict.fromkeys(("score", "reliability", "resolution", "uncertainty"), 0.1)
    calibration = {"lesion": {"slope": half, "intercept": half, "ece_debiased": 0.1, "brier": brier, "curve": {}}}
    workload = {"n_patients": 1000, "diseased": 100,
                **{key: make_estimate(40, 30, 50) for key in ("called", "found", "missed", "wrongly_called")}}  # fmt: skip
    benefit = {"thresholds": [], "gain": {"low": []}}
    decision = {"threshold": 0.25, "prevalence": 0.1, "rates": {}, "workload": workload, "net_benefit": benefit}
    doubts = {"sets": {"coverage": half}, "risk_coverage": {"coverages": [1.0], "risks": [half]}}
    women = {"value": "F", "n_items": 6, "n_patients": 4, "n_rarest": 2, "is_small": True, "auc": half}
    subgroups = {"sex": {"parts": [women], "p_values": {"auc": 0.5}, "p_values_corrected": {"auc": 0.5}}}
    found = {"calibration": calibration, "decision": decision, "doubts": doubts, "subgroups": subgroups}
    told: dict[str, Any] = {name: {"test": each, "validation": each} for name, each in found.items()}
    told["calibration"]["map"], told["decision"]["choice"] = "platt", None
    return told | {"familiarity": {"note": "", "share": 0.95, "n_test_items": None, "n_unfamiliar": None}}


def make_metrics(*, held: bool = False, **changes: Any) -> dict[str, Any]:
    section = {name: make_estimate(0.25, 0.125, 0.375) for name in HEADLINES} | {"n_items": 12, "n_patients": 7}
    test = None if held else {**section, "auc": make_estimate(0.875, 0.75, 0.9375), **changes}
    return {
        "task": {"kind": "binary", "classes": ["healthy", "lesion"], "positive": "lesion", "threshold": 0.5},
        **FROZEN,
        **make_judgement(),
        "cost": {"inference": INFERENCE},
        "test": test,
        "validation": {**section, "n_items": 99, "n_patients": 55},
        "nested": None,
    }


def make_plan(**changes: Any) -> Plan:
    values = {"size_px": 224, "aspect": "letterbox", "interpolation": "bicubic", "wide_range": None}
    values |= {"highest_block": None, "final": "ensemble", "tta": False, **changes}
    return Plan(tuple(Choice(name, value, "fixed", "") for name, value in values.items()), "print")


@pytest.fixture
def plan() -> Plan:
    return make_plan()


@pytest.fixture
def weights() -> Weights:
    architecture = Architecture("net", "timm", "net", 224, (0.5,) * 3, (0.5,) * 3, "bicubic")
    return Weights(architecture, Path("/home/erika/net.pth"), "ab12" * 16, "a package", "Apache-2.0", "ImageNet-1k")


def test_card_states_the_test_figures(plan: Plan, weights: Weights) -> None:
    card = write_card(make_metrics(), plan, weights)
    assert "| auc | 0.875 [0.750, 0.938] |" in card
    assert "| balanced accuracy | 0.250 [0.125, 0.375] |" in card
    assert "held-out test part: 12 items of 7 patients" in card
    assert len([line for line in card.splitlines() if line.startswith("| ")]) == len(HEADLINES) + 2


def test_card_names_task_model_weights_and_input(plan: Plan, weights: Weights) -> None:
    card = write_card(make_metrics(), plan, weights)
    for said in (
        "classes healthy, lesion; positive class lesion",
        "**Model**: net, feature extractor hybrid, svm head\n",
        "everything below the head is frozen",
        "0 % of the backbone's parameters",
        "svm head, refitted on all development patients",
        "a package; licence Apache-2.0; trained on ImageNet-1k",
        "ab12" * 16,
        "224 px, letterbox, bicubic",
        f"plan {plan.digest()[:12]}",
    ):
        assert said in card


@pytest.mark.parametrize(
    ("chosen", "changes", "model", "line", "delivered"),
    [
        (
            ("fine_tuning", "blocks.5", "linear", 0.858, [3, 4, 4]),
            {},
            "net, fine tuning from blocks.5",
            "blocks.5: trained from there up; everything below it is frozen",
            "ensemble of the 3 folds' networks, each blended with the frozen head and calibrated on its own held-out fold",
        ),
        (
            ("fine_tuning", "blocks.4", "linear", 0.96, [3, 0, 0]),
            {"highest_block": "blocks.5"},
            "net, fine tuning from blocks.4",
            "blocks.4: trained from there up to blocks.5; the rest of the backbone is frozen",
            "ensemble of the 3 folds' networks, each blended with the frozen head and calibrated on its own held-out fold; "
            "2 of 3 not trained, since "
            "no epoch was better than no training",
        ),
        (
            ("fine_tuning_from_scratch", "conv_stem", "linear", 1.0, [2]),
            {},
            "net, fine tuning from scratch",
            "conv_stem, the lowest: every layer is trained, from the pretrained weights",
            "the network of the one fold, blended with the frozen head and calibrated on its held-out patients",
        ),
        (
            ("random_init", "conv_stem", "linear", 1.0, [2, 3]),
            {"final": "refit"},
            "net, random init",
            "none: every layer is trained, from a random start",
            "one network, trained on all development patients for the median number of epochs of the folds",
        ),
        (
            ("fine_tuning", "blocks.5", "linear", 0.858, [0, 0, 4]),
            {"final": "refit"},
            "net, fine tuning from blocks.5",
            "blocks.5: trained from there up; everything below it is frozen",
            "one network, trained on all development patients for the median number of epochs of the folds, which is none",
        ),
        (
            ("fine_tuning", "blocks.5", "linear", 0.858, [7], 3),
            {"final": "refit"},
            "net, fine tuning from blocks.5",
            "blocks.5: trained from there up; everything below it is frozen",
            "3 networks with a seed each, trained on all development patients for the median number of epochs of the folds",
        ),
        (
            ("fine_tuning", "blocks.5", "linear", 0.858, [3, 4]),
            {"tta": True},
            "net, fine tuning from blocks.5",
            "blocks.5: trained from there up; everything below it is frozen",
            "ensemble of the 2 folds' networks, each blended with the frozen head and calibrated on its own held-out fold; "
            "each image is predicted as the "
            "mean over several views",
        ),
        (
            ("handcrafted", None, "linear", 0.0, []),
            {},
            "handcrafted",
            "none: no network is used",
            "linear head, refitted on all development patients",
        ),
    ],
)
def test_card_says_what_was_trained_and_what_is_kept(
    chosen: tuple[Any, ...], changes: dict[str, Any], model: str, line: str, delivered: str, weights: Weights
) -> None:
    metrics = {**make_metrics(), **choose(*chosen)}
    lines = write_card(metrics, make_plan(**changes), weights).splitlines()
    assert f"- **Model**: {model}" in lines
    assert f"- **Thaw line**: {line}" in lines
    assert f"- **Delivered**: {delivered}" in lines
    assert not any("below the head is frozen" in each for each in lines)


def test_card_of_a_run_whose_test_part_is_closed(plan: Plan, weights: Weights) -> None:
    card = write_card(make_metrics(held=True), plan, weights)
    assert "development folds (the test part was kept closed): 99 items of 55 patients" in card


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (make_estimate(None), "not defined"),
        (make_estimate(0.5), "0.500 |"),
        (make_estimate(0.5, 0.25, 1.0), "[0.250, 1.000]"),
    ],
)
def test_numbers_that_are_not_there_are_said_so(
    estimate: dict[str, Any], said: str, plan: Plan, weights: Weights
) -> None:
    row = next(line for line in write_card(make_metrics(ece=estimate), plan, weights).splitlines() if "| ece" in line)
    assert said in row


def test_card_says_what_it_is_not_for_and_gives_nobody_away(plan: Plan, weights: Weights) -> None:
    card = write_card(make_metrics(), plan, weights)
    assert "Not a medical device" in card
    assert "erika" not in card
    assert str(weights.path) not in card


def test_card_says_what_using_the_model_costs(plan: Plan, weights: Weights) -> None:
    card = write_card(make_metrics(), plan, weights)
    assert (
        "## Cost of use\n\nPredicting 1 000 items takes 1 min 15 s, 2 min 20 s of core time and 0.750 Wh (estimated), after "
        "0.5 s to start; measured on 32 predictions of development items, all computed as for new items. The model takes "
        "13.3 MiB on disk.\n" in card
    )


def test_card_says_how_it_is_calibrated_when_it_calls_and_when_it_does_not_answer(plan: Plan, weights: Weights) -> None:
    card = write_card(make_metrics(), plan, weights)
    for said in (
        "- Probabilities pass a map: platt;",
        "- lesion: slope 0.500 [0.250, 0.750] (1 is right)",
        "- Called from a probability of 0.25 on.",
        "- Of 1 000 patients, 100 of whom have the condition (10 %), the model calls 40 [30, 50]",
        "- sex, F (6 items of 4 patients, too few to compare): AUC 0.500 [0.250, 0.750]",
        "- Sets that hold the true class: 0.500 [0.250, 0.750]",
        "- An image counts as unfamiliar",
    ):
        assert said in card, said


def test_card_of_several_labels_has_no_decision(plan: Plan, weights: Weights) -> None:
    metrics = make_metrics() | {"decision": None, "doubts": None, "familiarity": None, "subgroups": None}
    card = write_card(metrics, plan, weights)
    for said in ("most probable class is called", "Not examined: the data name no groups", "the model always answers"):
        assert said in card


def test_card_repeats_the_stated_use_and_no_name(plan: Plan, weights: Weights) -> None:
    study = Study({"intended_use": "triage, not of MRN-00017 in /data/jane", "ethics": "board 7"})
    card = write_card(make_metrics(), plan, weights, study, ["MRN-00017"])
    assert "- **Intended use**: triage, not of [withheld] in [withheld]\n" in card
    assert "board 7" not in card
    assert "## Intended use\n\nNot stated by its makers.\n" in write_card(make_metrics(), plan, weights)


def test_card_is_restated_in_place(tmp_path: Path, plan: Plan, weights: Weights) -> None:
    restate_card(tmp_path)  # without a model there is nothing to do
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "card.md"
    before = write_card(make_metrics(), plan, weights)
    path.write_text(before, "utf-8")
    (tmp_path / "predictions.csv").write_text("item,patient\na/film.png,MRN-00017\n", "utf-8")
    for use in (r"for \\1 MRN-00017", "for another"):
        (tmp_path / "study.toml").write_text(f"[study]\nintended_use = '{use}'\n", "utf-8")
        restate_card(tmp_path)
    assert path.read_text("utf-8") == before.replace("Not stated by its makers.", "- **Intended use**: for another")
