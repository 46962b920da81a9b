"""What would let a model be judged by pictures it has seen: the same patient or the same picture where it must not be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thawline.audit.duplicates import SIDE_PX, Duplicate, draw_picture, find_duplicates, make_clusters
from thawline.cache import Space
from thawline.data.dataset import Dataset, is_named
from thawline.data.readers import READER_VERSION, decode, read_content
from thawline.data.splits import find_identical, find_leaks
from thawline.errors import DataError, ImageError
from thawline.types import BAG, Listener, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content

MIDDLE_SLICE = Reading(dimensions=BAG, slices="spread:1", n_slices=1)  # of volumes, blank or not; an image is its own
SHARD_ROWS = 1024
PICTURE_VERSION = 1  # part of the key of every picture: raise it when the same item would give another
TWO_LABELS = "one of the labels is wrong, or the difference cannot be seen: look, then correct or leave out"
Severity = Literal["fatal", "severe", "note"]
SEVERITIES: tuple[Severity, ...] = ("fatal", "severe", "note")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: ``groups`` of item numbers show it, ``text`` says what it means and what to do."""

    name: str
    severity: Severity
    text: str
    groups: tuple[tuple[int, ...], ...]

    def number(self, numbers: Sequence[int]) -> Finding:
        """Return the finding with the numbers of its items for their positions."""
        return dataclasses.replace(self, groups=tuple(tuple(numbers[item] for item in group) for group in self.groups))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `audit.json` holds it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Copies:
    """Items that show one picture: groups that are ``identical``, groups that hold ``near``-duplicates, and their pairs."""

    identical: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]
    pairs: tuple[Duplicate, ...]


def find_copies(pixel_digests: Sequence[str], pictures: NDArray[np.uint8]) -> Copies:
    """Find identical and near-duplicate items; both arguments are aligned, and items are named by their positions."""
    identical = tuple(find_identical(pixel_digests))
    pairs = tuple(find_duplicates(pictures))
    same = {(group[0], other) for group in identical for other in group[1:]}
    clusters = make_clusters([*same, *((each.first, each.second) for each in pairs)])
    return Copies(identical, tuple(group for group in clusters if group not in identical), pairs)


def keep_together(dataset: Dataset, copies: Copies) -> list[tuple[int, int]]:
    """Return the pairs of near-duplicates that must not cross a split: those with an item whose patient is not named."""
    named = [is_named(item) for item in dataset.items]
    pairs = ((each.first, each.second) for each in copies.pairs)
    return [(first, second) for first, second in pairs if not (named[first] and named[second])]


def judge_identical(dataset: Dataset, copies: Copies) -> Iterator[Finding]:
    """Yield what patients and identical images mean where they stand; the items are those of the ``dataset``."""
    if dataset.split_given:
        for kind, name in (("patient", "patients across splits"), ("image", "identical images across splits")):
            groups = tuple(leak.items for leak in find_leaks(dataset.items, copies.identical) if leak.kind == kind)
            if groups:
                text = "the test part is not independent: correct the split, or drop it to have one made by patient"
                yield Finding(name, "fatal", text, groups)
    if groups := _differ(copies.identical, lambda number: dataset.items[number].label):
        yield Finding("identical images with different labels", "severe", TWO_LABELS, groups)
    if copies.identical:
        yield Finding(
            "identical images", "note", "the same pixels more than once: they stay together", copies.identical
        )


def judge_near(dataset: Dataset, copies: Copies) -> Iterator[Finding]:
    """Yield what near-duplicates mean where they stand, the gravest first; the items are those of the ``dataset``."""
    items, near = dataset.items, copies.near
    if dataset.split_given and (groups := _differ(near, lambda number: items[number].split)):
        text = (
            "nearly the same picture stands in several parts: figures on them will be too good; look, then correct it"
        )
        yield Finding("near-duplicates across splits", "severe", text, groups)
    if groups := _differ(near, lambda number: items[number].label):
        yield Finding("near-duplicates with different labels", "severe", TWO_LABELS, groups)
    if groups := _differ(near, lambda number: items[number].patient if is_named(items[number]) else None):
        text = "one patient by two names, or one picture filed twice: give them one patient"
        yield Finding("near-duplicates across patients", "severe", text, groups)
    if near:
        kinds = ", ".join(
            f"{sum(each.kind == kind for each in copies.pairs)} {kind}" for kind in ("copy", "turned", "cropped")
        )
        text = f"the same picture again, in pairs: {kinds}; they stay together where no patient is named"
        yield Finding("near-duplicates", "note", text, near)


def _differ(groups: Sequence[tuple[int, ...]], what: Callable[[int], str | None]) -> tuple[tuple[int, ...], ...]:
    """Return the groups whose items differ in something, those aside that have nothing there."""
    return tuple(group for group in groups if len({what(number) for number in group} - {None}) > 1)


def draw_pictures(
    contents: Sequence[Content], digests: Sequence[str], threads: int, listener: Listener
) -> NDArray[np.uint8]:
    """Return small pictures of readable items, (items, SIDE_PX, SIDE_PX); what the cache knows is not decoded again.

    Raises DataError where an item has become unreadable since.
    """
    how = {"reader": READER_VERSION, "picture": PICTURE_VERSION, "side_px": SIDE_PX}
    space = Space("pictures", {**how, "reading": dataclasses.asdict(MIDDLE_SLICE)})
    first = {digest: place for place, digest in reversed(list(enumerate(digests)))}
    missing = [digest for digest in first if digest not in space]

    def draw(digest: str) -> NDArray[np.uint8]:
        try:
            return draw_picture(
                decode(read_content(contents[first[digest]]), reduce_to_px=SIDE_PX, reading=MIDDLE_SLICE)
            )
        except ImageError as error:
            raise DataError(f"an item cannot be read any more: {error}") from error

    listener.begin("pictures", len(missing))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(missing), SHARD_ROWS):  # so that what is drawn is kept when it is interrupted
            part = missing[start : start + SHARD_ROWS]
            space.write(part, np.stack(list(pool.map(draw, part))))
            listener.advance(len(part))
    listener.end(f"{len(missing)} drawn, {len(first) - len(missing)} from the cache")
    found = np.empty((len(digests), SIDE_PX, SIDE_PX), np.uint8)
    space.read(digests, found)
    return found
