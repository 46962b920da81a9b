"""Marks burned into an image: lines of text and single signs, bright or dark, found by their form, never read.

Strokes of the size of letters, side by side on one baseline, are text, upright or turned by a quarter. One that stands
alone on an even ground is a sign: a letter for the side, an arrow, a caliper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thawline.audit.strokes import CUTS, WHITE, Ink, find_ink

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import BoolArray, IntArray, Pixels

LETTER_PX = (12, 28), (1, 34)  # heights and widths, of a level; at full resolution the least height is that of a cut
LEAST_LETTERS, LEAST_SURE = (
    4,
    6,
)  # of a line; and of one that is turned, or large, as anatomy has short ones of these as well
LARGE_PX = 512  # levels that are no longer show what is large in the image
LEAST_TURNED_PX = 8  # height of letters in lines that are turned
OVERLAP, MOST_APART = (
    0.6,
    1.5,
)  # of the height, of letters next to each other: what they share, and the gap between them
MOST_NEAR = 8  # letters that are asked whether they follow one
OFF_BASELINE, MOST_OFF = 0.12, 0.2  # of a letter's height, and the share of letters that may hang or stand off by more
SIGN_PX = 3, 34  # least width and greatest length of a sign
RIM, MOST_LIVELY, ALIKE = (
    0.35,
    0.1,
    0.1,
)  # of a sign's length around it; the share of that which may be off, and by how much
GRID = 3  # places of marks: rows and columns of the image
PLACES = tuple(
    f"{row} {column}".replace("middle middle", "middle")
    for row in ("top", "middle", "bottom")
    for column in ("left", "middle", "right")
)
CELLS = 1024  # rows and columns that an image is parted into to tell whether two marks are one
TURNED = [1, 0, 3, 2]  # the sides of a box in the image whose rows are columns


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A line of text, or a sign, which has one letter: its box in the image, as shares of the image's sides."""

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


def find_lines(pixels: Pixels) -> list[Mark]:
    """Find lines of text in an image, (height, width[, 3]), from the top down."""
    return _drop_repeated([line for ink in find_ink(pixels) for line in _find_lines(ink)])


def find_marks(pixels: Pixels) -> tuple[list[Mark], list[Mark]]:
    """Find lines of text and signs in an image, (height, width[, 3]), each from the top down."""
    lines, signs = list[Mark](), list[Mark]()
    for ink in find_ink(pixels):
        lines.extend(_find_lines(ink))
        signs.extend(_find_signs(ink))
    return _drop_repeated(lines), _drop_repeated(signs)


def count_places(marks: Sequence[Mark]) -> NDArray[np.uint8]:
    """Return how many letters of marks stand in each of `PLACES`, at most 255."""
    counts = np.zeros(len(PLACES), np.int64)
    for mark in marks:
        counts[mark.place] += mark.n_letters
    return counts.clip(max=255).astype(np.uint8)


def _drop_repeated(marks: Sequence[Mark]) -> list[Mark]:
    """Return marks from the top down; of those in one place, which several levels show, the one with most letters."""
    taken, kept = np.zeros((CELLS, CELLS), bool), list[Mark]()
    for mark in sorted(marks, key=lambda mark: (-mark.n_letters, mark.top - mark.bottom)):
        top, left, bottom, right = (int(CELLS * side) for side in (mark.top, mark.left, mark.bottom, mark.right))
        if not taken[(top + bottom) // 2, (left + right) // 2]:
            kept.append(mark)
            taken[top : bottom + 1, left : right + 1] = True
    return sorted(kept, key=lambda mark: (mark.top, mark.left))


def _frame(box: IntArray, ink: Ink, n_letters: int) -> Mark:
    """Return a box, (top, left, bottom, right), as a mark."""
    top, left, bottom, right = (box / np.tile(ink.mask.shape, 2)).tolist()
    return Mark(top, left, bottom, right, n_letters)


def _find_lines(ink: Ink) -> Iterator[Mark]:
    """Yield the lines of text, upright and turned by a quarter, among the strokes of one level."""
    for turned in (False, True):
        boxes = ink.boxes[:, TURNED] if turned else ink.boxes
        letters = boxes[_are_letters(boxes, ink, turned=turned)]
        is_large = ink.level > 0 and max(ink.mask.shape) <= LARGE_PX
        least = LEAST_SURE if turned or is_large else LEAST_LETTERS
        for line in (letters[places] for places in _join(letters) if len(places) >= least):
            box = np.concatenate([line[:, :2].min(axis=0), line[:, 2:].max(axis=0)])
            box = box[TURNED] if turned else box
            if _has_baseline(line, turned=turned) and _is_even(box, ink):
                yield _frame(box, ink, len(line))


def _are_letters(boxes: IntArray, ink: Ink, *, turned: bool) -> BoolArray:
    """Tell which boxes, (strokes, 4), have the size of letters; small ones count where no finer level shows them."""
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    (least, most), (narrow, wide) = LETTER_PX
    if ink.level == 0:
        least = max(ink.cut.height_px, LEAST_TURNED_PX if turned else 0)
    return np.asarray((heights >= least) & (heights <= most) & (widths >= narrow) & (widths <= wide))


def _join(letters: IntArray) -> Iterator[list[int]]:
    """Join letters that stand side by side, of like height, into lines, from left to right: places of letters.

    Each follows one, and is followed by one: the nearest, in the order of their distances.
    """
    following, first = dict[int, int](), set(range(len(letters)))
    for before, after in _list_neighbours(letters):
        if before not in following and after in first:
            following[before] = after
            first.discard(after)
    for place in sorted(first):
        line = [place]
        while line[-1] in following:
            line.append(following[line[-1]])
        yield line


def _list_neighbours(letters: IntArray) -> list[tuple[int, int]]:
    """Return pairs of letters, the second to the right of the first, on one height, of a like one; the nearest first."""
    from scipy.spatial import cKDTree

    if not len(letters):
        return []
    tops, lefts, bottoms, rights = letters.T
    heights, middles = bottoms - tops, (tops + bottoms) / 2
    tree = cKDTree(np.column_stack([lefts, middles]))
    near = tree.query(np.column_stack([rights, middles]), range(1, 1 + min(MOST_NEAR, len(letters))), p=np.inf)[1]
    before, after = np.repeat(np.arange(len(letters)), near.shape[1]), near.ravel()
    shared = np.minimum(bottoms[before], bottoms[after]) - np.maximum(tops[before], tops[after])
    low, high = (choose(heights[before], heights[after]) for choose in (np.minimum, np.maximum))
    gaps = lefts[after] - rights[before]
    follows = (shared >= OVERLAP * low) & (high <= 2 * low) & (gaps >= -2) & (gaps <= MOST_APART * high)
    follows &= lefts[after] > lefts[before]
    order = np.argsort(gaps[follows], kind="stable")
    return list(zip(before[follows][order].tolist(), after[follows][order].tolist(), strict=True))


def _has_baseline(line: IntArray, *, turned: bool) -> bool:
    """Tell whether nearly all letters of a line stand on one baseline, which is on either side of those that are turned."""
    heights = line[:, 2] - line[:, 0]
    for side in (2, 0) if turned else (2,):
        ends = line[:, side]
        off = np.abs(ends - np.median(ends)) > max(1.5, OFF_BASELINE * float(np.median(heights)))
        if float(off.mean()) <= MOST_OFF:
            return True
    return False


def _is_even(box: IntArray, ink: Ink) -> bool:
    """Tell whether the ground of a line is even: the darker half of it, as its brighter one is the rim of letters."""
    top, left, bottom, right = box.tolist()
    ground = np.sort(ink.grey[top:bottom, left:right][~ink.mask[top:bottom, left:right]])
    return ground.size > 0 and float(ground[: max(1, len(ground) // 2)].std()) <= ink.cut.unevenness * WHITE


def _find_signs(ink: Ink) -> Iterator[Mark]:
    """Yield what is as large as a letter and stands alone on an even ground."""
    sides = ink.boxes[:, 2:] - ink.boxes[:, :2]
    least = LETTER_PX[0][0] if ink.level else CUTS[-1].height_px
    narrow, most = SIGN_PX
    longest = sides.max(axis=1, initial=0)
    for box in ink.boxes[(longest >= least) & (longest <= most) & (sides.min(axis=1, initial=most) >= narrow)]:
        if _stands_alone(box, ink):
            yield _frame(box, ink, 1)


def _stands_alone(box: IntArray, ink: Ink) -> bool:
    """Tell whether what is around a stroke is of one value, and the stroke above it by what its cut asks."""
    top, left, bottom, right = box.tolist()
    rim = max(2, round(RIM * max(bottom - top, right - left)))
    rows, columns = slice(max(top - rim, 0), bottom + rim), slice(max(left - rim, 0), right + rim)
    around = ink.grey[rows, columns].astype(np.float64)
    outside = np.ones(around.shape, bool)  # one pixel beside the stroke belongs to neither
    outside[
        max(top - 1 - rows.start, 0) : bottom + 1 - rows.start,
        max(left - 1 - columns.start, 0) : right + 1 - columns.start,
    ] = False
    ground = around[outside]
    if not ground.size or float((np.abs(ground - np.median(ground)) > ALIKE * WHITE).mean()) > MOST_LIVELY:
        return False
    own = ink.grey[top:bottom, left:right][ink.mask[top:bottom, left:right]]
    return float(np.median(own)) - float(np.median(ground)) >= ink.cut.contrast * WHITE
