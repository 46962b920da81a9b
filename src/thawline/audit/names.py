"""Patients that hide in file names: a part of the name that near-duplicates share, and other items do not."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from thawline.audit.findings import Finding
from thawline.audit.leaks import Copies
from thawline.data.dataset import Dataset, is_named

LEAST_PAIRS = 3  # of near-duplicates, that a part of the name has to explain
LEAST_SHARED, MOST_BY_CHANCE = 0.8, 0.2  # shares of such pairs, and of any two items, that have it in common
MOST_PARTS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """A part of the names: ``keys`` of each item, None where its name has no such part."""

    name: str
    keys: tuple[str | None, ...]


def suggest_patients(dataset: Dataset, copies: Copies) -> Iterator[Finding]:
    """Yield the part of the names that looks like the patient, where one explains the near-duplicates of unnamed ones."""
    unnamed = [not is_named(item) for item in dataset.items]
    pairs = {(each.first, each.second) for each in copies.pairs}
    pairs |= {(group[0], other) for group in copies.identical for other in group[1:]}
    pairs = {(first, second) for first, second in pairs if unnamed[first] and unnamed[second]}
    if len(pairs) < LEAST_PAIRS or dataset.kind in ("npz", "arrays"):  # whose items have numbers, no names
        return
    labels = [item.label for item in dataset.items]
    best, most = None, 0.0
    for pattern in list_patterns([item.path for item in dataset.items]):
        shared = sum(_agree(pattern, pair) for pair in pairs) / len(pairs)
        if shared >= LEAST_SHARED and shared > most and _agree_by_chance(pattern, labels) <= MOST_BY_CHANCE:
            best, most = pattern, shared
    if best is not None:
        groups = defaultdict(list)
        for number, key in enumerate(best.keys):
            groups[key].append(number)
        several = tuple(tuple(group) for key, group in groups.items() if key is not None and len(group) > 1)
        text = (
            f"{best.name} joins {100 * most:.0f} % of {len(pairs)} pairs of near-duplicates, as patients would: if it is "
            "the patient, give it as the patient column of a manifest"
        )
        yield Finding("patients in file names", "severe", text, several)


def list_patterns(paths: Sequence[str]) -> Iterator[Pattern]:
    """Yield the parts of names that may be patients: the folder, the first parts, a single part, letters with a number."""
    names = [PurePosixPath(path) for path in paths]
    parts = [[each for each in re.split(r"[^A-Za-z0-9]+", name.stem) if each] for name in names]
    if len({name.parent for name in names}) > 1:
        yield Pattern("the folder of a file", tuple(name.parent.as_posix() for name in names))
    for length in range(1, MOST_PARTS):
        called = "the first part of the name" if length == 1 else f"the first {length} parts of the name"
        yield Pattern(called, tuple("_".join(each[:length]) if len(each) > length else None for each in parts))
    for place in range(1, MOST_PARTS):
        keys = tuple(each[place] if len(each) > place else None for each in parts)
        yield Pattern(f"part {place + 1} of the name", keys)
    yield Pattern("the number that the name begins with", tuple(_take_number(name.stem) for name in names))


def _take_number(stem: str) -> str | None:
    """Return letters and digits that a name begins with, where more follows."""
    found = re.match(r"[A-Za-z]*\d+(?=\D)", stem)
    return found[0] if found else None


def _agree(pattern: Pattern, pair: tuple[int, int]) -> bool:
    first, second = (pattern.keys[item] for item in pair)
    return first is not None and first == second


def _agree_by_chance(pattern: Pattern, labels: Sequence[str]) -> float:
    """Return the share of any two items of one class that agree: a part that only tells classes is no patient."""
    of_class = Counter(labels)
    of_both = Counter((label, key) for label, key in zip(labels, pattern.keys, strict=True) if key is not None)
    return sum(count**2 for count in of_both.values()) / sum(count**2 for count in of_class.values())
