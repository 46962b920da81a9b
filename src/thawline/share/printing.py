"""A page as PDF, through the print of a browser that is installed; no network, no script."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from thawline.errors import OutputError
from thawline.files import said_plainly

VARIABLE = "THAWLINE_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing is looked up, whatever the page or the browser may ask for
    "--no-pdf-header-footer",
)
LIMIT_S = 120


def find_browser() -> str:
    """Return the browser that prints: the one that `THAWLINE_CHROMIUM` names, else the first of `NAMES` that is installed.

    Raises OutputError where there is none.
    """
    named = os.environ.get(VARIABLE)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        what = f"{VARIABLE}={named} is no program" if named else f"none of {', '.join(NAMES)} is installed"
        raise OutputError(
            f"a PDF is printed by Chromium, and {what}; install it, name it by {VARIABLE}, or open report.html in any "
            "browser and print it from there"
        )
    return found


def print_page(page: bytes, folder: Path) -> bytes:
    """Return an HTML page as PDF; ``folder`` is where the browser may write for the time being. Raises OutputError."""
    browser = find_browser()
    with said_plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="printing-", dir=folder) as name:
            place = Path(name).resolve()
            (place / "page.html").write_bytes(page)
            said = _start(browser, place)
            pdf = place / "page.pdf"
            content = pdf.read_bytes() if pdf.is_file() else b""
    if not content.startswith(b"%PDF"):
        raise OutputError(f"{browser} printed no PDF: {said or 'it said nothing'}; try another by {VARIABLE}")
    return content


def _start(browser: str, place: Path) -> str:
    """Let the browser print page.html to page.pdf in a folder; return the end of what it said."""
    command = [browser, *FLAGS, f"--user-data-dir={place / 'profile'}", f"--print-to-pdf={place / 'page.pdf'}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # it refuses to start for root with one; the page is our own and has no script
    command.append((place / "page.html").as_uri())
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.decode("utf-8", "replace").strip()[-300:]
