"""Examples: the most confident errors, drawn small, named by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thawline.data.dataset import from_arrays
from thawline.share.examples import SHOWN, SHOWN_GROUPS, SHOWN_OF_GROUP, SIZE_PX, show_findings, write_examples

CLASSES = ("a", "b")


def make_images(n: int) -> list[Any]:
    """Images that differ in their left half."""
    images = [np.zeros((20, 40), np.uint8) for _ in range(n)]
    for number, image in enumerate(images):
        image[:, :20] = 10 * number + 5
    return images


def write(run: Path, scores: list[float], labels: list[int], **changes: Any) -> list[dict[str, Any]]:
    """Write examples for items with these probabilities of class b; return what the index holds."""
    table = np.stack([1 - np.array(scores), np.array(scores)], axis=1)
    given: dict[str, Any] = {
        "contents": make_images(len(scores)),
        "numbers": [100 + number for number in range(len(scores))],
        "shown": np.arange(len(scores)),
        "labels": np.array(labels),
        "probabilities": table,
        "about": (CLASSES, "b", 0.5),
        **changes,
    }
    write_examples(run, *given.values())
    return list(json.loads((run / "examples.json").read_text("utf-8")))


def test_errors_come_with_the_most_confident_first(tmp_path: Path) -> None:
    rows = write(tmp_path, [0.9, 0.8, 0.05, 0.6, 0.5], [0, 1, 1, 0, 0])
    assert [(row["item"], row["label"], row["predicted"]) for row in rows] == [
        (102, "b", "a"),
        (100, "a", "b"),
        (103, "a", "b"),
        (104, "a", "b"),
    ]
    assert [row["probability"] for row in rows] == pytest.approx([0.95, 0.9, 0.6, 0.5])


def test_threshold_decides_what_is_an_error(tmp_path: Path) -> None:
    rows = write(tmp_path, [0.4, 0.2], [0, 0], about=(CLASSES, "b", 0.3))
    assert [(row["item"], row["predicted"], row["probability"]) for row in rows] == [(100, "b", pytest.approx(0.4))]


def test_only_the_part_that_is_shown(tmp_path: Path) -> None:
    table = np.array([[0.1, 0.9], [0.1, 0.9], [np.nan, np.nan]])
    rows = write(tmp_path, [0, 0, 0], [0, 0, 0], shown=np.array([1]), probabilities=table)
    assert [row["item"] for row in rows] == [101]


def test_no_more_than_fit_and_ties_in_the_order_of_items(tmp_path: Path) -> None:
    rows = write(tmp_path, [0.75] * (SHOWN + 3), [0] * (SHOWN + 3))
    assert [row["item"] for row in rows] == list(range(100, 100 + SHOWN))
    assert len(list((tmp_path / "examples").iterdir())) == SHOWN


def test_several_classes(tmp_path: Path) -> None:
    table = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    rows = write(tmp_path, [0, 0], [0, 0], probabilities=table, about=(("a", "b", "c"), None, 0.5))
    assert [(row["item"], row["predicted"]) for row in rows] == [(100, "c")]


def test_thumbnail_keeps_the_shape_and_pads_with_black(tmp_path: Path) -> None:
    (row,) = write(tmp_path, [0.9], [0])
    with Image.open(tmp_path / row["image"]) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (SIZE_PX, SIZE_PX)
    assert (pixels[: SIZE_PX // 4 - 1] == 0).all()  # twice as wide as high: bars above and below
    assert pixels[SIZE_PX // 2, 10] == 5


def test_deeper_images_are_drawn_from_their_own_darkest_to_brightest(tmp_path: Path) -> None:
    deep = np.full((32, 32), 1000, np.uint16)
    deep[:, 16:] = 3000
    (row,) = write(tmp_path, [0.9], [0], contents=[deep])
    with Image.open(tmp_path / row["image"]) as image:
        assert image.convert("L").getextrema() == (0, 255)


def test_no_error_leaves_an_empty_list_and_none_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, [0.9], [0])
    assert write(tmp_path, [0.9], [1]) == []
    assert not (tmp_path / "examples").exists()


def test_findings_show_the_first_items_of_the_first_groups(tmp_path: Path) -> None:
    images = make_images(24)
    dataset = from_arrays(images, list("ab") * 12)
    pairs = [[2 * n, 2 * n + 1] for n in range(5)]
    many, single = [list(range(10))], [[n] for n in range(12)]
    findings = [{"name": str(n), "groups": groups} for n, groups in enumerate((pairs, many, single))]
    shown = [each["shown"] for each in show_findings(tmp_path, findings, dataset)]
    assert [[item["item"] for item in group] for group in shown[0]] == pairs[:SHOWN_GROUPS]
    assert [[item["item"] for item in group] for group in shown[1]] == [many[0][:SHOWN_OF_GROUP]]
    assert [[item["item"] for item in group] for group in shown[2]] == [list(range(SHOWN))]
    first = shown[0][0][1]
    assert (first["label"], first["split"]) == ("b", None)
    with Image.open(tmp_path / first["image"]) as image:
        assert image.size == (SIZE_PX, SIZE_PX)
    assert {item["remark"] for group in shown[2] for item in group} == {""}
    said = {"name": "3", "groups": single, "remarks": [f"n {n}" for n in range(12)]}
    (remarked,) = show_findings(tmp_path, [said], dataset)
    assert [item["remark"] for item in remarked["shown"][0]] == [f"n {n}" for n in range(SHOWN)]
    (held,) = show_findings(tmp_path, findings[:1], dataset, held={0})
    assert [item["label"] for item in held["shown"][0]] == ["held back", "b"]
