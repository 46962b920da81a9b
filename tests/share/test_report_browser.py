"""The page in a real browser: silent, self-contained, narrow enough for a phone, printable."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browsing import FAINT
from thawline.share.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

write_run = runpy.run_path(str(Path(__file__).with_name("test_report.py")))["write_run"]
CLASSES = {
    "binary": ("COVID", "NonCOVID"),
    "three": ("COVID", "normal", "pneumonia"),
    "thirty": tuple(f"finding number {k}" for k in range(30)),
    "long": ("x" * 200, "<script>alert(1)</script>"),
}


@pytest.fixture(scope="module", params=list(CLASSES))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("browser") / "run", CLASSES[request.param], n_patients=90)
    return write_report(run)


@pytest.mark.parametrize("width", [1200, 390, 350])
def test_it_fits_and_asks_for_nothing(browser: Browser, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(report.as_uri(), wait_until="load")  # a long page can be idle before it has been read to its end
    page.wait_for_load_state("networkidle")

    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('img').length") == 6
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate(FAINT) == []
    page.close()


def test_wide_tables_scroll_inside_their_own_box(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(report.as_uri())
    boxes = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert any(inner > outer for inner, outer in boxes)
    assert all(outer <= 390 for _, outer in boxes)
    page.close()


def test_it_prints_with_no_figure_cut(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 844})
    page.goto(report.as_uri())
    pdf = page.pdf(format="A4", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) > 0

    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 without the margins, in CSS pixels
    figures = page.evaluate(
        "[...document.querySelectorAll('figure')].map(f => [f.getBoundingClientRect().height,"
        " f.getBoundingClientRect().right, getComputedStyle(f).breakInside])"
    )
    assert len(figures) >= 4
    assert all(height < 1000 and right <= 680 and kept == "avoid" for height, right, kept in figures)
    tables = page.evaluate("[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)")
    assert max(tables) <= 681
    page.close()
