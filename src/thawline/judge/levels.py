"""What several items are images of, a patient or a lesion of one: metrics of their mean probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from thawline.errors import DataError
from thawline.judge.metrics import check_lengths
from thawline.types import plain

if TYPE_CHECKING:
    from thawline.types import Estimate, Groups, IntArray


class Grouped(Protocol):
    """Items judged, with the patient and, where these are known, the lesion that each is of, counted from 0."""

    @property
    def patients(self) -> IntArray:
        """One number an item."""

    @property
    def lesions(self) -> IntArray | None:
        """One number an item, None where lesions are not known."""


AnySheet = TypeVar("AnySheet", bound=Grouped)


def number_scored(lesions: IntArray | None, groups: Groups, scored: IntArray) -> IntArray | None:
    """Return the lesion of each of the ``scored`` items, counted from 0; None without ``lesions``, shape (items,).

    ``groups`` are the patients of all items. Raises DataError where a lesion has items of two patients.
    """
    if lesions is None:
        return None
    check_lengths(groups=groups, lesions=lesions)
    patients = np.asarray(groups)[scored]
    _, first, units = np.unique(np.asarray(lesions)[scored], return_index=True, return_inverse=True)
    torn = patients != patients[first][units]
    if torn.any():
        place = int(torn.argmax())
        raise DataError(
            f"A lesion must be of one patient; rows {scored[first[units[place]]]} and {scored[place]} are of one lesion "
            f"and of patients {patients[first[units[place]]]} and {patients[place]}."
        )
    return np.asarray(units, np.int64)


def judge_levels(
    sheet: AnySheet,
    merge: Callable[[AnySheet, IntArray], AnySheet | None],
    estimate: Callable[[AnySheet], Mapping[str, Estimate]],
) -> dict[str, Any]:
    """Return ``patient_level`` and, where lesions are known, ``lesion_level`` as plain data, None where that adds nothing.

    ``merge`` makes one row of all items of the same number, or none where these disagree, and None of no rows at all.
    """
    found: dict[str, Any] = {}
    for name, units in (("patient", sheet.patients), ("lesion", sheet.lesions)):
        if units is not None:
            n_units = int(units.max()) + 1
            merged = merge(sheet, units) if n_units < len(units) else None
            found[f"{name}_level"] = merged and {
                **_count_units(name, merged.patients, n_units),
                **{metric: plain(each) for metric, each in estimate(merged).items()},
            }
    return found


def _count_units(name: str, patients: IntArray, n_units: int) -> dict[str, int]:
    """Return how many patients are told of, or how many lesions of how many patients, and how many disagree in label."""
    if name == "patient":
        return {"n_patients": len(patients)}
    return {
        "n_lesions": len(patients),
        "n_patients": len(np.unique(patients)),
        "n_left_out": n_units - len(patients),
    }
