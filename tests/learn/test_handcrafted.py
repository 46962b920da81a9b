"""Handcrafted features: gradients and patterns against the definitions of their authors, and what they can tell apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter1d, map_coordinates
from skimage import data as photographs
from sklearn.metrics import roc_auc_score

from thawline.data.readers import decode
from thawline.data.transforms import prepare
from thawline.errors import DataError, ImageError
from thawline.learn.handcrafted import N_FEATURES, N_GRADIENTS, RADII_PX, describe_texture, extract_handcrafted
from thawline.learn.heads import cross_fit
from thawline.types import Contract, SilentListener

CONTRACT = Contract(28, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")
TIES = 0.003  # share of patterns that the last bit of an interpolated tie may change


def repeat(grey):
    """Grey as a prepared image of three equal channels."""
    return np.stack([grey] * 3, axis=2)


def photograph(size_px=128):
    return np.asarray(Image.fromarray(photographs.camera()).resize((size_px, size_px), Image.Resampling.BICUBIC))


def split_features(features):
    """The gradients as (blocks, blocks, 2, 2, 9), and for each radius the patterns as (2, 2, 8 radius + 2)."""
    ends = np.cumsum([N_GRADIENTS, *(4 * (8 * radius + 2) for radius in RADII_PX)])
    gradients, *patterns = np.split(features, ends[:-1])
    return gradients.reshape(7, 7, 2, 2, 9), [part.reshape(2, 2, -1) for part in patterns]


def differ(first, second):
    """The largest share of pixels, over the radii, whose pattern differs between two images, counted by quarter."""
    parts = zip(split_features(first)[1], split_features(second)[1], strict=True)
    return max(float(np.abs(a - b).sum()) / 2 for a, b in parts)


# --- the definitions --------------------------------------------------------------------------------------------------


def reference_gradients(grey):
    """Dalal and Triggs for one channel: [-1, 0, 1], 9 orientations, cells of 16 pixels, blocks of 2 x 2, L2-Hys."""
    grey = grey.astype(np.float64)
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[1:-1], right[:, 1:-1] = grey[2:] - grey[:-2], grey[:, 2:] - grey[:, :-2]
    size = np.hypot(down, right)
    turn = np.rad2deg(np.arctan2(down, right)) % 180
    cells = np.empty((8, 8, 9))
    for row, column in np.ndindex(8, 8):
        cell = np.s_[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        cells[row, column] = np.histogram(turn[cell], bins=9, range=(0, 180), weights=size[cell])[0]
    blocks = np.empty((7, 7, 2, 2, 9))
    for row, column in np.ndindex(7, 7):
        block = cells[row : row + 2, column : column + 2]
        clipped = np.minimum(block / np.linalg.norm(block), 0.2)
        blocks[row, column] = clipped / np.linalg.norm(clipped)
    return blocks


def reference_patterns(grey, radius):
    """Ojala, Pietikäinen and Mäenpää, equations 8 to 10, counted by quarter."""
    n_points = 8 * radius
    rows, columns = np.mgrid[radius : 128 - radius, radius : 128 - radius]
    angles = 2 * np.pi * np.arange(n_points) / n_points
    places = [[rows - radius * np.sin(angle), columns + radius * np.cos(angle)] for angle in angles]
    signs = np.stack(
        [map_coordinates(grey.astype(np.float64), place, order=1) >= grey[rows, columns] for place in places]
    )
    changes = (signs != np.roll(signs, 1, axis=0)).sum(axis=0)
    patterns = np.where(changes <= 2, signs.sum(axis=0), n_points + 1)
    quarters = patterns.reshape(2, 64 - radius, 2, 64 - radius).swapaxes(1, 2).reshape(4, -1)
    return np.stack([[(part == value).mean() / 4 for value in range(n_points + 2)] for part in quarters])


def test_gradients_are_those_of_dalal_and_triggs():
    grey = photograph()
    found, _ = split_features(describe_texture(repeat(grey)))
    np.testing.assert_allclose(found, reference_gradients(grey), atol=1e-5)


def test_patterns_are_those_of_ojala():
    grey = np.random.default_rng(0).uniform(0, 255, (128, 128)).round(1).astype(np.float32)  # hardly any ties
    _, found = split_features(describe_texture(repeat(grey)))
    for radius, part in zip(RADII_PX, found, strict=True):
        expected = reference_patterns(np.rint(grey * 16), radius)
        assert np.abs(part.reshape(4, -1) - expected).sum() / 2 < TIES


@pytest.mark.parametrize(
    ("one", "other"), [((158.7, 100, 100), (100, 129.9, 100)), ((100, 100, 158.7), (100, 111.4, 100))]
)
def test_colours_of_equal_luminance_are_one_grey(one, other):
    """Of luminance, BT.601 gives 0.299 to red, 0.587 to green, 0.114 to blue: stripes of these colours have no edges."""
    stripes = np.where(np.arange(128)[None, :, None] // 8 % 2, np.float32(one), np.float32(other))
    found = describe_texture(np.repeat(stripes, 128, axis=0))
    np.testing.assert_array_equal(found, describe_texture(np.full((128, 128, 3), 100, np.float32)))


def test_colour_counts_by_its_luminance():
    colour = photographs.astronaut()[:128, 128:256]
    found, expected = (describe_texture(image) for image in (colour, repeat(colour @ [0.299, 0.587, 0.114])))
    np.testing.assert_allclose(found[:N_GRADIENTS], expected[:N_GRADIENTS], atol=1e-3)
    assert differ(found, expected) < TIES


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turns", "orientation"), [(0, 0), (1, 4)])
def test_stripes_lie_in_the_bin_of_their_gradient(turns, orientation):
    """The gradient of vertical stripes is horizontal, 0 degrees; that of horizontal ones 90, in the fifth bin."""
    wave = np.tile(np.rint(128 + 100 * np.sin(np.arange(128) * 2 * np.pi / 16)), (128, 1)).astype(np.uint8)
    gradients, _ = split_features(describe_texture(repeat(np.rot90(wave, turns))))
    energy = (gradients**2).sum(axis=(0, 1, 2, 3))
    assert energy[orientation] / energy.sum() > 0.999


def test_blocks_have_unit_length():
    gradients, _ = split_features(describe_texture(repeat(photograph())))
    np.testing.assert_allclose((gradients**2).sum(axis=(2, 3, 4)), 1, atol=1e-4)


# --- patterns ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), size_px=st.sampled_from([9, 64, 128, 150]))
def test_each_radius_and_quarter_holds_its_share(seed, size_px):
    inputs = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    for radius, part in zip(RADII_PX, split_features(describe_texture(inputs))[1], strict=True):
        assert part.shape == (2, 2, 8 * radius + 2)
        np.testing.assert_allclose(part.sum(axis=2), 0.25, atol=1e-6)


@settings(deadline=None, max_examples=8)
@given(gain=st.sampled_from([0.25, 0.5, 1, 2]), offset=st.integers(0, 100))
def test_patterns_do_not_see_brightness_or_contrast(gain, offset):
    grey = (photograph() // 4).astype(np.float32)
    assert differ(describe_texture(repeat(grey)), describe_texture(repeat(gain * grey + offset))) < TIES


def test_patterns_hardly_see_a_monotone_curve_and_do_see_mixed_levels():
    """Grey values keep their order under a curve that rises; only values between pixels, interpolated, may not."""
    grey = photograph()
    plain, mixed = describe_texture(repeat(grey)), describe_texture(repeat(grey * np.uint8(37)))
    curved = describe_texture(repeat(255 * np.sqrt(grey.astype(np.float32) / 255)))
    assert differ(plain, curved) < 0.03
    assert differ(plain, mixed) > 0.2


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_keeps_the_patterns_of_the_whole_and_turns_the_quarters(turns):
    grey = photograph()
    gradients, patterns = split_features(describe_texture(repeat(grey)))
    turned_gradients, turned_patterns = split_features(describe_texture(repeat(np.rot90(grey, turns))))
    for one, other in zip(patterns, turned_patterns, strict=True):
        assert np.abs(one.sum(axis=(0, 1)) - other.sum(axis=(0, 1))).sum() / 2 < TIES
        assert np.abs(np.rot90(one, turns) - other).sum() / 2 < TIES
        assert np.abs(one - other).sum() / 2 > 10 * TIES  # the quarters differ
    assert np.abs(gradients - turned_gradients).max() > 0.1


# --- what goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_px", [1, 28, 64, 128, 224])
def test_any_size_gives_the_same_length_and_the_same_numbers_again(size_px):
    inputs = repeat(photograph(size_px))
    found = describe_texture(inputs)
    assert found.shape == (N_FEATURES,) == (1980,)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(found, describe_texture(inputs.copy()))
    np.testing.assert_array_equal(found, describe_texture(inputs.astype(np.float32)))


def test_the_size_changes_little_where_the_texture_is_coarse():
    waves = [
        128 + 100 * np.sin(np.linspace(0.5 / size, 1 - 0.5 / size, size) * 16)[None] * np.ones((size, 1))
        for size in (128, 224)
    ]
    (small, _), (large, _) = (split_features(describe_texture(repeat(wave.astype(np.float32)))) for wave in waves)
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("level", [0, 37, 41.7, 255])
@pytest.mark.parametrize("size_px", [28, 128, 224])
def test_a_constant_image_has_no_gradient_and_one_pattern(level, size_px):
    """No point of a circle is darker than its centre, also where resizing leaves dust in the last digits."""
    gradients, patterns = split_features(describe_texture(np.full((size_px, size_px, 3), level, np.float32)))
    assert not gradients.any()
    for radius, part in zip(RADII_PX, patterns, strict=True):
        np.testing.assert_array_equal(part[..., 8 * radius], 0.25)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8, 3), (0, 0, 3)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ImageError, match=r"\(size_px, size_px, 3\); found \("):
        describe_texture(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    inputs = np.zeros((8, 8, 3), np.float32)
    inputs[2, 3] = value
    with pytest.raises(ImageError, match="1 of 64 pixels are NaN or infinite"):
        describe_texture(inputs)


# --- from files -------------------------------------------------------------------------------------------------------


class Note(SilentListener):
    """Keeps what it is told."""

    def __init__(self):
        self.said = []

    def begin(self, step, total=None):
        self.said.append((step, total))

    def advance(self, units=1):
        self.said.append(units)

    def end(self, note=""):
        self.said.append(note)


@pytest.mark.parametrize("threads", [1, 3])
def test_items_come_in_their_order_and_are_told_one_by_one(tmp_path, threads):
    rng, contents, note = np.random.default_rng(0), [], Note()
    for number in range(5):
        pixels = rng.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
        contents.append(tmp_path / f"{number}.png" if number % 2 else pixels)
        if number % 2:
            Image.fromarray(pixels).save(contents[-1])
    found = extract_handcrafted(contents, CONTRACT, threads, note)
    read = [content if isinstance(content, np.ndarray) else decode(content.read_bytes()) for content in contents]
    np.testing.assert_array_equal(found, [describe_texture(prepare(pixels, CONTRACT)) for pixels in read])
    assert found.dtype == np.float32
    assert note.said == [("handcrafted features", 5), 1, 1, 1, 1, 1, "5 computed, 1980 features each"]


def test_wide_pixels_are_described_on_the_range_of_the_data():
    pixels = photograph(64).astype(np.uint16) * 200
    wide = dataclasses.replace(CONTRACT, size_px=64, wide_range=(0.0, 255.0 * 200))
    found = extract_handcrafted([pixels], wide, 1, SilentListener())
    narrow = extract_handcrafted([photograph(64)], dataclasses.replace(wide, wide_range=None), 1, SilentListener())
    np.testing.assert_allclose(found, narrow, atol=0.01)


def test_no_items_give_no_features():
    assert extract_handcrafted([], CONTRACT, 1, SilentListener()).shape == (0, N_FEATURES)


def test_an_item_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.png cannot be prepared"):
        extract_handcrafted([tmp_path / "missing.png"], CONTRACT, 1, SilentListener())


# --- what they can tell apart -----------------------------------------------------------------------------------------


def draw_textures(kind, n_items=48, seed=0):
    """Noise of equal mean and spread: streaks that run across or down, or grain that is fine or coarse."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_items) // 2 % 2
    drawn = []
    for label in labels:
        noise = rng.standard_normal((64, 64))
        across, down = {"streaks": (1.5 - label, 0.5 + label), "grain": (0.7 + label, 0.7 + label)}[kind]
        smooth = gaussian_filter1d(gaussian_filter1d(noise, across, axis=1), down, axis=0)
        drawn.append(repeat(np.clip(128 + 40 * smooth / smooth.std(), 0, 255)).astype(np.uint8))
    return drawn, labels.astype(np.int64), np.arange(n_items) // 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "teller"), [("streaks", slice(None, N_GRADIENTS)), ("grain", slice(N_GRADIENTS, None))]
)
def test_a_linear_head_tells_textures_apart_but_not_permuted_labels(kind, teller):
    """The half of the features that was made for the difference tells it alone; the whole tells it too."""
    contents, labels, groups = draw_textures(kind)
    contract = dataclasses.replace(CONTRACT, size_px=64)
    features = extract_handcrafted(contents, contract, 2, SilentListener())
    folds = groups // 2 % 4

    def score(features, labels):
        found = cross_fit("linear", features, labels, groups, folds, 2, seed=0).probabilities[:, 1]
        return np.mean([roc_auc_score(labels[folds == fold], found[folds == fold]) for fold in range(4)])

    assert score(features, labels) > 0.95
    assert score(features[:, teller], labels) > 0.95
    rng = np.random.default_rng(0)
    shuffled = [np.repeat(rng.permutation(labels[::2]), 2) for _ in range(3)]
    assert 0.3 < np.mean([score(features, one) for one in shuffled]) < 0.7
