"""Views of an image: drawn from its content alone, and never further from it than the recipe allows."""

from __future__ import annotations

import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import rotate, shift
from skimage import data as photographs

from thawline.learn.augment import CLEAN, View, augment
from thawline.types import Augmentation

DIGESTS = [f"{number:08x}" for number in range(150)]
EVERYTHING = Augmentation(15.0, 0.1, (0.9, 1.1), True, True, True, tone=0.2, colour=0.2, hue=0.1)
DTYPES = (np.uint8, np.float32)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def make_image(dtype=np.uint8, size_px=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3))
    return pixels.astype(dtype)


def make_dot(row, column, dtype=np.uint8, size_px=65, width_px=3):
    """Black but for one bright square; ``row`` and ``column`` of its middle, counted from the middle of the image."""
    image = np.zeros((size_px, size_px, 3), dtype)
    top, left = (size_px // 2 + place - width_px // 2 for place in (row, column))
    image[top : top + width_px, left : left + width_px] = 255
    return image


def find_dot(image):
    """Centre of mass, (row, column) from the middle of the image."""
    mass = image.astype(float).sum(axis=2)
    places = np.indices(mass.shape) - (len(mass) - 1) / 2
    return (places * mass).sum(axis=(1, 2)) / mass.sum()


def draw_views(image, recipe, digests=DIGESTS, seed=0):
    view = View(1, seed, recipe)
    return [augment(image, view, digest) for digest in digests]


def count_alike(found, candidates):
    """How many of ``found`` are each of the candidates, byte for byte."""
    return [sum(np.array_equal(view, candidate) for view in found) for candidate in candidates]


def is_near_uniform(counts):
    """Tell whether counts of equally likely outcomes lie within five standard deviations of what is expected."""
    n, share = sum(counts), 1 / len(counts)
    return all(abs(count - n * share) < 5 * np.sqrt(n * share * (1 - share)) for count in counts)


# --- what a view is drawn from ----------------------------------------------------------------------------------------


@every_dtype
def test_the_clean_view_is_the_very_array(dtype):
    image = make_image(dtype)
    assert augment(image, CLEAN, "a") is image
    assert augment(image, View(7, 3), "a") is image


@every_dtype
def test_the_same_digest_number_and_seed_give_the_same_bytes(dtype):
    image, view = make_image(dtype), View(1, 2, EVERYTHING)
    before = image.copy()
    first = augment(image, view, "a")
    assert first.tobytes() == augment(image.copy(), dataclasses.replace(view), "a").tobytes()
    np.testing.assert_array_equal(image, before)


@every_dtype
def test_another_digest_number_or_seed_gives_another_view(dtype):
    image = make_image(dtype)
    views = [
        augment(image, View(number, seed, EVERYTHING), digest)
        for number in (1, 2, 12)
        for seed in (0, 1, 2)
        for digest in ("a", "b")
    ]
    assert len({view.tobytes() for view in views}) == len(views)


def test_allowing_more_leaves_the_other_draws_as_they_were():
    """A recipe that also allows quarter turns shifts the same dot by the same way."""
    dot = make_dot(0, 0)
    for digest in DIGESTS[:20]:
        plain = augment(dot, View(1, 0, Augmentation(shift=0.2)), digest)
        more = augment(dot, View(1, 0, Augmentation(shift=0.2, quarter_turns=True, flip_sides=True)), digest)
        np.testing.assert_array_equal(plain, more)  # the dot in the middle is its own mirror and turn


@every_dtype
def test_threads_in_any_order_and_global_seeds_change_nothing(dtype):
    import torch

    image = make_image(dtype)
    jobs = [(View(number, 0, EVERYTHING), digest) for number in range(1, 6) for digest in DIGESTS[:20]]
    expected = {job: augment(image, *job).tobytes() for job in jobs}
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    shuffled = random.Random(1).sample(jobs, len(jobs))
    with ThreadPoolExecutor(8) as threads:
        found = dict(zip(shuffled, threads.map(lambda job: augment(image, *job).tobytes(), shuffled), strict=True))
    assert found == expected
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert augment(image, *jobs[0]).tobytes() == expected[jobs[0]]


def test_a_view_is_plain_json_and_differs_with_all_that_it_is_drawn_from():
    views = [CLEAN, View(1, 0, EVERYTHING), View(2, 0, EVERYTHING), View(1, 1, EVERYTHING), View(1, 0, Augmentation())]
    assert len({json.dumps(view.to_json(), sort_keys=True) for view in views}) == len(views)
    assert View(3, 4).to_json() == CLEAN.to_json()


# --- shape, dtype, range ----------------------------------------------------------------------------------------------

shares = st.floats(0, 1, width=32)
recipes = st.builds(
    Augmentation,
    turn_deg=st.floats(0, 180),
    shift=st.floats(0, 0.5),
    scale=st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    flip_sides=st.booleans(),
    flip_vertically=st.booleans(),
    quarter_turns=st.booleans(),
    tone=shares,
    colour=shares,
    hue=st.floats(0, 0.5),
)


@settings(deadline=None, max_examples=60)
@given(recipe=recipes, dtype=st.sampled_from(DTYPES), size_px=st.integers(8, 40), seed=st.integers(0, 2**32))
def test_shape_dtype_and_range_are_kept_whatever_the_recipe(recipe, dtype, size_px, seed):
    image = make_image(dtype, size_px, seed % 100)
    found = augment(image, View(1, seed, recipe), "a")
    assert (found.shape, found.dtype) == (image.shape, image.dtype)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 255


@settings(deadline=None, max_examples=40)
@given(recipe=recipes, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**32))
def test_a_grey_image_stays_grey_whatever_the_recipe(recipe, dtype, seed):
    grey = np.repeat(make_image(dtype)[..., :1], 3, axis=2)
    found = augment(grey, View(1, seed, recipe), "a")
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=2))


def test_colour_and_hue_leave_a_grey_image_as_it_is_and_a_red_one_not():
    recipe = Augmentation(colour=0.5, hue=0.2)
    grey, red = np.repeat(make_image()[..., :1], 3, axis=2), make_image() // (1, 3, 3)
    for found in draw_views(grey, recipe, DIGESTS[:20]):
        np.testing.assert_allclose(found.astype(int), grey, atol=1)
    assert all((found != red).any() for found in draw_views(red.astype(np.uint8), recipe, DIGESTS[:20]))


# --- flips and quarter turns ------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(("option", "axis"), [("flip_sides", 1), ("flip_vertically", 0)])
def test_a_flip_gives_the_image_or_its_mirror_and_nothing_else(dtype, option, axis):
    image = make_image(dtype)
    counts = count_alike(draw_views(image, Augmentation(**{option: True})), [image, np.flip(image, axis)])
    assert sum(counts) == len(DIGESTS)
    assert is_near_uniform(counts)


@every_dtype
def test_both_flips_are_drawn_apart_from_each_other(dtype):
    image = make_image(dtype)
    candidates = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    counts = count_alike(draw_views(image, Augmentation(flip_sides=True, flip_vertically=True)), candidates)
    assert sum(counts) == len(DIGESTS)
    assert is_near_uniform(counts)


@every_dtype
@pytest.mark.parametrize("size_px", [32, 33])
def test_quarter_turns_give_exactly_the_four_rotations(dtype, size_px):
    image = make_image(dtype, size_px)
    counts = count_alike(draw_views(image, Augmentation(quarter_turns=True)), [np.rot90(image, n) for n in range(4)])
    assert sum(counts) == len(DIGESTS)
    assert is_near_uniform(counts)


@every_dtype
def test_a_recipe_that_allows_nothing_changes_nothing(dtype):
    image = make_image(dtype)
    for found in draw_views(image, Augmentation(), DIGESTS[:10]):
        np.testing.assert_array_equal(found, image)


# --- turns, shifts, scales --------------------------------------------------------------------------------------------


@every_dtype
def test_a_shift_stays_within_its_bound_and_fills_it(dtype):
    places = np.array([find_dot(view) for view in draw_views(make_dot(0, 0, dtype), Augmentation(shift=0.2))])
    bound = 0.2 * 65
    assert np.abs(places).max() <= bound + 0.1
    assert (places.max(axis=0) > 0.9 * bound).all()
    assert (places.min(axis=0) < -0.9 * bound).all()
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.3


@every_dtype
def test_a_scale_stays_within_its_bounds_and_fills_them(dtype):
    views = draw_views(make_dot(0, 16, dtype), Augmentation(scale=(0.5, 1.5)))
    places = np.array([find_dot(view) for view in views])
    scales = places[:, 1] / 16
    assert np.abs(places[:, 0]).max() < 0.3
    assert 0.48 <= scales.min() < 0.55
    assert 1.45 < scales.max() <= 1.52


@every_dtype
def test_a_turn_stays_within_its_bound_and_fills_it(dtype):
    views = draw_views(make_dot(0, 20, dtype), Augmentation(turn_deg=30.0))
    places = np.array([find_dot(view) for view in views])
    angles = np.degrees(np.arctan2(-places[:, 0], places[:, 1]))
    np.testing.assert_allclose(np.hypot(*places.T), 20, atol=0.3)
    assert np.abs(angles).max() <= 30.5
    assert angles.min() < -27
    assert angles.max() > 27


def test_both_dtypes_are_moved_alike():
    image = photographs.chelsea()[50:274, 100:324]
    recipe = dataclasses.replace(EVERYTHING, tone=0.0, colour=0.0, hue=0.0)
    for digest in DIGESTS[:10]:
        views = [
            augment(image.astype(dtype), View(1, 0, recipe), digest).astype(float)[16:-16, 16:-16] for dtype in DTYPES
        ]
        assert np.abs(views[0] - views[1]).mean() < 1.5


@every_dtype
def test_a_turn_is_the_one_that_scipy_makes(dtype):
    image = photographs.chelsea()[50:274, 100:324].astype(dtype)
    dot = make_dot(0, 80, dtype, size_px=224 + 1)
    for digest in DIGESTS[:5]:
        view = View(1, 0, Augmentation(turn_deg=30.0))
        row, column = find_dot(augment(dot, view, digest))
        angle = np.degrees(np.arctan2(-row, column))
        expected = rotate(image.astype(float), angle, order=1, reshape=False)
        difference = augment(image, view, digest).astype(float) - expected
        assert np.abs(difference)[40:-40, 40:-40].mean() < 2


@every_dtype
def test_a_shift_is_the_one_that_scipy_makes_and_uncovers_black(dtype):
    image = photographs.chelsea()[50:274, 100:324].astype(dtype)
    for digest in DIGESTS[:5]:
        view = View(1, 0, Augmentation(shift=0.2))
        row, column = find_dot(augment(make_dot(0, 0, dtype, size_px=224 + 1), view, digest)) * 224 / 225
        expected = shift(image.astype(float), (row, column, 0), order=1)
        found = augment(image, view, digest)
        assert np.abs(found - expected)[2:-2, 2:-2].mean() < 2
        uncovered = int(abs(row)) - 1
        if uncovered > 0:
            assert (found[:uncovered] if row > 0 else found[-uncovered:]).max() == 0


# --- tones and colours ------------------------------------------------------------------------------------------------


@every_dtype
def test_brightness_stays_within_its_share_and_fills_it(dtype):
    image = np.full((8, 8, 3), 100, dtype)  # contrast changes nothing where all is alike
    found = np.array([view.mean() for view in draw_views(image, Augmentation(tone=0.3))]) / 100
    assert 0.68 <= found.min() < 0.74
    assert 1.26 < found.max() <= 1.32


@every_dtype
def test_contrast_stays_within_its_share_and_fills_it(dtype):
    image = np.full((8, 8, 3), 80, dtype)
    image[:4] = 120
    views = np.array(draw_views(image, Augmentation(tone=0.3)), dtype=float)
    brightness, difference = views.mean(axis=(1, 2, 3)) / 100, views[:, 0].mean((1, 2)) - views[:, -1].mean((1, 2))
    contrast = difference / 40 / brightness
    slack = 0.06 if dtype == np.uint8 else 0.01
    assert 0.7 - slack <= contrast.min() < 0.76
    assert 1.24 < contrast.max() <= 1.3 + slack


@every_dtype
def test_saturation_stays_within_its_share_and_fills_it(dtype):
    image = np.full((8, 8, 3), (150, 100, 110), dtype)
    views = np.array(draw_views(image, Augmentation(colour=0.5)), dtype=float)[:, 0, 0]
    saturation = (views.max(axis=1) - views.min(axis=1)) / 50
    assert 0.47 <= saturation.min() < 0.55
    assert 1.45 < saturation.max() <= 1.53
    luma = views @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(luma, np.dot((150, 100, 110), (0.299, 0.587, 0.114)), atol=1.5)


@every_dtype
def test_hue_stays_within_its_bound_and_fills_it(dtype):
    import colorsys

    image = np.full((8, 8, 3), (60, 60, 180), dtype)
    views = np.array(draw_views(image, Augmentation(hue=0.1)), dtype=float)[:, 0, 0] / 255
    hues, saturations, values = np.array([colorsys.rgb_to_hsv(*colour) for colour in views]).T
    turns = hues - 2 / 3
    assert np.abs(turns).max() <= 0.11
    assert turns.min() < -0.085
    assert turns.max() > 0.085
    np.testing.assert_allclose(saturations, 2 / 3, atol=0.02)
    np.testing.assert_allclose(values, 180 / 255, atol=0.01)
