"""Near-duplicates: planted ones are found, and pictures of other patients are none."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from thawline.audit import duplicates, neighbours
from thawline.audit.duplicates import (
    SIDE_PX,
    TURNS,
    _add_up,
    _sum_windows,
    draw_picture,
    find_duplicates,
    make_clusters,
    turn,
)
from thawline.data.phantoms import PhantomOptions, make_phantoms

N_FILMS = 40


def encode(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(io.BytesIO(buffer.getvalue()))


def crop(image: Image.Image) -> Image.Image:
    left, top = (round(0.03 * side) for side in image.size)
    return image.crop((left, top, left + round(0.9 * image.size[0]), top + round(0.9 * image.size[1])))


CHANGES: dict[str, tuple[Any, str]] = {
    "re-encoded": (encode, "copy"),
    "resized": (lambda image: image.resize((90, 110)), "copy"),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), "copy"),
    "darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.8), "copy"),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "turned"),
    "rotated": (lambda image: image.transpose(Image.Transpose.ROTATE_90), "turned"),
    "cropped": (crop, "cropped"),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Films of as many patients, 160 px."""
    folder = tmp_path_factory.mktemp("films")
    make_phantoms(folder, PhantomOptions(n_patients=N_FILMS, size_px=160, views=(1, 1)))
    return [Image.open(path).convert("L") for path in sorted((folder / "images").iterdir())]


def draw(images: list[Image.Image]) -> Any:
    return np.stack([draw_picture(np.asarray(image)) for image in images])


def test_films_of_other_patients_are_no_duplicates(films: list[Image.Image]) -> None:
    assert len(films) == N_FILMS
    assert find_duplicates(draw(films)) == []


@pytest.mark.parametrize("name", CHANGES)
def test_planted_duplicates_are_found_and_nothing_else(films: list[Image.Image], name: str) -> None:
    change, kind = CHANGES[name]
    planted = [0, 7, 13, 21, 39]
    found = find_duplicates(draw([*films, *(change(films[number]) for number in planted)]))
    assert [(each.first, each.second) for each in found] == [
        (number, N_FILMS + place) for place, number in enumerate(planted)
    ]
    assert {each.kind for each in found} == {kind}
    assert all(0.9 <= each.correlation <= 1.0001 for each in found)


def test_a_large_set_is_searched_by_neighbours_alike(films: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = draw([*films, *(encode(film) for film in films[:5]), *(crop(film) for film in films[5:10])])
    whole = find_duplicates(pictures)
    monkeypatch.setattr(neighbours, "EXACT_ITEMS", 0)
    monkeypatch.setattr(duplicates, "BATCH_PAIRS", 7)
    assert [(each.first, each.second, each.kind) for each in find_duplicates(pictures)] == [
        (each.first, each.second, each.kind) for each in whole
    ]
    assert len(whole) == 10


def test_pictures_without_details_are_duplicates_of_nothing() -> None:
    flat = np.full((3, SIDE_PX, SIDE_PX), 90, np.uint8)
    assert find_duplicates(flat) == []
    assert find_duplicates(np.zeros((0, SIDE_PX, SIDE_PX), np.uint8)) == []


def test_a_picture_is_small_grey_and_runs_from_black_to_white() -> None:
    ramp = np.linspace(1000, 3000, 120 * 90).reshape(120, 90).astype(np.uint16)
    picture = draw_picture(ramp)
    assert (picture.shape, picture.dtype, picture.min(), picture.max()) == ((SIDE_PX, SIDE_PX), np.uint8, 0, 255)
    colour = np.stack([ramp.astype(np.float32)] * 3, axis=-1)
    np.testing.assert_array_equal(draw_picture(colour), picture)
    np.testing.assert_array_equal(draw_picture(np.full((9, 9), 7, np.uint8)), np.zeros((SIDE_PX, SIDE_PX)))


def test_eight_turns_are_all_different_and_come_back() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, SIDE_PX, SIDE_PX)).astype(np.uint8)
    turned = [turn(picture, number) for number in range(len(TURNS))]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(turned, 2))
    for number, each in enumerate(turned):
        assert any(np.array_equal(turn(each, back), picture) for back in range(len(TURNS))), number


def test_sums_over_windows_are_those_of_a_loop() -> None:
    import torch

    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 9, 9)).astype(np.float32))
    found = _sum_windows(_add_up(images), 4).numpy()
    expected = [
        [[images[n, top : top + 4, left : left + 4].sum() for left in range(6)] for top in range(6)] for n in range(2)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_clusters_are_what_pairs_connect() -> None:
    assert make_clusters([(4, 7), (1, 2), (7, 9), (2, 3), (3, 1)]) == [(1, 2, 3), (4, 7, 9)]
    assert make_clusters([]) == []
