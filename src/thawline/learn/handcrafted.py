"""Texture features from before deep learning: the control that shows what a pretrained network is worth.

Histograms of oriented gradients (HOG: Dalal and Triggs, CVPR 2005) say which way the edges run, and where. Uniform local
binary patterns (LBP: Ojala, Pietikäinen and Mäenpää, IEEE TPAMI 24:971, 2002) say what the grain looks like whatever
its direction and brightness; they are counted in the four quarters of the image, as finer grids bring columns rather
than accuracy. Both come from scikit-image and see the image in grey, at one size, so that the vectors of all images
have one length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import ImageError
from thawline.learn.features import prepare_all
from thawline.types import Contract, Listener

if TYPE_CHECKING:
    from thawline.types import Content, Features, FloatArray, Inputs, IntArray

SIDE_PX = 128
CELL_PX, BLOCK_CELLS, ORIENTATIONS = 16, 2, 9
RADII_PX = (1, 2, 3)  # 8 points to a pixel of radius
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
MOST_TILES = 16  # of a whole slide, whose tiles would take hours
STEPS = 16  # of a grey level: finer than 12-bit images are, coarser than the dust of float arithmetic in flat regions

N_GRADIENTS = (SIDE_PX // CELL_PX - BLOCK_CELLS + 1) ** 2 * BLOCK_CELLS**2 * ORIENTATIONS
N_PATTERNS = sum(4 * (8 * radius + 2) for radius in RADII_PX)
N_FEATURES = N_GRADIENTS + N_PATTERNS


def describe_texture(inputs: Inputs) -> Features:
    """Return the texture features of one prepared image: float32, (N_FEATURES,), all from 0 to 1.

    ``inputs`` is uint8 or float32 on the 0 to 255 scale, (size_px, size_px, 3), of any size. First come the gradients,
    (7 rows of blocks, 7 columns of blocks, 2, 2 cells, 9 orientations of 20 degrees, the first that of a horizontal
    gradient); then for radii of 1, 2 and 3 pixels the patterns, (2, 2 quarters, 8 radius + 2), each radius summing to
    one. Raises ImageError on another shape or values that are not finite.
    """
    grey = _make_grey(inputs)
    parts = [_describe_gradients(grey), *(_count_patterns(grey, radius_px) for radius_px in RADII_PX)]
    return np.concatenate(parts).astype(np.float32)


def extract_handcrafted(
    contents: Sequence[Content],
    contract: Contract,
    threads: int,
    listener: Listener,
    step: str = "handcrafted features",
) -> Features:
    """Return the texture features of all items in their order: float32, (items, N_FEATURES), of `describe_texture`.

    Items are decoded and described in ``threads`` threads, prepared as ``contract`` says, as they are for a backbone; of
    its numbers, mean and std do not matter; of a slide at most `MOST_TILES` are seen. Raises DataError where an item cannot
    be read or prepared.
    """
    contract = dataclasses.replace(contract, reading=contract.reading.show_tiles(MOST_TILES))
    listener.begin(step, len(contents))
    features = np.empty((len(contents), N_FEATURES), np.float32)
    with closing(prepare_all(contents, contract, threads, lambda _, image: _describe_item(image))) as described:
        for row, found in zip(features, described, strict=True):
            row[:] = found
            listener.advance()
    listener.end(f"{len(contents)} computed, {N_FEATURES} features each")
    return features


def _describe_item(inputs: Inputs) -> Features:
    """Return the texture features of an image, or the mean of those of a bag's slices."""
    if inputs.ndim == 3:
        return describe_texture(inputs)
    return np.asarray(np.mean([describe_texture(each) for each in inputs], axis=0), np.float32)


def _make_grey(inputs: Inputs) -> IntArray:
    """Return the luminance at the one size, in whole `STEPS` of a grey level: int64, (SIDE_PX, SIDE_PX)."""
    from PIL import Image

    if inputs.ndim != 3 or inputs.shape[2] != 3 or not inputs.size:
        raise ImageError(
            f"Texture needs one image of shape (size_px, size_px, 3); found {inputs.shape}. Prepare it first."
        )
    luminance = inputs.astype(np.float32) @ np.array(LUMA, np.float32)
    if not np.isfinite(luminance).all():
        n_bad = int(np.count_nonzero(~np.isfinite(luminance)))
        raise ImageError(f"{n_bad} of {luminance.size} pixels are NaN or infinite; texture needs finite numbers.")
    resized = Image.fromarray(luminance).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(resized, np.float64) * STEPS).astype(np.int64)


def _describe_gradients(grey: IntArray) -> FloatArray:
    """Return the histograms of oriented gradients, (N_GRADIENTS,), normalised by block with clipping (L2-Hys)."""
    from skimage.feature import hog

    return np.asarray(hog(grey, ORIENTATIONS, (CELL_PX, CELL_PX), (BLOCK_CELLS, BLOCK_CELLS), "L2-Hys"))


def _count_patterns(grey: IntArray, radius_px: int) -> FloatArray:
    """Return the shares of the uniform patterns by quarter of the image, (4 * (8 * radius_px + 2),).

    Only pixels whose whole circle lies in the image count, as in Ojala's definition; scikit-image takes black outside.
    """
    from skimage.feature import local_binary_pattern

    n_points = 8 * radius_px
    inside = slice(radius_px, -radius_px)
    patterns = local_binary_pattern(grey, n_points, radius_px, "uniform")[inside, inside].astype(np.int64)
    halves = (slice(None, len(patterns) // 2), slice(len(patterns) // 2, None))
    quarters = [patterns[rows, columns].ravel() for rows in halves for columns in halves]
    counts = np.concatenate([np.bincount(quarter, minlength=n_points + 2) for quarter in quarters])
    return np.asarray(counts / patterns.size)
