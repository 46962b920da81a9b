"""The way of items into the parts: all are counted once, in the drawing and in words, and no reason names a file."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from thawline.share.figures import Caption
from thawline.share.flow import UNREADABLE, describe_flow, draw_flow, summarise_flow

CLASSES = ("lesion", "healthy")


def make_flow(
    *, tested: bool = True, patients_given: bool = True, classes: tuple[str, ...] = CLASSES
) -> dict[str, Any]:
    counts = {name: {"items": 6, "patients": 3} for name in classes}
    audit = {
        "unreadable": [{"item": 3, "label": "lesion", "reason": "'/ward/Jane Doe.png' is empty"}],
        "left_out": [
            {"item": 3, "label": "lesion", "reason": "'/ward/Jane Doe.png' is empty"},
            {"item": 5, "label": "lesion", "reason": "identical to an image with another label"},
            {"item": 9, "label": "healthy", "reason": "identical to an image with another label"},
        ],
    }
    fingerprint = {"n_items": 18, "n_patients": 9, "patients_given": patients_given,
                   "parts": {"development": counts, "test": {classes[0]: {"items": 6, "patients": 3}}}}  # fmt: skip
    return summarise_flow(audit, fingerprint, classes, tested=tested)


def list_words(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_every_item_is_counted_once() -> None:
    flow = make_flow()
    assert (flow["n_found"], flow["n_left_out"], flow["n_items"]) == (21, 3, 18)
    assert flow["left_out"] == [
        {"reason": UNREADABLE, "n_items": 1, "classes": {"lesion": 1}},
        {"reason": "identical to an image with another label", "n_items": 2, "classes": {"lesion": 1, "healthy": 1}},
    ]
    assert sum(row["n_items"] for part in flow["parts"] for row in part["rows"]) == 18
    assert flow["parts"][1]["rows"][1] == {"name": "healthy", "n_items": 0, "n_patients": 0}


def test_words_and_drawing_say_the_same() -> None:
    flow = make_flow()
    said, drawn = describe_flow(flow), list_words(draw_flow(flow, Caption("flow", "words")))
    assert "21 items found. Left out, could not be read: 1 (lesion 1)." in said
    assert "18 items of 9 patients took part. Development: lesion 6 (3); healthy 6 (3)." in said
    for line in ("Found: 21 items", "Left out: 3 items", "1 could not be read", "18 items of 9 patients took part",
                 "Development", "Test", "healthy: 0 (0)"):  # fmt: skip
        assert line in drawn
    assert "Jane" not in said + " ".join(drawn)


def test_a_closed_test_part_is_called_so() -> None:
    flow = make_flow(tested=False)
    assert "Test, closed" in list_words(draw_flow(flow, Caption("flow", "words")))
    assert "Test, closed: lesion 6 (3)" in describe_flow(flow)


def test_patients_that_nobody_named_are_not_counted() -> None:
    said = describe_flow(make_flow(patients_given=False))
    assert "18 items took part. Development: lesion 6; healthy 6." in said


@pytest.mark.parametrize("n_classes", [7, 30])
def test_many_classes_are_cut_and_counted(n_classes: int) -> None:
    names = tuple(f"a very long name of finding number {k}" for k in range(n_classes))
    drawn = list_words(draw_flow(make_flow(classes=names), Caption("flow", "words")))
    assert drawn.count(f"and {n_classes - 6} more classes") == 2
    assert max(map(len, drawn)) <= 48
