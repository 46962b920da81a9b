"""What the audit sees of each item: a small picture, and where letters are burned in; kept in the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from thawline.audit.duplicates import SIDE_PX, draw_picture
from thawline.audit.marks import PLACES, count_places, find_lines
from thawline.audit.marks import SIDE_PX as MARKS_PX
from thawline.cache import Space
from thawline.data.readers import READER_VERSION, decode, read_content
from thawline.errors import DataError, ImageError
from thawline.types import BAG, Listener, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content, IntArray

MIDDLE_SLICE = Reading(dimensions=BAG, slices="spread:1", n_slices=1)  # of volumes, blank or not; an image is its own
SHARD_ROWS = 1024
VERSION = 2  # part of the key of every row: raise it when the same item would give another
_PIXELS = SIDE_PX**2


@dataclasses.dataclass(frozen=True, slots=True)
class Pictures:
    """Small ``grey`` pictures, (items, SIDE_PX, SIDE_PX), and how many ``letters`` stand at each of `PLACES`."""

    grey: NDArray[np.uint8]
    letters: NDArray[np.uint8]

    def take(self, places: IntArray) -> Pictures:
        """Return those of some items."""
        return Pictures(self.grey[places], self.letters[places])


def draw_pictures(
    contents: Sequence[Content],
    digests: Sequence[str],
    threads: int,
    listener: Listener,
    given: Reading = MIDDLE_SLICE,
) -> Pictures:
    """Return what is seen of readable items; what the cache knows is not decoded again.

    Of the ``given`` reading windows and plane count. An item that cannot be shown so is seen as blank. Raises DataError
    where the file of an item has become unreadable.
    """
    reading = dataclasses.replace(MIDDLE_SLICE, windows=given.windows, plane=given.plane)
    how = {"reader": READER_VERSION, "version": VERSION, "side_px": SIDE_PX, "marks_px": MARKS_PX}
    space = Space("pictures", {**how, "reading": reading.to_json()})
    first = {digest: place for place, digest in reversed(list(enumerate(digests)))}
    missing = [digest for digest in first if digest not in space]
    listener.begin("pictures", len(missing))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(missing), SHARD_ROWS):  # so that what is drawn is kept when it is interrupted
            part = missing[start : start + SHARD_ROWS]
            rows = list(pool.map(lambda digest: _see(contents[first[digest]], reading), part))
            space.write(part, np.stack(rows))
            listener.advance(len(part))
    listener.end(f"{len(missing)} drawn, {len(first) - len(missing)} from the cache")
    found = np.empty((len(digests), _PIXELS + len(PLACES)), np.uint8)
    space.read(digests, found)
    return Pictures(found[:, :_PIXELS].reshape(-1, SIDE_PX, SIDE_PX), found[:, _PIXELS:])


def _see(content: Content, reading: Reading) -> NDArray[np.uint8]:
    """Return one row of the cache: picture and letters of an item."""
    try:
        data = read_content(content)
    except ImageError as error:
        raise DataError(f"an item cannot be read any more: {error}") from error
    try:
        pixels = decode(data, reduce_to_px=MARKS_PX // 2, reading=reading)
    except ImageError:  # what the run shows of the item can be read, but not its middle
        return np.zeros(_PIXELS + len(PLACES), np.uint8)
    return np.concatenate([draw_picture(pixels).ravel(), count_places(find_lines(pixels))])
