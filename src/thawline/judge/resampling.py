"""Metrics under resamples of patients: all of an evaluation from one set of them.

Nearly all metrics are ratios of sums over items, so each patient's sums are taken once and a resample is one row of a matrix
product. The value itself is the resample in which every patient is drawn once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import numpy as np

from thawline.judge.statistics import interval, iterate_patient_counts, list_blocks

if TYPE_CHECKING:
    from thawline.types import Estimate, FloatArray, IntArray, Labels

    Resampled: TypeAlias = dict[str, FloatArray]  # (resamples,), or (resamples, classes) for names in class_*


class Judged(Protocol):
    """What a resampling needs to know of the items judged."""

    @property
    def labels(self) -> Labels:
        """One row an item."""

    @property
    def n_patients(self) -> int:
        """The columns of a resampling."""


AnySheet = TypeVar("AnySheet", bound=Judged)


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """The metrics of a sheet: with every patient drawn once, under resamples, and without a patient, or some, in turn."""

    points: Resampled
    resampled: Resampled
    without: Resampled

    def estimate(
        self, name: str, n_patients: int, level: float, largest: float | None = 1.0, column: int | None = None
    ) -> Estimate:
        """Return a metric, or that of one class, with the interval of `interval`; the calibration error is recentred."""
        found, resampled, without = (
            each[name] if column is None else each[name][:, column]
            for each in (self.points, self.resampled, self.without)
        )
        if name.endswith("ece"):
            return interval(resampled, found[0], n_patients, level=level, largest=largest, recentre=True)
        return interval(resampled, found[0], n_patients, level=level, largest=largest, without=without)


def resample(
    sheet: AnySheet,
    sums: FloatArray,
    measure: Callable[[AnySheet, FloatArray, FloatArray], Resampled],
    n_resamples: int,
    seed: int,
) -> Samples:
    """Return the metrics that ``measure`` makes of a sheet and of ``sums`` under weights, (resamples, patients).

    ``sums``, (patients, columns), are what each patient adds to them.
    """
    n_patients = sheet.n_patients
    widest = max(len(sheet.labels), sums.shape[1])
    chunks = iterate_patient_counts(n_patients, n_resamples, seed, max_columns=widest)
    return Samples(
        measure(sheet, sums, np.ones((1, n_patients))),
        _join([measure(sheet, sums, counts) for counts in chunks]),
        measure(sheet, sums, list_blocks(n_patients)),
    )


def sum_by(patients: IntArray, columns: FloatArray, n_patients: int) -> FloatArray:
    """Return the sums of the rows of each patient, shape (patients, columns)."""
    sums = np.empty((n_patients, columns.shape[1]))
    for number, column in enumerate(columns.T):
        sums[:, number] = np.bincount(patients, weights=column, minlength=n_patients)
    return sums


def _join(chunks: Sequence[Resampled]) -> Resampled:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
