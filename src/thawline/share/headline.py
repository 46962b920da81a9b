"""Which predictions make the headline of a run, and what its parts are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thawline.share.words import format_number

PARTS = {"nested": "Nested cross-validation", "test": "Test", "validation": "Cross-validation"}  # the strictest first
WHERE = {"nested": "nested cross-validation", "test": "test part", "validation": "cross-validation"}


def find_headline(metrics: Mapping[str, Any]) -> str:
    """Return the part of `metrics.json` that makes the headline: "nested" where the plan says so, else "test" if opened."""
    if metrics["nested"] is not None and metrics["nested"]["headline"]:
        return "nested"
    return "validation" if metrics["test"] is None else "test"


def name_threshold(threshold: float | None, section: Mapping[str, Any]) -> str:
    """Return "the threshold 0.50", or that each part of nested cross-validation has its own where these differ."""
    own = sorted({row["threshold"] for row in section.get("folds", ())})
    if len(own) < 2:
        return f"the threshold {format_number(threshold, 2)}"
    return f"the threshold of each part ({format_number(own[0], 2)} to {format_number(own[-1], 2)})"


def list_parts(metrics: Mapping[str, Any]) -> list[str]:
    """Return the parts that a run has, the headline first."""
    first = find_headline(metrics)
    return [first, *(key for key in PARTS if key != first and metrics[key] is not None)]
