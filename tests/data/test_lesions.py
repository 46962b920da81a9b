"""Lesions are numbered within their patient; an item that names none is one of its own."""

from __future__ import annotations

from thawline.data.lesions import number_lesions
from thawline.types import Item


def make_items(*cells: tuple[str, str]) -> list[Item]:
    return [Item(f"{n}.png", "a", patient, lesion=lesion) for n, (patient, lesion) in enumerate(cells)]


def test_a_lesion_is_named_within_its_patient() -> None:
    found = number_lesions(make_items(("p", "1"), ("q", "1"), ("p", "2"), ("p", "1"), ("q", "1")))
    assert found is not None
    assert found.tolist() == [0, 1, 2, 0, 1]


def test_an_item_that_names_no_lesion_is_one_of_its_own() -> None:
    found = number_lesions(make_items(("p", ""), ("p", "1"), ("p", ""), ("p", "1")))
    assert found is not None
    assert found.tolist() == [0, 1, 2, 1]


def test_without_any_lesion_there_is_nothing_to_number() -> None:
    assert number_lesions(make_items(("p", ""), ("q", ""))) is None
    assert number_lesions([]) is None
