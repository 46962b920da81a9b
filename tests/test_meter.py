"""The meter: counters that are read, that start over, that may not be read; and what stands for them then."""

from __future__ import annotations

import sys
import time
import types

import numpy as np
import pytest

from thawline.meter import CORE_W, MEMORY_W_GIB, Meter, estimate_joules, read_counters, sum_joules


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the peak be counted anew")
def test_the_peak_is_that_since_the_last_reading():
    meter = Meter(dict)
    block = np.ones(100 * 2**20, np.uint8)
    first = meter.take().peak_mib
    del block
    meter.take()
    assert meter.take().peak_mib < first - 80
