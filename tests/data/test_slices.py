"""Slices: which of them an item shows, and three of them as channels."""

from __future__ import annotations

import math
from typing import Any

import nibabel
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from thawline.data.readers import decode, decode_bag, describe, walk_slices
from thawline.data.slice_forms import FORMS, count_shown, read_form
from thawline.data.slices import Stack, choose_slices, find_slice, measure_entropy, pad_square, take_bag
from thawline.errors import ImageError
from thawline.types import BAG, PLANES, Reading

SHAPE = (9, 12, 10)


def make_volume(shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def make_stack(volume: Any) -> Stack:
    def show(plane: str, index: int) -> Any:
        return np.take(volume, index, axis=PLANES.index(plane))

    return Stack("array", dict(zip(PLANES, volume.shape, strict=True)), show)


def save_nifti(values: Any) -> bytes:
    data: bytes = nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])).to_bytes()
    return data


def read_bag(slices: str, n_slices: int, plane: str = "axial") -> Reading:
    return Reading((), "only", plane, dimensions=BAG, slices=slices, n_slices=n_slices)


# --- which slices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slices", "n_slices", "expected"),
    [
        ("all", 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("all", 12, [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8]),  # of a deeper item's twelve, three are shown twice
        ("every:4", 3, [0, 4, 8]),
        ("every:4", 6, [0, 0, 4, 4, 8, 8]),
        ("centre:3", 3, [3, 4, 5]),
        ("centre:4", 4, [2, 3, 4, 5]),
        ("centre:20", 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("spread:3", 3, [1, 4, 7]),
        ("spread:1", 1, [4]),
    ],
)
def test_the_slices_of_a_bag(slices: str, n_slices: int, expected: list[int]) -> None:
    volume = make_volume()
    assert choose_slices(make_stack(volume), read_bag(slices, n_slices)) == expected
    shown = take_bag(make_stack(volume), read_bag(slices, n_slices))
    np.testing.assert_array_equal(np.stack(shown), volume[expected])


def test_the_most_informative_slices_have_the_largest_entropy_and_keep_their_order() -> None:
    volume = make_volume()
    for index, n_levels in ((0, 1), (3, 2), (5, 3), (8, 4)):
        volume[index] %= n_levels
    assert choose_slices(make_stack(volume), read_bag("informative:5", 5)) == [1, 2, 4, 6, 7]
    assert choose_slices(make_stack(volume), read_bag("informative:7", 7)) == [1, 2, 4, 5, 6, 7, 8]


@given(st.integers(1, 40), st.sampled_from(FORMS), st.integers(1, 50), st.integers(0, 30))
def test_a_bag_has_its_number_of_slices_in_order_and_shows_none_much_more_often(
    depth: int, form: str, number: int, deeper: int
) -> None:
    slices = form if form == "all" else f"{form}:{number}"
    n_slices = count_shown(slices, depth + deeper)  # another item is the deepest
    found = choose_slices(make_stack(make_volume((depth, 8, 8))), read_bag(slices, n_slices))
    assert len(found) == n_slices >= 1
    assert found == sorted(found)
    assert found[0] >= 0
    assert found[-1] < depth
    times = [found.count(index) for index in set(found)]
    assert max(times) - min(times) <= 1
    if form == "all":
        assert len(set(found)) == depth


@given(st.integers(1, 500), st.integers(1, 50))
def test_the_slices_that_are_shown_are_counted(most: int, number: int) -> None:
    assert count_shown("all", most) == most
    assert count_shown(f"every:{number}", most) == len(range(0, most, number))
    for form in FORMS[2:]:
        assert count_shown(f"{form}:{number}", most) == min(number, most)


@pytest.mark.parametrize(
    "slices", ["", "every", "every:0", "all:3", "some:3", "spread:-2", "spread:99999", "spread: 3"]
)
def test_other_forms_are_refused(slices: str) -> None:
    with pytest.raises(ValueError, match=r"expected all, or every:NUMBER, .*; found"):
        read_form(slices)


@pytest.mark.parametrize(("wanted", "index"), [("first", 0), ("middle", 4), ("last", 8), ("only", 0), ("7", 6)])
def test_a_slice_is_found_by_its_word_or_number(wanted: str, index: int) -> None:
    assert find_slice(9, wanted) == index
    with pytest.raises(ImageError, match="slice or frame 10 was asked for, and there are 9"):
        find_slice(9, "10")


def test_entropy_is_that_of_scipy() -> None:
    pixels = make_volume()[0] % 17
    counts = np.bincount(pixels.ravel())
    assert math.isclose(measure_entropy(pixels), scipy.stats.entropy(counts, base=2), rel_tol=1e-12)
    assert measure_entropy(np.full((8, 8), 7, np.uint8)) == 0
    assert measure_entropy(np.zeros((8, 8), np.float32)) == 0
    assert measure_entropy(np.full((8, 8), -3, np.float32)) == 0
    halves = np.repeat(np.float32([-5, 1e6]), 32).reshape(8, 8)
    assert math.isclose(measure_entropy(halves), 1)


# --- three as channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "indices"), [("middle", [3, 4, 5]), ("first", [0, 0, 1]), ("last", [7, 8, 8])])
@pytest.mark.parametrize("plane", PLANES)
def test_neighbours_are_the_channels_and_the_ends_stand_for_what_lies_beyond(
    frame: str, indices: list[int], plane: str
) -> None:
    volume = make_volume((9, 9, 9))
    found = decode(volume, reading=Reading((), frame, plane, dimensions="2.5d_neighbours"))
    axis = PLANES.index(plane)
    np.testing.assert_array_equal(found, np.moveaxis(np.take(volume, indices, axis=axis), axis, -1))


def test_orthogonal_slices_are_the_channels_each_in_a_black_square() -> None:
    volume = make_volume()
    found = decode(volume, reading=Reading(dimensions="2.5d_orthogonal"))
    assert found.shape == (12, 12, 3)
    np.testing.assert_array_equal(found[:, 1:11, 0], volume[4])
    np.testing.assert_array_equal(found[1:10, 1:11, 1], volume[:, 6])
    np.testing.assert_array_equal(found[1:10, :, 2], volume[:, :, 5])
    for channel, slice_ in enumerate((volume[4], volume[:, 6], volume[:, :, 5])):
        assert found[..., channel].sum() == slice_.astype(int).sum()


def test_slices_in_colour_cannot_be_channels() -> None:
    data = save_nifti(make_volume())
    with pytest.raises(ImageError, match="slices in colour, or through three windows, cannot be channels as well"):
        decode(data, reading=Reading(("10/50", "60/100", "lung"), "middle", dimensions="2.5d_neighbours"))


def test_padding_leaves_the_slice_in_the_middle() -> None:
    pixels = make_volume()[0]
    np.testing.assert_array_equal(pad_square(pixels, 15)[1:13, 2:12], pixels)
    assert pad_square(np.stack([pixels] * 3, axis=-1), 13).shape == (13, 13, 3)


# --- bags through the reader ------------------------------------------------------------------------------------------


def test_an_image_is_a_bag_of_itself() -> None:
    image = make_volume((20, 20, 3))
    bag = decode_bag(image, reading=read_bag("spread:4", 4))
    assert len(bag) == 4
    for each in bag:
        np.testing.assert_array_equal(each, image)
    np.testing.assert_array_equal(decode(image, reading=read_bag("spread:4", 4)), image)
    np.testing.assert_array_equal(decode(image, reading=Reading(dimensions="auto")), image)


def test_a_bag_of_a_volume_is_the_slices_that_a_frame_names() -> None:
    data = save_nifti(make_volume())
    for plane in PLANES:
        bag = decode_bag(data, reading=read_bag("all", 8, plane))
        chosen = choose_slices(
            make_stack(np.empty([{"sagittal": 9, "coronal": 12, "axial": 10}[plane], 1, 1])), read_bag("all", 8)
        )
        for shown, index in zip(bag, chosen, strict=True):
            single = decode(data, reading=Reading((), str(index + 1), plane))
            np.testing.assert_array_equal(shown, single)


def test_slices_are_walked_from_the_middle_and_then_evenly() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (11, 20, 30)).astype(np.uint8)
    assert [index for index, _ in walk_slices(volume, Reading(frame="middle"))] == [5, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    some = list(walk_slices(volume, Reading(frame="middle"), 4))
    assert [index for index, _ in some] == [5, 0, 3, 7, 10]
    for index, pixels in some:
        np.testing.assert_array_equal(pixels, volume[index])
    ((index, image),) = walk_slices(volume[0], Reading(), 4)
    assert (index, image.shape) == (0, (20, 30))


def test_a_whole_item_is_described_by_all_its_slices() -> None:
    volume = make_volume()
    facts = describe(volume, Reading(dimensions="auto"))
    assert (facts.slices, facts.width_px, facts.height_px, facts.channels, facts.bits) == (9, 10, 12, 1, 8)
    assert (facts.minimum, facts.maximum) == (volume.min(), volume.max())
    assert describe(volume[4], Reading(dimensions="auto")) == describe(volume[4])
    changed = volume.copy()
    changed[0, 0, 0] ^= 1
    assert describe(changed, Reading(dimensions="auto")).pixel_digest != facts.pixel_digest
    assert describe(volume.copy(), read_bag("spread:3", 3)).pixel_digest == facts.pixel_digest
    with pytest.raises(ImageError, match="no image content: all pixels of 9 slices are 5"):
        describe(np.full(SHAPE, 5, np.uint8), Reading(dimensions="auto"))
    spoilt = volume.astype(np.float32)
    spoilt[7, 1, 1] = np.nan
    with pytest.raises(ImageError, match="1 of 120 values are NaN or infinite"):
        describe(spoilt, Reading(dimensions="auto"))


def test_frames_have_one_plane() -> None:
    stack = Stack("DICOM", {"axial": 7}, lambda _plane, _index: make_volume()[0])
    with pytest.raises(ImageError, match="the frames of a DICOM object have one plane; expected a volume for coronal"):
        stack.count("coronal")
