"""Where a benchmark ran, and the file its figures go to."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("thawline", "numpy", "scipy", "scikit-learn", "torch", "timm", "openvino", "pandas", "Pillow")
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment() -> dict[str, Any]:
    """Return what a figure depends on: GPU, Python, system, processor, cores this process may use, load, versions."""
    from thawline.learn.engine import detect_hardware

    return {
        "gpu": detect_hardware().cuda,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": name_processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "thread_limits": {name: os.environ[name] for name in THREAD_LIMITS if name in os.environ},
        "versions": {name: version for name in PACKAGES if (version := find_version(name))},
    }


def name_processor() -> str:
    """Return the model name of the processor, or what the platform calls it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def find_version(package: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_json(path: Path | str, figures: Mapping[str, Any]) -> None:
    """Write ``figures`` and `environment` to ``path``."""
    content = {"figures": dict(figures), "environment": environment()}
    Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
