"""The cache: found by content, whole or absent, and kept under its limit."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline import cache
from thawline.cache import Space, cache_path, clear, evict, limit_bytes, list_spaces
from thawline.errors import OptionError, OutputError

DESCRIPTION = {"reader": 1, "weights": "abc"}


def make_keys(*names):
    return [hashlib.sha256(str(name).encode()).hexdigest() for name in names]


def make_rows(n_rows, width=3, start=0):
    return (np.arange(n_rows * width) + start).reshape(n_rows, width).astype(np.float16)


def read(space, keys):
    out = np.full((len(keys), 3), np.nan, np.float32)
    space.read(keys, out)
    return out


# --- rows and keys --------------------------------------------------------------------------------------------------


def test_rows_come_back_in_any_order_and_number(tmp_path):
    keys, rows = make_keys(*range(10)), make_rows(10)
    space = Space("features", DESCRIPTION, tmp_path)
    assert (len(space), space.row_shape) == (0, (0,))
    space.write(keys[:6], rows[:6])
    space.write(keys[6:], rows[6:])
    for each in (space, Space("features", DESCRIPTION, tmp_path)):
        assert (len(each), each.row_shape) == (10, (3,))
        order = [7, 0, 0, 9, 3, 7]
        np.testing.assert_array_equal(read(each, [keys[k] for k in order]), rows[order])
        assert keys[4] in each
        assert make_keys("other")[0] not in each
        np.testing.assert_array_equal(read(each, []), np.empty((0, 3)))
    with pytest.raises(KeyError):
        read(space, make_keys("other"))


def test_records_of_several_fields_come_back(tmp_path):
    kind = np.dtype([("width_px", "u4"), ("format", "U8"), ("maximum", "f8")])
    rows = np.array([(512, "PNG", 255.0), (7, "JPEG", 0.1)], kind)
    Space("facts", DESCRIPTION, tmp_path).write(make_keys("a", "b"), rows)
    found = np.empty(2, kind)
    Space("facts", DESCRIPTION, tmp_path).read(make_keys("b", "a"), found)
    np.testing.assert_array_equal(found, rows[::-1])


def test_a_space_is_found_by_its_description_alone(tmp_path):
    Space("features", {"a": 1, "b": [1, 2]}, tmp_path).write(make_keys("x"), make_rows(1))
    assert len(Space("features", {"b": (1, 2), "a": 1}, tmp_path)) == 1
    assert len(Space("features", {"a": 2, "b": [1, 2]}, tmp_path)) == 0
    assert len(Space("facts", {"a": 1, "b": [1, 2]}, tmp_path)) == 0


def test_keys_and_rows_must_be_as_many(tmp_path):
    with pytest.raises(ValueError, match="2 keys for 3 rows"):
        Space("features", DESCRIPTION, tmp_path).write(make_keys("a", "b"), make_rows(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_shards_read_back_as_one_table(data):
    n_rows = data.draw(st.integers(1, 30))
    cuts = sorted(data.draw(st.sets(st.integers(1, n_rows - 1))) if n_rows > 1 else [])
    order = data.draw(st.lists(st.integers(0, n_rows - 1), max_size=40))
    keys, rows = make_keys(*range(n_rows)), make_rows(n_rows)
    with tempfile.TemporaryDirectory() as folder:
        for start, stop in zip([0, *cuts], [*cuts, n_rows], strict=True):
            Space("features", DESCRIPTION, Path(folder)).write(keys[start:stop], rows[start:stop])
        found = read(Space("features", DESCRIPTION, Path(folder)), [keys[k] for k in order])
        np.testing.assert_array_equal(found, rows[order])


# --- damage ---------------------------------------------------------------------------------------------------------


def damage(kind, rows_file):
    keys_file, raw = rows_file.with_suffix(".keys"), rows_file.read_bytes()
    if kind == "no keys":
        keys_file.unlink()
    elif kind == "fewer keys":
        keys_file.write_bytes(keys_file.read_bytes()[:-5])
    elif kind == "no rows":
        rows_file.unlink()
    elif kind == "rows cut":
        rows_file.write_bytes(raw[:-3])
    elif kind == "rows empty":
        rows_file.write_bytes(b"")
    elif kind == "a pickle":
        planted = io.BytesIO()
        np.save(planted, np.array([{}, {}], dtype=object))
        rows_file.write_bytes(planted.getvalue())
    else:
        rows_file.write_bytes(b"junk")


@pytest.mark.parametrize(
    "kind", ["no keys", "fewer keys", "no rows", "rows cut", "rows empty", "a pickle", "junk in the rows"]
)
def test_half_a_shard_counts_for_nothing_and_is_written_anew(tmp_path, kind):
    space = Space("features", DESCRIPTION, tmp_path)
    space.write(make_keys("a", "b"), make_rows(2))
    (rows_file,) = space.folder.glob("*.npy")
    space.write(make_keys("c"), make_rows(1, start=50))
    damage(kind, rows_file)
    reopened = Space("features", DESCRIPTION, tmp_path)
    assert [key in reopened for key in make_keys("a", "b", "c")] == [False, False, True]
    reopened.write(make_keys("a", "b"), make_rows(2))
    np.testing.assert_array_equal(
        read(Space("features", DESCRIPTION, tmp_path), make_keys("c", "b")), [[50, 51, 52], [3, 4, 5]]
    )


def test_a_full_disk_is_said_and_earlier_shards_stay(tmp_path, monkeypatch):
    space = Space("features", DESCRIPTION, tmp_path)
    space.write(make_keys("a"), make_rows(1))

    def write_half(file, rows, **options):
        file.write(b"\x93NUMPY")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", write_half)
    with pytest.raises(OutputError, match="the disk is full; free some space and run the same command again"):
        space.write(make_keys("b"), make_rows(1))
    monkeypatch.undo()
    assert not list(space.folder.glob(".writing-*"))
    reopened = Space("features", DESCRIPTION, tmp_path)
    assert [key in reopened for key in make_keys("a", "b")] == [True, False]


# --- several at once ------------------------------------------------------------------------------------------------

WRITER = """
import sys
import numpy as np
from pathlib import Path
from thawline.cache import Space
space = Space("features", {"of": "both"}, Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 60, 2):
    keys = [f"{number:064x}", f"{1000 + number // 2:064x}"]
    space.write(keys, np.array([[number], [1000 + number // 2]], np.float16))
"""


def test_two_processes_write_the_same_space(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), first]) for first in ("0", "1")]
    assert [writer.wait() for writer in writers] == [0, 0]
    numbers = [*range(60), *range(1000, 1030)]
    space, found = Space("features", {"of": "both"}, tmp_path), np.empty((90, 1))
    space.read([f"{number:064x}" for number in numbers], found)
    assert found[:, 0].tolist() == numbers
    assert not list(space.folder.glob(".writing-*"))


def test_a_space_of_many_shards_holds_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "OPEN_MAPS", 2)
    writer = Space("features", DESCRIPTION, tmp_path)
    keys = make_keys("a", "b", "c", "d")
    for number, key in enumerate(keys):
        writer.write([key], make_rows(4)[number : number + 1])
    for space in (writer, Space("features", DESCRIPTION, tmp_path)):
        np.testing.assert_array_equal(read(space, keys), make_rows(4))
        assert sum(isinstance(shard, np.ndarray) for shard in space._shards) == 2
    clear(tmp_path)
    with pytest.raises(OutputError, match=r"the cache lost .*\.npy while it was in use .*; run the same command again"):
        read(writer, keys)


def test_spaces_are_listed_while_another_process_takes_files_away(tmp_path, monkeypatch):
    space = Space("features", DESCRIPTION, tmp_path)
    space.write(make_keys("a"), make_rows(1))
    look = Path.is_file

    def vanish(path):
        found = look(path)
        if path.suffix == ".npy":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", vanish)
    (found,) = list_spaces(tmp_path)
    assert found["files"] == 2  # the keys and the description
    assert list(cache._measure_files(tmp_path / "gone")) == []


def test_a_space_that_another_process_clears_goes_on(tmp_path):
    space = Space("features", DESCRIPTION, tmp_path)
    space.write(make_keys("a"), make_rows(1))
    clear(tmp_path)
    assert not space.folder.exists()
    np.testing.assert_array_equal(read(space, make_keys("a")), make_rows(1))  # mapped into memory
    space.write(make_keys("b"), make_rows(1))
    assert make_keys("b")[0] in Space("features", DESCRIPTION, tmp_path)


# --- size -----------------------------------------------------------------------------------------------------------


def fill(root, names, kib=64):
    """Write one space a name, each used an hour after the one before; return their folders and sizes."""
    folders, sizes = {}, {}
    for hour, name in enumerate(names):
        space = Space("features", {"name": name}, root)
        space.write(make_keys(*range(8)), np.zeros((8, kib * 64), np.float16))
        for path in space.folder.iterdir():
            os.utime(path, (3600 * hour, 3600 * hour))
        folders[name] = space.folder
        sizes[name] = sum(path.stat().st_size for path in space.folder.iterdir())
    return folders, sizes


def left(folders):
    return [name for name, folder in folders.items() if folder.exists()]


def test_eviction_takes_those_used_longest_ago_and_stops_under_the_limit(tmp_path):
    folders, sizes = fill(tmp_path, "abcd")
    assert evict(root=tmp_path, limit=sum(sizes.values())) == 0
    assert left(folders) == ["a", "b", "c", "d"]
    assert evict(root=tmp_path, limit=sum(sizes.values()) - 1) == sizes["a"]
    assert left(folders) == ["b", "c", "d"]
    assert evict(root=tmp_path, limit=sizes["d"]) == sizes["b"] + sizes["c"]
    assert left(folders) == ["d"]
    assert sum(space["bytes"] for space in list_spaces(tmp_path)) == sizes["d"]


def test_eviction_keeps_what_is_in_use(tmp_path):
    folders, sizes = fill(tmp_path, "abc")
    assert evict(keep=[folders["a"]], root=tmp_path, limit=0) == sizes["b"] + sizes["c"]
    assert left(folders) == ["a"]


def test_opening_a_space_is_a_use(tmp_path):
    folders, sizes = fill(tmp_path, "abc")
    Space("features", {"name": "a"}, tmp_path)
    evict(root=tmp_path, limit=sizes["a"])
    assert left(folders) == ["a"]


def test_the_limit_of_the_environment_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "1")
    folders, _ = fill(tmp_path, "abc", kib=400)
    evict()
    assert left(folders) == ["b", "c"]


def test_clear_removes_all_spaces_and_nothing_else(tmp_path):
    folders, sizes = fill(tmp_path / "cache", "ab")
    (tmp_path / "cache" / "note.txt").write_text("the user's own")
    (tmp_path / "cache" / "features" / "note.txt").write_text("the user's own")
    (tmp_path / "beside.txt").write_text("the user's own")
    assert clear(tmp_path / "cache") == sum(sizes.values())
    assert left(folders) == []
    kept = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["beside.txt", "note.txt", "note.txt"]
    assert clear(tmp_path / "cache") == 0
    assert clear(tmp_path / "absent") == 0


def test_what_a_killed_writer_left_behind_is_cleared_too(tmp_path):
    unfinished = tmp_path / "engine" / ".writing-abc" / "deeper"
    unfinished.mkdir(parents=True)
    (unfinished / "model.bin").write_bytes(b"12345")
    assert clear(tmp_path) == 5
    assert not unfinished.parent.exists()


def test_spaces_are_listed_with_their_size(tmp_path):
    folders, sizes = fill(tmp_path, "ab")
    found = {space["folder"]: space for space in list_spaces(tmp_path)}
    assert {folder: space["bytes"] for folder, space in found.items()} == {folders[n]: sizes[n] for n in "ab"}
    assert {space["kind"] for space in found.values()} == {"features"}
    assert found[folders["b"]]["used"] == 3600.0
    assert found[folders["b"]]["files"] == 3


@pytest.mark.parametrize("text", ["", "10GiB", "-1", "1.5", "²", "1e3"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("THAWLINE_CACHE_MIB", text)
    with pytest.raises(OptionError, match=f"THAWLINE_CACHE_MIB: expected a whole number of MiB, found {text!r}"):
        limit_bytes()


def test_limit_and_place_come_from_the_environment(monkeypatch, tmp_path):
    assert limit_bytes() == 10 * 2**30
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "3")
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "here"))
    assert limit_bytes() == 3 * 2**20
    assert cache_path() == tmp_path / "here"
    monkeypatch.delenv("THAWLINE_CACHE")
    monkeypatch.setattr(cache, "user_cache_path", lambda name, appauthor: Path(f"/cache/{name}"))
    assert cache_path() == Path("/cache/thawline")


def test_some_columns_of_rows_are_read(tmp_path):
    rows = np.arange(24, dtype=np.float16).reshape(4, 6)
    keys = [f"{number:064x}" for number in range(4)]
    space = Space("features", {"columns": 1}, tmp_path)
    space.write(keys[:2], rows[:2])
    space.write(keys[2:], rows[2:])
    found = np.empty((3, 2), np.float16)
    space.read([keys[3], keys[0], keys[3]], found, slice(2, 4))
    np.testing.assert_array_equal(found, rows[[3, 0, 3], 2:4])


def test_what_is_written_while_all_is_forgotten_is_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    key, others = "ab" * 32, "cd" * 32
    cache.Space("features", {"n": 1}).write([key], np.ones((1, 2)))
    with cache.forget_all():
        space = cache.Space("features", {"n": 1})
        assert key not in space
        space.write([others], np.zeros((1, 2)))
        assert others in cache.Space("features", {"n": 1})
        folder = space.folder
    assert not folder.exists()
    found = cache.Space("features", {"n": 1})
    assert key in found
    assert others not in found
