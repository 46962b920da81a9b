"""Several labels an item, any of them unknown: how they are written as one text, and read from cells, texts and arrays.

In arrays a label is 1, 0, or `MISSING` where it is not known. As a text, the names of the labels that an item has are joined
by |, one that is not known is written ?NAME, and "none" is said of an item that has none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.errors import DataError
from thawline.types import MISSING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Groups, IntArray, Labels

COLUMN = "label:"  # how the names of columns begin that hold a label each
JOIN, UNKNOWN, NONE = "|", "?", "none"
CELLS = {"1": 1, "true": 1, "0": 0, "false": 0, "": MISSING, "-1": MISSING, "u": MISSING}  # in lower case
UNCERTAIN = ("-1", "u")  # of CheXpert
EXPECTED = "1, 0, or nothing where it is not known (-1 and u, uncertain, count as not known)"
NONE_WORDS = ("", NONE, "no finding", "no findings", "normal", "negative", "healthy", "no", "0")  # _ and - are spaces


def write_labels(row: Sequence[int] | IntArray, names: Sequence[str]) -> str:
    """Write the labels of one item, (labels,), as a text; `parse_labels` reverses it."""
    has = [name for value, name in zip(row, names, strict=True) if value == 1]
    unknown = [f"{UNKNOWN}{name}" for value, name in zip(row, names, strict=True) if value == MISSING]
    return JOIN.join([*has, *unknown]) or NONE


def parse_labels(texts: Sequence[str], names: Sequence[str]) -> Labels:
    """Return the labels of texts as `write_labels` writes them, int64 (items, labels). Raises KeyError for other names."""
    place = {name: index for index, name in enumerate(names)}
    labels = np.zeros((len(texts), len(names)), np.int64)
    for row, text in zip(labels, texts, strict=True):
        for part in text.split(JOIN) if text != NONE else ():
            row[place[part.removeprefix(UNKNOWN)]] = MISSING if part.startswith(UNKNOWN) else 1
    return labels


def find_columns(names: Sequence[str]) -> list[str]:
    """Return the names of the columns that hold a label each."""
    return [name for name in names if name.startswith(COLUMN)]


def name_label(column: str, source: str) -> str:
    """Return the name of the label in a column. Raises DataError for one that no text could hold."""
    name = column.removeprefix(COLUMN).strip()
    if not name or JOIN in name or name.startswith(UNKNOWN) or name.casefold() == NONE:
        raise DataError(
            f"{source}: the column {column!r} names no label; expected a name without {JOIN}, not starting with {UNKNOWN}, "
            f"and other than {NONE!r}, which an item without any label is said to be; call it otherwise"
        )
    return name


def join_cells(records: Mapping[int, Mapping[str, str]], columns: Sequence[str], source: str) -> tuple[list[str], int]:
    """Return the text of each row of cells under the label ``columns``, and how many cells are uncertain.

    ``records`` holds the cells by row number; labels of a text are sorted. Raises DataError, naming column and rows.
    """
    names = {column: name_label(column, source) for column in columns}
    ordered = sorted(columns, key=lambda column: sort_names(names.values()).index(names[column]))
    for column in ordered:
        wrong = {number: cells[column] for number, cells in records.items() if cells[column].lower() not in CELLS}
        if wrong:
            rows = ", ".join(map(str, list(wrong)[:10])) + (", …" if len(wrong) > 10 else "")
            found = ", ".join(sorted({repr(value) for value in wrong.values()})[:5])
            raise DataError(f"{source}: the column {column} holds {found} in row {rows}; expected {EXPECTED}")
    called = [names[column] for column in ordered]
    texts = [write_labels([CELLS[cells[column].lower()] for column in ordered], called) for cells in records.values()]
    return texts, sum(cells[column].lower() in UNCERTAIN for cells in records.values() for column in columns)


def join_texts(texts: Sequence[str], rows: Sequence[int | str], source: str) -> tuple[list[str], tuple[str, ...]]:
    """Return texts of names joined by | as `write_labels` writes them, and the names that occur, sorted.

    Words such as "No Finding" say that an item has none; of a blank text nothing is known. ``rows`` are what items are
    called in a message. Raises DataError for a text that says both.
    """
    parts = [[part.strip() for part in text.split(JOIN)] for text in texts]
    for own, row in zip(parts, rows, strict=True):
        if len(own) > 1 and any(map(_says_none, own)):
            raise DataError(
                f"{source}: {JOIN.join(own)!r} in row {row} names labels and says that there is none (or has a {JOIN} too "
                f"many); expected names joined by {JOIN}, or one word such as No Finding"
            )
    named = {part.removeprefix(UNKNOWN) for own in parts for part in own if not _says_none(part)}
    names = sort_names({name_label(name, source) for name in named})
    table = np.zeros((len(texts), len(names)), np.int64)
    for row_of, own in zip(table, parts, strict=True):
        for part in own if not _says_none(own[0]) else ():
            row_of[names.index(part.removeprefix(UNKNOWN))] = MISSING if part.startswith(UNKNOWN) else 1
        if own == [""]:
            row_of[:] = MISSING
    return [write_labels(row_of, names) for row_of in table], names


def split_cells(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the labels of a text as cells of columns, one a label; `join_cells` reverses it."""
    (row,) = parse_labels([text], names)
    return {f"{COLUMN}{name}": "" if value == MISSING else str(value) for name, value in zip(names, row, strict=True)}


def _says_none(word: str) -> bool:
    """Tell a word that says that there is nothing."""
    return " ".join(word.casefold().replace("_", " ").replace("-", " ").split()) in NONE_WORDS


def read_array(values: NDArray[Any], source: str) -> Labels:
    """Return an array of labels, (items, labels), as int64 of 1, 0 and `MISSING` (NaN, None and -1). Raises DataError."""
    if values.ndim != 2:
        raise DataError(f"{source}: labels of shape {values.shape}; expected (items,), or (items, labels) of 1 and 0")
    try:
        given = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{source}: labels of shape {values.shape} are no numbers: {error}; expected {EXPECTED}"
        ) from error
    given = np.where(np.isnan(given), MISSING, given)
    wrong = np.argwhere(~np.isin(given, (0, 1, MISSING)))
    if len(wrong):
        item, label = map(int, wrong[0])
        raise DataError(
            f"{source}: item {item} has {given[item, label]:g} as its label {label}, {len(wrong)} such in all; expected "
            f"{EXPECTED}"
        )
    return given.astype(np.int64)


def count_values(labels: Labels, groups: Groups, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count of each label the items and patients that have it, those known not to have it, and the items not known."""
    counts = {}
    for name, values in zip(names, labels.T, strict=True):
        has, has_not = values == 1, values == 0
        counts[name] = {
            "items": int(has.sum()),
            "patients": len(np.unique(groups[has])),
            "negative_items": int(has_not.sum()),
            "negative_patients": len(np.unique(groups[has_not])),
            "missing_items": int((values == MISSING).sum()),
        }
    return counts


def find_strata(labels: Labels) -> IntArray:
    """Return one class an item, (items,), to draw items by: of labels the rarest that it has, or that it has none.

    Labels of one class an item are returned as they are.
    """
    if labels.ndim == 1:
        return labels
    has = labels == 1
    order = np.argsort(has.sum(axis=0), kind="stable")
    rarest = order[has[:, order].argmax(axis=1)]
    return np.asarray(np.where(has.any(axis=1), rarest, labels.shape[1]), np.int64)


def contradict(rows: Labels) -> bool:
    """Tell whether some of these items, (items, labels), are known to have a label that others are known not to have."""
    return bool(((rows == 1).any(axis=0) & (rows == 0).any(axis=0)).any())


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort numbers by value where all names are numbers, else names by code point."""
    given = list(names)
    try:
        return tuple(sorted(given, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(given))
