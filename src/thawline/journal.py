"""The append-only record of finished units of work: what a killed run resumes from.

A unit has a name and a value: a dict of plain JSON data and numpy arrays. Arrays go to ``units/NAME.npz`` first, then one
line with their digest is appended to ``journal.jsonl`` and synced, so a line is there only when all it names is there.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thawline.errors import OutputError
from thawline.files import file_digest, said_plainly, write_atomic
from thawline.meter import JOULES_WH, Meter, estimate_joules

Value = dict[str, Any]


class Journal:
    """Finished units of one run folder, by name; see the module for what is kept."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.path = run / "journal.jsonl"
        self._lines = self._read()
        self._before, self._resumed = frozenset(self._lines), set[str]()
        self._meter, self._apart = Meter(), dict[str, Any]()

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def unit(self, name: str, compute: Callable[[], Value]) -> Value:
        """Return the value of a finished unit, or compute it, record it and return it."""
        found = self.find(name)
        if found is not None:
            self._resumed |= {name} & self._before
            return found
        began = time.perf_counter()
        value = compute()
        self.record(name, value, time.perf_counter() - began)
        return value

    @property
    def n_resumed(self) -> int:
        """Units that an earlier execution had finished and this one took over."""
        return len(self._resumed)

    def find(self, name: str) -> Value | None:
        """Return the value of a finished unit, None when it is not there whole."""
        line = self._lines.get(name)
        if line is None:
            return None
        value: Value = dict(line["value"])
        if "arrays" in line:
            file = self.run / line["arrays"]["file"]
            if not file.is_file() or file_digest(file) != line["arrays"]["sha256"]:
                return None
            with np.load(file, allow_pickle=False) as arrays:
                value.update({key: arrays[key] for key in arrays.files})
        return value

    def seconds(self, prefix: str) -> float:
        """Return the seconds spent on all units whose name starts with ``prefix``, in this execution or an earlier one."""
        return float(sum(line["seconds"] for name, line in self._lines.items() if name.startswith(prefix)))

    def spent(self, name: str) -> float:
        """Return the seconds of one unit, 0 where it is not there."""
        return float(self._lines[name]["seconds"]) if name in self._lines else 0.0

    def begin(self) -> None:
        """Let the unit that is recorded next cost what is spent from now on.

        What was spent since the last one counts for the run alone.
        """
        self._apart = _add_spent(self._meter.take().to_json(), self._apart)

    def costs(self, prefix: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return what all units whose name starts with ``prefix``, and with none of ``but``, cost: seconds, processor
        seconds, peak memory, energy; without a prefix what the run cost.

        ``peak_rss_mib`` is None where that of a unit is not known, ``held_mib`` what the process had held at most by the end
        of them; see `meter.Spent`. ``energy_wh`` is measured in so far as every unit was, else an estimate. What lies
        between two units counts for the later one, unless it was told to `begin`.
        """
        named = [name for name in self._lines if name.startswith(prefix) and not name.startswith(but)]
        lines = [self._lines[name] for name in named]
        spent = [line.get("spent", {}) for line in lines]
        if not prefix:
            spent += [line["apart"] for line in lines if "apart" in line]
        told = [each for each in spent if each]
        measured = all(each.get("joules") is not None for each in spent)
        joules = [each.get("joules") if measured else _estimate(each) for each in spent]
        return {
            "seconds": round(sum(line["seconds"] for line in lines), 3),
            "cpu_seconds": round(sum(each.get("cpu_s", 0.0) for each in spent), 3),
            "peak_rss_mib": find_peak([each["peak_mib"] for each in told]),
            "held_mib": find_peak([_take_held(each) for each in told]),
            "energy_wh": round(sum(joules) / JOULES_WH, 6),
            "energy_measured": measured,
        }

    def record(self, name: str, value: Mapping[str, Any], seconds: float) -> None:
        """Append a finished unit; raises OutputError when it cannot be written, the earlier ones stay."""
        arrays = {key: item for key, item in value.items() if isinstance(item, np.ndarray)}
        before = self._lines.get(name, {})
        line: dict[str, Any] = {
            "unit": name,
            "seconds": round(seconds, 4),
            "spent": _add_spent(self._meter.take().to_json(), before.get("spent", {})),
            "value": {key: item for key, item in value.items() if key not in arrays},
        }
        if apart := _add_spent(self._apart, before.get("apart", {})):
            line["apart"], self._apart = apart, {}
        if arrays:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            file = write_atomic(
                self.run / "units" / f"{name.replace('/', '-').replace(' ', '_')}.npz", buffer.getvalue()
            )
            line["arrays"] = {"file": file.relative_to(self.run).as_posix(), "sha256": file_digest(file)}
        with said_plainly(self.path), self.path.open("ab") as journal:
            journal.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            journal.flush()
            os.fsync(journal.fileno())
        self._lines[name] = line

    def discard(self, ending: str, prefix: str = "") -> None:
        """Remove the arrays of all units whose name begins and ends so; the lines stay, what they held is found no more."""
        for name, line in self._lines.items():
            if name.startswith(prefix) and name.endswith(ending) and "arrays" in line:
                (self.run / line["arrays"]["file"]).unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, Any]]:
        """Read whole lines; a last line that was cut by a kill is dropped from the file as well."""
        if not self.path.is_file():
            return {}
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            write_atomic(self.path, whole)
        lines = {}
        texts = whole.decode("utf-8", "replace").split("\n")[:-1]  # not splitlines: JSON may hold other line ends
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
                lines[line["unit"]] = {**line, "value": dict(line["value"]), "seconds": float(line["seconds"])}
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(
                    f"{self.path}, line {number}: expected one JSON object a line, found {text[:60]!r}; "
                    "the journal was changed by hand. Start over with --no-resume or another --out"
                ) from error
        return lines


class Branch(Journal):
    """Units of a journal under a name of their own, for work that is done several times; what they cost is the journal's."""

    def __init__(self, trunk: Journal, name: str) -> None:
        self.run, self.path = trunk.run, trunk.path
        self._trunk, self._name = trunk, f"{name} "

    def __contains__(self, name: str) -> bool:
        return self._name + name in self._trunk

    def unit(self, name: str, compute: Callable[[], Value]) -> Value:
        """Return the value of a finished unit, or compute it, record it and return it."""
        return self._trunk.unit(self._name + name, compute)

    @property
    def n_resumed(self) -> int:
        """Units of the whole journal that an earlier execution had finished and this one took over."""
        return self._trunk.n_resumed

    def find(self, name: str) -> Value | None:
        """Return the value of a finished unit, None when it is not there whole."""
        return self._trunk.find(self._name + name)

    def seconds(self, prefix: str) -> float:
        """Return the seconds spent on all units whose name starts with ``prefix``, in this execution or an earlier one."""
        return self._trunk.seconds(self._name + prefix)

    def spent(self, name: str) -> float:
        """Return the seconds of one unit, 0 where it is not there."""
        return self._trunk.spent(self._name + name)

    def begin(self) -> None:
        """Let the unit that is recorded next cost what is spent from now on."""
        self._trunk.begin()

    def costs(self, prefix: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return what all units whose name starts with ``prefix``, and with none of ``but``, cost."""
        return self._trunk.costs(self._name + prefix, tuple(self._name + name for name in but))

    def record(self, name: str, value: Mapping[str, Any], seconds: float) -> None:
        """Append a finished unit."""
        self._trunk.record(self._name + name, value, seconds)

    def discard(self, ending: str, prefix: str = "") -> None:
        """Remove the arrays of all units whose name begins and ends so."""
        self._trunk.discard(ending, self._name + prefix)


def _estimate(spent: Mapping[str, Any]) -> float:
    """Return the joules that a unit may have cost; 0 for one that was recorded without what it spent."""
    return estimate_joules(spent["cpu_s"], spent["wall_s"], _take_held(spent)) if spent else 0.0


def _add_spent(spent: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was spent now and before, each as `Spent.to_json` has it, or nothing."""
    if not spent or not before:
        return {**spent, **before}
    return {
        **{key: round(spent[key] + before[key], 3) for key in ("cpu_s", "wall_s")},
        "joules": None if spent["joules"] is None else round(spent["joules"] + (before["joules"] or 0.0), 3),
        "peak_mib": find_peak([spent["peak_mib"], before["peak_mib"]]),
        "held_mib": max(spent["held_mib"], _take_held(before)),
    }


def _take_held(spent: Mapping[str, Any]) -> int:
    """Return what the process held at most, in MiB; of a unit that was recorded before this was told apart, its peak."""
    return int(spent.get("held_mib", spent["peak_mib"]))


def find_peak(peaks: Sequence[int | None]) -> int | None:
    """Return the largest of several peaks, None where there is none or one is not known."""
    known = [peak for peak in peaks if peak is not None]
    return max(known, default=None) if len(known) == len(peaks) else None
