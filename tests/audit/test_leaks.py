"""What copies and near-duplicates mean where they stand, and which of them must not cross a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from thawline.audit.duplicates import Duplicate
from thawline.audit.leaks import Copies, find_copies, judge_identical, judge_near, keep_together
from thawline.data.dataset import Dataset, own_patient
from thawline.types import Item


def make_dataset(patients: tuple[str | None, ...], splits: tuple[str | None, ...] | None = None) -> Dataset:
    """Items of these patients, None where none is named; labels in turn."""
    items = tuple(
        Item(f"{number}.png", "ab"[number % 2], patient or own_patient(f"{number}.png"), (splits or {number: None})[number])
        for number, patient in enumerate(patients)
    )  # fmt: skip
    contents = [Path(item.path) for item in items]
    return Dataset(Path(), "manifest", items, ("a", "b"), contents, any(patients), 0, splits is not None)


def pair_up(*pairs: tuple[int, int]) -> Copies:
    return Copies((), pairs, tuple(Duplicate(*pair, "copy", 0.99) for pair in pairs))


def names(found: object) -> list[str]:
    return [each.name for each in found]


def test_pairs_with_an_unnamed_patient_stay_together_and_others_are_the_patients_own() -> None:
    dataset = make_dataset(("p", "q", None, None, "p", "p"))
    copies = pair_up((0, 1), (0, 2), (2, 3), (4, 5))
    assert keep_together(dataset, copies) == [(0, 2), (2, 3)]
    assert keep_together(make_dataset((None,) * 6), copies) == [(0, 1), (0, 2), (2, 3), (4, 5)]


def test_across_patients_means_two_that_are_named() -> None:
    copies = pair_up((0, 2))
    assert "near-duplicates across patients" in names(judge_near(make_dataset(("p", "r", "q")), copies))
    assert names(judge_near(make_dataset(("p", "r", None)), copies)) == ["near-duplicates"]
    assert names(judge_near(make_dataset(("p", "r", "p")), copies)) == ["near-duplicates"]


@pytest.mark.parametrize(("splits", "said"), [(("train", "test"), True), (("test", "test"), False), (None, False)])
def test_across_splits_means_two_parts_of_a_given_split(splits: tuple[str, ...] | None, said: bool) -> None:
    found = names(judge_near(make_dataset(("p", "q"), splits), pair_up((0, 1))))
    assert ("near-duplicates across splits" in found) is said


def test_identical_items_with_two_labels_are_said_and_a_leak_is_fatal() -> None:
    dataset = make_dataset(("p", "q"), ("train", "test"))
    found = list(judge_identical(dataset, [(0, 1)]))
    assert found[0].text.startswith("the test part is not independent")
    assert "--allow-leak" in found[0].text
    assert [(each.name, each.severity) for each in found] == [
        ("identical images across splits", "fatal"),
        ("identical images with different labels", "severe"),
        ("identical images", "note"),
    ]


def test_what_does_not_reach_the_test_part_is_said_so() -> None:
    dataset = make_dataset(("p", "p", "q", "r"), ("train", "val", "test", "test"))
    (found,) = judge_identical(dataset, [])
    assert (found.name, found.severity, found.groups) == ("patients across splits", "fatal", ((0, 1),))
    assert found.text.startswith("none reaches test")


def test_a_group_of_identical_items_alone_is_no_near_duplicate(films: list[object]) -> None:
    pictures, digests = films
    copies = find_copies(digests, pictures)
    assert copies.identical == ((0, 3),)
    assert copies.near == ()


def test_a_near_duplicate_of_identical_items_joins_them(films: list[object]) -> None:
    pictures, digests = films
    copies = find_copies([*digests[:3], "another encoding"], pictures)
    assert (copies.identical, copies.near) == ((), ((0, 3),))


def test_findings_take_the_numbers_of_their_items() -> None:
    (finding,) = judge_near(make_dataset((None, "x", None)), pair_up((0, 2)))
    assert finding.number([10, 20, 30]).groups == ((10, 30),)


@pytest.fixture
def films() -> list[object]:
    """Small pictures, the last the same as the first, and their digests."""
    import numpy as np

    from thawline.audit.duplicates import draw_picture

    fields = np.random.default_rng(0).normal(size=(3, 96, 96)).cumsum(axis=1).cumsum(axis=2)
    pictures = np.stack([draw_picture(field.astype(np.float32)) for field in (*fields, fields[0])])
    return [pictures, ["0", "1", "2", "0"]]
