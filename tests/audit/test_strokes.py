"""Strokes: the opening is scipy's, noise is what was put there, levels are means, what is bright or dark is found."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from thawline.audit import strokes
from thawline.audit.strokes import CUTS, LEAST_SIDE_PX, SIDE_PX, STROKE_PX, find_ink


def draw_bars(dtype: type = np.uint8, low: float = 0, high: float = 255) -> np.ndarray:
    """Two upright bars, one of three pixels and one that is too wide, and a dark line across a grey plate."""
    found = np.full((100, 120), low, np.float64)
    found[10:30, 10:13] = found[10:30, 30:60] = high
    found[60:90] = low + 0.7 * (high - low)
    found[70:73, 20:50] = low
    return found.astype(dtype)


def test_an_opening_is_that_of_scipy() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (70, 90)).astype(np.uint8)
    inside = (slice(STROKE_PX, -STROKE_PX),) * 2  # what is beyond the image is another there
    expected = ndimage.grey_opening(grey, size=(STROKE_PX, STROKE_PX))
    np.testing.assert_array_equal(strokes._open(grey)[inside], expected[inside])


@pytest.mark.parametrize("sigma", [2.0, 8.0, 20.0])
def test_noise_is_measured_whatever_is_below_it(sigma: float) -> None:
    rows, columns = np.indices((400, 500))
    smooth = 128 + 40 * np.sin(rows / 60) * np.cos(columns / 80)
    grey = np.rint(smooth + np.random.default_rng(1).normal(0, sigma, smooth.shape)).clip(0, 255).astype(np.uint8)
    assert strokes._measure_noise(grey) == pytest.approx(sigma, rel=0.12)
    assert strokes._measure_noise(np.zeros((40, 40), np.uint8)) == 0
    assert strokes._measure_noise(np.where(np.eye(400) > 0, 90, 0).astype(np.uint8)) == 0  # drawn, not noise


def test_levels_are_halves_down_to_the_least() -> None:
    grey = np.random.default_rng(2).integers(0, 256, (1001, 600)).astype(np.uint8)
    found = list(strokes._draw_levels(grey))
    assert [each.shape for each in found] == [(1001, 600), (500, 300), (250, 150)]
    assert max(found[-1].shape) < 2 * LEAST_SIDE_PX
    means = grey[:1000].reshape(500, 2, 300, 2).mean(axis=(1, 3))
    assert np.abs(found[1] - means).max() <= 0.5
    assert [each.shape for each in strokes._draw_levels(grey[:1, :1])] == [(1, 1)]


def test_thin_things_are_ink_and_wide_ones_are_not() -> None:
    boxes = {tuple(box) for ink in find_ink(draw_bars()) if ink.level == 0 for box in ink.boxes.tolist()}
    assert (10, 10, 30, 13) in boxes
    assert (70, 20, 73, 50) in boxes  # dark
    assert not any(left >= 28 and bottom <= 40 for _, left, bottom, _ in boxes)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.uint16, 0, 65535), (np.float32, -3.0, 7.0), (np.uint8, 40, 200)]
)
def test_ink_is_relative_to_the_range_of_an_image(dtype: type, low: float, high: float) -> None:
    for one, other in zip(find_ink(draw_bars()), find_ink(draw_bars(dtype, low, high)), strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_every_level_is_cut_in_each_way_and_an_even_image_has_none() -> None:
    found = [(ink.level, ink.cut) for ink in find_ink(np.eye(300, dtype=np.uint8))]
    assert found == [(level, cut) for level in (0, 1) for _ in ("bright", "dark") for cut in CUTS]
    assert list(find_ink(np.full((300, 300), 7, np.uint8))) == []


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3000, 2500), (9000, 9000)])
def test_memory_is_bounded_however_large_the_image_is(shape: tuple[int, int]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[::50] = 200
    tracemalloc.start()
    try:
        assert max(max(ink.mask.shape) for ink in find_ink(pixels)) <= SIDE_PX
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < 400
