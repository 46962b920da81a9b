"""Burned-in marks: drawn text and signs are found where they stand, on grounds of many kinds; structures are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from thawline.audit.marks import GRID, PLACES, Mark, count_places, find_lines, find_marks
from thawline.data.phantoms import PhantomOptions, make_phantoms

TEXT = "DOE JANE 1961"


def draw(
    size: tuple[int, int] = (600, 500),
    at: tuple[int, int] = (12, 10),
    font: int = 16,
    ground: int = 0,
    ink: int = 255,
    text: str = TEXT,
) -> Image.Image:
    image = Image.new("L", size, ground)
    ImageDraw.Draw(image).text(at, text, fill=ink, font_size=font)
    return image


def draw_smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A film of soft shadows, 20 to 220."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(height // 8, width // 8)), 20)
    field = 20 + 200 * (field - field.min()) / np.ptp(field)
    image = Image.fromarray(field.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 255).astype(np.uint8)


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
    ("shape", "fonts"),
    [
        ((512, 512), (12, 30, 60, 100)),
        ((2500, 2000), (30, 140)),
        pytest.param((3000, 2500), (16, 36, 80, 200), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("ink", [255, 0])
def test_text_is_found_whatever_its_share_of_the_image(
    shape: tuple[int, int], fonts: tuple[int, ...], ink: int
) -> None:
    film = draw_smooth(*shape)
    film = film if ink else 255 - film // 3
    assert find_lines(film) == []
    for font in fonts:
        marked = Image.fromarray(film)
        ImageDraw.Draw(marked).text((shape[1] // 20, shape[0] // 20), TEXT, fill=ink, font_size=font)
        lines = find_lines(np.asarray(marked))
        assert {PLACES[line.place] for line in lines} <= {"top left", "top middle"}
        assert 7 <= max(line.n_letters for line in lines) <= 15, font


def test_grain_is_no_text_and_hides_none_that_is_larger() -> None:
    film, draw_grain = draw_smooth(1500, 1200), np.random.default_rng(0)
    for sigma in (4, 15, 40):
        grain = draw_grain.normal(0, sigma, film.shape)
        assert find_lines((film + grain).clip(0, 255).astype(np.uint8)) == []
        marked = Image.fromarray((film // 2 + grain).clip(0, 255).astype(np.uint8))
        ImageDraw.Draw(marked).text((100, 80), TEXT, fill=255, font_size=60)
        assert find_lines(np.asarray(marked))


@pytest.mark.parametrize("quarters", [1, 3])
def test_text_that_is_turned_is_found(quarters: int) -> None:
    turned = np.rot90(np.asarray(draw(at=(200, 240))), quarters)
    assert {PLACES[line.place] for line in find_lines(turned)} == {"middle"}


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
    lines = [Mark(0.0, 0.0, 0.1, 0.2, 200), Mark(0.0, 0.1, 0.1, 0.2, 200), Mark(0.9, 0.9, 1.0, 1.0, 5)]
    counts = count_places(lines)
    assert (counts[0], counts[GRID**2 - 1], int(counts.sum())) == (255, 5, 260)
    assert len(PLACES) == GRID**2


def draw_sign(name: str, image: Image.Image) -> Image.Image:
    """Draw a sign at (40, 300): letters, an arrow or a caliper."""
    pen = ImageDraw.Draw(image)
    if name == "arrow":
        pen.line([(40, 310), (62, 310), (54, 303), (62, 310), (54, 317)], fill=255, width=2)
    elif name == "caliper":
        pen.line((40, 307, 54, 307), fill=255, width=2)
        pen.line((47, 300, 47, 314), fill=255, width=2)
    else:
        pen.text((40, 300), name, fill=255, font_size=20)
    return image


@pytest.mark.parametrize(
    ("name", "n_signs"), [("R", 1), ("L", 1), ("AP", 2), ("R CC", 3), ("arrow", 1), ("caliper", 1)]
)
@pytest.mark.parametrize("ground", [0, 90])
def test_what_is_shorter_than_text_is_a_sign(name: str, n_signs: int, ground: int) -> None:
    lines, signs = find_marks(np.asarray(draw_sign(name, Image.new("L", (400, 600), ground))))
    assert lines == []
    assert [PLACES[sign.place] for sign in signs] == ["middle left"] * n_signs


def test_the_side_that_is_marked_on_films_is_found_and_nothing_else(films: list[Image.Image]) -> None:
    found = [find_marks(np.asarray(film))[1] for film in films]
    assert {PLACES[sign.place] for signs in found for sign in signs} == {"top right"}
    assert sum(map(bool, found)) > len(films) / 2


def test_a_page_of_text_takes_each_line_once() -> None:
    page = Image.new("L", (1600, 1200), 255)
    pen = ImageDraw.Draw(page)
    for number in range(10):
        pen.text((60, 60 + 100 * number), "PATIENT OF THE WARD", fill=0, font_size=50)
    lines = find_lines(np.asarray(page))
    assert [round(1200 * line.top) // 100 for line in lines] == list(range(10))
    assert {line.n_letters for line in lines} <= set(range(15, 21))
