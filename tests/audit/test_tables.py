"""Tables of classes, parts and sites, and what a test part of the data supports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from thawline.audit.tables import make_tables, say_support
from thawline.data.dataset import Dataset
from thawline.judge.statistics import forecast_interval
from thawline.types import Item


def make_dataset(n_items: int = 40, *, split: bool = False, site: str | None = None) -> Dataset:
    """Two items a patient, of one class; every fourth patient is in test; two sites."""
    items = tuple(
        Item(
            f"{number}.png",
            "ab"[number // 2 % 2],
            f"P{number // 2}",
            ("test" if number // 2 % 4 < 2 else "train") if split else None,
            {site: f"clinic {number // 20}"} if site else {},
        )
        for number in range(n_items)
    )
    return Dataset(Path(), "manifest", items, ("a", "b"), [Path(item.path) for item in items], True, 0, split)


def test_items_and_patients_by_class_part_and_site() -> None:
    data, split, site = make_tables(make_dataset(split=True, site="Hospital"))
    assert data.rows == {"all": ((20, 10), (20, 10))}
    assert split.rows == {"test": ((10, 5), (10, 5)), "train": ((10, 5), (10, 5))}
    assert (site.title, set(site.rows)) == ("Hospital", {"clinic 0", "clinic 1"})
    assert str(data) == "data, items (patients):\n  all: a 20 (10), b 20 (10)"
    assert data.to_json()["counts"]["all"]["a"] == {"items": 20, "patients": 10}


def test_no_table_of_what_is_not_said() -> None:
    assert [table.title for table in make_tables(make_dataset(site="age"))] == ["data"]


def test_support_is_that_of_the_test_part() -> None:
    assert (
        say_support(make_dataset(split=True)) == f"on the given test part (5 + 5 patients) {forecast_interval([5, 5])}"
    )
    fifth = say_support(make_dataset())
    assert fifth == f"on a test part of a fifth of the patients (2 + 2 patients) {forecast_interval([2, 2])}"
    assert "report the folds" in say_support(make_dataset(12))


def test_a_column_of_as_many_values_as_items_names_no_sites() -> None:
    dataset = make_dataset()
    items = tuple(dataclasses.replace(item, metadata={"site": item.path}) for item in dataset.items)
    assert [table.title for table in make_tables(dataclasses.replace(dataset, items=items))] == ["data"]
