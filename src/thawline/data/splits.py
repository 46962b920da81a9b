"""Who is judged by whom: groups that never cross a split, the test part, and the development folds.

Splits depend on the seed, the sorted items, their labels and their groups, and on nothing else: the same seed gives the
same splits on any machine.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from thawline.errors import DataError

if TYPE_CHECKING:
    from thawline.types import BoolArray, Groups, IntArray, Item, Labels

Member = TypeVar("Member", str, int)
FOLDS = 5
TEST_FOLDS = 5  # one of five parts is the test part: 20 % of the patients
_TRIES = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Splits:
    """``is_test`` and ``folds`` one entry an item; fold -1: in the test part, or trained on and never scored."""

    is_test: BoolArray
    folds: IntArray
    n_folds: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """Items of one patient, or of identical pixels, that stand in more than one part of a given split."""

    kind: str
    items: tuple[int, ...]

    def number(self, numbers: Sequence[int]) -> Leak:
        """Return the leak with the numbers of its items for their positions."""
        return Leak(self.kind, tuple(numbers[item] for item in self.items))


def find_identical(pixel_digests: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the groups of two and more items with equal decoded pixels, in the order of their first item."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(pixel_digests):
        by_digest[digest].append(index)
    return [tuple(group) for group in by_digest.values() if len(group) > 1]


def find_leaks(items: Sequence[Item], identical: Sequence[tuple[int, ...]]) -> list[Leak]:
    """Return what crosses a given split: patients first, then identical images. ``train`` and ``val`` count as two."""
    by_patient: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_patient[item.patient].append(index)
    crossing = [Leak("patient", tuple(group)) for group in by_patient.values() if _crosses(items, group)]
    return crossing + [Leak("image", group) for group in identical if _crosses(items, group)]


def make_groups(patients: Sequence[str], identical: Sequence[tuple[int, ...]]) -> Groups:
    """Number the groups that never cross a split: patients, merged where they share identical images."""
    leaders = find_leaders(
        patients, ((patients[group[0]], patients[other]) for group in identical for other in group[1:])
    )
    _, numbers = np.unique([leaders[patient] for patient in patients], return_inverse=True)
    return numbers.astype(np.int64)


def find_leaders(members: Iterable[Member], pairs: Iterable[tuple[Member, Member]]) -> dict[Member, Member]:
    """Return whom each member follows, the same for all that ``pairs`` connect: whom the first of a pair does."""
    leader = {member: member for member in members}

    def find(member: Member) -> Member:
        while leader[member] != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    for first, other in pairs:
        leader[find(other)] = find(first)
    return {member: find(member) for member in leader}


def split_items(labels: Labels, groups: Groups, seed: int, wanted_folds: int = FOLDS) -> Splits:
    """Choose a stratified test part of a fifth of the groups, and folds of the rest. Raises DataError."""
    parts, n_parts = make_folds(labels, groups, seed, TEST_FOLDS)
    is_test = parts == 0
    folds, n_folds, reason = _fold_rest(labels, groups, is_test, seed, wanted_folds)
    share = f"one of {n_parts} stratified parts of the patients is the test part"
    return Splits(is_test, folds, n_folds, f"{share}; {reason}")


def split_as_given(
    items: Sequence[Item], labels: Labels, groups: Groups, seed: int, wanted_folds: int = FOLDS
) -> Splits:
    """Keep the given test part; train and val together are folded anew by group. Raises DataError."""
    is_test = np.array([item.split == "test" for item in items])
    check_parts(labels, is_test)
    folds, n_folds, reason = _fold_rest(labels, groups, is_test, seed, wanted_folds)
    return Splits(is_test, folds, n_folds, f"test part as given, train and val together are development; {reason}")


def keep_given_validation(items: Sequence[Item], labels: Labels) -> Splits:
    """Keep the given split whole: ``val`` is the one scored fold, ``train`` is trained on only. Raises DataError."""
    split = np.array([item.split for item in items])
    check_parts(labels, split == "test")
    for part in ("train", "val"):
        _require_classes(labels, split == part, part)
    folds = np.where(split == "val", 0, -1).astype(np.int64)
    return Splits(split == "test", folds, 1, "test and validation parts as given: one fold, val")


def fold_others(labels: Labels, groups: Groups, aside: BoolArray, seed: int, wanted: int) -> Splits:
    """Fold all items but those put aside, which stand where a test part does. Raises DataError."""
    folds, n_folds, reason = _fold_rest(labels, groups, aside, seed, wanted)
    return Splits(aside, folds, n_folds, f"a part of the patients is put aside; {reason}")


def check_parts(labels: Labels, is_test: BoolArray) -> None:
    """Check that a given split has a test part and that both parts hold every class. Raises DataError."""
    if not is_test.any():
        raise DataError(
            "the split column has no row 'test': expected train, (val) and test; name a test part, or drop the column "
            "and a test part of 20 % of the patients is made"
        )
    if is_test.all():
        raise DataError("the split column says 'test' in every row: expected some 'train' or 'val' rows to develop on")
    _require_classes(labels, is_test, "test")
    _require_classes(labels, ~is_test, "development (train and val)")


def make_folds(labels: Labels, groups: Groups, seed: int, wanted: int) -> tuple[IntArray, int]:
    """Deal groups into stratified folds such that every class is in each fold and in what remains without it.

    Folds are scikit-learn's StratifiedGroupKFold, shuffled by ``seed``, of several labels an item those of `deal_groups`,
    with both values of every label in each; the first of the seeds (seed, seed + 1, …) that leaves no fold without a class
    is taken, with fewer folds where none does. Raises DataError below two folds.
    """
    counts, deal = count_groups(labels, groups), _deal_classes if labels.ndim == 1 else deal_groups
    for n_folds in range(min(wanted, int(counts.min())), 1, -1):
        for attempt in range(_TRIES):
            folds = deal(labels, groups, n_folds, (seed + attempt) % 2**32)
            if all(_has_all(labels[folds == number], counts) for number in range(n_folds)):
                return _shuffle_numbers(folds, groups, n_folds, seed), n_folds
    kinds = "classes" if labels.ndim == 1 else "labels, those with each and then those known to be without"
    raise DataError(
        "expected at least two patients of every class to develop on, besides one for the test part; found "
        f"{counts.tolist()} patients by class to deal out ({kinds} in sorted order); label more patients, or check the "
        "patient column"
    )


def _shuffle_numbers(folds: IntArray, groups: Groups, n_folds: int, seed: int) -> IntArray:
    """Return the folds under other numbers where groups differ in size.

    They are dealt out from the largest on, which would always come into fold 0, and so into the test part.
    """
    sizes = np.unique(groups, return_counts=True)[1]
    if (sizes == sizes[0]).all():
        return folds
    order: IntArray = np.random.Generator(np.random.PCG64(seed)).permutation(n_folds)
    return order[folds]


def _deal_classes(labels: Labels, groups: Groups, n_folds: int, seed: int) -> IntArray:
    """Deal groups of items of one class each."""
    from sklearn.model_selection import StratifiedGroupKFold

    dealer = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = np.full(len(labels), -1, dtype=np.int64)
    for number, (_, scored) in enumerate(dealer.split(np.zeros(len(labels)), labels, groups)):
        folds[scored] = number
    return folds


def deal_groups(labels: Labels, groups: Groups, n_folds: int, seed: int) -> IntArray:
    """Deal groups of items of several labels, (items, labels), into folds with a like share of both values of each.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, algorithm 1) of groups: the value that fewest
    groups hold that are still to be dealt is dealt first, each to the fold that lacks most of it, of equals the one that
    lacks most items. An item of which a label is not known counts for neither value.
    """
    marks = mark_values(labels)
    place = np.unique(groups, return_inverse=True)[1]
    held = np.stack([np.bincount(place, weights=column) for column in (*marks.T, np.ones(len(labels)))], axis=1)
    draw = np.random.Generator(np.random.PCG64(seed))
    order = draw.permutation(len(held))
    held = held[order]
    lacking = np.tile(held.sum(axis=0) / n_folds, (n_folds, 1))
    dealt = np.full(len(held), -1, np.int64)
    left = (held[:, :-1] > 0).sum(axis=0)
    while left.any():
        value = int(np.where(left > 0, left, len(held) + 1).argmin())
        rows = np.flatnonzero((dealt < 0) & (held[:, value] > 0))
        for row in rows[np.argsort(-held[rows, value], kind="stable")]:
            fold = max(range(n_folds), key=lambda k: (lacking[k, value], lacking[k, -1]))
            dealt[row] = fold
            lacking[fold] -= held[row]
        left -= (held[rows, :-1] > 0).sum(axis=0)
    folds = np.empty(len(held), np.int64)
    folds[order] = dealt
    return folds[place]


def mark_values(labels: Labels) -> BoolArray:
    """Return which items have each class, (items, classes); of several labels which have each, then which have not."""
    if labels.ndim == 1:
        return np.asarray(labels[:, np.newaxis] == np.arange(int(labels.max()) + 1))
    return np.hstack([labels == 1, labels == 0])


def count_groups(labels: Labels, groups: Groups) -> IntArray:
    """Count the groups that hold each class, shape (classes,), for labels 0 to the largest present.

    Of several labels an item the groups with each come first, those known to be without behind them, (2 x labels,).
    """
    if labels.ndim == 2:
        marks = mark_values(labels)
        return np.array([len(np.unique(groups[column])) for column in marks.T], np.int64)
    pairs = np.unique(np.stack([labels, groups], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=int(labels.max()) + 1)


def _fold_rest(labels: Labels, groups: Groups, is_test: BoolArray, seed: int, wanted: int) -> tuple[IntArray, int, str]:
    rest = ~is_test
    folds = np.full(len(labels), -1, dtype=np.int64)
    folds[rest], n_folds = make_folds(labels[rest], groups[rest], seed, wanted)
    one = "class" if labels.ndim == 1 else "label"
    if n_folds == wanted:
        return folds, n_folds, f"{n_folds} folds by patient, stratified by {one}"
    fewest = int(count_groups(labels[rest], groups[rest]).min())
    rarest = "class" if labels.ndim == 1 else "value of a label"
    return (
        folds,
        n_folds,
        f"{n_folds} folds instead of {wanted}: the rarest {rarest} has {fewest} patients in development",
    )


def _has_all(labels: Labels, counts: IntArray) -> bool:
    present = mark_values(labels).any(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(counts)) > 0
    return bool(present.all())


def _require_classes(labels: Labels, part: BoolArray, name: str) -> None:
    if labels.ndim == 2:
        _require_values(labels, part, name)
        return
    missing = sorted(set(np.unique(labels).tolist()) - set(np.unique(labels[part]).tolist()))
    if missing:
        raise DataError(
            f"the given split has no item of {len(missing)} class(es) in {name} (class numbers {missing}, sorted by name); "
            "every class is needed in development and in test"
        )


def _require_values(labels: Labels, part: BoolArray, name: str) -> None:
    """Refuse a part in which a label has not both values."""
    lacking = ~np.stack([(labels[part] == value).any(axis=0) for value in (1, 0)]).all(axis=0)
    if lacking.any():
        raise DataError(
            f"in {name} the given split has {int(lacking.sum())} label(s) with one value only (label numbers "
            f"{np.flatnonzero(lacking).tolist()}, sorted by name); items that have each and items known to have it not are "
            "needed in development and in test: leave the label out, or drop the split column"
        )


def _crosses(items: Sequence[Item], group: Sequence[int]) -> bool:
    return len({items[index].split for index in group}) > 1
