"""Drift in words: what is notable is said, what chance explains is not."""

from __future__ import annotations

import copy
from typing import Any

from thawline.share.drifted import describe_strangeness, list_notable, tabulate_drift

RANGE = {"min": 50.0, "median": 60.0, "max": 70.0}
LEVELS = [k / 20 for k in range(21)]
QUIET: dict[str, Any] = {
    "images": {
        "n_items": 100,
        "ranges": {"width_px": {"development": RANGE, "external": RANGE, "n_outside": 5}},
        "kinds": {"formats": {"development": {"PNG": 90}, "external": {"JPEG": 5, "PNG": 95}, "n_new": 5}},
    },
    "classes": {
        "development": {"healthy": {"items": 60, "patients": 40}, "lesion": {"items": 30, "patients": 10}},
        "external": {"healthy": {"items": 60, "patients": 30}, "lesion": {"items": 30, "patients": 30}},
        "p_values": {"classes": 0.05},
    },
    "probabilities": {
        "lesion": {
            "distance": 0.25,
            "p_value": 0.05,
            "stability": 0.1,
            "stability_limit": 0.1,
            "own_test": {"distance": 0.3, "p_value": 0.04},
            "n_patients": {"development": 50, "external": 60},
            "quantiles": {"levels": LEVELS, "development": LEVELS, "external": [level / 2 for level in LEVELS]},
        }
    },
    "familiarity": {
        "share": 0.95,
        "note": "",
        "n_items": 100,
        "n_unfamiliar": 12,
        "unfamiliar": {"value": 0.12, "low": 0.05, "high": 0.2, "level": 0.95, "method": ""},
        "quantiles": {"levels": [0.05, 0.25, 0.5, 0.75, 0.95], "of_limit": [0.5, 0.6, 0.7, 0.8, 1.2]},
    },
}


def change(*path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(QUIET)
    place = found
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return found


def test_what_chance_explains_is_not_notable() -> None:
    assert list_notable(QUIET) == []
    assert list_notable({**QUIET, "familiarity": None}) == []


def test_unfamiliar_images_are_said_where_there_are_surely_more() -> None:
    (said,) = list_notable(change("familiarity", "unfamiliar", "low", value=0.06))
    assert said.startswith("12 of 100 images (12 %) are unlike those of development; 5 % would be expected.")


def test_new_sizes_and_kinds_are_said() -> None:
    (said,) = list_notable(change("images", "ranges", "width_px", "n_outside", value=6))
    assert said == "Width: 6 of 100 outside the range of development, 50 to 70; the median is 60, of development 60."
    (said,) = list_notable(change("images", "kinds", "formats", "n_new", value=6))
    assert said == "Formats: JPEG, PNG, of development PNG; 6 of 100 are new to the model."


def test_another_mix_of_classes_is_said_with_what_it_changes() -> None:
    (said,) = list_notable(change("classes", "p_values", value={"classes": 0.0004}))
    assert "healthy: 50 %, lesion: 50 %, of development healthy: 80 %, lesion: 20 % (p < .001)" in said
    assert "predictive values" in said
    labels = {
        part: {"classes": {"patients": n, "negative_patients": 10}}
        for part, n in (("development", 10), ("external", 30))
    }
    (said,) = list_notable({**QUIET, "classes": {**labels, "p_values": {"classes": 0.01}}})  # a label of that name
    assert said.startswith("The share of patients with classes differs: 75 %, of development 50 % (p = 0.010).")


def test_other_probabilities_are_said_with_the_runs_own_test_part() -> None:
    for path, value in ((("p_value",), 0.04), (("stability",), 0.11)):
        (said,) = list_notable(change("probabilities", "lesion", *path, value=value))
        assert "half of the patients lie within 0.12 to 0.38, of development 0.25 to 0.75" in said
        assert "So are those of the run's own test part (distance 0.30)" in said
    other = change("probabilities", "lesion", "own_test", value=None)
    other["probabilities"]["lesion"]["p_value"] = 0.04
    assert "own test part" not in list_notable(other)[0]


def test_the_table_has_a_row_for_each() -> None:
    rows = tabulate_drift(QUIET)
    assert [row["name"] for row in rows] == [
        "Width, median and range",
        "Formats",
        "Patients of each class",
        "Probability of lesion, median patient",
    ]
    assert rows[0]["development"] == "60 (50 to 70)"
    assert rows[3]["apart"] == "distance 0.25, p = 0.050; stability 0.10 (by chance up to 0.10)"


def test_strangeness_in_a_sentence() -> None:
    said = describe_strangeness(QUIET["familiarity"])
    assert said.endswith("The median image lies at 0.70 of the limit, one in twenty beyond 1.20 of it.")
    assert describe_strangeness(None) == ""
    assert describe_strangeness({**QUIET["familiarity"], "note": "Too few patients."}) == "Too few patients."
