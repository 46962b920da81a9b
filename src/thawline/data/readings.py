"""What readers said of items, in columns of the table: `reader:NAME`, a call of 0 or 1, or a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError
from thawline.types import Item

if TYPE_CHECKING:
    from thawline.types import FloatArray

COLUMN = "reader:"


def list_readings(items: Sequence[Item]) -> dict[str, FloatArray]:
    """Return for each reader, by name, what they said of each item, float64 of shape (items,); nan where they said nothing.

    A number is the higher, the surer the reader is of the positive class; a reader who says 0 and 1 only makes calls.
    Raises DataError for a cell that is no number, with the column and the place of the item.
    """
    columns = sorted({name for item in items for name in item.metadata if name.startswith(COLUMN)})
    return {
        column.removeprefix(COLUMN).strip(): np.array(
            [_read(column, number, item.metadata.get(column, "")) for number, item in enumerate(items)], np.float64
        )
        for column in columns
    }


def _read(column: str, number: int, cell: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"column {column}, item {number}: expected 0, 1 or a score, or nothing where the reader did not see it; "
            f"found {cell!r}"
        )
    return value
