"""The model card: the figures of the run, the limits, and nobody's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thawline.learn.networks import Architecture
from thawline.learn.weight_files import Weights
from thawline.plan import Choice, Plan
from thawline.share.card import HEADLINES, write_card


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


def make_metrics(*, held: bool = False, **changes: Any) -> dict[str, Any]:
    section = {name: make_estimate(0.25, 0.125, 0.375) for name in HEADLINES} | {"n_items": 12, "n_patients": 7}
    test = None if held else {**section, "auc": make_estimate(0.875, 0.75, 0.9375), **changes}
    return {
        "task": {"kind": "binary", "classes": ["healthy", "lesion"], "positive": "lesion", "threshold": 0.5},
        **FROZEN,
        "test": test,
        "validation": {**section, "n_items": 99, "n_patients": 55},
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
