"""Tissue: found where it was drawn, and shown by the tiles of a grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thawline.data.slide_phantoms import GLASS, STROMA, draw_slide
from thawline.data.tissue import TISSUE_SHARE, find_tissue, list_tiles


def paint(mask: np.ndarray, noise: float = 2.0) -> np.ndarray:
    picture = np.where(mask[..., None], STROMA, GLASS) + np.random.default_rng(0).normal(0, noise, (*mask.shape, 3))
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_tissue_is_found_where_it_was_drawn(seed: int) -> None:
    picture, tissue, _ = draw_slide(seed, 512, tumour=0.1)
    found = find_tissue(picture, 50)
    assert (found & tissue).sum() / (found | tissue).sum() > 0.95


def test_dust_pen_and_holes_are_no_tissue_and_glass_has_none() -> None:
    mask = np.zeros((300, 300), bool)
    mask[60:240, 60:240] = True
    picture = paint(mask)
    picture[140:146, 140:146] = GLASS  # a hole
    picture[20:24, 20:24] = STROMA  # dust
    picture[270:, :] = np.random.default_rng(1).integers(0, 30, (30, 300, 3))  # black, which has no colour
    found = find_tissue(picture, 100)
    assert (found & mask).sum() / (found | mask).sum() > 0.95
    assert found[143, 143]
    assert not found[10:30, 10:30].any()
    assert not found[275:].any()
    assert not find_tissue(paint(np.zeros((200, 200), bool)), 50).any()
    assert not find_tissue(np.full((50, 50, 3), 255, np.uint8)).any()


def test_a_slide_full_of_tissue_is_all_tissue() -> None:
    picture = paint(np.ones((200, 200), bool), noise=8)
    picture[50:100] = (120, 60, 140)
    assert find_tissue(picture, 50).mean() > 0.99


@given(st.integers(1, 60), st.integers(1, 60), st.floats(7, 400), st.floats(7, 400), st.integers(0, 2**32 - 1))
def test_tiles_are_those_of_the_grid_with_enough_tissue(
    rows: int, columns: int, width: float, height: float, seed: int
) -> None:
    tissue = np.random.default_rng(seed).random((rows, columns)) < 0.4
    size = 30 * columns, 30 * rows
    found = list_tiles(tissue, size, (width, height))
    assert (found * (width, height) + (width, height) <= np.array(size) + 1e-3).all()
    assert found.tolist() == sorted(found.tolist(), key=lambda place: place[::-1])
    everything = list_tiles(np.ones_like(tissue), size, (width, height))
    assert len(everything) == int(size[0] / width + 1e-6) * int(size[1] / height + 1e-6)
    assert {*map(tuple, found.tolist())} <= {*map(tuple, everything.tolist())}


def test_the_share_of_tissue_is_counted_exactly_where_tiles_lie_on_pixels() -> None:
    tissue = np.random.default_rng(0).random((40, 60)) < 0.25
    found = list_tiles(tissue, (600, 400), (50, 50))
    shares = tissue.reshape(8, 5, 12, 5).mean((1, 3))
    assert found.tolist() == [[column, row] for row, column in np.argwhere(shares >= TISSUE_SHARE)]
