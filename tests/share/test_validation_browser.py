"""The page of a validation in a real browser, with class names that would break it if they could."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import thawline
from browsing import FAINT
from helpers import Notes, make_films
from thawline.validating import validate

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CALLED = {"lesion": "<script>alert(1)</script>", "healthy": "no " + "x" * 200}


def rename(data: Path, prefix: str) -> Path:
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (data / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            row
            | {"label": CALLED[row["label"]], "patient": prefix + row["patient"], "scanner": f"<b>{row['scanner']}</b>"}
            for row in rows
        )
    return data


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    data = rename(make_films(folder / "data", n_patients=40, contrast=1.0), "a-")
    other = rename(make_films(folder / "other", n_patients=40, contrast=1.0, seed=3), "b-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        thawline.run(data, folder / "run", head="linear", audit="none", listener=Notes())
        return validate(folder / "run", other, folder / "out", listener=Notes()).page


@pytest.mark.parametrize("width", [1200, 390, 350])
def test_it_fits_and_asks_for_nothing(browser: Browser, page_file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('script, main b').length") == 0
    assert page.evaluate(FAINT) == []
    assert asked == [page_file.as_uri()]
    assert complaints == []
    links = page.evaluate("[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash) !== null)")
    assert len(links) >= 6
    assert all(links)
    page.close()
