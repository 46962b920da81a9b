"""The run folder: one run's state, and nothing of another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from thawline.errors import OutputError
from thawline.files import said_plainly, write_json
from thawline.journal import Journal

OWN_FILES = (
    "spec.json",
    "fingerprint.json",
    "audit.json",
    "plan.json",
    "splits.csv",
    "journal.jsonl",
    "predictions.csv",
    "predictions_nested.csv",
    "metrics.json",
    "examples.json",
    "report.html",
    "report.pdf",
    "report.md",
    "report.json",
)
NESTED_FOLDER = "nested"  # of what nested cross-validation has half done
VALIDATIONS = "validations"  # on other data, of the model that the run delivered: gone with it
OWN_FOLDERS = ("model", "units", "examples", NESTED_FOLDER, VALIDATIONS)
ENVIRONMENT = ("environment", "schema", "thawline")  # parts of the spec that may change between two sittings


def open_run(run: Path, spec: dict[str, Any], *, resume: bool) -> Journal:
    """Make or reopen the run folder for exactly this spec. Raises OutputError where it holds anything else."""
    with said_plainly(run):
        run.mkdir(parents=True, exist_ok=True)
        holds = sorted(path.name for path in run.iterdir() if not path.name.startswith(".writing-"))
    if holds and "spec.json" not in holds:
        raise OutputError(
            f"--out {run}: expected a new or empty folder, found {', '.join(holds[:5])}; choose another folder"
        )
    refused = holds == ["spec.json"] and _is_spec(run / "spec.json")  # before its first finished unit: nothing to lose
    if holds and not refused:
        _check_same(run, spec)
    if refused or (holds and not resume):
        _clear(run)
    if not (run / "spec.json").is_file():
        write_json(run / "spec.json", spec)
    return Journal(run)


def _is_spec(path: Path) -> bool:
    try:
        spec = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(spec, dict) and "thawline" in spec and isinstance(spec.get("options"), dict)


def _check_same(run: Path, spec: dict[str, Any]) -> None:
    try:
        found = json.loads((run / "spec.json").read_text("utf-8"))
        pairs = {key: (found.get(key), value) for key, value in spec.items() if key not in ENVIRONMENT}
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(f"{run / 'spec.json'}: cannot be read ({error}); choose another --out") from error
    different = [key for key, (old, new) in pairs.items() if old != new]
    if "options" in different:
        old, new = pairs["options"]
        old = old if isinstance(old, dict) else {}
        changed = [
            f"{key}: {old.get(key)!r} there, {value!r} now" for key, value in new.items() if old.get(key) != value
        ]
        raise OutputError(f"--out {run} holds another run ({'; '.join(changed)}); choose another folder")
    if different:
        raise OutputError(f"--out {run} holds another run (of other {', '.join(different)}); choose another folder")


def _clear(run: Path) -> None:
    """Remove what a run wrote, and nothing else."""
    with said_plainly(run):
        for name in OWN_FILES:
            (run / name).unlink(missing_ok=True)
        for name in OWN_FOLDERS:
            shutil.rmtree(run / name, ignore_errors=True)
