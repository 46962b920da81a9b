"""How often a test part was opened: a site's own memory, beside its runs.

The ledger lies in the user's data folder of Thawline (``THAWLINE_DATA`` moves it). It holds digests and times only: a
digest of the test items' pixels and the digest of the plan that was fixed before they were opened.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from platformdirs import user_data_path


def data_path() -> Path:
    """Where Thawline keeps what it knows of this machine: ``THAWLINE_DATA``, else the user's data folder."""
    folder = os.environ.get("THAWLINE_DATA")
    return Path(folder) if folder else user_data_path("thawline", appauthor=False)


def ledger_path() -> Path:
    """Where the ledger lies on this machine."""
    return data_path() / "test_openings.jsonl"


def digest_test(pixel_digests: Iterable[str]) -> str:
    """Digest of a test part: of the sorted pixel digests of its items, so order and names do not matter."""
    return hashlib.sha256("\n".join(sorted(pixel_digests)).encode()).hexdigest()


def record_opening(test_digest: str, plan_digest: str) -> dict[str, int]:
    """Note that a plan opens a test part; return how often it was opened so far and by how many different plans.

    Raises OSError where the ledger cannot be written: the caller says so in the report.
    """
    path = ledger_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.is_file() and not path.read_bytes().endswith(b"\n")  # by a kill: keep the new line apart from it
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as ledger:
        ledger.write("\n" * torn + json.dumps({"test": test_digest, "plan": plan_digest, "at": now}) + "\n")
    lines = path.read_text("utf-8", errors="replace").splitlines()
    openings = [line for line in map(_read_line, lines) if line[0] == test_digest]
    return {"count": len(openings), "plans": len({plan for _, plan in openings})}


def _read_line(text: str) -> tuple[str, str]:
    try:
        line = json.loads(text)
        return str(line["test"]), str(line["plan"])
    except (ValueError, KeyError, TypeError):  # a line cut by a kill counts for nothing
        return "", ""
