"""The checklists: every row of both tables leads somewhere, asks for what can be stated, or is blank and says so."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from thawline import share
from thawline.share.checklists import (
    CHECKLISTS,
    CLAIM,
    SECTIONS,
    TRIPOD_AI,
    WITHIN,
    Row,
    fill_checklists,
    fill_row,
    list_sections,
)
from thawline.share.study import STATED, Study

TEMPLATES = Path(share.__file__).parent / "templates"
ROWS = [pytest.param(row, id=f"{name} {row.number}") for name, rows in CHECKLISTS.items() for row in rows]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_leads_to_sections_and_keys_that_there_are(row: Row) -> None:
    assert row.asks
    assert set(row.sections) <= set(SECTIONS)
    assert set(row.keys) <= set(STATED)
    full = fill_row(row, dict.fromkeys(STATED, "said"), SECTIONS)
    assert [place["id"] for place in full["where"]] == [WITHIN.get(each, each) for each in row.sections]
    assert len(full["stated"]) == len(row.keys) + bool(row.says)
    assert (full["missing"], full["is_partial"]) == ([], False)
    empty = fill_row(row, {}, [])
    assert empty["missing"] == list(row.keys)
    assert empty["is_blank"] == (not row.says)


@pytest.mark.parametrize("row", ROWS)
def test_an_item_is_answered_in_part_where_the_study_could_state_more(row: Row) -> None:
    found = fill_row(row, {}, SECTIONS)
    assert found["is_blank"] == (not row.sections and not row.says)
    assert found["is_partial"] == (bool(row.keys) and not found["is_blank"])
    told = fill_row(row, dict.fromkeys(row.keys[:1], "said"), [])
    assert told["is_partial"] == (len(row.keys) > 1)


def test_every_section_is_an_anchor_of_the_page() -> None:
    pages = "".join(path.read_text("utf-8") for path in TEMPLATES.glob("*.html.j2"))
    for section in SECTIONS:
        assert f'id="{WITHIN.get(section, section)}"' in pages


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CLAIM, 2024 update", "1 2 3 4 5 6 7 8 11 13 14 15 16 17 18 31 33 34 41 42 43 44"),
        ("TRIPOD+AI", "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 8a 8b 8c 17 18a 18b 18c 18d 18e 19 25 27b"),
    ],
)
def test_what_no_run_can_know_is_left_to_the_study(name: str, wanted: str) -> None:
    filled = {each["name"]: each for each in fill_checklists(Study(), SECTIONS)}[name]
    blank = [row["number"] for row in filled["rows"] if row["is_blank"]]
    assert blank == wanted.split()
    assert filled["n_blank"] == len(blank)
    assert filled["n_partial"] == sum(row["is_partial"] for row in filled["rows"]) > 0
    stated = {each["name"]: each for each in fill_checklists(Study(dict.fromkeys(STATED, "said")), SECTIONS)}[name]
    assert [row["number"] for row in stated["rows"] if row["is_blank"]] == [n for n in blank if n in ("2", "31")]
    assert stated["n_partial"] == 0


def test_subgroups_answer_for_fairness_and_for_centres_only_where_they_are_of_these() -> None:
    keys = ("warnings", "readers", "decision", "doubts", "familiarity", "findings", "shortcuts", "examples")
    silent: dict[str, list[str]] = {key: [] for key in keys}
    for columns, wanted in (
        ([], set()),
        (["scanner"], {"subgroups"}),
        (["age group"], {"subgroups", "traits"}),
        (["sex", "hospital"], {"subgroups", "traits", "centres"}),
    ):
        found = list_sections({**silent, "subgroups": [{"name": name} for name in columns]})
        assert {"subgroups", "traits", "centres"} & set(found) == wanted
    rows = {row["number"]: row for row in fill_checklists(Study(), ["subgroups"])[1]["rows"]}
    assert [rows[number]["is_blank"] for number in ("12d", "23a", "23b")] == [True, False, True]
    assert rows["14"]["where"] == []


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
