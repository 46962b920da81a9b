"""The ledger: how often a test part was opened, and by how many plans."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from thawline.ledger import digest_test, ledger_path, record_opening


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "site"))


def test_the_digest_ignores_order_and_nothing_else():
    items = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]
    assert digest_test(items) == digest_test(reversed(items))
    assert len({digest_test(items), digest_test(items[:4]), digest_test([*items, items[0]]), digest_test([])}) == 4


def test_openings_are_counted_by_test_part_and_plan():
    assert record_opening("test a", "plan 1") == {"count": 1, "plans": 1}
    assert record_opening("test a", "plan 1") == {"count": 2, "plans": 1}
    assert record_opening("test b", "plan 1") == {"count": 1, "plans": 1}
    assert record_opening("test a", "plan 2") == {"count": 3, "plans": 2}
    assert record_opening("test b", "plan 3") == {"count": 2, "plans": 2}


def test_the_ledger_lies_where_the_variable_says_and_holds_digests_and_times_only(tmp_path):
    record_opening("t", "p")
    assert ledger_path() == tmp_path / "site" / "test_openings.jsonl"
    (line,) = ledger_path().read_text("utf-8").splitlines()
    assert set(json.loads(line)) == {"test", "plan", "at"}


def test_without_the_variable_it_lies_in_the_users_data_folder(monkeypatch):
    monkeypatch.delenv("THAWLINE_DATA")
    assert ledger_path().name == "test_openings.jsonl"
    assert "thawline" in ledger_path().parent.name
    assert Path.home() in ledger_path().parents or ledger_path().is_absolute()


@pytest.mark.parametrize("torn", [b'{"test": "t", "pl', b"\xff\xfe", b"5", b"null", b'"t"', b'{"test": "t"}', b"[1]"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_torn_line_counts_for_nothing_and_hides_no_other(torn, end):
    record_opening("t", "p")
    with ledger_path().open("ab") as ledger:
        ledger.write(torn + end)
    assert record_opening("t", "q") == {"count": 2, "plans": 2}
    assert record_opening("t", "q") == {"count": 3, "plans": 2}


def test_a_ledger_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "site").write_text("a file in the place of the folder")
    with pytest.raises(OSError, match="site"):
        record_opening("t", "p")
