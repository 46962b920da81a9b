"""Columns as parts: which are taken, how numbers are banded, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.data.strata import MOST_PARTS, UNKNOWN, check_strata, list_strata, take_parts
from thawline.errors import OptionError
from thawline.types import Item


def make_items(**columns):
    return [
        Item(f"{place}.png", "a", f"p{place}", metadata=dict(zip(columns, cells, strict=True)))
        for place, cells in enumerate(zip(*columns.values(), strict=True))
    ]


def test_usual_columns_with_several_values_are_taken():
    items = make_items(sex=["F", "M", ""], site=["x", "x", "x"], note=["a", "b", "c"])
    assert list_strata(items, "auto") == {"sex": ["F", "M", "not known"]}
    assert list_strata(items, "none") == {}
    assert list_strata(items, " Note ,sex") == {"note": ["a", "b", "c"], "sex": ["F", "M", "not known"]}


def test_ages_have_bands_that_readers_know():
    ages = ["3", "017Y", "18", "39.5", "40", "64", "65", "99", ""]
    bands = ["under 18"] * 2 + ["18 to under 40"] * 2 + ["40 to under 65"] * 2 + ["65 and over"] * 2 + ["not known"]
    assert list_strata(make_items(age=ages), "auto")["age"] == bands


def test_other_numbers_have_bands_of_equal_size():
    parts = list_strata(make_items(dose=[str(value) for value in range(9)]), "dose")["dose"]
    assert parts == ["under 3"] * 3 + ["3 to under 6"] * 3 + ["6 and over"] * 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-5, 20), min_size=7, max_size=40))
def test_every_number_lies_in_the_band_that_names_it(numbers):
    parts = list_strata(make_items(dose=[str(value) for value in numbers]), "dose").get("dose")
    if parts is None:
        assert len(set(numbers)) == 1
        return
    for number, part in zip(numbers, parts, strict=True):
        words = part.split()
        if words[0] == "under":
            assert number < float(words[1])
        elif part.endswith("over"):
            assert number >= float(words[0])
        elif "under" in words:
            assert float(words[0]) <= number < float(words[-1])
        else:
            assert part == str(number)


def test_few_numbers_and_numbers_beside_words_stay_as_they_are():
    assert list_strata(make_items(grade=["1", "2", "2"]), "grade")["grade"] == ["1", "2", "2"]
    mixed = [*map(str, range(7)), "seven"]
    assert list_strata(make_items(grade=mixed), "grade")["grade"] == mixed


def test_what_is_no_column_or_names_patients_is_refused():
    items = make_items(sex=["F", "M"] * 10, name=[f"name {k}" for k in range(20)])
    with pytest.raises(OptionError, match=r"no column 'size'; the table has name, sex"):
        list_strata(items, "size")
    with pytest.raises(OptionError, match=rf"column 'name' has 20 values, expected {MOST_PARTS} at most"):
        list_strata(items, "name")
    with pytest.raises(OptionError, match="the table has no others"):
        list_strata([Item("a.png", "a", "p")], "sex")


def test_lesions_are_no_column_of_parts():
    items = [Item(f"{k}.png", "a", f"p{k}", metadata={"sex": "FM"[k % 2]}, lesion=str(k % 3)) for k in range(12)]
    assert list(list_strata(items, "auto")) == ["sex"]
    with pytest.raises(OptionError, match="no column 'lesion'; the table has sex"):
        list_strata(items, "lesion")


def test_a_named_column_that_parts_nothing_is_refused():
    items = make_items(sex=["F", "F", "F"], site=["A", "B", "A"], dose=["", "", ""])
    check_strata(items, "site")
    for wanted in ("auto", "none", ""):
        check_strata(items, wanted)
    with pytest.raises(OptionError, match="--subgroups: column 'sex' says 'F' of every item"):
        check_strata(items, "site, Sex")
    with pytest.raises(OptionError, match=f"--subgroups: column 'dose' says '{UNKNOWN}' of every item"):
        check_strata(items, "dose")
    with pytest.raises(OptionError, match="no column 'size'"):
        check_strata(items, "size")


def test_usual_columns_of_too_many_values_are_passed_over():
    assert list_strata(make_items(site=[str(k) + "x" for k in range(20)]), "auto") == {}


def test_parts_of_some_items():
    assert take_parts({"sex": ["F", "M", "F"]}, [2, 0, 1]) == {"sex": ["F", "F", "M"]}
