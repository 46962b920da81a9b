"""Tissue on the overview of a whole slide, and the tiles of a grid that show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from thawline.types import BoolArray, IntArray, Pixels

DARK = 40  # brightness, of 255, below which colour is noise: pen, dust, what was not scanned
LEAST_SATURATION, MOST_SATURATION = 12.0, 40.0  # of 255: no glass is more coloured, no stain less; Otsu decides between
SMOOTH_PX = 5
TISSUE_SHARE = 0.25  # of a tile that shows it
SMALL_SHARE = 0.5  # of the area of a tile: smaller things are dust


def find_tissue(overview: Pixels, least_px: float = 0.0) -> BoolArray:
    """Return where an overview, (rows, columns, 3) uint8, shows tissue: what is coloured, by Otsu's threshold (1979).

    Holes and things smaller than ``least_px`` pixels do not count.
    """
    from scipy.ndimage import uniform_filter
    from skimage.filters import threshold_otsu

    red, green, blue = np.moveaxis(overview, -1, 0)  # by pairs: three times as fast as along an axis
    brightest = np.maximum(np.maximum(red, green), blue)
    darkest = np.minimum(np.minimum(red, green), blue)
    saturation = (brightest - darkest) * (np.float32(255) / np.maximum(brightest, 1))
    saturation[brightest < DARK] = 0
    smooth = uniform_filter(saturation, SMOOTH_PX)
    if smooth.min() == smooth.max():
        return np.zeros(smooth.shape, bool)
    threshold = float(np.clip(threshold_otsu(smooth), LEAST_SATURATION, MOST_SATURATION))
    found = _drop_small(smooth > threshold, least_px)
    return ~_drop_small(~found, least_px)


def _drop_small(mask: BoolArray, least_px: float) -> BoolArray:
    """Return the mask without connected parts of fewer pixels."""
    from scipy.ndimage import label

    numbers, _ = label(mask)
    sizes = np.bincount(numbers.ravel())
    kept = sizes >= least_px
    kept[0] = False
    return np.asarray(kept[numbers])


def list_tiles(tissue: BoolArray, size_px: tuple[int, int], side_px: tuple[float, float]) -> IntArray:
    """Return the tiles that show tissue, (tiles, 2): column and row in the grid of whole tiles from the upper left.

    ``size_px`` is (width, height) of the slide, ``side_px`` that of a tile, in the same pixels. Row by row.
    """
    n_columns, n_rows = (int(whole / side + 1e-6) for whole, side in zip(size_px, side_px, strict=True))
    sums = np.zeros((tissue.shape[0] + 1, tissue.shape[1] + 1), np.int32)
    sums[1:, 1:] = tissue.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    left, right = _find_edges(n_columns, side_px[0] * tissue.shape[1] / size_px[0], tissue.shape[1])
    top, bottom = _find_edges(n_rows, side_px[1] * tissue.shape[0] / size_px[1], tissue.shape[0])
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    share = inside / ((right - left)[None] * (bottom - top)[:, None])
    return np.argwhere(share >= TISSUE_SHARE)[:, ::-1]


def _find_edges(count: int, step: float, length: int) -> tuple[IntArray, IntArray]:
    """Return where so many tiles begin and end on the overview, each a pixel long at least."""
    begin = np.minimum(np.round(np.arange(count) * step).astype(np.int64), length - 1)
    end = np.minimum(np.round(np.arange(1, count + 1) * step).astype(np.int64), length)
    return begin, np.maximum(end, begin + 1)
