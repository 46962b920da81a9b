"""Plain words: counts that follow from the rates, and no claim that the run does not bear."""

from __future__ import annotations

from typing import Any

import pytest

from thawline.share.plain_language import tell_plainly, tell_purpose, tell_quality
from thawline.share.study import Study


def make_estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def make_summary(prevalence: float = 0.3, **changes: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "binary", "classes": ["healthy", "lesion"], "positive": "lesion"},
        "part": "test",
        "parts": [{"n_items": 200, "n_patients": 90}],
        "data": {"patients_given": True},
        "auc": make_estimate(0.9, 0.8, 0.95),
        "curves": {"operating_point": {"sensitivity": make_estimate(0.8, 0.7, 0.9),
                                       "specificity": make_estimate(0.9, 0.8, 1.0)}},
        "decision": {"prevalence": prevalence},
        "scores": [{"name": "Accuracy", "estimates": [make_estimate(0.7, 0.6, 0.8)]}],
        "classes": [{"rows": [{"n_items": 30}, {"n_items": 50}, {"n_items": 20}]}],
        "subgroups": [],
        **changes,
    }  # fmt: skip


def test_of_a_hundred_images() -> None:
    assert tell_quality(make_summary()) == [
        "Suppose that 30 of 100 images show lesion.",
        "Of these 30 it finds about 24 (21 to 27), and misses 6 (3 to 9).",
        "Of the other 70 it wrongly calls about 7 (0 to 14).",
        "The numbers in brackets are the range in which the true ones probably lie.",
    ]


@pytest.mark.parametrize("prevalence", [0.02, 0.98])
def test_rare_conditions_are_told_of_a_thousand(prevalence: float) -> None:
    assert (
        tell_quality(make_summary(prevalence))[0] == f"Suppose that {1000 * prevalence:.0f} of 1000 images show lesion."
    )


def test_no_better_than_chance_is_said() -> None:
    said = tell_quality(make_summary(auc=make_estimate(0.6, 0.45, 0.7)))
    assert said[-1] == "On these patients it may be no better than tossing a coin."


def test_several_classes_are_set_against_the_most_frequent() -> None:
    task = {"kind": "multiclass", "classes": ["a", "b", "c"], "positive": None}
    said = tell_quality(make_summary(task=task, decision=None, curves={"operating_point": None}))
    assert said == [
        "Of 100 images it gets about 70 (60 to 80) right.",
        "Always naming the most frequent class would be right for 50.",
    ]


def test_the_purpose_is_stated_or_said_to_be_missing() -> None:
    task = make_summary()["task"]
    assert tell_purpose(task, Study({"intended_use": "triage."}))[-1] == "Its makers state what it is for: triage."
    assert tell_purpose(task, Study())[-1] == "Its makers do not state what it is for."
    assert "how likely it shows lesion rather than healthy" in tell_purpose(task, Study())[0]


@pytest.mark.parametrize(
    ("subgroups", "said"),
    [
        ([], "was not examined"),
        ([{"name": "sex", "p_values": [0.2, None]}], "No difference was seen by sex"),
        ([{"name": "sex", "p_values": [0.01]}, {"name": "age", "p_values": [0.4]}], "results differ by sex."),
    ],
)
def test_groups(subgroups: list[dict[str, Any]], said: str) -> None:
    assert said in tell_plainly(make_summary(subgroups=subgroups), Study())[-1]["text"]


def test_without_a_test_or_patients_it_says_so() -> None:
    told = tell_plainly(make_summary(part="validation", data={"patients_given": False}), Study())[1]["text"]
    assert "A test on patients put aside from the start was not made." in told
    assert "Images of one person may have served for learning and for the test" in told


def test_a_site_that_was_left_out_is_no_test_that_was_not_made() -> None:
    usual = tell_plainly(make_summary(), Study(), {"test": "time:year"})[-1]["text"]
    elsewhere = tell_plainly(make_summary(), Study(), {"test": "site:clinic=North"})[-1]["text"]
    assert "this was not tested here" in usual
    assert "it was tested on one clinic that it had not learned from" in elsewhere
