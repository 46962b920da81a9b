"""A report as Markdown: the texts and tables of the page, readable as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thawline.share.flow import describe_flow
from thawline.share.headline import WHERE
from thawline.share.tables import Cell, Table, list_tables
from thawline.share.words import ABSENT, format_estimate, format_number

LONG = ("flow", "roc", "net_benefit", "risk_coverage")  # curves, and what is told in words: in the CSV files only
SPECIAL = re.compile(r"[\\`*\[\]<>|]")


def write_markdown(summary: Mapping[str, Any]) -> str:
    """Return the report of a summary as Markdown; texts of the data are escaped."""
    part = WHERE[summary["part"]]
    blocks = [
        "# Thawline report",
        f"AUC, {part}: **{format_estimate(summary['auc'])}**. {escape(' '.join(summary['meaning']))}",
        "## In plain words",
        *(f"**{told['heading']}.** {escape(told['text'])}" for told in summary["plain"]),
        *_list_cautions(summary["warnings"]),
        *_list_stated(summary["study"]),
        "## Items and patients",
        escape(describe_flow(summary["flow"])),
        "## Methods",
        escape(summary["methods_text"]),
        "## Numbers",
    ]
    for table in list_tables(summary):
        if table.key not in LONG:
            blocks += [f"### {escape(table.title)}", format_table(table)]
    return "\n\n".join(blocks) + "\n"


def _list_cautions(warnings: Sequence[Mapping[str, str]]) -> list[str]:
    lines = [f"- **{each['level'].capitalize()}.** {escape(each['text'])}" for each in warnings]
    return ["## Warnings", "\n".join(lines)] if lines else []


def _list_stated(rows: Sequence[Mapping[str, str]]) -> list[str]:
    lines = [f"- **{escape(row['name'])}**: {escape(row['value'])}" for row in rows]
    return ["## What is stated of the study", "\n".join(lines)] if lines else []


def format_table(table: Table) -> str:
    """Return a table as Markdown; value, low and high of an estimate become one column."""
    columns, rows = merge_ends(table.columns, table.rows)
    lines = [format_row(columns), format_row("---" for _ in columns), *map(format_row, rows)]
    return "\n".join(lines)


def format_row(cells: Iterable[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def merge_ends(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[list[str], list[list[str]]]:
    """Return names and cells as text, with the three columns of an estimate as one."""
    firsts = [place for place, name in enumerate(columns) if name == "value" or name.endswith("_value")]
    ends = {place + step for place in firsts for step in (1, 2)}
    kept = [place for place in range(len(columns)) if place not in ends]
    names = [escape(columns[place].removesuffix("_value").replace("_", " ")) for place in kept]

    def write(row: Sequence[Cell], place: int) -> str:
        if place not in firsts:
            return format_cell(row[place])
        value, low, high = row[place : place + 3]
        if low is None and high is None:
            return format_cell(value)
        return format_estimate({"value": value, "low": low, "high": high})  # type: ignore[dict-item]

    return names, [[write(row, place) for place in kept] for row in rows]


def format_cell(cell: Cell) -> str:
    """Return a cell as text: numbers with three decimals, an en dash where there is nothing."""
    if cell is None or cell == "":
        return ABSENT
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return format_number(cell) if isinstance(cell, float) else escape(str(cell))


def escape(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(
        lambda found: {"<": "&lt;", ">": "&gt;"}.get(found.group(), "\\" + found.group()), " ".join(text.split())
    )
