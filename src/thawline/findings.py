"""What an examination of this machine finds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Literal

Status = Literal["ok", "missing", "wrong"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``remedy`` says what to do where it is not ok, ``needed`` whether a run depends on it."""

    name: str
    section: str
    status: Status
    found: str
    remedy: str = ""
    needed: bool = False


def judge(name: str, section: str, found: str, remedy: str, *, fits: bool, needed: bool = False) -> Finding:
    """Return a finding that is ok, or wrong with its remedy."""
    return Finding(name, section, "ok" if fits else "wrong", found, "" if fits else remedy, needed)


def find_version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def say_error(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
