"""Whole slides as items: tiles of tissue, one after the other, at one resolution; a picture of a slide is its overview."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thawline.data.slices import Stack
from thawline.data.slide_files import Pyramid
from thawline.data.tissue import SMALL_SHARE, find_tissue, list_tiles
from thawline.errors import ImageError
from thawline.types import PLANES, Reading, Slide

if TYPE_CHECKING:
    from thawline.types import IntArray, Pixels

FORMAT = "slide"
OVERVIEW_PX = 1024  # the longer side of an overview
TRIED = (0.0, 0.5, 1.0)  # where in the list of tiles some are read before a slide is taken for readable


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The tiles of tissue: ``places``, (tiles, 2), column and row in the grid; ``side_px`` of one on the slide, x and y."""

    places: IntArray
    side_px: tuple[float, float]

    def corners_px(self) -> IntArray:
        """Return the upper left corner of each tile, (tiles, 2), x and y in pixels of the finest level, rounded."""
        corners: IntArray = np.rint(self.places * np.array(self.side_px)).astype(np.int64)
        return corners


def open_stack(slide: Slide, reading: Reading) -> Stack:
    """Open a slide as its tiles. Raises ImageError for one without tissue or µm per pixel, or that is damaged.

    Without the side of a tile in the ``reading`` it is one image, its overview.
    """
    return _make_stack(*_look(slide, reading), reading)


def _look(slide: Slide, reading: Reading) -> tuple[Pyramid, Pixels, Tiling | None]:
    """Open a slide, and return its overview and its tiles with it."""
    if reading.dimensions == "2d":
        raise ImageError(
            "a whole slide, where one image is expected; slides are learned from by themselves, as bags of tiles"
        )
    pyramid = Pyramid(slide)
    overview = read_overview(pyramid)
    return pyramid, overview, find_tiles(pyramid, overview, reading) if reading.tile_px else None


def _make_stack(pyramid: Pyramid, overview: Pixels, tiling: Tiling | None, reading: Reading) -> Stack:
    if tiling is None:
        return Stack(FORMAT, {PLANES[0]: 1}, lambda _plane, _index: overview, overview)
    width, height = tiling.side_px

    def show(_plane: str, index: int) -> Pixels:
        column, row = (int(each) for each in tiling.places[index])
        return pyramid.read(column * width, row * height, width, height, reading.tile_px, reading.tile_px)

    return Stack(FORMAT, {PLANES[0]: len(tiling.places)}, show, overview)


def read_overview(pyramid: Pyramid, longest_px: int = OVERVIEW_PX) -> Pixels:
    """Return the whole slide as one picture, uint8 (rows, columns, 3), of at most ``longest_px``."""
    width, height = pyramid.size_px
    shrink = min(1.0, longest_px / max(width, height))
    return pyramid.read(0, 0, width, height, max(1, round(width * shrink)), max(1, round(height * shrink)))


def find_tiles(pyramid: Pyramid, overview: Pixels, reading: Reading) -> Tiling:
    """Return the tiles of ``tile_px`` at ``mpp`` that show tissue. Raises ImageError where there are none."""
    if pyramid.mpp is None:
        raise ImageError(
            "the slide does not say how many µm a pixel is, without which its tiles have no size; give them in a column mpp "
            "of the manifest"
        )
    width, height = pyramid.size_px
    sides = tuple(reading.tile_px * reading.mpp / each for each in pyramid.mpp)
    side_px = sides[0], sides[1]
    if width < side_px[0] or height < side_px[1]:
        raise ImageError(
            f"{width} x {height} px are less than one tile, {side_px[0]:.0f} x {side_px[1]:.0f} px; take smaller ones with "
            "--tile-px or --mpp"
        )
    tile_area = side_px[0] * side_px[1] * overview.shape[0] * overview.shape[1] / (width * height)
    tiling = Tiling(list_tiles(find_tissue(overview, SMALL_SHARE * tile_area), (width, height), side_px), side_px)
    if not len(tiling.places):
        raise ImageError("no tissue was found: nothing on the slide is coloured over a quarter of a tile")
    return tiling


def locate_tiles(slide: Slide, reading: Reading) -> tuple[Pixels, tuple[int, int], Tiling]:
    """Return the overview of a slide, (width, height) of its finest level in pixels, and where its tiles lie.

    Raises ImageError as `open_stack`.
    """
    pyramid, overview, tiling = _look(slide, reading)
    assert tiling is not None  # noqa: S101 - the reading has the side of a tile
    return overview, pyramid.size_px, tiling


def survey_slide(slide: Slide, reading: Reading) -> tuple[Pixels, tuple[int, int], int]:
    """Return the overview of a slide, (width, height) of its finest level in pixels, and the number of tiles of tissue.

    Some tiles are read, the last among them; without the side of a tile the slide counts as one. Raises ImageError as
    `open_stack`, also where those tiles cannot be read.
    """
    pyramid, overview, tiling = _look(slide, reading)
    stack = _make_stack(pyramid, overview, tiling, reading)
    n_tiles = stack.count(PLANES[0])
    for index in sorted({round(share * (n_tiles - 1)) for share in TRIED}):
        stack.show(PLANES[0], index)
    return overview, pyramid.size_px, n_tiles
