"""Slide files: which files are slides, and their pixels, whatever the format and the level they are read from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slides import MPP, save_dicom_slide, save_slide
from thawline.data import slide_files
from thawline.data.readers import MAX_PIXELS, content_digest, is_slide, read_content
from thawline.data.slide_files import INSTALL, Pyramid, digest_slide, is_slide_file, list_files
from thawline.data.slide_phantoms import draw_slide, write_picture
from thawline.errors import ImageError
from thawline.types import Slide

FORMS = ("svs", "tiff", "ome", "dicom")
SIDES = 700, 900  # rows, columns


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return draw_slide(0, max(SIDES), tumour=0.1)[0][: SIDES[0]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, picture: np.ndarray) -> dict[str, Path]:
    """One picture in each format."""
    return {form: save_slide(tmp_path_factory.mktemp(form), picture, form) for form in FORMS}


# --- what is a slide --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_openslide_itself_opens_what_the_tests_write(files: dict[str, Path], form: str) -> None:
    with openslide.OpenSlide(str(files[form])) as slide:
        assert slide.dimensions == SIDES[::-1]
        assert slide.level_count == (1 if form == "ome" else 3)  # it does not see the inner ones
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP)


@pytest.mark.parametrize("form", FORMS)
def test_slides_are_told_by_what_they_hold(files: dict[str, Path], form: str, tmp_path: Path) -> None:
    assert is_slide_file(files[form], MAX_PIXELS)
    assert is_slide(Slide((files[form],)))
    assert read_content(files[form]) == Slide((files[form],))


def test_flat_images_are_no_slides(tmp_path: Path, picture: np.ndarray) -> None:
    names = {"flat.tif": {}, "tiled.tif": {"tile": (256, 256)}}
    for name, options in names.items():
        tifffile.imwrite(tmp_path / name, picture, photometric="rgb", **options)
    Image.fromarray(picture).save(tmp_path / "flat.png")
    shutil.copy(tmp_path / "flat.png", tmp_path / "noext")
    for name in (*names, "flat.png", "noext", "missing.tif"):
        assert not is_slide_file(tmp_path / name, MAX_PIXELS)
    assert is_slide_file(tmp_path / "flat.tif", picture[..., 0].size - 1)  # too many pixels for an image
    assert not is_slide(picture)
    (tmp_path / "damaged.tif").write_bytes(b"II*\x00" + bytes(range(200)))
    assert not is_slide_file(tmp_path / "damaged.tif", MAX_PIXELS)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_slide_is_refused_without_a_word_of_it(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    source = folder / "whole.svs"
    if not source.is_file():
        write_picture(source, draw_slide(1, 300)[0], MPP, n_levels=2)
    whole = bytearray(source.read_bytes())
    cut = data.draw(st.integers(0, len(whole)))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)):
        whole[place] ^= data.draw(st.integers(1, 255))
    (folder / "damaged.svs").write_bytes(whole[:cut] if data.draw(st.booleans()) else whole)
    said = ""
    try:
        pyramid = Pyramid(Slide((folder / "damaged.svs",)))
        assert pyramid.read(0, 0, *pyramid.size_px, 30, 30).shape == (30, 30, 3)
    except ImageError as error:
        said = str(error)
    assert not said or re.fullmatch(r"damaged, cut off or unsupported slide \(\w+\)", said)


# --- digests ----------------------------------------------------------------------------------------------------------


def test_a_digest_is_that_of_the_bytes_and_of_what_is_stated_beside_them(files: dict[str, Path]) -> None:
    slide = Slide((files["svs"],))
    assert digest_slide(slide) == content_digest(files["svs"].read_bytes()) == content_digest(slide)
    stated = {digest_slide(Slide((files["svs"],), mpp)) for mpp in (None, 0.25, 0.5)}
    assert len(stated) == 3
    with pytest.raises(ImageError, match="the file cannot be read: No such file"):
        digest_slide(Slide((Path("/nowhere/slide.svs"),)))


def test_what_belongs_to_a_slide_is_part_of_its_digest(
    tmp_path: Path, picture: np.ndarray, files: dict[str, Path]
) -> None:
    series = [files["dicom"].with_name(f"{number}.dcm") for number in range(3)]
    assert list_files(Slide((files["dicom"],))) == list_files(Slide(tuple(series))) == series
    other = save_dicom_slide(files["dicom"].parent / "other", picture[:300], MPP, SeriesInstanceUID="1.2.9")
    for file in other.parent.iterdir():
        shutil.move(file, files["dicom"].parent / f"other-{file.name}")
    assert list_files(Slide((files["dicom"],))) == series
    (tmp_path / "slide").mkdir()
    for name in ("slide.mrxs", "slide/Data0000.dat", "slide/Index.dat"):
        (tmp_path / name).write_bytes(name.encode())
    mirax = Slide((tmp_path / "slide.mrxs",))
    assert [path.name for path in list_files(mirax)] == ["slide.mrxs", "Data0000.dat", "Index.dat"]
    before = digest_slide(mirax)
    (tmp_path / "slide" / "Data0000.dat").write_bytes(b"other")
    assert digest_slide(mirax) != before


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_at_full_size_pixels_are_those_of_openslide(files: dict[str, Path], form: str) -> None:
    pyramid = Pyramid(Slide((files[form],)))
    assert pyramid.size_px == SIDES[::-1]
    assert pyramid.mpp == pytest.approx((MPP, MPP))
    with openslide.OpenSlide(str(files[form])) as slide:
        for left, top in ((0, 0), (200, 130), (836, 636)):
            expected = np.asarray(slide.read_region((left, top), 0, (64, 64)))[..., :3]
            np.testing.assert_array_equal(pyramid.read(left, top, 64, 64, 64, 64), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [0.5, 1.5, 2, 3, 4, 6])
def test_at_another_size_pixels_are_those_of_the_picture_smoothed(
    files: dict[str, Path], picture: np.ndarray, form: str, scale: float
) -> None:
    side = round(240 * scale) if scale < 2 else 480
    found = Pyramid(Slide((files[form],))).read(120, 80, side, side, round(side / scale), round(side / scale))
    box = (120, 80, 120 + side, 80 + side)
    expected = Image.fromarray(picture).resize(found.shape[1::-1], Image.Resampling.BICUBIC, box=box)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 8  # JPEG, and levels that were smoothed before
    assert np.abs(found.mean((0, 1)) - np.asarray(expected).mean((0, 1))).max() < 2


def test_a_rectangle_that_is_read_in_parts_is_the_same(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid = Pyramid(Slide((files["svs"],)))
    whole = pyramid.read(3, 5, 800, 600, 200, 150)
    monkeypatch.setattr(slide_files, "MOST_PIXELS", 3000)
    difference = np.abs(pyramid.read(3, 5, 800, 600, 200, 150).astype(int) - whole)
    assert (difference > 1).mean() < 0.02  # where parts meet
    assert difference.max() < 60


def test_one_level_is_enough(tmp_path: Path, picture: np.ndarray) -> None:
    path = write_picture(tmp_path / "flat.svs", picture, MPP, n_levels=1)
    found = Pyramid(Slide((path,))).read(0, 0, 900, 700, 90, 70)
    expected = np.asarray(Image.fromarray(picture).resize((90, 70), Image.Resampling.BICUBIC))
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_the_resolution_is_that_of_the_table_before_that_of_the_file(tmp_path: Path, picture: np.ndarray) -> None:
    path = write_picture(tmp_path / "slide.svs", picture, None)
    assert Pyramid(Slide((path,))).mpp is None
    assert Pyramid(Slide((path,), 0.25)).mpp == (0.25, 0.25)


def test_a_missing_library_is_said_with_the_command_that_adds_it(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(slide_files.importlib, "import_module", refuse)
    for form, library in (("svs", "openslide"), ("ome", "tiffslide")):
        with pytest.raises(ImageError) as caught:
            Pyramid(Slide((files[form],)))
        assert str(caught.value) == f"a whole slide, which {library} reads, and that is not installed: {INSTALL}"
