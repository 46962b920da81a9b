"""What the audit sees of each item: a small picture, and where text and signs are burned in; kept in the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from thawline.audit.duplicates import SIDE_PX, draw_picture
from thawline.audit.marks import PLACES, count_places, find_marks
from thawline.cache import Space
from thawline.data.readers import READER_VERSION, read_content, walk_slices
from thawline.errors import DataError, ImageError
from thawline.types import BAG, Listener, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content, IntArray

MIDDLE_SLICE = Reading(dimensions=BAG, slices="spread:1", n_slices=1)  # of volumes, blank or not; an image is its own
MOST_SLICES = 16  # of a volume, or an object of frames, that marks are looked for on, beside the middle one
SHARD_ROWS = 1024
VERSION = 3  # part of the key of every row: raise it when the same item would give another
_PIXELS = SIDE_PX**2


@dataclasses.dataclass(frozen=True, slots=True)
class Pictures:
    """Small ``grey`` pictures, (items, SIDE_PX, SIDE_PX), and how many ``letters`` of text and ``signs`` stand at each of
    `PLACES`, (items, places): of an item of slices the most on one of them."""

    grey: NDArray[np.uint8]
    letters: NDArray[np.uint8]
    signs: NDArray[np.uint8]

    def take(self, places: IntArray) -> Pictures:
        """Return those of some items."""
        return Pictures(self.grey[places], self.letters[places], self.signs[places])


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
    how = {"reader": READER_VERSION, "version": VERSION, "side_px": SIDE_PX}
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
    found = np.empty((len(digests), _PIXELS + 2 * len(PLACES)), np.uint8)
    space.read(digests, found)
    grey, letters, signs = np.split(found, [_PIXELS, _PIXELS + len(PLACES)], axis=1)
    return Pictures(grey.reshape(-1, SIDE_PX, SIDE_PX), letters, signs)


def _see(content: Content, reading: Reading) -> NDArray[np.uint8]:
    """Return one row of the cache: picture, letters and signs of an item."""
    try:
        data = read_content(content)
    except ImageError as error:
        raise DataError(f"an item cannot be read any more: {error}") from error
    picture, counts = np.zeros(_PIXELS, np.uint8), [np.zeros(2 * len(PLACES), np.uint8)]
    try:
        for number, (_, pixels) in enumerate(walk_slices(data, reading, MOST_SLICES)):
            if number == 0:
                picture = draw_picture(pixels).ravel()
            counts.append(np.concatenate([count_places(marks) for marks in find_marks(pixels)]))
    except ImageError:  # what the run shows of the item can be read, but not all of its slices
        pass
    return np.concatenate([picture, np.max(counts, axis=0)])
