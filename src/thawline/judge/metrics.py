"""Metrics of classification, each a pure function of arrays.

All take optional item weights (float, shape (items,), not negative), so that a bootstrap is a reweighting and weight 2
means the same as the item twice. A metric that is undefined, for want of a class or of any weight, is nan. ``positive``
is the index of the positive class and matters where there are two classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import DataError
from thawline.types import MISSING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from thawline.types import FloatArray, IntArray, Labels, Probabilities

CHUNK_BYTES = 64 * 2**20  # bound on the working memory of a resampling
SMALLEST_PROBABILITY = 1e-15  # keeps the log-loss of a sure and wrong answer finite (34.5 nats)


def check_lengths(**arrays: ArrayLike) -> None:
    """Raise DataError unless all arrays have the same first dimension."""
    lengths = {name: len(np.atleast_1d(array)) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(
            f"One entry per item is needed in every array; found lengths {found}. Pass arrays of one length."
        )


def divide(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Return numerator ÷ denominator as float64, nan where the denominator is zero."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient


def average(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the weighted mean of values, shape (items,); nan without items or weight."""
    each = np.asarray(values, np.float64)
    factor = _fill_weights(weights, len(each))
    return float(divide(factor @ each, factor.sum()))


def roc_auc(truth01: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: P(score of a positive > score of a negative) + half of P(equal).

    ``truth01`` bool or 0/1 and ``scores`` float, both of shape (items,). The Mann-Whitney form of Hanley and McNeil,
    Radiology 143:29 (1982), with a pair counting as the product of its weights. nan when a class is absent.
    """
    factor = _fill_weights(weights, len(np.asarray(scores)))
    return float(resample_auc(truth01, scores, factor[np.newaxis])[0])


def resample_auc(
    truth01: ArrayLike, scores: ArrayLike, weights: ArrayLike, groups: IntArray | None = None
) -> FloatArray:
    """Return `roc_auc` under many weightings at once, float64 of shape (resamples,).

    ``weights`` has shape (resamples, items); with ``groups``, shape (items,), it has shape (resamples, groups) and item
    i weighs ``weights[:, groups[i]]``. Sorts once; working memory stays under 64 MiB. Raises DataError on scores that
    are not finite.
    """
    truth, score, weight = np.asarray(truth01, bool), np.asarray(scores, np.float64), np.asarray(weights)
    columns = np.arange(len(score)) if groups is None else np.asarray(groups)
    check_lengths(truth01=truth, scores=score, groups=columns)
    if weight.ndim != 2 or weight.shape[1] <= (columns.max() if len(columns) else -1):
        wanted = f"(resamples, {len(score)})" if groups is None else f"(resamples, more than {columns.max()})"
        raise DataError(f"Weights of shape {wanted} are needed; found shape {weight.shape}.")
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score))[0])
        raise DataError(f"Scores must be finite; row {row} holds {score[row]}. Look at the model that made it.")
    order = np.argsort(score, kind="stable")
    positives, negatives = order[truth[order]], order[~truth[order]]
    below = np.searchsorted(score[negatives], score[positives], side="left")
    up_to = np.searchsorted(score[negatives], score[positives], side="right")
    tied = bool((below != up_to).any())

    areas = np.empty(len(weight))
    n_rows = max(1, CHUNK_BYTES // (8 * 4 * max(1, len(score), weight.shape[1])))
    for start in range(0, len(weight), n_rows):
        chunk = np.asarray(weight[start : start + n_rows], np.float64)
        of_positives = np.take(chunk, columns[positives], axis=1)
        lower = np.zeros((len(chunk), len(negatives) + 1))
        np.cumsum(np.take(chunk, columns[negatives], axis=1), axis=1, out=lower[:, 1:])
        beaten = np.take(lower, below, axis=1)
        if tied:
            beaten = (beaten + np.take(lower, up_to, axis=1)) / 2
        won = np.einsum("ij,ij->i", of_positives, beaten)
        areas[start : start + n_rows] = divide(won, of_positives.sum(axis=1) * lower[:, -1])
    return areas


def average_precision(truth01: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean over positives of the share of positives among all items that score at least as high.

    Both arrays have shape (items,). As scikit-learn has it: the area under the steps of the precision-recall curve. Without
    knowledge it is the share of positives. nan when there are none.
    """
    factor = _fill_weights(weights, len(np.asarray(scores)))
    return float(resample_average_precision(truth01, scores, factor[np.newaxis])[0])


def resample_average_precision(
    truth01: ArrayLike, scores: ArrayLike, weights: ArrayLike, groups: IntArray | None = None
) -> FloatArray:
    """Return `average_precision` under many weightings at once, (resamples,); arguments are those of `resample_auc`."""
    truth, score, weight = np.asarray(truth01, bool), np.asarray(scores, np.float64), np.asarray(weights, np.float64)
    columns = np.arange(len(score)) if groups is None else np.asarray(groups)
    check_lengths(truth01=truth, scores=score, groups=columns)
    order = np.argsort(-score, kind="stable")
    positives = np.flatnonzero(truth[order])
    last = np.searchsorted(-score[order], -score[order][positives], side="right")  # items that score as high or higher
    found = np.empty(len(weight))
    n_rows = max(1, CHUNK_BYTES // (8 * 4 * max(1, len(score))))
    for start in range(0, len(weight), n_rows):
        chunk = np.take(weight[start : start + n_rows], columns[order], axis=1)
        of_positives = chunk[:, positives]
        called = np.take(np.cumsum(chunk, axis=1), last - 1, axis=1)
        caught = np.take(np.cumsum(chunk * truth[order], axis=1), last - 1, axis=1)
        precision = np.divide(caught, called, out=np.zeros_like(called), where=called > 0)
        won = np.einsum("ij,ij->i", of_positives, precision)
        found[start : start + n_rows] = divide(won, of_positives.sum(axis=1))
    return found


def macro_auc(
    labels: Labels, probabilities: Probabilities, weights: ArrayLike | None = None, *, positive: int = 1
) -> float:
    """Return the AUC of the positive class, or with three classes or more the plain mean of one-vs-rest AUCs.

    nan when a class is absent: a mean over fewer classes would not compare with others.
    """
    probabilities = np.asarray(probabilities)
    n_classes = probabilities.shape[1]
    chosen = [positive] if n_classes == 2 else range(n_classes)
    return float(np.mean([roc_auc(np.asarray(labels) == k, probabilities[:, k], weights) for k in chosen]))


def roc_curve(
    truth01: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return false positive rate, true positive rate and threshold of every point of the ROC curve.

    One point for each distinct score, from the strictest threshold (infinity, at 0, 0) to the laxest (at 1, 1); an item
    is called positive when its score is at least the threshold. Rates of an absent class are nan.
    """
    truth, score = np.asarray(truth01, bool), np.asarray(scores, np.float64)
    check_lengths(truth01=truth, scores=score)
    factor = _fill_weights(weights, len(score))
    thresholds, place = np.unique(-score, return_inverse=True)
    called: list[FloatArray] = []
    for group in (~truth, truth):
        caught = np.cumsum(np.bincount(place, weights=factor * group, minlength=len(thresholds)))
        called.append(divide(np.concatenate([[0.0], caught]), (factor * group).sum()))
    return called[0], called[1], np.concatenate([[np.inf], -thresholds])


def confusion_matrix(labels: Labels, predicted: Labels, n_classes: int, weights: ArrayLike | None = None) -> FloatArray:
    """Return the summed weights of each pair, shape (classes, classes): rows are the truth, columns the prediction."""
    truth, called = np.asarray(labels), np.asarray(predicted)
    check_lengths(labels=truth, predicted=called)
    cells = np.bincount(truth * n_classes + called, weights=_fill_weights(weights, len(truth)), minlength=n_classes**2)
    return np.asarray(cells, np.float64).reshape(n_classes, n_classes)


def accuracy(labels: Labels, predicted: Labels, weights: ArrayLike | None = None) -> float:
    """Return the fraction of items whose predicted class is the true one."""
    check_lengths(labels=labels, predicted=predicted)
    return average(np.asarray(labels) == np.asarray(predicted), weights)


def sensitivity(labels: Labels, predicted: Labels, of: int, weights: ArrayLike | None = None) -> float:
    """Return the recall of class ``of``: the fraction of its items that are called so; nan when it is absent."""
    inside = np.asarray(labels) == of
    return average(np.asarray(predicted) == of, _fill_weights(weights, len(inside)) * inside)


def specificity(labels: Labels, predicted: Labels, of: int, weights: ArrayLike | None = None) -> float:
    """Return the fraction of the items not of class ``of`` that are not called so; nan when there are none."""
    outside = np.asarray(labels) != of
    return average(np.asarray(predicted) != of, _fill_weights(weights, len(outside)) * outside)


def balanced_accuracy(labels: Labels, predicted: Labels, weights: ArrayLike | None = None) -> float:
    """Return the plain mean of the recalls of the classes that occur; nan when one of them has no weight."""
    recalls = [sensitivity(labels, predicted, int(k), weights) for k in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else float("nan")


def item_log_loss(labels: Labels, probabilities: Probabilities) -> FloatArray:
    """Return −ln(probability of the true class) in nats, shape (items,); probabilities are clipped below at 1e-15.

    Of several labels, (items, labels), it is the mean over those that are known of an item: nan where none is.
    """
    truth, given = np.asarray(labels), np.asarray(probabilities, np.float64)
    check_lengths(labels=truth, probabilities=given)
    if truth.ndim == 2:
        return divide(known_losses(truth, given).sum(axis=1), (truth != MISSING).sum(axis=1))
    return np.asarray(-np.log(np.clip(given[np.arange(len(truth)), truth], SMALLEST_PROBABILITY, 1.0)))


def known_losses(labels: Labels, probabilities: Probabilities) -> FloatArray:
    """Return −ln(probability of the true value) of several labels, (items, labels): 0 where that is not known."""
    told = np.where(labels == 1, probabilities, 1 - probabilities)
    return np.where(labels == MISSING, 0.0, -np.log(np.clip(told, SMALLEST_PROBABILITY, 1.0)))


def log_loss(labels: Labels, probabilities: Probabilities, weights: ArrayLike | None = None) -> float:
    """Return the mean of `item_log_loss`, in nats."""
    return average(item_log_loss(labels, probabilities), weights)


def item_brier(labels: Labels, probabilities: Probabilities, *, positive: int = 1) -> FloatArray:
    """Return each item's squared error, shape (items,): one class's with two classes, the sum over classes with more.

    With two classes (p_positive − y)², between 0 and 1, as scikit-learn has it; with more classes the original sum of
    Brier, Monthly Weather Review 78:1 (1950), between 0 and 2.
    """
    truth, given = np.asarray(labels), np.asarray(probabilities, np.float64)
    check_lengths(labels=truth, probabilities=given)
    if given.shape[1] == 2:
        return np.asarray((given[:, positive] - (truth == positive)) ** 2)
    return np.asarray(((given - np.eye(given.shape[1])[truth]) ** 2).sum(axis=1))


def brier(
    labels: Labels, probabilities: Probabilities, weights: ArrayLike | None = None, *, positive: int = 1
) -> float:
    """Return the mean of `item_brier`."""
    return average(item_brier(labels, probabilities, positive=positive), weights)


def _fill_weights(weights: ArrayLike | None, n_items: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n_items)
    filled = np.asarray(weights, np.float64)
    if filled.shape != (n_items,):
        raise DataError(f"One weight per item is needed, shape ({n_items},); found shape {filled.shape}.")
    return filled
