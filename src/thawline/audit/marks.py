"""Marks burned into an image: bright text of even strokes on an even ground, found by its form, never read.

Strokes are what a morphological opening removes (the white top-hat: Serra, Image Analysis and Mathematical Morphology,
1982). Connected ones of the size of letters, side by side on one baseline, are text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import FloatArray, Pixels

    Box: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right, the last two beyond it

SIDE_PX = 512  # the longer one, at which marks are looked for
STROKE_PX = 9  # wider strokes are no letters
LEAST_BRIGHT = 0.6  # of the brightest value of the image, strokes of text
LEAST_CONTRAST = 0.3  # of the same, above their ground
LETTER_PX = (5, 28), (1, 34)  # heights and widths
LEAST_LETTERS = 4  # of a line
OFF_BASELINE, MOST_OFF = 0.12, 0.2  # of a letter's height, and the share of letters that may hang or stand off by more
MOST_UNEVEN = 0.12  # standard deviation of the ground of a line, of the brightest value
GRID = 3  # places of marks: rows and columns of the image
PLACES = tuple(
    f"{row} {column}".replace("middle middle", "middle")
    for row in ("top", "middle", "bottom")
    for column in ("left", "middle", "right")
)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of burned-in text: its box in the image, (top, left, bottom, right) as shares of its sides."""

    top: float
    left: float
    bottom: float
    right: float
    n_letters: int

    @property
    def place(self) -> int:
        """Index into `PLACES`, of its centre."""
        row, column = (
            min(int(GRID * (low + high) / 2), GRID - 1)
            for low, high in ((self.top, self.bottom), (self.left, self.right))
        )
        return GRID * row + column


def find_lines(pixels: Pixels) -> list[Line]:
    """Find lines of text in an image, (height, width[, 3]), from the top down."""
    from scipy.ndimage import find_objects, grey_opening, label

    grey = _shrink(pixels)
    brightest = float(grey.max())
    if brightest <= 0:
        return []
    strokes = grey - grey_opening(grey, size=(STROKE_PX, STROKE_PX))
    ink = (strokes >= LEAST_CONTRAST * brightest) & (grey >= LEAST_BRIGHT * brightest)
    numbers, n_found = label(ink, structure=np.ones((3, 3), int))
    if not n_found:
        return []
    boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in find_objects(numbers)]
    letters = [box for box in boxes if _is_letter(box)]
    height, width = grey.shape
    found = []
    for line in _join(letters):
        top, left = (min(box[side] for box in line) for side in (0, 1))
        bottom, right = (max(box[side] for box in line) for side in (2, 3))
        ground = grey[top:bottom, left:right][~ink[top:bottom, left:right]]
        if _is_text(line) and ground.size and _spread(ground) <= MOST_UNEVEN * brightest:
            found.append(Line(top / height, left / width, bottom / height, right / width, len(line)))
    return sorted(found, key=lambda line: (line.top, line.left))


def count_places(lines: Sequence[Line]) -> NDArray[np.uint8]:
    """Return how many letters of lines stand in each of `PLACES`, at most 255."""
    counts = np.zeros(len(PLACES), np.int64)
    for line in lines:
        counts[line.place] += line.n_letters
    return counts.clip(max=255).astype(np.uint8)


def _shrink(pixels: Pixels) -> FloatArray:
    """Return the image in grey, from zero, no longer than `SIDE_PX`."""
    from PIL import Image

    grey = pixels.max(axis=2) if pixels.ndim == 3 else pixels  # coloured text is bright in one channel
    grey = grey.astype(np.float32)
    scale = SIDE_PX / max(grey.shape)
    if scale < 1:
        size = max(1, round(scale * grey.shape[1])), max(1, round(scale * grey.shape[0]))
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
    return np.asarray(grey - grey.min(), np.float64)


def _is_letter(box: Box) -> bool:
    top, left, bottom, right = box
    heights, widths = LETTER_PX
    return heights[0] <= bottom - top <= heights[1] and widths[0] <= right - left <= widths[1]


def _join(letters: Sequence[Box]) -> list[list[Box]]:
    """Join letters that stand side by side, of like height, into lines, from left to right."""
    lines: list[list[Box]] = []
    for letter in sorted(letters, key=lambda box: box[1]):
        best = next((line for line in lines if _follows(letter, line[-1])), None)
        if best is None:
            lines.append([letter])
        else:
            best.append(letter)
    return lines


def _follows(letter: Box, last: Box) -> bool:
    """Tell whether a letter stands to the right of the last of a line: on one height, of a like one, not far."""
    height, other = letter[2] - letter[0], last[2] - last[0]
    overlap = min(letter[2], last[2]) - max(letter[0], last[0])
    return (
        overlap >= 0.6 * min(height, other)
        and max(height, other) <= 2 * min(height, other)
        and -2 <= letter[1] - last[3] <= 1.5 * max(height, other)
    )


def _is_text(line: Sequence[Box]) -> bool:
    """Tell whether there are enough letters, nearly all of which stand on one baseline."""
    bottoms, heights = np.array([box[2] for box in line]), np.array([box[2] - box[0] for box in line])
    off = np.abs(bottoms - np.median(bottoms)) > max(1.5, OFF_BASELINE * float(np.median(heights)))
    return len(line) >= LEAST_LETTERS and float(off.mean()) <= MOST_OFF


def _spread(ground: FloatArray) -> float:
    """Return the standard deviation of the darker half of the ground: its brighter one is the rim of letters."""
    return float(np.sort(ground)[: max(1, len(ground) // 2)].std())
