"""Lesions of a patient, in the column `lesion` of the table: several images may be of one, as views or frames of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thawline.types import Item

if TYPE_CHECKING:
    from thawline.types import IntArray


def number_lesions(items: Sequence[Item]) -> IntArray | None:
    """Return which lesion each item is of, counted from 0, shape (items,); None where no item names one.

    Lesions are named within a patient: "1" of two patients are two lesions. An item that names none is one of its own.
    """
    if not any(item.lesion for item in items):
        return None
    numbers: dict[tuple[str, str], int] = {}
    keys = [(item.patient, item.lesion) if item.lesion else ("", item.path) for item in items]  # no patient is empty
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
