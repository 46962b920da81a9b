"""Printing: by the browser that is named or installed, else an error that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from thawline.errors import OutputError
from thawline.share import printing
from thawline.share.printing import NAMES, find_browser, print_page


def test_without_a_browser_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("THAWLINE_CHROMIUM", raising=False)
    with pytest.raises(
        OutputError, match=r"none of chromium, .* is installed; install it, name it by THAWLINE_CHROMIUM"
    ):
        print_page(b"<p>", tmp_path)


def test_a_named_browser_comes_first_and_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chromium", "own"):
        (tmp_path / name).write_text("#!/bin/sh\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("THAWLINE_CHROMIUM", raising=False)
    assert find_browser() == str(tmp_path / "chromium")
    monkeypatch.setenv("THAWLINE_CHROMIUM", str(tmp_path / "own"))
    assert find_browser() == str(tmp_path / "own")
    monkeypatch.setenv("THAWLINE_CHROMIUM", "nothing-of-the-kind")
    with pytest.raises(OutputError, match="THAWLINE_CHROMIUM=nothing-of-the-kind is no program"):
        find_browser()


@pytest.mark.parametrize(
    ("script", "said"), [("echo broken >&2", "broken"), ("sleep 5", "timed out"), ("true", "it said nothing")]
)
def test_a_browser_that_prints_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    path = tmp_path / "browser"
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("THAWLINE_CHROMIUM", str(path))
    monkeypatch.setattr(printing, "LIMIT_S", 1)
    with pytest.raises(OutputError, match=f"printed no PDF: .*{said}"):
        print_page(b"<p>", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.browser
def test_a_page_becomes_a_pdf(tmp_path: Path) -> None:
    if not any(map(shutil.which, NAMES)):
        pytest.skip("no Chromium is installed")
    assert print_page(b"<!doctype html><p>words", tmp_path).startswith(b"%PDF")
    assert list(tmp_path.iterdir()) == []
