"""Made-up slides: what they hold is known, and OpenSlide opens them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openslide

from thawline.data.slide_phantoms import CLASSES, GLASS, MANIFEST, draw_slide, make_slides, write_large_slide


def test_a_slide_has_tissue_on_glass_and_a_tumour_where_it_says() -> None:
    picture, tissue, ill = draw_slide(5, 400, tumour=0.12)
    assert picture.shape == (400, 400, 3)
    assert 0.15 < tissue.mean() < 0.45
    assert 0.02 < ill.mean() < 0.06
    assert not (ill & ~tissue).any()
    np.testing.assert_array_equal(picture[~tissue], np.broadcast_to(np.uint8(GLASS), picture[~tissue].shape))
    assert picture[ill].mean() < picture[tissue & ~ill].mean() - 20
    again, _, none = draw_slide(5, 400)
    assert not none.any()
    np.testing.assert_array_equal(draw_slide(5, 400)[0], again)


def test_slides_of_both_classes_come_with_a_manifest_two_a_patient(tmp_path: Path) -> None:
    folder = make_slides(tmp_path / "slides", 8, side_px=300)
    with (folder / MANIFEST).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == [CLASSES[number // 2 % 2] for number in range(8)]
    assert len({row["patient"] for row in rows}) == 4
    for row in rows:
        with openslide.OpenSlide(str(folder / row["path"])) as slide:
            assert slide.dimensions == (300, 300)
            assert float(slide.properties["openslide.mpp-x"]) == 0.5


def test_a_large_slide_has_tissue_in_its_middle_at_every_level(tmp_path: Path) -> None:
    path = write_large_slide(tmp_path / "large.svs", 8192, 0.25, tissue_share=0.5)
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions == ((8192, 8192), (2048, 2048), (512, 512))
        for level, (side, _) in enumerate(slide.level_dimensions):
            scale = 8192 // side
            middle, corner = (
                np.asarray(slide.read_region((place, place), level, (32, 32)).convert("RGB")).mean((0, 1))
                for place in (4096 - 16 * scale, 0)
            )
            assert np.abs(corner - GLASS).max() < 3
            assert middle[1] < 200
