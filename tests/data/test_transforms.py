"""Transforms: against Pillow's own resize, exact letterboxes, and linear images that resizing must keep."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thawline.data.transforms import prepare
from thawline.errors import ImageError
from thawline.types import ASPECTS, Contract

CONTRACT = Contract(size_px=32, mean=(0.5,) * 3, std=(0.5,) * 3)
METHODS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def contract(**changes: object) -> Contract:
    return dataclasses.replace(CONTRACT, **changes)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("interpolation", METHODS)
@pytest.mark.parametrize("shape", [(50, 70), (50, 70, 3), (20, 11), (32, 32)])
def test_squash_is_pillows_resize(interpolation: str, shape: tuple[int, ...]) -> None:
    pixels = noise(shape)
    expected = np.asarray(Image.fromarray(pixels).resize((32, 32), METHODS[interpolation]))
    expected = np.stack([expected] * 3, axis=2) if len(shape) == 2 else expected
    prepared = prepare(pixels, contract(interpolation=interpolation))
    assert prepared.dtype == np.uint8
    assert prepared.flags.writeable
    np.testing.assert_array_equal(prepared, expected)


def test_grey_equals_grey_stored_as_colour() -> None:
    grey = noise((40, 60))
    stacked = np.repeat(grey[..., None], 3, axis=2)
    for aspect in ASPECTS:
        chosen = contract(aspect=aspect)
        np.testing.assert_array_equal(prepare(grey, chosen), prepare(stacked, chosen))


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((64, 32), (0, 32), (8, 24)),
        ((32, 64), (8, 24), (0, 32)),
        ((64, 30), (0, 32), (8, 23)),  # 15 columns: the odd one of the padding lies on the right
        ((64, 33), (0, 32), (7, 24)),  # 16.5 columns round half up
        ((3200, 10), (0, 32), (15, 16)),  # at least one pixel stays
    ],
)
def test_letterbox_of_a_flat_image(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    prepared = prepare(np.full(shape, 200, dtype=np.uint8), contract(aspect="letterbox"))
    expected = np.zeros((32, 32, 3), dtype=np.uint8)
    expected[slice(*rows), slice(*columns)] = 200
    np.testing.assert_array_equal(prepared, expected)


def test_crop_is_resize_of_the_short_side_then_the_centre() -> None:
    pixels = noise((64, 128))
    resized = np.asarray(Image.fromarray(pixels).resize((64, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(prepare(pixels, contract(aspect="crop"))[..., 0], resized[:, 16:48])


def test_crop_of_a_ramp_keeps_its_centre() -> None:
    """A linear ramp stays linear under interpolation, so the crop's columns are known."""
    ramp = np.tile(np.arange(101, dtype=np.float32), (32, 1))
    prepared = prepare(ramp, contract(aspect="crop", wide_range=(0, 255), interpolation="bilinear"))
    np.testing.assert_allclose(prepared[0, 1:-1, 0], 34.5 + np.arange(1, 31), atol=1e-4)


@given(st.tuples(st.integers(8, 80), st.integers(8, 80)), st.sampled_from(ASPECTS), st.sampled_from(sorted(METHODS)))
@settings(deadline=None, max_examples=40)
def test_wide_contract_agrees_with_the_8_bit_one(shape: tuple[int, int], aspect: str, interpolation: str) -> None:
    """8-bit pixels keep their scale; what differs is Pillow's rounding after each of two passes.

    Middle greys only: with integers, Pillow also cuts off what overshoots between the passes.
    """
    pixels = noise(shape, seed=shape[0]) // 2 + np.uint8(64)
    narrow = contract(aspect=aspect, interpolation=interpolation)
    wide = prepare(pixels, dataclasses.replace(narrow, wide_range=(0.0, 4095.0)))
    assert wide.dtype == np.float32
    assert wide.shape == (32, 32, 3)
    assert wide.min() >= 0
    assert wide.max() <= 255
    assert np.abs(wide - prepare(pixels, narrow)).max() <= 1.5


def test_wide_pixels_run_from_black_to_white_of_the_range() -> None:
    pixels = np.array([[0, 1000, 2000, 3000]] * 4, dtype=np.uint16)
    prepared = prepare(pixels, contract(size_px=4, wide_range=(1000.0, 2000.0)))
    np.testing.assert_array_equal(prepared[0, :, 0], [0, 0, 255, 255])
    middle = prepare(np.full((8, 8), -10.0, dtype=np.float32), contract(wide_range=(-20.0, 30.0)))
    np.testing.assert_allclose(middle, 51.0, rtol=1e-6)


def test_wide_colour_channels_stay_apart() -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    prepared = prepare(pixels, contract(wide_range=(0.0, 65535.0)))
    for channel in range(3):
        plane = Image.fromarray((pixels[..., channel] / 65535 * 255).astype(np.float32))
        expected = np.clip(np.asarray(plane.resize((32, 32), Image.Resampling.BICUBIC)), 0, 255)
        np.testing.assert_allclose(prepared[..., channel], expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_wide_pixels_in_an_8_bit_contract_are_refused(dtype: type) -> None:
    with pytest.raises(ImageError, match=f"{np.dtype(dtype)} pixels, but the model was made from 8-bit images only"):
        prepare(np.ones((9, 9), dtype=dtype), CONTRACT)


def test_a_range_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ImageError, match="runs from 5 to 5; it must rise"):
        prepare(np.ones((9, 9), dtype=np.uint16), contract(wide_range=(5, 5)))


def test_a_contract_of_grey_images_takes_grey_however_it_is_stored_and_no_colour():
    contract = Contract(16, (0.5,) * 3, (0.5,) * 3, grey=True)
    image = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    found = prepare(image, contract)
    assert np.array_equal(prepare(np.stack([image] * 3, axis=2), contract), found)
    with pytest.raises(ImageError, match="a colour image, but the model was made for grey ones only"):
        prepare(np.stack([image, image, 255 - image], axis=2), contract)
