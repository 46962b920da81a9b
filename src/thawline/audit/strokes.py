"""Strokes: what is thin, and brighter or darker than its ground, at the full resolution of an image and at each half of it.

Strokes are what a morphological opening removes (the white top-hat: Serra, Image Analysis and Mathematical Morphology,
1982), of the image and of its negative. They have to stand out of the noise, whose deviation is the median of diagonal
differences (Donoho and Johnstone, Biometrika 81:425, 1994).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import BoolArray, IntArray, Pixels

    Grey: TypeAlias = NDArray[np.uint8]

SIDE_PX = 4096  # the longer one of the finest level: what is larger is reduced to it
LEAST_SIDE_PX = 128  # of the coarsest
STROKE_PX = 9  # wider strokes are no letters
WHITE = 255
STEPS = (1, 2, 4, 1)  # of shifts, which together reach over STROKE_PX
LEAST_GREY = 0.1  # share of an image that noise is measured in: less is the rims of what is drawn
STAND_OUT = 6.0  # deviations of the noise that a stroke rises above its ground


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """What counts as ink, in shares of white: how bright it is, how far above its ground, how uneven the ground may be.

    ``height_px`` is the least one of a letter at full resolution.
    """

    brightness: float
    contrast: float
    unevenness: float
    height_px: int


# Text on any even ground; and text that is as bright as anything, which on a livelier ground is told from it by that.
CUTS = (Cut(0.6, 0.3, 0.12, 5), Cut(0.95, 0.15, 0.2, 8))


@dataclasses.dataclass(frozen=True, slots=True)
class Ink:
    """The strokes of one level: ``grey`` as it is where ink is bright, ``mask``, and ``boxes``, int64, (strokes, 4).

    A box is top, left, bottom, right, the last two beyond it. ``level`` is 0 at full resolution, 1 at half of it.
    """

    grey: Grey
    mask: BoolArray
    boxes: IntArray
    cut: Cut
    level: int


def find_ink(pixels: Pixels) -> Iterator[Ink]:
    """Yield the strokes of an image, (height, width[, 3]), at each level, bright and dark, by each of `CUTS`."""
    grey = _draw_grey(pixels)
    if grey is None:
        return
    for level, shown in enumerate(_draw_levels(grey)):
        noise = _measure_noise(shown)
        for bright in (shown, WHITE - shown):
            strokes = bright - _open(bright)
            for cut in CUTS:
                least = max(cut.contrast * WHITE, STAND_OUT * noise)
                mask = (strokes >= least) & (bright >= cut.brightness * WHITE)
                yield Ink(bright, mask, _find_boxes(mask), cut, level)


def _draw_grey(pixels: Pixels) -> Grey | None:
    """Return the image from black to white, no longer than `SIDE_PX`; None where it has one value only."""
    grey = _reduce(pixels.max(axis=2) if pixels.ndim == 3 else pixels)  # coloured text is bright in one channel
    low, high = float(grey.min()), float(grey.max())
    if low == high:
        return None
    if grey.dtype == np.uint8 and (low, high) == (0, WHITE):
        return np.asarray(grey, np.uint8)
    scaled = (grey.astype(np.float32) - np.float32(low)) * np.float32(WHITE / (high - low))
    return np.asarray(np.rint(scaled).clip(0, WHITE), np.uint8)


def _reduce(grey: Pixels) -> Pixels:
    """Return an image that is no longer than `SIDE_PX`, each pixel the mean of those it stands for."""
    from PIL import Image

    scale = SIDE_PX / max(grey.shape)
    if scale >= 1:
        return grey
    size = max(1, round(scale * grey.shape[1])), max(1, round(scale * grey.shape[0]))
    whole = Image.fromarray(grey if grey.dtype == np.uint8 else grey.astype(np.float32))
    return np.asarray(whole.resize(size, Image.Resampling.BOX))


def _draw_levels(grey: Grey) -> Iterator[Grey]:
    """Yield the image, and halves of the one before, as long as they are `LEAST_SIDE_PX` long."""
    yield grey
    while max(grey.shape) >= 2 * LEAST_SIDE_PX and min(grey.shape) >= 2:
        one, two, three, four = (each.astype(np.uint16) for each in _part(grey))
        grey = ((one + two + three + four + 2) // 4).astype(np.uint8)
        yield grey


def _part(grey: Grey) -> tuple[Grey, Grey, Grey, Grey]:
    """Return the pixels of each square of two by two, by their places in it: in rows, from the upper left."""
    height, width = (side // 2 * 2 for side in grey.shape)
    whole = grey[:height, :width]
    return whole[::2, ::2], whole[::2, 1::2], whole[1::2, ::2], whole[1::2, 1::2]


def _measure_noise(grey: Grey) -> float:
    """Return the standard deviation of the noise, from what is neither black nor white; 0 where hardly anything is."""
    parts = _part(grey)
    kept = (np.minimum.reduce(parts) > 0) & (np.maximum.reduce(parts) < WHITE)
    if np.count_nonzero(kept) <= LEAST_GREY * kept.size:
        return 0.0
    one, two, three, four = (each.astype(np.int16) for each in parts)
    differences = np.abs(one - two - three + four)[kept]  # of four values: twice the deviation of one
    return float(np.median(differences)) / 0.6745 / 2


def _open(grey: Grey) -> Grey:
    """Return the morphological opening by a square of `STROKE_PX`."""
    return _reach(_reach(grey, np.minimum, WHITE), np.maximum, 0)


def _reach(grey: Grey, choose: Callable[[Grey, Grey], Any], beyond: int) -> Grey:
    """Return the least or greatest value within each square of `STROKE_PX`: by doubled shifts, which are fast."""
    found = np.pad(grey, STROKE_PX // 2, constant_values=beyond)
    for step in STEPS:
        found = choose(found[:-step], found[step:])
    for step in STEPS:
        found = choose(found[:, :-step], found[:, step:])
    return found


def _find_boxes(mask: BoolArray) -> IntArray:
    """Return the boxes of what hangs together, corners included."""
    from scipy.ndimage import find_objects, label

    numbers, n_found = label(mask, structure=np.ones((3, 3), int))
    found = find_objects(numbers) if n_found else []
    boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found]
    return np.array(boxes, np.int64).reshape(-1, 4)
