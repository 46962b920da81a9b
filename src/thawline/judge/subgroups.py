"""Who is served worse: the same metrics for parts of the items, and whether the parts differ by more than chance.

Parts are those of one metadata column. A patient may have items in several of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.intervals import estimate_proportion
from thawline.judge.metrics import check_lengths
from thawline.types import MISSING, Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from thawline.types import BoolArray, FloatArray, Groups, IntArray, Labels, Probabilities

LEAST_PATIENTS = 10  # of each class, below which a part is described but not compared


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Items that share a value of a column: their number, their patients, those of the rarest class, and their metrics.

    ``metrics`` are ``auc`` and ``accuracy``, of two classes ``sensitivity`` and ``specificity`` too.
    """

    value: str
    n_items: int
    n_patients: int
    n_rarest: int
    metrics: dict[str, Estimate]

    @property
    def is_small(self) -> bool:
        """Whether a class has fewer than `LEAST_PATIENTS` patients: intervals stand, but no difference is told."""
        return self.n_rarest < LEAST_PATIENTS


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One metadata column: its parts, and for each metric how likely chance alone would part those that are large so far."""

    parts: tuple[Part, ...]
    p_values: dict[str, float]


def judge_column(
    values: Sequence[str] | NDArray[np.str_],
    labels: Labels,
    probabilities: Probabilities,
    called: Labels,
    groups: Groups,
    *,
    positive: int | None,
    folds: IntArray | None = None,
    level: float = 0.95,
) -> Column:
    """Judge each part of the items by a metadata column, and test whether the parts differ.

    ``values`` (items,) are those of the column, "" where not known (a part of its own); ``called`` (items,) the classes
    called; ``positive`` the index of the positive of two classes. The test of a metric is Wald's, of all large parts being
    equal, on the covariance with patients as clusters (an interaction test in the sense of Altman and Bland, BMJ 326:219,
    2003); nan with fewer than two large parts. Raises DataError where arrays differ in length or are empty.
    """
    names, of = np.asarray(values, np.str_), np.asarray(labels)
    check_lengths(values=names, labels=of, probabilities=probabilities, called=called, groups=groups)
    if not len(of):
        raise DataError("At least one item is needed to judge parts of them; found none.")
    found = [str(name) for name in np.unique(names)]
    members = [names == name for name in found]
    n_classes = probabilities.shape[1]
    scored = list(range(n_classes)) if positive is None else [positive]
    in_part = np.repeat(np.stack(members, axis=1), len(scored), axis=1)
    is_class = np.tile(np.stack([of == k for k in scored], axis=1).astype(np.int64), len(found))
    areas = measure_areas(
        np.where(in_part, is_class, MISSING),
        np.tile(probabilities[:, scored], len(found)),
        groups,
        range(in_part.shape[1]),
        folds,
    )
    shares = _list_shares(of, called, positive)
    parts = []
    for place, (name, inside) in enumerate(zip(found, members, strict=True)):
        columns = range(place * len(scored), (place + 1) * len(scored))
        metrics = {"auc": estimate_auc(areas.take(columns), level=level)}
        for metric, (hits, among) in shares.items():
            chosen = inside & among
            metrics[metric] = estimate_proportion(hits[chosen], np.asarray(groups)[chosen], level=level)
        counts = _count_patients(of[inside], np.asarray(groups)[inside], n_classes)
        n_patients = len(np.unique(np.asarray(groups)[inside]))
        parts.append(Part(name, int(inside.sum()), n_patients, int(counts.min()), metrics))
    large = [place for place, part in enumerate(parts) if not part.is_small]
    mean = np.kron(np.eye(len(found)), np.full((1, len(scored)), 1 / len(scored)))
    p_values = {"auc": find_difference_p(mean @ areas.values, mean @ areas.covariance() @ mean.T, large)}
    for metric, (hits, among) in shares.items():
        p_values[metric] = find_difference_p(*_measure_shares(hits, among, members, groups), large)
    return Column(tuple(parts), p_values)


def find_difference_p(values: FloatArray, covariance: FloatArray, among: Sequence[int]) -> float:
    """Return how likely chance alone would part ``values``, (parts,), so far, were those ``among`` all equal; two-sided.

    Wald's statistic d' (D C D')⁻¹ d of the differences d = D v from the first, chi-square with as many degrees of freedom as
    the differences have rank. nan with fewer than two values, or where one is not defined.
    """
    from scipy.special import chdtrc

    chosen = list(among)
    found, spread = np.asarray(values)[chosen], np.asarray(covariance)[np.ix_(chosen, chosen)]
    if len(chosen) < 2 or not (np.isfinite(found).all() and np.isfinite(spread).all()):
        return math.nan
    contrasts = np.hstack([-np.ones((len(chosen) - 1, 1)), np.eye(len(chosen) - 1)])
    apart, between = contrasts @ found, contrasts @ spread @ contrasts.T
    rank = int(np.linalg.matrix_rank(between, hermitian=True))
    if rank == 0:
        return 1.0 if np.allclose(apart, 0) else 0.0
    return float(chdtrc(rank, apart @ np.linalg.pinv(between, hermitian=True) @ apart))


def _list_shares(labels: Labels, called: Labels, positive: int | None) -> dict[str, tuple[BoolArray, BoolArray]]:
    """Return what hits and among which items it is counted, of each metric that is a proportion."""
    right = called == labels
    everything = np.ones(len(labels), bool)
    if positive is None:
        return {"accuracy": (right, everything)}
    inside = labels == positive
    return {"accuracy": (right, everything), "sensitivity": (right, inside), "specificity": (right, ~inside)}


def _count_patients(labels: Labels, groups: Groups, n_classes: int) -> IntArray:
    """Return how many patients have items of each class, (classes,)."""
    return np.array([len(np.unique(groups[labels == k])) for k in range(n_classes)])


def _measure_shares(
    hits: BoolArray, among: BoolArray, members: Sequence[BoolArray], groups: Groups
) -> tuple[FloatArray, FloatArray]:
    """Return the proportion of each part and their covariance, with patients as clusters; nan where a part has no items."""
    names, patients = np.unique(groups, return_inverse=True)
    values, influences = np.full(len(members), math.nan), np.full((len(names), len(members)), math.nan)
    for place, inside in enumerate(members):
        chosen = inside & among
        if chosen.any():
            values[place] = hits[chosen].mean()
            residuals = (hits[chosen] - values[place]) / chosen.sum()
            influences[:, place] = np.bincount(patients[chosen], weights=residuals, minlength=len(names))
    factor = len(names) / max(len(names) - 1, 1)
    return values, factor * influences.T @ influences
