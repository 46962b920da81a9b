"""The checklists: every row of both tables leads somewhere, asks for what can be stated, or is blank and says so."""

from __future__ import annotations

import itertools

import pytest

from thawline.share.checklists import CHECKLISTS, CLAIM, SECTIONS, TRIPOD_AI, Row, fill_checklists, fill_row
from thawline.share.study import STATED, Study

ROWS = [pytest.param(row, id=f"{name} {row.number}") for name, rows in CHECKLISTS.items() for row in rows]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_leads_to_sections_and_keys_that_there_are(row: Row) -> None:
    assert row.asks
    assert set(row.sections) <= set(SECTIONS)
    assert set(row.keys) <= set(STATED)
    full = fill_row(row, dict.fromkeys(STATED, "said"), SECTIONS)
    assert [place["id"] for place in full["where"]] == list(row.sections)
    assert len(full["stated"]) == len(row.keys) + bool(row.says)
    assert full["missing"] == []
    empty = fill_row(row, {}, [])
    assert empty["missing"] == list(row.keys)
    assert empty["is_blank"] == (not row.says)


def test_items_are_numbered_as_published() -> None:
    assert [row.number for row in CLAIM] == [str(number) for number in range(1, 45)]
    parts = {
        3: "abc",
        5: "ab",
        6: "abc",
        8: "abc",
        9: "abc",
        12: "abcdefg",
        18: "abcdef",
        20: "abc",
        23: "ab",
        27: "abc",
    }
    wanted = itertools.chain.from_iterable([f"{n}{part}" for part in parts.get(n, " ")] for n in range(1, 28))
    assert [row.number for row in TRIPOD_AI] == [number.strip() for number in wanted]


def test_all_that_can_be_stated_is_asked_for() -> None:
    asked = {key for rows in CHECKLISTS.values() for row in rows for key in row.keys}
    assert set(STATED) - asked == set()


def test_blanks_are_counted_and_a_statement_fills_one() -> None:
    silent, told = fill_checklists(Study(), ["data"]), fill_checklists(Study({"funding": "none"}), ["data"])
    assert [each["n_items"] for each in silent] == [44, 52]
    assert [one["n_blank"] - two["n_blank"] for one, two in zip(silent, told, strict=True)] == [1, 1]
    assert told[0]["rows"][43]["stated"] == ["none"]
    assert silent[0]["n_blank"] == sum(row["is_blank"] for row in silent[0]["rows"]) > 20
