"""Manifests: tables (CSV or Parquet) that name the items, their labels, and often their patients and split."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from thawline.data.label_sets import COLUMN, find_columns, join_cells, join_texts, name_label, sort_names
from thawline.errors import DataError, bullets
from thawline.types import Split

if TYPE_CHECKING:
    Table = tuple[list[str], list[tuple[int, list[str]]]]  # column names as found; (row number, cells) of each row

EXTENSIONS = (".csv", ".tsv", ".parquet")
NAMES = ("manifest.csv", "manifest.parquet")  # what a data folder may hold
LABEL_NAMES = ("labels.csv", "labels.parquet")  # what a folder of DICOM files may hold
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
KNOWN = ("path", "label", "patient", "lesion", "split")
JOINS = {  # what a table of labels may name DICOM objects by, finest first, and how its columns may be called
    "instance": ("instance", "instanceuid", "sopinstanceuid"),
    "series": ("series", "seriesuid", "seriesinstanceuid"),
    "study": ("study", "studyuid", "studyinstanceuid"),
    "accession": ("accession", "accessionnumber"),
    "patient": ("patient", "patientid"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of a manifest. ``number`` is the row as a spreadsheet shows it; blank cells are empty strings.

    Several labels are one text, see `label_sets`.
    In a table of labels ``path`` is the value of the column that it is joined by.
    """

    number: int
    path: str
    label: str
    patient: str
    split: Split | None
    metadata: dict[str, str]
    lesion: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The rows in the order of the file; ``patients_given`` where at least one row names a patient.

    ``column`` is ``path``, or that of `JOINS` by which a table of labels is joined. ``names`` are those of the labels where
    rows have several, else None; ``n_uncertain`` counts the cells that say so.
    """

    rows: tuple[Row, ...]
    patients_given: bool
    split_given: bool
    column: str = "path"
    names: tuple[str, ...] | None = None
    n_uncertain: int = 0


def read_manifest(path: Path, *, need_label: bool = True, joined: bool = False) -> Manifest:
    """Read and check a manifest: columns ``path`` and ``label``, optional ``patient``, ``lesion``, ``split``, others kept.

    CSV is UTF-8, separated by comma, semicolon or tab; rows count from 1 for the header. Parquet rows count from 1
    for the first. Column names are compared in lower case. Without ``need_label`` (prediction) only ``path`` is needed
    and labels may be blank. Columns ``label:NAME`` in place of ``label`` hold a label each, and with ``joined`` the column
    ``label`` several names with | between them. Raises DataError, naming rows, for anything missing, doubled or
    contradictory.
    """
    names, table = _read_table(path, ("path",))
    _check_columns(path, names, ("path", *_need_label(path, names)) if need_label else ("path",))
    return _read_rows(path, names, table, need_label, joined=joined)


def read_labels(path: Path, *, joined: bool = False) -> Manifest:
    """Read and check a table of labels: ``label``, and what names DICOM objects, the finest of `JOINS` that is there.

    A coarser ``patient`` groups, other columns of `JOINS` are left out. Values of patients may be identities, so that
    messages name rows only. Raises DataError as `read_manifest` does.
    """
    aliases = {alias: name for name, known in JOINS.items() for alias in known}
    names, table = _read_table(path, tuple(aliases))
    names = [aliases.get(re.sub(r"[^a-z]", "", name), name) for name in names]
    column = next((name for name in JOINS if name in names), "")
    if not column:
        found = ", ".join(map(repr, names))
        raise DataError(f"{path.name} has none of the columns {', '.join(JOINS)} to join labels by; found {found}")
    _check_columns(path, names, (column, *_need_label(path, names)))
    names = ["path" if name == column else "" if name in JOINS and name != "patient" else name for name in names]
    return dataclasses.replace(_read_rows(path, names, table, True, column, joined=joined), column=column)


def _read_table(path: Path, keys: Sequence[str]) -> Table:
    """Return the names of the columns in lower case without white space, and the cells likewise, without blank rows."""
    columns, table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path, keys)
    table = [(number, [cell.strip() for cell in cells]) for number, cells in table if any(map(str.strip, cells))]
    if not table:
        raise DataError(f"{path.name} holds column names but no rows; expected a row an image")
    return [_fold_name(name.strip()) for name in columns], table


def _fold_name(column: str) -> str:
    """Return the name of a column in lower case; what stands after ``label:`` is the name of a label, and stays."""
    known = column.lower().startswith(COLUMN)
    return COLUMN + column[len(COLUMN) :].strip() if known else column.lower()


def _need_label(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the column of labels that is needed: none beside columns of one label each. Raises DataError for both."""
    columns = find_columns(names)
    if columns and "label" in names:
        raise DataError(f"{path.name} has the column label and {', '.join(columns)}; keep one way of saying the labels")
    return () if columns else ("label",)


def _read_rows(
    path: Path,
    names: Sequence[str],
    table: Sequence[tuple[int, list[str]]],
    need_label: bool,
    column: str = "path",
    *,
    joined: bool = False,
) -> Manifest:
    """Check the cells under these names and make rows of them."""
    records = [(number, dict(zip(names, cells, strict=False))) for number, cells in table]
    several = need_label and (joined or bool(find_columns(names)))
    _refuse_blank(path, records, {"path": column} | ({"label": "label"} if need_label and not several else {}))
    labels, label_names, n_uncertain = _join_labels(path, names, records) if several else ([], None, 0)
    splits = _read_splits(path, records) if need_label else [None] * len(records)
    rows = tuple(
        Row(
            number=number,
            path=record["path"],
            label=labels[place] if several else _shorten_number(record.get("label", "")),
            patient=record.get("patient", ""),
            split=split,
            metadata={
                name: value
                for name, value in record.items()
                if name and name not in KNOWN and not name.startswith(COLUMN)
            },
            lesion=record.get("lesion", ""),
        )
        for place, ((number, record), split) in enumerate(zip(records, splits, strict=True))
    )
    if column == "path":
        _refuse_repeats(path, rows, need_label)
    else:
        _refuse_repeated_values(path, rows, column)
    return Manifest(
        rows,
        any(row.patient for row in rows),
        any(split is not None for split in splits),
        names=label_names,
        n_uncertain=n_uncertain,
    )


def _join_labels(
    path: Path, names: Sequence[str], records: Sequence[tuple[int, dict[str, str]]]
) -> tuple[list[str], tuple[str, ...], int]:
    """Return the several labels of each row as a text, the names that occur, and how many cells are uncertain."""
    columns = find_columns(names)
    if columns:
        cells = {
            number: {name: _shorten_number(record.get(name, "")) for name in columns} for number, record in records
        }
        texts, n_uncertain = join_cells(cells, columns, path.name)
        return texts, sort_names(name_label(column, path.name) for column in columns), n_uncertain
    said = [record.get("label", "") for _, record in records]
    return (*join_texts(said, [number for number, _ in records], path.name), 0)


def _read_csv(path: Path, keys: Sequence[str]) -> Table:
    """Return the cells of a CSV file as they are; too long a row and broken quotes are refused."""
    text = _read_text(path)
    header = text.split("\n", 1)[0]
    separator = _sniff_separator(header, keys)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = list(reader)
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: {error}; check the quotes around that place") from error
    if not lines or not any(cell.strip() for cell in lines[0]):
        raise DataError(f"{path.name} starts with a blank line; expected the column names path,label")
    columns = lines[0]
    long = [number for number, cells in enumerate(lines, start=1) if len(cells) > len(columns)]
    if long:
        raise DataError(
            f"{path.name}: {_name_rows(long)} with more than the {len(columns)} fields of the header; fields that hold "
            f"a {SEPARATORS[separator]} need double quotes around them"
        )
    return columns, list(enumerate(lines[1:], start=2))


def _read_text(path: Path) -> str:
    """Decode as UTF-8, with or without byte-order mark; other encodings are refused, never guessed."""
    data = _read_bytes(path)
    if not data.strip():
        raise DataError(f"{path.name} is empty; expected the column names path,label and a row an image")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data:
        raise DataError(f"{path.name} is not UTF-8 but looks like UTF-16 or a binary file; save it as CSV UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(
            f"{path.name} is not UTF-8: byte 0x{data[start]:02x} at offset {start}, line {data[:start].count(10) + 1}; "
            "save it as CSV UTF-8 (a spreadsheet offers this under 'save as'), since names must not be guessed"
        ) from error


def _read_bytes(path: Path) -> bytes:
    """Read a file; raises DataError where that is impossible."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _sniff_separator(header: str, keys: Sequence[str]) -> str:
    """Choose the separator whose cells include one of ``keys``, and of those the one that makes the most cells."""

    def rate(separator: str) -> tuple[bool, int]:
        cells = [re.sub(r"[^a-z]", "", cell.lower()) for cell in header.split(separator)]
        return not set(keys).isdisjoint(cells), len(cells)

    return max(SEPARATORS, key=rate)


def _read_parquet(path: Path) -> Table:
    """Return the cells of a Parquet file as text: whole numbers without a fraction, missing values blank."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(io.BytesIO(_read_bytes(path))).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
    columns = [str(name) for name in table.column_names if not str(name).startswith("__index_level_")]
    cells = [[_to_text(value) for value in table.column(name).to_pylist()] for name in columns]
    return columns, [(number, list(row)) for number, row in enumerate(zip(*cells, strict=True), start=1)]


def _to_text(value: Any) -> str:
    """Write a Parquet value as a CSV would hold it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _shorten_number(label: str) -> str:
    """Write 1.0 as 1: spreadsheets and data frames turn whole numbers into fractions."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", label)


def _check_columns(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse missing and doubled columns."""
    missing = [name for name in needed if name not in names]
    if missing:
        found = ", ".join(map(repr, names))
        wanted = ",".join(needed) if needed[0] != "path" else "path,label[,patient,lesion,split]"
        raise DataError(f"{path.name} has no column {' and '.join(missing)}; found {found}; expected {wanted}")
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise DataError(f"{path.name} has the column {', '.join(doubled)} more than once; keep one")


def _refuse_blank(path: Path, records: Sequence[tuple[int, dict[str, str]]], names: Mapping[str, str]) -> None:
    """Refuse rows without a value in a column that needs one; ``names`` are keys of the records and how they are called."""
    for key, name in names.items():
        blank = [number for number, record in records if not record.get(key)]
        if blank:
            raise DataError(f"{path.name}: no {name} in {_name_rows(blank)}; fill in or remove")


def _read_splits(path: Path, records: Sequence[tuple[int, dict[str, str]]]) -> list[Split | None]:
    """Return the split of each row; all None where the column is absent or blank throughout."""
    values = [record.get("split", "").lower() for _, record in records]
    if not any(values):
        return [None] * len(records)
    blank = [number for (number, _), value in zip(records, values, strict=True) if not value]
    if blank:
        raise DataError(f"{path.name}: no split in {_name_rows(blank)}, but in others; fill in all rows or none")
    unknown = [(number, value) for (number, _), value in zip(records, values, strict=True) if value not in SPLITS]
    if unknown:
        found = ", ".join(sorted({repr(value) for _, value in unknown})[:5])
        rows = _name_rows([number for number, _ in unknown])
        raise DataError(f"{path.name}: split {found} in {rows}; expected {', '.join(get_args(Split))}")
    return [SPLITS[value] for value in values]


def _refuse_repeats(path: Path, rows: Sequence[Row], need_label: bool) -> None:
    """Refuse a path that stands in two rows: with one label it would be counted twice, with two it contradicts."""
    by_path: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_path[posixpath.normpath(row.path.replace("\\", "/"))].append(row)
    repeats = {name: same for name, same in by_path.items() if len(same) > 1}
    torn = {name: same for name, same in repeats.items() if len({row.label for row in same}) > 1}
    if torn and need_label:
        lines = [
            f"{name}: " + ", ".join(f"{row.label} (row {row.number})" for row in same) for name, same in torn.items()
        ]
        raise DataError(f"{path.name}: {len(torn)} paths have two labels; keep the right one:\n{bullets(lines)}")
    if repeats:
        lines = [f"{name}: {_name_rows([row.number for row in same])}" for name, same in repeats.items()]
        raise DataError(f"{path.name}: {len(repeats)} paths stand in more than one row; remove one:\n{bullets(lines)}")


def _refuse_repeated_values(path: Path, rows: Sequence[Row], column: str) -> None:
    """Refuse a value that stands in two rows, by the rows: the value may be an identity."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.path].append(row.number)
    repeats = [_name_rows(same) for same in numbers.values() if len(same) > 1]
    if repeats:
        raise DataError(
            f"{path.name}: {len(repeats)} values of the column {column} stand in more than one row; keep the row that is "
            f"right:\n{bullets(repeats)}"
        )


def _name_rows(numbers: Sequence[int], shown: int = 10) -> str:
    """Write ``row 5`` or ``rows 5, 7, …``, cut with a count."""
    rest = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:shown]))}{rest}"
