"""Burned-in text: drawn text is found where it stands, on pictures and grounds of many kinds; structures are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from thawline.audit.marks import GRID, PLACES, Line, count_places, find_lines
from thawline.data.phantoms import PhantomOptions, make_phantoms

TEXT = "DOE JANE 1961"


def draw(
    size: tuple[int, int] = (600, 500), at: tuple[int, int] = (12, 10), font: int = 16, ground: int = 0
) -> Image.Image:
    image = Image.new("L", size, ground)
    ImageDraw.Draw(image).text(at, TEXT, fill=255, font_size=font)
    return image


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    folder = tmp_path_factory.mktemp("films")
    make_phantoms(folder, PhantomOptions(n_patients=30, views=(1, 1), size_px=384))
    return [Image.open(path).convert("L") for path in sorted((folder / "images").iterdir())]


@pytest.mark.parametrize("font", [12, 16, 24])
@pytest.mark.parametrize("ground", [0, 60])
def test_text_is_found_at_its_place(font: int, ground: int) -> None:
    lines = find_lines(np.asarray(draw(font=font, ground=ground)))
    assert lines
    assert {PLACES[line.place] for line in lines} <= {"top left", "top middle"}
    assert sum(line.n_letters for line in lines) >= 8


@pytest.mark.parametrize(
    ("at", "place"), [((10, 10), "top left"), ((470, 470), "bottom right"), ((230, 240), "middle")]
)
def test_places_are_those_of_the_image(at: tuple[int, int], place: str) -> None:
    lines = find_lines(np.asarray(draw(at=at)))
    assert {PLACES[line.place] for line in lines} == {place}


def test_boxes_hold_the_text_and_little_else() -> None:
    (line,) = find_lines(np.asarray(draw(size=(500, 500), at=(100, 200))))
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (500, 500))).textbbox((100, 200), TEXT, font_size=16)
    found = [500 * each for each in (line.left, line.top, line.right, line.bottom)]
    assert found == pytest.approx([left, top, right, bottom], abs=4)


def test_films_without_text_have_none_and_with_text_some(films: list[Image.Image]) -> None:
    assert not any(find_lines(np.asarray(film)) for film in films)
    for film in films:
        marked = film.copy()
        pen = ImageDraw.Draw(marked)
        pen.rectangle((4, 4, 150, 26), fill=0)
        pen.text((6, 6), TEXT, fill=255, font_size=14)
        assert find_lines(np.asarray(marked))


def test_coloured_and_deep_and_compressed_text_is_found() -> None:
    grey = np.asarray(draw())
    yellow = np.stack([grey, grey, np.zeros_like(grey)], axis=2)
    deep = grey.astype(np.uint16) * 257
    stream = io.BytesIO()
    draw().save(stream, "JPEG", quality=70)
    for pixels in (yellow, deep, np.asarray(Image.open(stream))):
        assert find_lines(pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((64, 64), np.uint8), np.full((64, 64), 9, np.uint8), np.eye(200, dtype=np.uint8)]
)
def test_blank_images_and_lines_have_no_text(pixels: np.ndarray) -> None:
    assert find_lines(pixels) == []


@pytest.mark.parametrize(("sigma_px", "most"), [(1.0, 2), (2.0, 0), (4.0, 0)])
def test_speckle_is_hardly_ever_text(sigma_px: float, most: int) -> None:
    found = 0
    for seed in range(10):
        speckle = gaussian_filter(np.random.default_rng(seed).normal(size=(300, 300)), sigma_px)
        found += bool(find_lines((255 * (speckle - speckle.min()) / np.ptp(speckle)).astype(np.uint8)))
    assert found <= most


def test_grids_have_no_text() -> None:
    grid = np.zeros((300, 300), np.uint8)
    grid[::20], grid[:, ::20] = 255, 255
    assert find_lines(grid) == []


def test_counts_are_letters_by_place_and_do_not_overflow() -> None:
    lines = [Line(0.0, 0.0, 0.1, 0.2, 200), Line(0.0, 0.1, 0.1, 0.2, 200), Line(0.9, 0.9, 1.0, 1.0, 5)]
    counts = count_places(lines)
    assert (counts[0], counts[GRID**2 - 1], int(counts.sum())) == (255, 5, 260)
    assert len(PLACES) == GRID**2
