"""The journal: what is recorded comes back, what is damaged counts for nothing, and nothing is unpickled."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thawline.errors import OutputError
from thawline.files import file_digest
from thawline.journal import Journal

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
arrays = hnp.arrays(
    st.sampled_from(["f8", "f4", "f2", "i8", "u1", "?", "U5"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
values = st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), plain | arrays, max_size=4).filter(
    lambda value: "file" not in value
)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, item in expected.items():
        if isinstance(item, np.ndarray):
            assert found[key].dtype == item.dtype
            np.testing.assert_array_equal(found[key], item)
        else:
            assert found[key] == item


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(values, st.text(max_size=10))
@example({"text": "line\u2028paragraph\u2029next\x85feed\x0c"}, "unit\u2028of work")
def test_values_come_back_as_they_were(value, name):
    with tempfile.TemporaryDirectory() as folder:
        Journal(Path(folder)).record(f"unit {name}".replace("\0", "").replace("\\", ""), value, 0.5)
        reopened = Journal(Path(folder))
        assert_same(reopened.find(f"unit {name}".replace("\0", "").replace("\\", "")), value)


def test_a_finished_unit_is_not_computed_again(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"losses": np.arange(3.0), "best": "svm"}

    first = Journal(tmp_path).unit("rung 1 svm", compute)
    journal = Journal(tmp_path)
    again = journal.unit("rung 1 svm", compute)
    assert_same(again, first)
    assert calls == [1]
    assert journal.n_resumed == 1
    assert "rung 1 svm" in journal
    assert "rung 2 k_nn" not in journal
    assert journal.find("rung 2 k_nn") is None


def test_resumed_units_are_counted_in_this_execution_only(tmp_path):
    journal = Journal(tmp_path)
    for name in ("a", "b", "c"):
        journal.unit(name, dict)
    journal.unit("a", dict)
    assert journal.n_resumed == 0
    again = Journal(tmp_path)
    for name in ("a", "b", "a", "d"):
        again.unit(name, dict)
    assert again.n_resumed == 2
    assert Journal(tmp_path).n_resumed == 0


def test_an_interrupted_unit_is_not_recorded(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path).unit("a", interrupt)
    assert "a" not in Journal(tmp_path)


def test_seconds_add_up_by_prefix_and_survive(tmp_path):
    journal = Journal(tmp_path)
    for name, seconds in (("rung 1 svm fold 0", 1.5), ("rung 1 svm fold 1", 2.25), ("rung 10 svm fold 0", 8.0)):
        journal.record(name, {}, seconds)
    for each in (journal, Journal(tmp_path)):
        assert each.seconds("rung 1 svm fold") == 3.75
        assert each.seconds("rung") == 11.75
        assert each.seconds("aspect") == 0.0
        assert each.spent("rung 1 svm fold 1") == 2.25
        assert each.spent("rung 1") == 0.0


def test_the_last_record_of_a_unit_counts(tmp_path):
    for number in (1, 2):
        Journal(tmp_path).record("a", {"n": number, "x": np.array([number])}, number)
    assert_same(Journal(tmp_path).find("a"), {"n": 2, "x": np.array([2])})
    assert Journal(tmp_path).spent("a") == 2


def test_discarded_arrays_are_gone_and_found_no_more(tmp_path):
    journal = Journal(tmp_path)
    for name in ("rung 3 blocks.5 fold 0", "rung 3 blocks.5 fold 0 weights", "rung 3 blocks.5 fold 1 weights"):
        journal.record(name, {"x": np.arange(3)}, 1.5)
    journal.record("plain weights", {"n": 3}, 0.1)
    before = journal.path.read_bytes()
    assert len(list((tmp_path / "units").iterdir())) == 3
    journal.discard("weights")
    assert journal.path.read_bytes() == before
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["rung_3_blocks.5_fold_0.npz"]
    for each in (journal, Journal(tmp_path)):
        assert each.find("rung 3 blocks.5 fold 0 weights") is None
        assert_same(each.find("rung 3 blocks.5 fold 0"), {"x": np.arange(3)})
        assert each.find("plain weights") == {"n": 3}
        assert each.seconds("rung 3") == 4.5
    journal.discard("weights")  # nothing is left to remove, which is no error
    again = journal.unit("rung 3 blocks.5 fold 1 weights", lambda: {"x": np.arange(4)})
    assert_same(again, {"x": np.arange(4)})
    assert_same(Journal(tmp_path).find("rung 3 blocks.5 fold 1 weights"), again)


@pytest.mark.parametrize("kept_bytes", [1, 10, -1])
def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path, kept_bytes):
    journal = Journal(tmp_path)
    journal.record("a", {"n": 1}, 0.1)
    whole = journal.path.read_bytes()
    journal.record("b", {"n": 2}, 0.1)
    line = journal.path.read_bytes()[len(whole) :]
    journal.path.write_bytes(whole + line[:kept_bytes])
    resumed = Journal(tmp_path)
    assert "a" in resumed
    assert "b" not in resumed
    assert journal.path.read_bytes() == whole
    resumed.record("c", {"n": 3}, 0.1)
    assert Journal(tmp_path).find("c") == {"n": 3}


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "",
        "5",
        "[1, 2]",
        '{"value": {}, "seconds": 1}',
        '{"unit": "b", "seconds": 1}',
        '{"unit": "b", "value": 7, "seconds": 1}',
        '{"unit": "b", "value": {}, "seconds": "long"}',
        '{"unit": ["b"], "value": {}, "seconds": 1}',
        '{"unit": "b", "value": {}',
    ],
)
def test_a_line_changed_by_hand_is_named(tmp_path, line):
    Journal(tmp_path).record("a", {}, 0.1)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(line + '\n{"unit": "c", "value": {}, "seconds": 1}\n')
    with pytest.raises(OutputError, match=r"journal\.jsonl, line 2: .* Start over with --no-resume or another --out"):
        Journal(tmp_path)


@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_a_unit_with_damaged_arrays_is_not_there_and_heals(tmp_path, damage):
    value = {"x": np.arange(100.0), "n": 3}
    Journal(tmp_path).record("a unit/with slash", value, 0.1)
    (file,) = (tmp_path / "units").iterdir()
    raw = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(raw[:-20] if damage == "cut" else raw[:300] + bytes([raw[300] ^ 1]) + raw[301:])
    assert Journal(tmp_path).find("a unit/with slash") is None
    journal = Journal(tmp_path)
    journal.unit("a unit/with slash", lambda: value)
    assert journal.n_resumed == 0
    assert_same(Journal(tmp_path).find("a unit/with slash"), value)


def test_arrays_of_objects_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        Journal(tmp_path).record("a", {"x": np.array([None, {}], dtype=object)}, 0.1)
    assert "a" not in Journal(tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_planted_pickle_does_not_run(tmp_path):
    journal = Journal(tmp_path)
    journal.record("a", {"x": np.zeros(2)}, 0.1)
    planted = io.BytesIO()
    np.savez(planted, x=np.array([Trap(str(tmp_path / "ran"))], dtype=object))
    file = tmp_path / "units" / "a.npz"
    file.write_bytes(planted.getvalue())
    line = json.loads(journal.path.read_text())
    line["arrays"]["sha256"] = file_digest(file)
    journal.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Journal(tmp_path).find("a")
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_said_and_earlier_units_stay(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.record("a", {"x": np.arange(4)}, 0.1)

    def fail(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        journal.record("b", {"x": np.arange(4)}, 0.1)
    monkeypatch.undo()
    assert "b" not in journal
    assert list((tmp_path / "units").iterdir()) == [tmp_path / "units" / "a.npz"]
    assert_same(Journal(tmp_path).find("a"), {"x": np.arange(4)})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_journal_on_a_device_that_is_really_full(tmp_path):
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="the disk is full; free some space and run the same command again"):
        Journal(tmp_path).record("a", {"n": 1}, 0.1)


def test_units_say_what_they_cost_and_a_second_sitting_adds_to_it(tmp_path):
    journal = Journal(tmp_path)
    journal.unit("rung 1 fold 0", lambda: {"sum": sum(range(2_000_000))})
    journal.record("rung 10 fold 0", {}, 2.0)
    first = journal.costs("rung 1 ")
    assert first["cpu_seconds"] > 0.01
    assert first["held_mib"] > 10
    assert first["peak_rss_mib"] in (None, first["held_mib"])  # by whether the system counts it anew
    assert journal.costs("")["seconds"] == pytest.approx(first["seconds"] + 2.0, abs=1e-3)
    reopened = Journal(tmp_path)
    assert reopened.costs("rung 1 ") == first
    reopened.record("rung 1 fold 0", {"sum": sum(range(2_000_000))}, 0.1)
    assert reopened.costs("rung 1 ")["cpu_seconds"] > first["cpu_seconds"]
    nothing = reopened.costs("absent")
    assert (nothing["seconds"], nothing["peak_rss_mib"], nothing["energy_wh"]) == (0, None, 0)


def test_what_was_spent_before_a_unit_began_counts_for_the_run_alone(tmp_path):
    journal = Journal(tmp_path)
    spend_cpu(0.2)
    journal.begin()
    spend_cpu(0.1)
    journal.begin()
    spend_cpu(0.05)
    journal.record("rung 1 fold 0", {}, 0.05)
    journal.record("rung 2 fold 0", {}, 0.0)
    assert 0.05 <= journal.costs("rung 1 ")["cpu_seconds"] < 0.2
    assert journal.costs("rung 2 ")["cpu_seconds"] < 0.05
    assert journal.costs("")["cpu_seconds"] >= 0.35
    assert journal.costs("")["energy_wh"] > journal.costs("rung")["energy_wh"]
    assert journal.costs("rung", ("rung 1 ",)) == journal.costs("rung 2 ")
    again = Journal(tmp_path)
    assert again.costs("") == journal.costs("")
    spend_cpu(0.1)
    again.begin()
    again.record("rung 1 fold 0", {}, 0.05)
    assert again.costs("")["cpu_seconds"] >= 0.45
    assert again.costs("rung 1 ")["cpu_seconds"] < 0.2


def spend_cpu(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_energy_is_measured_where_all_units_were_and_else_an_estimate(tmp_path):
    (tmp_path / "journal.jsonl").write_text(
        '{"unit": "a", "seconds": 1, "value": {}, "spent": {"cpu_s": 1, "peak_mib": 1024, "joules": 36.0, "wall_s": 1}}\n'
        '{"unit": "b", "seconds": 1, "value": {}, "spent": {"cpu_s": 3, "peak_mib": 2048, "joules": null, "wall_s": 5}}\n'
        '{"unit": "old", "seconds": 1, "value": {}}\n'
    )
    journal = Journal(tmp_path)
    assert journal.costs("a")["energy_wh"] == 0.01
    assert journal.costs("a")["energy_measured"]
    both = journal.costs("")
    assert both["energy_wh"] == pytest.approx((4 * 12 + (1 * 1 + 5 * 2) * 0.4) / 3600, abs=1e-4)
    assert not both["energy_measured"]
    assert both["peak_rss_mib"] == both["held_mib"] == 2048  # as journals were before what is held was told apart


def test_a_peak_that_is_not_known_of_one_unit_is_not_known_of_all(tmp_path, monkeypatch):
    (tmp_path / "journal.jsonl").write_text(
        '{"unit": "a", "seconds": 1, "value": {}, "spent": {"cpu_s": 1, "peak_mib": 1024, "held_mib": 1024, "joules": null,'
        ' "wall_s": 1}}\n'
        '{"unit": "b", "seconds": 1, "value": {}, "spent": {"cpu_s": 3, "peak_mib": null, "held_mib": 2048, "joules": null,'
        ' "wall_s": 5}}\n'
    )
    monkeypatch.setattr("thawline.meter.count_peak_anew", lambda: True)
    journal = Journal(tmp_path)
    assert (journal.costs("a")["peak_rss_mib"], journal.costs("b")["peak_rss_mib"]) == (1024, None)
    both = journal.costs("")
    assert (both["peak_rss_mib"], both["held_mib"]) == (None, 2048)
    assert both["energy_wh"] == pytest.approx((4 * 12 + (1 * 1 + 5 * 2) * 0.4) / 3600, abs=1e-4)
    journal.record("b", {}, 1.0)  # a second sitting does not make known what was not
    assert journal.costs("b")["peak_rss_mib"] is None
    assert journal.costs("b")["held_mib"] >= 2048
    journal.record("a", {}, 1.0)
    assert journal.costs("a")["peak_rss_mib"] >= 1024
