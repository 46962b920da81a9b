"""What would let a model be judged by pictures it has seen: the same patient or the same picture where it must not be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thawline.audit.duplicates import SIDE_PX, Duplicate, draw_picture, find_duplicates, make_clusters
from thawline.cache import Space
from thawline.data.dataset import Dataset
from thawline.data.readers import READER_VERSION, decode, read_content
from thawline.data.scan import Look
from thawline.data.splits import find_identical, find_leaks
from thawline.errors import DataError, ImageError
from thawline.types import BAG, Listener, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content

MIDDLE_SLICE = Reading(dimensions=BAG, slices="spread:1", n_slices=1)  # of volumes, blank or not; an image is its own
SHARD_ROWS = 1024
PICTURE_VERSION = 1  # part of the key of every picture: raise it when the same item would give another
Severity = Literal["fatal", "severe", "note"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: ``groups`` of item numbers show it, ``text`` says what it means and what to do."""

    name: str
    severity: Severity
    text: str
    groups: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `audit.json` holds it."""
        return dataclasses.asdict(self)


def audit_leaks(
    dataset: Dataset, looks: Sequence[Look], pictures: NDArray[np.uint8], readable: Sequence[int]
) -> list[Finding]:
    """Find copies, near-duplicates and patients where they do harm; ``pictures`` are those of the ``readable`` items."""
    facts = [looks[number].facts for number in readable]
    identical = [
        tuple(readable[place] for place in group)
        for group in find_identical([each.pixel_digest for each in facts if each is not None])
    ]
    pairs = [
        dataclasses.replace(each, first=readable[each.first], second=readable[each.second])
        for each in find_duplicates(pictures)
    ]
    same = {(group[0], other) for group in identical for other in group[1:]}
    clusters = make_clusters([*same, *((each.first, each.second) for each in pairs)])
    near = [group for group in clusters if group not in identical]
    return list(_judge(dataset, looks, identical, near, pairs))


def _judge(
    dataset: Dataset,
    looks: Sequence[Look],
    identical: Sequence[tuple[int, ...]],
    near: Sequence[tuple[int, ...]],
    pairs: Sequence[Duplicate],
) -> Iterator[Finding]:
    """Yield what copies and near-duplicates mean for these items, the gravest first."""
    items = dataset.items

    def differ(groups: Sequence[tuple[int, ...]], what: Callable[[int], Any]) -> tuple[tuple[int, ...], ...]:
        return tuple(group for group in groups if len({what(number) for number in group}) > 1)

    if dataset.split_given:
        for kind, name in (("patient", "patients across splits"), ("image", "identical images across splits")):
            groups = tuple(leak.items for leak in find_leaks(items, identical) if leak.kind == kind)
            if groups:
                text = "the test part is not independent: correct the split, or drop it to have one made by patient"
                yield Finding(name, "fatal", text, groups)
        if groups := differ(near, lambda number: items[number].split):
            text = "nearly the same picture stands in several parts: figures on them will be too good; look, then correct it"
            yield Finding("near-duplicates across splits", "severe", text, groups)
    for name, found in (("identical images", identical), ("near-duplicates", near)):
        if groups := differ(found, lambda number: items[number].label):
            text = "one of the labels is wrong, or the difference cannot be seen: look, then correct or leave out"
            yield Finding(f"{name} with different labels", "severe", text, groups)
    if dataset.patients_given and (groups := differ(near, lambda number: items[number].patient)):
        text = "one patient by two names, or one picture filed twice: give them one patient"
        yield Finding("near-duplicates across patients", "severe", text, groups)
    unreadable = tuple((number,) for number, look in enumerate(looks) if look.facts is None)
    if unreadable:
        text = "cannot be read: repair or remove them, or leave them out with --skip-unreadable"
        yield Finding("unreadable items", "severe", text, unreadable)
    if identical:
        yield Finding(
            "identical images", "note", "the same pixels more than once: they stay together", tuple(identical)
        )
    if near:
        kinds = ", ".join(
            f"{sum(each.kind == kind for each in pairs)} {kind}" for kind in ("copy", "turned", "cropped")
        )
        text = f"the same picture again, in pairs: {kinds}; without patients, give those of a group one patient"
        yield Finding("near-duplicates", "note", text, tuple(near))


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
