"""Tables of classes, parts and sites, and what a test part of the data supports."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from thawline.audit.tables import SITES, make_tables, say_support
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


def name_places(**places: str) -> list[dict[str, str]]:
    """What headers say of 40 items: the first half, and the others, one letter on."""
    first = {"institution": "", "station": "", **places}
    second = {name: value and chr(ord(value) + 1) for name, value in first.items()}
    return [first] * 20 + [second] * 20


def test_sites_of_headers_stand_under_keys_that_agree_between_sets_and_not_between_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "one"))
    _, site = make_tables(make_dataset(), name_places(institution="A"))
    assert site.title == "institution, under keys"
    assert sorted(site.rows.values()) == [((10, 5), (10, 5))] * 2
    assert all(re.fullmatch("S[0-9a-f]{8}", name) for name in site.rows)
    _, again = make_tables(make_dataset(60), [*name_places(institution="A"), *name_places(institution="B")[:20]])
    assert set(again.rows) == set(site.rows)
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "other"))
    assert not set(make_tables(make_dataset(), name_places(institution="A"))[1].rows) & set(site.rows)


def test_stations_are_sites_where_there_is_one_institution_and_a_column_comes_before_both() -> None:
    places = [{**each, "institution": "A"} for each in name_places(station="1")]
    places[7] = {"institution": "", "station": ""}
    _, site = make_tables(make_dataset(), places)
    assert site.title == "station, under keys"
    assert site.rows["not said"] == ((0, 0), (1, 1))
    assert [each.title for each in make_tables(make_dataset(site="Source"), places)] == ["data", "Source"]


def test_no_site_is_keyed_where_headers_name_one_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path))
    for places in ([], name_places(), [{"institution": "A", "station": ""}] * 40):
        assert [each.title for each in make_tables(make_dataset(), places)] == ["data"]
    assert not list(tmp_path.iterdir())  # and no secret is made for it


def test_the_guide_names_every_column_of_sites() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "README.md").read_text("utf-8")
    sentence = guide[guide.index("Above them stand tables") :].split("\n\n")[0].split(")")[0]
    assert set(re.findall("`([a-z]+)`", sentence)) == set(SITES)
