"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.errors import OutputError
from thawline.files import file_digest, json_digest, said_plainly, write_atomic, write_json

plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def fail_with(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def list_names(folder):
    return [path.name for path in folder.iterdir()]


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    assert write_atomic(path, "grün\n") == path
    assert path.read_bytes() == "grün\n".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list_names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("broken", ["fsync", "open", "replace"])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, broken):
    path = write_atomic(tmp_path / "plan.json", "old")
    where, name = {"fsync": (os, "fsync"), "open": (Path, "open"), "replace": (Path, "replace")}[broken]
    monkeypatch.setattr(where, name, fail_with(errno.ENOSPC))
    with pytest.raises(OutputError, match=r"plan\.json: the disk is full; free some space and run the same command"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list_names(tmp_path) == ["plan.json"]


def test_an_interruption_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "plan.json", "old")

    def interrupt(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list_names(tmp_path) == ["plan.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_really_full():
    with pytest.raises(OutputError, match="the disk is full"), said_plainly(Path("/dev/full")):  # noqa: SIM117
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "it is not writable; choose another folder"),
        (errno.EROFS, "it is not writable; choose another folder"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_the_message_says_what_to_do(number, said):
    with pytest.raises(OutputError, match=said) as caught, said_plainly(Path("run")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith("cannot write run: ")
    assert caught.value.exit_code == 2


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_atomic(tmp_path / "run" / "plan.json", "x")
    assert (tmp_path / "run").read_text() == "a file"


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), said_plainly(Path("run")):
        _ = 1 / 0


def test_json_is_readable_utf8_and_refuses_nan(tmp_path):
    path = write_json(tmp_path / "a.json", {"class": "Säugling", "auc": 0.5})
    assert path.read_text("utf-8") == '{\n "class": "Säugling",\n "auc": 0.5\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"auc": float("nan")})
    assert json.loads(path.read_text("utf-8"))["auc"] == 0.5


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_file_digest_is_sha256(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert file_digest(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_json_digest_ignores_the_order_of_keys_and_tells_values_apart():
    assert json_digest({"a": 1, "b": [1, 2]}) == json_digest({"b": (1, 2), "a": 1})
    different = [{"a": 1}, {"a": "1"}, {"a": [1]}, {"a": 1, "b": None}, {"a": 1.5}, ["a", 1], {"a": True}]
    assert len({json_digest(data) for data in different}) == len(different)
    assert json_digest({"b": 1, "a": "ä"}) == hashlib.sha256('{"a":"ä","b":1}'.encode()).hexdigest()


@settings(deadline=None, max_examples=50)
@given(plain_data)
def test_json_digest_survives_a_round_trip(data):
    assert json_digest(json.loads(json.dumps(data))) == json_digest(data)
