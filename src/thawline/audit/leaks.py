"""What would let a model be judged by pictures it has seen: the same patient or the same picture where it must not be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from thawline.audit.duplicates import Duplicate, find_duplicates, make_clusters
from thawline.audit.findings import Finding
from thawline.data.dataset import Dataset, is_named
from thawline.data.splits import find_identical, find_leaks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEND_SPLIT = (
    "correct the split, or drop it to have one made by patient; --allow-leak lets a run go on all the same, and its report "
    "says so"
)
TWO_LABELS = "one of the labels is wrong, or the difference cannot be seen: look, then correct or leave out"


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
    known = set(identical)
    return Copies(identical, tuple(group for group in clusters if group not in known), pairs)


def keep_together(dataset: Dataset, copies: Copies) -> list[tuple[int, int]]:
    """Return the pairs of near-duplicates that must not cross a split: those with an item whose patient is not named."""
    named = [is_named(item) for item in dataset.items]
    pairs = ((each.first, each.second) for each in copies.pairs)
    return [(first, second) for first, second in pairs if not (named[first] and named[second])]


def judge_identical(dataset: Dataset, identical: Sequence[tuple[int, ...]]) -> Iterator[Finding]:
    """Yield what patients and groups of identical images mean where they stand; the items are those of the ``dataset``."""
    leaks = find_leaks(dataset.items, identical) if dataset.split_given else []
    for kind, name in (("patient", "patients across splits"), ("image", "identical images across splits")):
        if groups := tuple(leak.items for leak in leaks if leak.kind == kind):
            yield Finding(name, "fatal", f"{_say_harm(dataset, groups)}: {MEND_SPLIT}", groups)
    if groups := tuple(filter(dataset.contradict, identical)):
        yield Finding("identical images with different labels", "severe", TWO_LABELS, groups)
    if identical:
        text = "the same pixels more than once: they stay together"
        yield Finding("identical images", "note", text, tuple(identical))


def _say_harm(dataset: Dataset, groups: Sequence[tuple[int, ...]]) -> str:
    """Say what groups of items that cross a given split do to its figures."""
    if any(dataset.items[number].split == "test" for group in groups for number in group):
        return "the test part is not independent"
    return "none reaches test, and train and val are folded anew by patient, unless --validation given keeps them"


def judge_near(dataset: Dataset, copies: Copies) -> Iterator[Finding]:
    """Yield what near-duplicates mean where they stand, the gravest first; the items are those of the ``dataset``."""
    items, near = dataset.items, copies.near
    if dataset.split_given and (groups := _differ(near, lambda number: items[number].split)):
        text = (
            "nearly the same picture stands in several parts: figures on them will be too good; look, then correct it"
        )
        yield Finding("near-duplicates across splits", "severe", text, groups)
    if groups := tuple(filter(dataset.contradict, near)):
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
