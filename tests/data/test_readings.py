"""Columns of readers: calls and scores by item, blanks, and cells that are neither."""

from __future__ import annotations

import numpy as np
import pytest

from thawline.data.readings import list_readings
from thawline.errors import DataError
from thawline.types import Item


def make_items(*cells: dict[str, str]) -> list[Item]:
    return [Item(f"{number}.png", "a", str(number), None, each) for number, each in enumerate(cells)]


def test_readers_are_found_by_their_columns() -> None:
    found = list_readings(
        make_items({"reader:a": "1", "sex": "F"}, {"reader:a": " ", "reader: b": "3.5"}, {"reader:a": "0"})
    )
    assert list(found) == ["b", "a"]
    np.testing.assert_array_equal(found["a"], [1, np.nan, 0])
    np.testing.assert_array_equal(found["b"], [np.nan, 3.5, np.nan])
    assert list_readings(make_items({"sex": "F"})) == {}


@pytest.mark.parametrize("cell", ["yes", "inf", "nan"])
def test_what_is_no_number_is_named(cell: str) -> None:
    with pytest.raises(DataError, match=f"column reader:a, item 1: expected 0, 1 or a score, .* found '{cell}'"):
        list_readings(make_items({"reader:a": "1"}, {"reader:a": cell}))
