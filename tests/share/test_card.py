"""The model card: the figures of the run, the limits, and nobody's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thawline.learn.backbones import Architecture
from thawline.learn.weights import Weights
from thawline.plan import Choice, Plan
from thawline.share.card import HEADLINES, write_card


def make_estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": 0.95, "method": "patient bootstrap"}


def make_metrics(*, held: bool = False, **changes: Any) -> dict[str, Any]:
    section = {name: make_estimate(0.25, 0.125, 0.375) for name in HEADLINES} | {"n_items": 12, "n_patients": 7}
    test = None if held else {**section, "auc": make_estimate(0.875, 0.75, 0.9375), **changes}
    return {
        "task": {"kind": "binary", "classes": ["healthy", "lesion"], "positive": "lesion", "threshold": 0.5},
        "chosen": {"backbone": "net", "strategy": "feature_extractor", "thaw_line": None, "head": "svm"},
        "test": test,
        "validation": {**section, "n_items": 99, "n_patients": 55},
    }


@pytest.fixture
def plan() -> Plan:
    values = {"size_px": 224, "aspect": "letterbox", "interpolation": "bicubic", "wide_range": None}
    return Plan(tuple(Choice(name, value, "fixed", "") for name, value in values.items()), "print")


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
        "net, feature_extractor, head svm",
        "a package; licence Apache-2.0; trained on ImageNet-1k",
        "ab12" * 16,
        "224 px, letterbox, bicubic",
        f"plan {plan.digest()[:12]}",
    ):
        assert said in card


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
