"""What work costs beside time: processor seconds, memory, energy; taken between one unit of work and the next.

Energy is read from the processor's own counters (RAPL, as Linux shows them) and from NVIDIA's (NVML, where the package
nvidia-ml-py is installed). Where there are none, or they may not be read, it is estimated from what the processor and the
memory did, and called an estimate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thawline.cost import peak_rss_mib, read_status_mib

POWERCAP = Path("/sys/class/powercap")
CORE_W, MEMORY_W_GIB = 12.0, 0.4  # Lannelongue et al., Green Algorithms, Advanced Science 8:2100707 (2021), rounded
ESTIMATE = f"estimated: {CORE_W:g} W for a busy core, {MEMORY_W_GIB:g} W for a GiB in use; no counter could be read"
MEASURED = "measured: counters of the processors (RAPL) and GPUs (NVML) of the whole machine"
JOULES_WH = 3600.0
CLEAR_REFS = Path("/proc/self/clear_refs")
BATCHES_MIB = 16  # by which a peak that was counted anew may be above what is in use: the kernel counts in batches

Counters = Mapping[str, tuple[float, float]]  # name: joules so far, and at how many the counter starts over


@dataclasses.dataclass(frozen=True, slots=True)
class Spent:
    """What was spent since the reading before: processor seconds of all threads, peak memory, joules, seconds of the clock.

    ``peak_mib`` is None where it is not counted anew, ``held_mib`` is then the peak of the process so far, else the same.
    ``joules`` is None where no counter could be read.
    """

    cpu_s: float
    peak_mib: int | None
    held_mib: int
    joules: float | None
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as the journal holds it."""
        joules = None if self.joules is None else round(self.joules, 1)
        return {
            "cpu_s": round(self.cpu_s, 3),
            "peak_mib": self.peak_mib,
            "held_mib": self.held_mib,
            "joules": joules,
            "wall_s": round(self.wall_s, 3),
        }


class Meter:
    """Reads what this process has spent since it was last read."""

    def __init__(self, read: Callable[[], Counters] | None = None) -> None:
        self._read = read or read_counters
        self._cpu_s, self._at, self._counters = _cpu_seconds(), time.perf_counter(), self._read()
        self._is_anew = count_peak_anew()

    def take(self) -> Spent:
        """Return what was spent since the last reading, and begin anew."""
        cpu_s, at, counters = _cpu_seconds(), time.perf_counter(), self._read()
        joules = sum_joules(self._counters, counters)
        held_mib = peak_rss_mib()
        peak_mib = held_mib if self._is_anew else None
        spent = Spent(cpu_s - self._cpu_s, peak_mib, held_mib, joules, at - self._at)
        self._cpu_s, self._at, self._counters = cpu_s, at, counters
        self._is_anew = count_peak_anew()
        return spent


def sum_joules(before: Counters, after: Counters) -> float | None:
    """Return the joules between two readings of the same counters, None where there are none; one may have started over."""
    common = [name for name in after if name in before]
    if not common:
        return None
    return sum((after[name][0] - before[name][0]) % after[name][1] for name in common)


def estimate_joules(cpu_s: float, wall_s: float, held_mib: float) -> float:
    """Return an estimate of the joules: see `ESTIMATE`."""
    return cpu_s * CORE_W + wall_s * held_mib / 2**10 * MEMORY_W_GIB


def read_counters(folder: Path = POWERCAP) -> Counters:
    """Return the counters of energy of this machine's processors and GPUs that may be read.

    They count what the whole machine uses, other programs' work included. Of nested counters the outermost is read.
    """
    found: dict[str, tuple[float, float]] = {}
    with contextlib.suppress(OSError):
        for zone in sorted(folder.glob("*-rapl:*")):
            if zone.name.count(":") == 1:
                with contextlib.suppress(OSError, ValueError):
                    used, most = (float((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
                    found[zone.name] = used / 1e6, most / 1e6
    return found | _read_gpus()


def _read_gpus() -> dict[str, tuple[float, float]]:
    """Return the joules of each NVIDIA GPU since its driver was loaded; nothing without NVML."""
    try:
        import pynvml
    except ImportError:
        return {}
    found = {}
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for number in range(pynvml.nvmlDeviceGetCount()):
            used_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(number))
            found[f"gpu:{number}"] = used_mj / 1e3, float("inf")
    return found


def _cpu_seconds() -> float:
    """Return the processor seconds of this process and of those that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def count_peak_anew() -> bool:
    """Let the kernel count the peak of memory anew; False where it does not, as without Linux and in some sandboxes.

    A sandbox may also accept the request and do nothing: the peak then stays above what is in use.
    """
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    peak_mib, resident_mib = read_status_mib("VmHWM"), read_status_mib("VmRSS")
    return peak_mib is not None and resident_mib is not None and peak_mib - resident_mib <= BATCHES_MIB
