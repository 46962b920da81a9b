"""Maps from probabilities to calibrated ones, fitted on out-of-fold predictions of the development part.

All but the isotonic one are lines of logarithms, logit q = a ln p − b ln(1 − p) + c, with a = b = 1 and c = 0 where nothing
changes. A normal prior expects slopes of 1, give or take 1: it weighs no more than an item or so, but bounds them where
probabilities separate the classes, as Platt's label smoothing would. The isotonic map has his smoothing.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.calibration import MAX_SCALE, PRECISE, fit_scales
from thawline.judge.comparisons import choose_within_one_se
from thawline.judge.metrics import SMALLEST_PROBABILITY, check_lengths, item_log_loss
from thawline.types import MISSING

if TYPE_CHECKING:
    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities

# a, b and c of a line, or the knots of a curve: (probability, calibrated probability)
Map: TypeAlias = tuple[float, ...] | tuple[tuple[float, ...], ...]

# from the simplest, which the choice prefers
KINDS = (NONE := "none", TEMPERATURE := "temperature", PLATT := "platt", BETA := "beta", ISOTONIC := "isotonic")
UNCHANGED = (1.0, 1.0, 0.0)
SMALLEST_LOG, TINY = math.log(SMALLEST_PROBABILITY), float(np.finfo(np.float64).tiny)
N_FOLDS = 5
# An isotonic map needs more patients: below 200 to 1000 it loses to Platt's (Niculescu-Mizil and Caruana, ICML 2005), and
# free curves take 200 with and 200 without a class (Van Calster et al., Journal of Clinical Epidemiology 74:167, 2016).
ISOTONIC_PATIENTS, ISOTONIC_PATIENTS_EACH = 500, 200


@dataclasses.dataclass(frozen=True, slots=True)
class Calibrator:
    """A fitted map: its kind, of `KINDS`, and the classes or, with ``multilabel``, labels it is for.

    ``maps`` holds none where nothing changes; one for two classes (of the second), or as the temperature of several; else
    one for each class or label.
    """

    kind: str
    n_columns: int
    multilabel: bool
    maps: tuple[Map, ...]

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """Return calibrated probabilities, float64 of shape (items, columns); rows of classes sum to one.

        Every map rises, so that the order of items stays, but for those that an isotonic one makes equal. Of three classes
        or more a temperature scales logits together (Guo et al., ICML 2017); else each class is mapped against the rest and
        the row divided by its sum (Zadrozny and Elkan, KDD 2002), which may change the order. Raises DataError.
        """
        from scipy.special import expit, softmax

        given = _check_probabilities(probabilities)
        if given.shape[1] != self.n_columns:
            raise DataError(f"Probabilities of {self.n_columns} columns are expected; found {given.shape[1]} columns.")
        if self.kind == NONE:
            return given.copy()
        several = self.n_columns > 2 and not self.multilabel
        if self.kind == TEMPERATURE and several:
            return np.asarray(softmax(np.asarray(self.maps[0])[0] * _take_logs(given), axis=1))
        odds = [_follow(each, pair) for each, pair in zip(self.maps, _pair(given, self.multilabel), strict=True)]
        if len(odds) == 1 and not self.multilabel:
            odds.insert(0, -odds[0])
        found: Probabilities = expit(np.column_stack(odds))
        return found / found.sum(axis=1, keepdims=True) if several else found

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibrator:
        """Rebuild from plain JSON data; raises OptionError for an unknown kind, TypeError or KeyError for other fields."""
        _check_kind(data["kind"])
        maps = tuple(tuple(tuple(each) if isinstance(each, list) else each for each in line) for line in data["maps"])
        return cls(**{**data, "maps": maps})


def fit_calibrator(
    kind: str, labels: Labels, probabilities: Probabilities, groups: Groups, *, multilabel: bool = False
) -> Calibrator:
    """Fit a map of one of `KINDS` to probabilities (items, classes), or with ``multilabel`` (items, labels).

    Temperature: one slope (Guo et al., ICML 2017); Platt: a slope and an intercept (Advances in Large Margin Classifiers,
    1999); beta: slopes for p and 1 − p and an intercept (Kull, Silva Filho and Flach, AISTATS 2017); isotonic: a rising
    curve (Zadrozny and Elkan, KDD 2002) of labels smoothed by Platt's prior with one trial a patient. Slopes lie between
    1/20 (of beta 1/40) and 20. A class, or a label, without items or with all of them is left unchanged. Raises OptionError
    for an unknown kind, DataError without items or for labels and probabilities that are none.
    """
    _check_kind(kind)
    truth, given, patients = _check_predictions(labels, probabilities, groups, multilabel)
    marks, pairs = _mark(truth, given.shape[1]), _pair(given, multilabel)
    if kind == NONE:
        marks, pairs = [], []
    elif kind == TEMPERATURE and not multilabel:
        marks, pairs = [truth], [given]
    maps: list[Map] = []
    for mark, pair in zip(marks, pairs, strict=True):
        known = mark != MISSING
        maps.append(_fit_map(kind, mark[known], pair[known], patients[known]))
    return Calibrator(kind, given.shape[1], multilabel, tuple(maps))


def choose_calibrator(
    labels: Labels, probabilities: Probabilities, groups: Groups, *, multilabel: bool = False, seed: int
) -> tuple[Calibrator, tuple[dict[str, Any], ...]]:
    """Choose a kind of map by cross-validation and fit it to all; return it and what each kind came to, one dict a kind.

    Five folds of patients, stratified as scikit-learn's StratifiedGroupKFold does (several labels an item by the rarest it
    has), judged by log-loss; the first of `KINDS` within one standard error of the best is taken. Isotonic is tried from 500
    patients on with 200 of each value of each class or label. With less than two patients of two classes nothing can be
    judged and nothing changes. A dict has the ``kind``, its ``log_loss`` in nats, the ``difference`` to the best and the
    ``standard_error`` of that. Raises DataError as `fit_calibrator` does.
    """
    truth, given, patients = _check_predictions(labels, probabilities, groups, multilabel)
    folds = _deal_folds(truth, patients, seed)
    n_kinds = 1 if folds is None else len(KINDS) - (not _allow_isotonic(truth, given.shape[1], patients))
    losses = []
    for kind in KINDS[:n_kinds]:
        calibrated = given.copy()
        for number in np.unique(folds) if folds is not None else ():
            inside = folds == number
            fitted = fit_calibrator(kind, truth[~inside], given[~inside], patients[~inside], multilabel=multilabel)
            calibrated[inside] = fitted.apply(given[inside])
        losses.append(item_log_loss(truth, calibrated))
    found = choose_within_one_se(losses, patients)
    numbers = zip(KINDS, found.mean_losses, found.differences, found.standard_errors, strict=False)
    rows = [{"kind": a, "log_loss": b, "difference": c, "standard_error": d} for a, b, c, d in numbers]
    return fit_calibrator(KINDS[found.chosen], truth, given, patients, multilabel=multilabel), tuple(rows)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f"A calibrator is one of {', '.join(KINDS)}; found {kind!r}.")


def _check_probabilities(probabilities: Probabilities) -> Probabilities:
    given = np.asarray(probabilities, np.float64)
    if given.ndim != 2:
        raise DataError(f"Probabilities of shape (items, classes) are needed; found shape {given.shape}.")
    wrong = np.argwhere(~((given >= 0) & (given <= 1)))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"Probabilities must lie between 0 and 1; row {row}, column {column} holds {given[row, column]}. Look at the "
            "model that made it."
        )
    return given


def _check_predictions(
    labels: Labels, probabilities: Probabilities, groups: Groups, multilabel: bool
) -> tuple[Labels, Probabilities, Groups]:
    """Return arrays of the items of which a label is known. Raises DataError."""
    truth, given, patients = np.asarray(labels), _check_probabilities(probabilities), np.asarray(groups)
    check_lengths(labels=truth, probabilities=given, groups=patients)
    if given.shape[1] < 2 and not multilabel:
        raise DataError(f"Probabilities of at least two classes are needed; found shape {given.shape}.")
    if truth.shape != (given.shape if multilabel else given.shape[:1]):
        wanted = "(items, labels)" if multilabel else "(items,)"
        raise DataError(f"Labels of shape {wanted} are needed; found {truth.shape} for probabilities {given.shape}.")
    least, most = (MISSING, 1) if multilabel else (0, given.shape[1] - 1)
    if len(truth) and not least <= truth.min() <= truth.max() <= most:
        raise DataError(f"Labels from {least} to {most} are needed; found {truth.min()} to {truth.max()}.")
    known = (truth != MISSING).any(axis=1) if multilabel else np.ones(len(truth), bool)
    if not known.any():
        raise DataError("A calibrator is fitted on at least one item whose label is known; found none.")
    return truth[known], given[known], patients[known]


def _mark(labels: Labels, n_columns: int) -> list[Labels]:
    """Return for each map who is positive: 1, 0 or MISSING, (items,)."""
    if labels.ndim == 2:
        return list(labels.T)
    return [(labels == k).astype(np.int64) for k in (range(n_columns) if n_columns > 2 else [1])]


def _pair(given: Probabilities, multilabel: bool) -> list[Probabilities]:
    """Return for each map the probabilities of the rest and of the class, (items, 2), neither as 1 less the other."""
    if multilabel:
        return [np.stack([1 - column, column], axis=1) for column in given.T]
    if given.shape[1] == 2:
        return [given]
    return [np.stack([np.delete(given, k, axis=1).sum(axis=1), given[:, k]], axis=1) for k in range(given.shape[1])]


def _take_logs(given: Probabilities) -> FloatArray:
    """Return logarithms that fall a thousandth as fast below 1e-15: bounded for 0, and no two become equal."""
    logs = np.log(np.maximum(given, TINY))
    return np.asarray(np.maximum(logs, SMALLEST_LOG) + np.minimum(logs - SMALLEST_LOG, 0) / 1000)


def _follow(line: Map, pair: Probabilities) -> FloatArray:
    """Return the calibrated log-odds of a class, (items,)."""
    if np.ndim(line) == 2:
        before, after = np.asarray(line).T
        found = np.interp(pair[:, 1], before, after)
        return np.asarray(np.log(found) - np.log1p(-found))
    a, b, c = np.asarray(line)
    logs = _take_logs(pair)
    return np.asarray(a * logs[:, 1] - b * logs[:, 0] + c)


def _fit_map(kind: str, truth: Labels, pair: Probabilities, patients: Groups) -> Map:
    """Fit one map to labels (items,) and the probabilities of the rest and of the class, (items, 2).

    A temperature is fitted to those of any number of classes.
    """
    if len(np.unique(truth)) < 2:
        return UNCHANGED
    if kind == ISOTONIC:
        return _fit_curve(truth, pair[:, 1], patients)
    logs = _take_logs(pair)
    if kind == TEMPERATURE:
        (slope,), intercept = fit_scales(truth, logs, prior=True), 0.0
    elif kind == PLATT:
        slope, intercept = _fit_line(truth, logs[:, 1:] - logs[:, :1])
    else:
        return _fit_line(truth, logs[:, ::-1] * [1, -1])
    return slope, slope, intercept


def _fit_line(truth: Labels, columns: FloatArray) -> tuple[float, ...]:
    """Return the most probable slopes of ``columns``, (items, slopes), and the intercept of a logistic regression."""
    from scipy.optimize import minimize
    from scipy.special import expit

    n_items, n_slopes = columns.shape

    def loss(line: FloatArray) -> tuple[float, FloatArray]:
        margins, apart = columns @ line[:-1] + line[-1], (line[:-1] - 1) / n_items
        residuals = (expit(margins) - truth) / n_items
        value = (np.logaddexp(0, margins) - truth * margins).mean() + (line[:-1] - 1) @ apart / 2
        return float(value), np.append(columns.T @ residuals + apart, residuals.sum())

    bounds = [*[(1 / MAX_SCALE / n_slopes, MAX_SCALE)] * n_slopes, (None, None)]
    start = np.append(np.ones(n_slopes), 0.0)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=PRECISE).x
    return tuple(found.tolist())


def _fit_curve(truth: Labels, given: FloatArray, patients: Groups) -> Map:
    """Return the knots of an isotonic regression of smoothed labels, so that none is 0 or 1."""
    from sklearn.isotonic import IsotonicRegression

    n_with, n_without = (len(np.unique(patients[truth == value])) for value in (1, 0))
    targets = np.where(truth == 1, (n_with + 1) / (n_with + 2), 1 / (n_without + 2))
    curve = IsotonicRegression(out_of_bounds="clip").fit(given, targets)
    return tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True))


def _allow_isotonic(labels: Labels, n_columns: int, patients: Groups) -> bool:
    """Tell whether there are patients enough for a free curve of every class or label."""
    counts = [len(np.unique(patients[mark == value])) for mark in _mark(labels, n_columns) for value in (0, 1)]
    return len(np.unique(patients)) >= ISOTONIC_PATIENTS and min(counts) >= ISOTONIC_PATIENTS_EACH


def _deal_folds(labels: Labels, patients: Groups, seed: int) -> IntArray | None:
    """Return the fold of each item, (items,), patients kept whole; None with less than two patients of two classes."""
    from sklearn.model_selection import StratifiedGroupKFold

    strata = labels
    if labels.ndim == 2:
        marks = labels[:, np.argsort((labels == 1).sum(axis=0), kind="stable")] == 1
        strata = np.where(marks.any(axis=1), marks.argmax(axis=1) + 1, 0)
    values, counts = np.unique(strata, return_counts=True)
    if sum(len(np.unique(patients[strata == value])) > 1 for value in values) < 2:
        return None
    n_folds = min(N_FOLDS, len(np.unique(patients)), int(counts.max()))
    folds = np.empty(len(labels), np.int64)
    dealer = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore"):  # of a class of fewer items than folds
        for number, (_, scored) in enumerate(dealer.split(np.zeros(len(labels)), strata, patients)):
            folds[scored] = number
    return folds
