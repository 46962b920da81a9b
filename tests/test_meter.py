"""The meter: counters that are read, that start over, that may not be read; and what stands for them then."""

from __future__ import annotations

import contextlib
import mmap
import sys
import time
import types
from pathlib import Path

import pytest

from thawline.meter import (
    CORE_W,
    MEMORY_W_GIB,
    Meter,
    count_peak_anew,
    estimate_joules,
    read_counters,
    sum_joules,
)


def write_zone(folder, name, used_uj, most_uj=262_143_328_850):
    zone = folder / name
    zone.mkdir()
    (zone / "energy_uj").write_text(f"{used_uj}\n")
    (zone / "max_energy_range_uj").write_text(f"{most_uj}\n")
    return zone


def test_outermost_counters_of_processors_are_read(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", 5_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", 4_000_000)  # the cores, which the package holds
    write_zone(tmp_path, "intel-rapl:1", 7_500_000)
    (write_zone(tmp_path, "intel-rapl:2", 1) / "energy_uj").write_text("no number")
    found = {name: joules for name, (joules, _) in read_counters(tmp_path).items() if not name.startswith("gpu")}
    assert found == {"intel-rapl:0": 5.0, "intel-rapl:1": 7.5}


def test_a_machine_without_counters_has_none(tmp_path):
    assert [name for name in read_counters(tmp_path / "absent") if not name.startswith("gpu")] == []


def test_gpus_are_read_where_nvml_is(tmp_path, monkeypatch):
    class NVMLError(Exception):
        pass

    nvml = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=lambda number: 1500 * (number + 1),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert read_counters(tmp_path) == {"gpu:0": (1.5, float("inf")), "gpu:1": (3.0, float("inf"))}

    def fail():
        raise NVMLError

    nvml.nvmlInit = fail
    assert read_counters(tmp_path) == {}


def test_joules_are_summed_and_a_counter_may_start_over():
    before = {"a": (90.0, 100.0), "b": (1.0, float("inf"))}
    assert sum_joules(before, {"a": (5.0, 100.0), "b": (3.5, float("inf"))}) == pytest.approx(15 + 2.5)
    assert sum_joules(before, {"a": (95.0, 100.0)}) == pytest.approx(5)
    assert sum_joules(before, {}) is None
    assert sum_joules({}, before) is None


def test_an_estimate_is_that_of_busy_cores_and_memory():
    assert estimate_joules(10, 0, 4096) == 10 * CORE_W
    assert estimate_joules(0, 10, 2048) == 10 * 2 * MEMORY_W_GIB


def test_readings_are_of_what_was_spent_since_the_one_before():
    joules = iter([1.0, 4.0, 4.5])
    meter = Meter(lambda: {"a": (next(joules), 1e6)})
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    first, second = meter.take(), meter.take()
    assert first.cpu_s >= 0.19
    assert first.wall_s >= 0.19
    assert second.cpu_s < 0.19
    assert (first.joules, second.joules) == (3.0, 0.5)
    assert Meter(dict).take().joules is None


def take_around_a_block():
    """Return the readings while a block is held, after it was given back, and after that."""
    meter = Meter(dict)
    with hold_block():
        held = meter.take()
    return held, meter.take(), meter.take()


@contextlib.contextmanager
def hold_block():
    """Hold 100 MiB of the system's own: what an allocator hands out may be memory that this process has kept."""
    with mmap.mmap(-1, 100 * 2**20) as block:
        block.write(b"x" * len(block))
        yield


def counts_peaks_anew():
    """Tell whether this system does, by a block that is given back."""
    with hold_block():
        pass
    try:
        Path("/proc/self/clear_refs").write_text("5")
        status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) - int(status["VmRSS"].split()[0]) < 50 * 2**10
    except (OSError, KeyError):
        return False


def test_the_peak_is_that_since_the_last_reading_or_not_known():
    is_counted = counts_peaks_anew()
    held, _, after = take_around_a_block()
    assert held.held_mib > 100
    if is_counted:
        assert held.peak_mib == held.held_mib
        assert after.peak_mib < held.peak_mib - 80
    else:
        assert after.peak_mib is None
        assert after.held_mib >= held.held_mib


def make_status(monkeypatch, tmp_path, peak_mib, resident_mib):
    """Let the system say this of memory, and take any request to count anew without doing so."""
    monkeypatch.setattr("thawline.meter.CLEAR_REFS", tmp_path / "clear_refs")
    said = {"VmHWM": peak_mib, "VmRSS": resident_mib}
    monkeypatch.setattr("thawline.meter.read_status_mib", said.get)


def test_a_peak_is_that_of_a_unit_only_where_it_fell_to_what_is_in_use(tmp_path, monkeypatch):
    make_status(monkeypatch, tmp_path, 2217, 700)
    assert not count_peak_anew()
    assert (tmp_path / "clear_refs").read_text() == "5"
    make_status(monkeypatch, tmp_path, 702, 700)
    assert count_peak_anew()
    make_status(monkeypatch, tmp_path, None, 700)
    assert not count_peak_anew()
    make_status(monkeypatch, tmp_path, 702, None)
    assert not count_peak_anew()


def test_a_peak_that_may_not_be_counted_anew_is_not_that_of_a_unit(tmp_path, monkeypatch):
    make_status(monkeypatch, tmp_path / "absent", 700, 700)
    readings = take_around_a_block()
    assert [each.peak_mib for each in readings] == [None, None, None]
    assert min(each.held_mib for each in readings) > 100
    assert readings[0].to_json()["peak_mib"] is None
