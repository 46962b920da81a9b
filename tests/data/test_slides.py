"""Slides as items: tiles of tissue at one resolution, the same from every format, and facts without reading all of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from slides import MPP, read_tiles, save_slide
from thawline.data.dataset import load_dataset
from thawline.data.readers import decode, decode_bag, describe, open_stack
from thawline.data.scan import scan
from thawline.data.slide_phantoms import draw_slide, write_picture
from thawline.data.slides import OVERVIEW_PX, locate_tiles
from thawline.errors import DataError, ImageError
from thawline.types import SilentListener, Slide

FORMS = ("svs", "tiff", "ome", "dicom")
SIDE = 800


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return draw_slide(3, SIDE, tumour=0.1)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[np.ndarray, ...]) -> dict[str, Slide]:
    """One picture in each format."""
    return {form: Slide((save_slide(tmp_path_factory.mktemp(form), drawn[0], form),)) for form in FORMS}


def test_a_tile_is_what_openslide_reads_at_its_place(slides: dict[str, Slide]) -> None:
    reading = read_tiles(64)
    stack = open_stack(slides["svs"], None, reading)
    corners = locate_tiles(slides["svs"], reading)[2].corners_px()
    assert stack.count("axial") == len(corners) > 30
    with openslide.OpenSlide(str(slides["svs"].paths[0])) as slide:
        for index in (0, 7, len(corners) - 1):
            expected = slide.read_region(tuple(map(int, corners[index])), 0, (64, 64)).convert("RGB")
            np.testing.assert_array_equal(stack.show("axial", index), np.asarray(expected))


def test_tiles_cover_the_tissue_and_little_else(slides: dict[str, Slide], drawn: tuple[np.ndarray, ...]) -> None:
    reading = read_tiles(32)
    covered = np.zeros((SIDE, SIDE), bool)
    for x, y in locate_tiles(slides["tiff"], reading)[2].corners_px():
        covered[y : y + 32, x : x + 32] = True
    assert (covered & drawn[1]).sum() / (covered | drawn[1]).sum() > 0.85


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 1.3])
def test_a_tile_shows_the_same_length_at_any_resolution(
    slides: dict[str, Slide], drawn: tuple[np.ndarray, ...], mpp: float
) -> None:
    reading = read_tiles(48, mpp)
    overview, size_px, tiling = locate_tiles(slides["svs"], reading)
    assert overview.shape == (SIDE, SIDE, 3)
    assert max(overview.shape) <= OVERVIEW_PX
    assert size_px == (SIDE, SIDE)
    assert tiling.side_px == pytest.approx((48 * mpp / MPP,) * 2)
    stack, side = open_stack(slides["svs"], None, reading), tiling.side_px[0]
    index = len(tiling.places) // 2
    left, top = tiling.places[index] * side
    box = (left, top, left + side, top + side)
    expected = np.asarray(Image.fromarray(drawn[0]).resize((48, 48), Image.Resampling.BICUBIC, box=box))
    assert np.abs(stack.show("axial", index).astype(int) - expected).mean() < 6


def test_all_formats_show_the_same_tiles(slides: dict[str, Slide]) -> None:
    reading = read_tiles(64, 1.0)
    facts = {form: describe(slide, reading) for form, slide in slides.items()}
    tiles = {form: open_stack(slide, None, reading).show("axial", 5) for form, slide in slides.items()}
    for form in FORMS[1:]:
        assert dataclasses.replace(facts[form], minimum=0, maximum=0, pixel_digest="") == dataclasses.replace(
            facts["svs"], minimum=0, maximum=0, pixel_digest=""
        )
        assert np.abs(tiles[form].astype(int) - tiles["svs"]).max() <= 2  # decoders round otherwise
    assert facts["tiff"].pixel_digest == facts["svs"].pixel_digest


def test_a_slide_is_described_by_its_finest_level_and_its_tissue(slides: dict[str, Slide]) -> None:
    found = describe(slides["svs"], read_tiles(64))
    assert (found.width_px, found.height_px, found.channels, found.bits, found.format) == (SIDE, SIDE, 3, 8, "slide")
    assert found.slices == open_stack(slides["svs"], None, read_tiles(64)).count("axial")
    assert describe(slides["svs"], read_tiles(128)).slices < found.slices
    looked_at = dataclasses.replace(read_tiles(64), tile_px=0, mpp=0.0)  # as the audit does
    assert dataclasses.replace(describe(slides["svs"], looked_at), slices=found.slices) == found


def test_a_bag_has_its_tiles_and_a_picture_is_the_overview(slides: dict[str, Slide]) -> None:
    reading = read_tiles(64, slices="spread:4", n_slices=4)
    stack = open_stack(slides["svs"], None, reading)
    bag = decode_bag(slides["svs"], reading=reading)
    assert len(bag) == 4
    np.testing.assert_array_equal(bag[0], stack.show("axial", stack.count("axial") // 8))
    np.testing.assert_array_equal(decode(slides["svs"], reading=reading), locate_tiles(slides["svs"], reading)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda drawn: (np.full_like(drawn, 243), MPP), "no tissue was found"),
        (lambda drawn: (drawn, None), "does not say how many µm a pixel is, .* column mpp of the manifest"),
        (lambda drawn: (drawn[:40], MPP), "800 x 40 px are less than one tile, 64 x 64 px; take smaller ones"),
    ],
)
def test_slides_that_cannot_be_tiled_are_refused(make, message, drawn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    picture, mpp = make(drawn[0])
    path = write_picture(tmp_path / "slide.svs", picture, mpp, n_levels=1)
    (look,) = scan([path], 1, SilentListener(), read_tiles(64))
    assert look.facts is None
    with pytest.raises(ImageError, match=message):
        describe(Slide((path,)), read_tiles(64))


def test_a_slide_is_no_image(slides: dict[str, Slide]) -> None:
    with pytest.raises(ImageError, match="a whole slide, where one image is expected"):
        describe(slides["svs"])


def test_a_damaged_tile_is_found_before_the_work_begins(slides: dict[str, Slide], tmp_path: Path) -> None:
    whole = bytearray(slides["svs"].paths[0].read_bytes())
    whole[len(whole) // 4 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 4)
    (tmp_path / "damaged.svs").write_bytes(whole)
    with pytest.raises(ImageError, match=r"damaged, cut off or unsupported slide \(\w+\)$"):
        describe(Slide((tmp_path / "damaged.svs",)), read_tiles(64))


def test_a_column_states_the_resolution(tmp_path: Path, drawn: tuple[np.ndarray, ...]) -> None:
    rows = ["path,label,mpp"]
    for number in range(10):
        write_picture(tmp_path / f"{number}.svs", drawn[0][:300, :300], None, n_levels=1)
        rows.append(f"{number}.svs,{'ab'[number % 2]},{0.25 if number else ''}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows), "utf-8")
    contents = load_dataset(tmp_path).contents
    assert contents[0] == tmp_path / "0.svs"
    assert contents[1] == Slide((tmp_path / "1.svs",), 0.25)
    (tmp_path / "manifest.csv").write_text("\n".join(rows).replace("0.25", "fine"), "utf-8")
    with pytest.raises(DataError, match=r"1\.svs: column mpp: expected µm per pixel of the slide, .*; found 'fine'"):
        load_dataset(tmp_path)
