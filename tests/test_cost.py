"""Clocks, durations, memory and cores, against what the system itself says."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline import cost
from thawline.cost import count_cores, count_memory_mib, peak_rss_mib, read_duration
from thawline.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("2h", 7200), ("1.5m", 90), (" 3 s ", 3), ("0.1s", 0.1), ("007m", 420)],
)
def test_durations_are_read_with_their_unit(text, seconds):
    assert read_duration(text) == pytest.approx(seconds)


def test_none_is_without_end():
    assert read_duration("none") == math.inf


@pytest.mark.parametrize(
    "text", ["", "20", "m", "20 minutes", "-5m", "0s", "0.0h", "1e3s", "20M", "1h30m", "inf s", ".5m"]
)
def test_other_durations_are_refused_with_what_was_found(text):
    with pytest.raises(OptionError, match=re.escape(f"such as 90s, 20m or 2h, or none; found {text!r}")):
        read_duration(text)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**6), st.sampled_from([("s", 1), ("m", 60), ("h", 3600)]))
def test_whole_durations_are_exact(number, unit):
    assert read_duration(f"{number}{unit[0]}") == number * unit[1]


def test_peak_memory_includes_what_was_freed():
    script = (
        "from thawline.cost import peak_rss_mib; before = peak_rss_mib(); block = bytearray(b'x' * (200 << 20));"
        "del block; print(before, peak_rss_mib())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 200 <= after < before + 600


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux counts")
def test_peak_memory_is_not_that_of_the_program_that_started_this_one():
    child = "from thawline.cost import peak_rss_mib; print(peak_rss_mib())"
    script = (
        "import subprocess, sys; block = bytearray(b'x' * (400 << 20));"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 5 < int(done.stdout) < 400


def test_peak_memory_is_at_least_what_is_in_use():
    assert peak_rss_mib() >= psutil.Process().memory_info().rss / 2**20 - 8  # the kernel counts in batches


def test_cores_are_those_of_the_affinity(monkeypatch):
    monkeypatch.setattr(cost, "_read_first", lambda path: "")
    assert count_cores() == len(psutil.Process().cpu_affinity())


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("50000 100000", 1), ("800000 100000", 4), ("max 100000", 4), ("junk", 4)],
)
def test_a_container_quota_cuts_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cost, "_read_first", lambda path: quota)
    assert count_cores() == cores


@pytest.mark.parametrize(("limit", "mib"), [(f"{3 << 30}\n", 3072), ("max\n", None), ("", None)])
def test_a_container_limit_cuts_the_memory(monkeypatch, limit, mib):
    total_mib = 4096
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": total_mib << 20}))
    monkeypatch.setattr(cost, "_read_first", lambda path: limit)
    assert count_memory_mib() == (mib or total_mib)


def test_a_missing_control_file_means_no_limit(tmp_path):
    assert cost._read_first(tmp_path / "absent") == ""
    (tmp_path / "odd").write_bytes(b"\xff")
    assert cost._read_first(Path(tmp_path / "odd")) == ""
