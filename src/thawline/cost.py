"""Time limits, peak memory, and what this process may use."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import sys
from pathlib import Path

from thawline.errors import OptionError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def read_duration(text: str) -> float:
    """Read ``90s``, ``20m`` or ``2h`` into seconds; the unit is mandatory, ``none`` is without end. Raises OptionError."""
    if text.strip() == "none":
        return math.inf
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text)
    if match is None or float(match[1]) == 0:
        raise OptionError(f"expected a time with its unit, such as 90s, 20m or 2h, or none; found {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def peak_rss_mib() -> int:
    """Largest resident memory of this process so far, in MiB.

    Of Linux it is that of the program that runs: `getrusage` would count what the process that started it held.
    """
    if (own := read_status_mib("VmHWM")) is not None:
        return own
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))


def read_status_mib(field: str) -> int | None:
    """Return what Linux says of the memory of this process in one field, in MiB; None elsewhere."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", _read_first(Path("/proc/self/status")), re.MULTILINE)
    return int(found[1]) // 2**10 if found else None


def count_cores() -> int:
    """Cores this process may use: its affinity, cut by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_first(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def count_memory_mib() -> int:
    """Memory this process may use, in MiB: the machine's, cut by a container's limit."""
    import psutil

    limit = _read_first(Path("/sys/fs/cgroup/memory.max")).strip()
    total = int(psutil.virtual_memory().total)
    return min(total, int(limit)) // 2**20 if limit.isdigit() else total // 2**20


def _read_first(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def read_processor_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor as the system does."""
    return read_processor(path, "model name") or platform.processor() or platform.machine() or "unknown"


def read_processor(path: Path, field: str) -> str:
    """Return a field of the first processor that the system describes, or nothing."""
    with contextlib.suppress(OSError):
        for line in path.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""
