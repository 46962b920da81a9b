"""Images that are not like the others are found, and the others are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thawline.audit.duplicates import draw_picture
from thawline.audit.quality import LEAST_ITEMS, find_clipped, find_inverted, judge_quality
from thawline.data.phantoms import PhantomOptions, make_phantoms
from thawline.data.readers import ImageFacts, describe


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("films")
    make_phantoms(folder, PhantomOptions(n_patients=80, views=(1, 1), size_px=96))
    return [np.asarray(Image.open(path).convert("L")) for path in sorted((folder / "images").iterdir())]


def judge(images: list[Any], modalities: Sequence[str] = ()) -> dict[str, Any]:
    grey, facts = np.stack([draw_picture(image) for image in images]), [describe(image) for image in images]
    return {each.name: each for each in judge_quality(facts, grey, modalities or [""] * len(images))}


def test_films_have_no_faults(films: list[Any]) -> None:
    assert judge(films) == {}


def test_planted_faults_are_found_each_by_its_name(films: list[Any]) -> None:
    inverted, clipped, blank = 255 - films[3], films[5].copy(), np.zeros_like(films[0])
    clipped[20:80, 10:90] = 255
    blank[0, 0] = 255
    found = judge([*films, inverted, clipped, blank])
    assert {name: [group[0] for group in each.groups] for name, each in found.items()} == {
        "inverted images": [80], "clipped images": [81], "nearly blank images": [82]
    }  # fmt: skip
    assert all(each.severity == "note" for each in found.values())


def test_colour_among_grey_is_said_with_an_example_of_each(films: list[Any]) -> None:
    colour = np.stack([films[0], films[0], films[0] // 2], axis=2)
    (found,) = judge([*films, colour]).values()
    assert (found.name, found.groups, found.counted) == ("grey and colour images", ((0,), (80,)), False)
    assert "grey (80), colour (1)" in found.text


def test_images_without_a_common_pose_have_no_negative() -> None:
    draw = np.random.default_rng(0)
    grey = np.stack([draw_picture(draw.normal(size=(64, 64)).cumsum(0).cumsum(1)) for _ in range(80)])
    assert not find_inverted(grey, np.ones(80, bool)).any()


def test_few_images_are_not_compared(films: list[Any]) -> None:
    grey = np.stack([draw_picture(image) for image in [*films[: LEAST_ITEMS - 2], 255 - films[0]]])
    assert not find_inverted(grey, np.ones(len(grey), bool)).any()


def test_white_ground_that_all_have_is_not_clipped() -> None:
    grey = np.full((60, 64, 64), 255, np.uint8)
    grey[:, 20:40, 20:40] = 90
    assert not find_clipped(grey).any()


def test_mixed_volumes_are_said() -> None:
    facts = [ImageFacts(64, 64, 1, 8, "PNG", 0, 255, str(n), slices=9 if n % 2 else 1) for n in range(10)]
    grey = np.random.default_rng(0).integers(0, 256, (10, 64, 64)).astype(np.uint8)
    assert [each.name for each in judge_quality(facts, grey, [""] * 10)] == ["images and volumes"]


def test_mixed_modalities_are_said_with_an_example_of_each(films: list[Any]) -> None:
    (found,) = judge(films[:6], ["MR", "", "CT", "MR", "CT", "MR"]).values()
    assert (found.name, found.severity, found.groups, found.counted) == (
        "mixed modalities",
        "note",
        ((0,), (2,)),
        False,
    )
    assert found.text.startswith("MR (3), CT (2): mixed")


def test_one_modality_beside_files_that_say_none_is_not_mixed(films: list[Any]) -> None:
    assert judge(films[:4], ["MR", "", "MR", ""]) == {}


def test_what_is_no_modality_is_not_repeated(films: list[Any]) -> None:
    (found,) = judge(films[:3], ["MR", "MUSTERMANN", "MUSTERMANN"]).values()
    assert found.text.startswith("another (2), MR (1): mixed")
