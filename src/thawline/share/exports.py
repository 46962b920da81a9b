"""A report in the form that is asked for, its figures as files, and its numbers as CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thawline.errors import OptionError
from thawline.files import require_empty, write_atomic
from thawline.share.markdown import write_markdown
from thawline.share.printing import print_page
from thawline.share.report import draw_figures, render
from thawline.share.results import format_csv
from thawline.share.summary import summarise
from thawline.share.tables import list_tables


def make_html(summary: Mapping[str, Any], folder: Path) -> bytes:  # noqa: ARG001
    """Return the page."""
    return render(summary).encode("utf-8", "replace")


def make_pdf(summary: Mapping[str, Any], folder: Path) -> bytes:
    """Return the page as a browser prints it; it may write into the folder meanwhile."""
    return print_page(make_html(summary, folder), folder)


def make_markdown(summary: Mapping[str, Any], folder: Path) -> bytes:  # noqa: ARG001
    """Return texts and tables as Markdown."""
    return write_markdown(summary).encode("utf-8", "replace")


def make_json(summary: Mapping[str, Any], folder: Path) -> bytes:  # noqa: ARG001
    """Return all that the page says as JSON, without its pictures of items."""
    return (json.dumps(drop_images(summary), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(
        "utf-8", "replace"
    )


FORMS: dict[str, Callable[[Mapping[str, Any], Path], bytes]] = {
    "html": make_html,
    "pdf": make_pdf,
    "md": make_markdown,
    "json": make_json,
}


def export_report(run: Path, form: str = "html", out: Path | None = None) -> Path:
    """Write the report of a run as one of `FORMS` and return its path: ``out``, else report.FORM in the run folder.

    Raises OptionError for another form, ModelError where the run folder is damaged, OutputError where nothing can be
    written or, for PDF, no browser is found.
    """
    if form not in FORMS:
        raise OptionError(f"--format: expected one of {', '.join(FORMS)}; found {form!r}")
    path = out or run / f"report.{form}"
    return write_atomic(path, FORMS[form](summarise(run), path.parent))


def write_figures(run: Path, folder: Path) -> list[Path]:
    """Write every figure of the page into a new folder, as SVG and as PDF; return the paths."""
    require_empty(folder, "figures")
    kept: dict[str, tuple[str, bytes]] = {}
    draw_figures(summarise(run), kept)
    header = '<?xml version="1.0" encoding="utf-8"?>\n'
    files: dict[str, bytes] = {}
    for key, (svg, pdf) in kept.items():
        files |= {f"{key}.svg": (header + svg + "\n").encode("utf-8", "replace"), f"{key}.pdf": pdf}
    return [write_atomic(folder / name, content) for name, content in files.items()]


def write_tables(run: Path, folder: Path) -> list[Path]:
    """Write the numbers of the page into a new folder, a CSV file for each of `tables.TABLES`; return the paths."""
    require_empty(folder, "tables")
    return [
        write_atomic(folder / f"{table.key}.csv", format_csv(table.columns, table.rows))
        for table in list_tables(summarise(run))
    ]


def drop_images(data: Any) -> Any:
    """Return a copy of plain data without what stands under the key ``image``: pictures are parts of patient data."""
    if isinstance(data, Mapping):
        return {key: drop_images(value) for key, value in data.items() if key != "image"}
    return [drop_images(value) for value in data] if isinstance(data, list | tuple) else data
