"""Sets of classes that hold the true one as often as was asked: split-conformal prediction, with patients as its units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.metrics import check_lengths, divide
from thawline.judge.resampling import sum_by
from thawline.judge.statistics import interval, iterate_patient_counts
from thawline.types import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, Groups, IntArray, Labels, Probabilities

SetKind = Literal["lac", "aps"]
ROUNDING = 1e-9  # of sums of weights, which are to be compared as if exact


@dataclasses.dataclass(frozen=True, slots=True)
class SetRule:
    """A class is in the set of an item where its score is at most the quantile of that class.

    ``quantiles`` and ``n_patients``, those that a quantile rests on, have one entry a class; all are the same unless
    ``by_class``. A quantile is infinite, and its class in every set, where ``n_patients`` are too few for ``coverage``.
    """

    kind: SetKind
    coverage: float
    by_class: bool
    quantiles: tuple[float, ...]
    n_patients: tuple[int, ...]

    @property
    def note(self) -> str:
        """Say which classes every set holds for want of patients, by index; empty where the quantiles are finite."""
        short = [f"{k} ({n} patients)" for k, n in enumerate(self.n_patients) if math.isinf(self.quantiles[k])]
        if not short:
            return ""
        needed = math.ceil(self.coverage / (1 - self.coverage) - ROUNDING)
        return (
            f"A coverage of {self.coverage:g} needs at least {needed} patients{' a class' if self.by_class else ''}; "
            f"every set therefore holds class {', '.join(short)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; an infinite quantile is None. `from_json` reverses it."""
        quantiles = [None if math.isinf(each) else each for each in self.quantiles]
        return dataclasses.asdict(self) | {"quantiles": quantiles, "n_patients": list(self.n_patients)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetRule:
        """Rebuild from `to_json`; raises TypeError or KeyError on unknown or missing fields."""
        quantiles = tuple(math.inf if each is None else each for each in data["quantiles"])
        return cls(**{**data, "quantiles": quantiles, "n_patients": tuple(data["n_patients"])})


@dataclasses.dataclass(frozen=True, slots=True)
class SetFigures:
    """How good sets are: the share of items whose set holds the true class, in all, by class, and as the mean over patients
    of their own shares; classes a set; and the shares of sets that are empty, hold one class, or hold all.
    """

    coverage: Estimate
    class_coverage: tuple[Estimate, ...]
    patient_coverage: Estimate
    size: Estimate
    empty: Estimate
    single: Estimate
    full: Estimate


def fit_sets(
    labels: Labels,
    probabilities: Probabilities,
    groups: Groups,
    *,
    coverage: float = 0.9,
    kind: SetKind = "lac",
    by_class: bool = False,
) -> SetRule:
    """Return the rule of sets that hold the true class of a share ``coverage`` of items of new patients, or more.

    ``labels`` and ``groups`` (patients) have shape (items,), ``probabilities`` (items, classes); no model may have been
    trained on them. Scores are those of `score_classes`, "lac" or "aps". A patient's items share the weight of one
    patient, see `find_quantile`. The guarantee of Lee, Barber and Willett (Distribution-free inference with hierarchical
    data, 2023; also Dunn, Wasserman and Ramdas, JASA 2022) is then: if new patients are like these (exchangeable), an item
    drawn from a new patient has its true class in its set with a chance of at least ``coverage``, on average over fits.
    With ``by_class`` (Mondrian; Vovk, ACML 2012) this holds in each class by itself, of patients with items of it.

    It is exact for one model and approximate for out-of-fold predictions, as the models of the folds are not the final one:
    `judge_sets` measures it on the test part. Raises OptionError for a coverage outside (0, 1) or another kind, and
    DataError as `take_items` does.
    """
    if not 0 < coverage < 1:
        raise OptionError(f"The coverage must lie between 0 and 1; found {coverage}. Pass for example 0.9.")
    truth, given, patients = take_items(labels, probabilities, groups)
    scores = score_classes(given, kind)[np.arange(len(truth)), truth]
    n_classes = given.shape[1]
    parts = [truth == k for k in range(n_classes)] if by_class else [np.ones(len(truth), bool)] * n_classes
    quantiles = tuple(find_quantile(scores[part], patients[part], coverage) for part in parts)
    return SetRule(kind, coverage, by_class, quantiles, tuple(len(np.unique(patients[part])) for part in parts))


def make_sets(rule: SetRule, probabilities: Probabilities) -> BoolArray:
    """Return which classes are in the set of each item, bool of shape (items, classes); a set may be empty with "lac".

    Raises DataError unless ``probabilities`` have as many classes as the rule, or as `check_probabilities` does.
    """
    scores = score_classes(probabilities, rule.kind)
    if scores.shape[1] != len(rule.quantiles):
        raise DataError(
            f"Probabilities of shape (items, {len(rule.quantiles)}) are needed; found {scores.shape}. "
            "Pass those of the model that the sets were fitted for."
        )
    return np.asarray(scores <= np.array(rule.quantiles))


def score_classes(probabilities: Probabilities, kind: SetKind) -> FloatArray:
    """Return how little each class fits each item, float64 of shape (items, classes), from 0 to 1.

    "lac": 1 − probability, which makes sets the smallest on average (Sadinle, Lei and Wasserman, JASA 114:223, 2019).
    "aps": the sum of the probabilities of the classes that are more probable, so that sets grow where the model is unsure
    (Romano, Sesia and Candès, NeurIPS 2020). The latter is without their randomisation, as the same item must have the same
    set each time. The most probable class has score 0 and is in every set, so coverage may be well above what was asked: it
    is at least the accuracy. Raises OptionError for another kind, DataError as `check_probabilities` does.
    """
    given = check_probabilities(probabilities)
    if kind == "lac":
        return np.asarray(1 - given)
    if kind != "aps":
        raise OptionError(f"The kind of sets must be 'lac' or 'aps'; found {kind!r}. Pass one of them.")
    order = np.argsort(-given, axis=1, kind="stable")
    above = np.zeros_like(given)
    above[:, 1:] = np.cumsum(np.take_along_axis(given, order, axis=1), axis=1)[:, :-1]
    scores = np.empty_like(given)
    np.put_along_axis(scores, order, above, axis=1)
    return scores


def find_quantile(scores: ArrayLike, groups: Groups, level: float) -> float:
    """Return the least score that a new patient's does not exceed with a chance of ``level`` or more; infinity without.

    A patient's items, of shape (items,), share the weight 1/(patients + 1), and infinity has the weight of one patient
    more, which stands for the new one (Lee, Barber and Willett 2023). One item a patient gives the ⌈level (n + 1)⌉-th of n
    scores. It is infinite where patients are fewer than level/(1 − level).
    """
    value, (names, patients) = np.asarray(scores, np.float64), np.unique(groups, return_inverse=True)
    order = np.argsort(value, kind="stable")
    reached = np.cumsum((1 / np.bincount(patients, minlength=len(names)))[patients[order]])
    place = int(np.searchsorted(reached, level * (len(names) + 1) - ROUNDING))
    return float(value[order[place]]) if place < len(value) else math.inf


def judge_sets(
    labels: Labels,
    sets: BoolArray,
    groups: Groups,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> SetFigures:
    """Return how often sets, bool (items, classes), hold the true class, and how large they are, on items not fitted on.

    Intervals resample patients. The coverage of a class without items is nan. Raises DataError as `take_items` does.
    """
    truth, held, patients = take_items(labels, sets, groups)
    n_classes, n_patients = held.shape[1], int(patients.max()) + 1
    covered, size, each = held[np.arange(len(truth)), truth], held.sum(axis=1), np.ones(len(truth))
    of_class = np.eye(n_classes)[truth]
    own = (1 / np.bincount(patients))[patients]
    counted = np.column_stack([covered, covered * own, size, size == 0, size == 1, size == n_classes])
    numerators = sum_by(patients, np.hstack([counted, of_class * covered[:, np.newaxis]]), n_patients)
    denominators = sum_by(patients, np.column_stack([each, own, each, each, each, each, of_class]), n_patients)
    largest = [1.0, 1.0, None, *[1.0] * (3 + n_classes)]
    found = _estimate_ratios(numerators, denominators, largest, seed, n_resamples, level)
    return SetFigures(found[0], tuple(found[6:]), *found[1:6])


def take_items(labels: Labels, probabilities: ArrayLike, groups: Groups) -> tuple[Labels, Probabilities, IntArray]:
    """Return labels, probabilities, (items, classes), and patients, counted from 0, as arrays.

    Raises DataError unless there are items, arrays have one length, each label is one of the classes, or as
    `check_probabilities` does.
    """
    truth, given = np.asarray(labels, np.int64), check_probabilities(probabilities)
    check_lengths(labels=truth, probabilities=given, groups=groups)
    if not len(truth) or truth.ndim != 1:
        raise DataError(f"Labels of shape (items,), of at least one item, are needed; found {truth.shape}.")
    wrong = np.flatnonzero((truth < 0) | (truth >= given.shape[1]))
    if len(wrong):
        raise DataError(
            f"Labels must be 0 to {given.shape[1] - 1}; row {wrong[0]} holds {truth[wrong[0]]}. "
            "Pass indices into the classes."
        )
    return truth, given, np.unique(groups, return_inverse=True)[1]


def check_probabilities(probabilities: ArrayLike) -> Probabilities:
    """Return probabilities as float64; raises DataError unless they have shape (items, classes) and lie in [0, 1]."""
    given = np.asarray(probabilities, np.float64)
    if given.ndim != 2:
        raise DataError(f"Probabilities of shape (items, classes) are needed; found {given.shape}.")
    wrong = np.flatnonzero(~((given >= 0) & (given <= 1)).all(axis=1))
    if len(wrong):
        raise DataError(
            f"Probabilities must lie between 0 and 1; row {wrong[0]} holds {given[wrong[0]].tolist()}. "
            "Look at the model that made it."
        )
    return given


def _estimate_ratios(
    numerators: FloatArray,
    denominators: FloatArray,
    largest: Sequence[float | None],
    seed: int,
    n_resamples: int,
    level: float,
) -> list[Estimate]:
    """Return the ratio of sums over patients of each column, both (patients, columns); ``largest`` as in `interval`."""
    points = divide(numerators.sum(axis=0), denominators.sum(axis=0))
    chunks = iterate_patient_counts(len(numerators), n_resamples, seed)
    resampled = np.concatenate([divide(counts @ numerators, counts @ denominators) for counts in chunks])
    resting = (denominators > 0).sum(axis=0)
    return [
        interval(resampled[:, k], float(points[k]), int(resting[k]), level=level, largest=limit)
        for k, limit in enumerate(largest)
    ]
