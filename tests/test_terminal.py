"""The lines that end a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thawline.terminal import format_summary, format_validation


def make_metrics(chosen: dict[str, Any], n_rungs: int) -> dict[str, Any]:
    estimate = {"value": 0.9, "low": 0.8, "high": 0.95}
    section = {"auc": estimate, "accuracy": estimate, "n_items": 12, "n_patients": 7}
    seconds = {"read": 2.44, "features": 17.6, "heads": 15.6, "choices": 1.0, "training": 81.26, "total": 118.9}
    cost = {"seconds": seconds, "peak_rss_mib": 814, "inference": {"seconds": 3.96, "per_items": 1000}}
    parts = {"nested": None, "test": section, "validation": section}
    return {**parts, "chosen": chosen, "ladder": [{}] * n_rungs, "cost": cost}


@pytest.mark.parametrize(
    ("strategy", "line", "head", "fraction", "said"),
    [
        ("feature_extractor", None, "linear", 0.0, "net, feature extractor, linear head"),
        ("fine_tuning", "blocks.5", "linear", 0.858, "net, fine tuning from blocks.5 (fine-tuning ratio 86 %)"),
        ("fine_tuning_from_scratch", "stem", "linear", 1.0, "net, fine tuning from scratch (fine-tuning ratio 100 %)"),
        ("handcrafted", None, "linear", 0.0, "handcrafted"),
    ],
)
def test_the_chosen_rung_is_said_in_words(
    strategy: str, line: str | None, head: str, fraction: float, said: str
) -> None:
    chosen = {"backbone": "net", "strategy": strategy, "thaw_line": line, "thawed_fraction": fraction, "head": head}
    lines = format_summary(make_metrics(chosen, 9), Path("report.html")).splitlines()
    assert lines[2:] == [
        f"Chosen: {said}, of 9 rungs tried",
        "Cost: 118.9 s (read 2.4, features 17.6, heads 15.6, training 81.3), peak memory 814 MiB; "
        "predicting 1000 items 4.0 s",
        "Report: report.html",
    ]
    assert "\n".join(lines).isascii()  # any terminal can show it


def test_the_headline_comes_first() -> None:
    chosen = {"backbone": "net", "strategy": "feature_extractor", "thaw_line": None, "head": "linear"}
    metrics = make_metrics(chosen, 9)
    assert format_summary(metrics, Path("r.html")).splitlines()[:2] == [
        "Test AUC 0.900 [0.800, 0.950], accuracy 0.900 [0.800, 0.950]: 12 items of 7 patients",
        "Cross-validated AUC 0.900 [0.800, 0.950]: 12 items of 7 patients",
    ]
    nested = {**metrics, "nested": {**metrics["test"], "headline": True, "n_items": 60}}
    assert format_summary(nested, Path("r.html")).splitlines()[:2] == [
        "Nested cross-validated AUC 0.900 [0.800, 0.950], accuracy 0.900 [0.800, 0.950]: 60 items of 7 patients",
        "Test AUC 0.900 [0.800, 0.950]: 12 items of 7 patients",
    ]
    closed = format_summary({**metrics, "test": None}, Path("r.html")).splitlines()
    assert closed[0].startswith("Cross-validated (test part closed) AUC 0.900 [0.800, 0.950], accuracy")


def test_one_rung_is_one() -> None:
    chosen = {
        "backbone": "net",
        "strategy": "feature_extractor",
        "thaw_line": None,
        "thawed_fraction": 0,
        "head": "linear",
    }
    assert "head, of 1 rung tried" in format_summary(make_metrics(chosen, 1), Path("r"))


def test_what_was_not_timed_is_not_said() -> None:
    metrics = make_metrics({"strategy": "handcrafted", "thaw_line": None, "head": "linear"}, 1)
    metrics["cost"]["inference"]["seconds"] = None
    assert format_summary(metrics, Path("r")).splitlines()[3].endswith("peak memory 814 MiB")


def test_a_validation_is_said_beside_its_run() -> None:
    section = make_metrics({}, 1)["test"]
    difference = {"value": -0.05, "low": -0.1, "high": 0.01}
    metrics: dict[str, Any] = {
        "external": section,
        "compared": {"with": "validation", "metrics": {"auc": {"difference": difference, "p_value": 0.1}}},
        "drift": {"familiarity": {"n_unfamiliar": 3, "n_items": 12}, "notable": []},
    }
    assert format_validation(metrics, Path("v.html")).splitlines() == [
        "External AUC 0.900 [0.800, 0.950], accuracy 0.900 [0.800, 0.950]: 12 items of 7 patients",
        "AUC less that of the run's cross-validation: -0.050 [-0.100, 0.010]",
        "Unfamiliar images: 3 of 12",
        "Drift: nothing notable",
        "Page: v.html",
    ]


def test_a_validation_without_a_class_says_what_can_be_told() -> None:
    undefined = {"value": None, "low": None, "high": None}
    section = make_metrics({}, 1)["test"] | {"auc": undefined, "auc_present": {"value": 0.7, "low": 0.6, "high": 0.8}}
    drift = {"familiarity": None, "notable": ["One.", "Two."]}
    lines = format_validation({"external": section, "compared": None, "drift": drift}, Path("v")).splitlines()
    assert lines[0].startswith("External AUC 0.700 [0.600, 0.800], accuracy 0.900")
    assert lines[1:] == ["Drift: One.", "Drift: Two.", "Page: v"]
