"""Whether probabilities mean what they say, and their correction for another prevalence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.metrics import check_lengths, divide
from thawline.types import MISSING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from thawline.types import BoolArray, FloatArray, IntArray, Labels, Probabilities

# one number a source; where items have several labels one a source and label, so that each is calibrated by itself
Scales: TypeAlias = tuple[float, ...] | tuple[tuple[float, ...], ...]

N_BINS = 15  # Guo et al. 2017
MAX_SCALE = 20.0
PRECISE = {"ftol": 1e-13, "gtol": 1e-9}


@dataclasses.dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability curve, each array of shape (bins that are not empty,), from low to high confidence.

    ``confidence`` is the mean of what was predicted in a bin, ``frequency`` how often it came true, ``count`` the items
    (their summed weight where weights were given).
    """

    confidence: FloatArray
    frequency: FloatArray
    count: FloatArray


def assign_bins(confidences: ArrayLike, n_bins: int = N_BINS) -> IntArray:
    """Return the equal-width bin of each confidence, int64 of shape (items,); bin b is (b/n, (b+1)/n], and 0 is in 0.

    Raises OptionError for fewer than one bin, DataError for a confidence outside [0, 1].
    """
    if n_bins < 1:
        raise OptionError(f"A reliability curve needs at least one bin; found n_bins={n_bins}.")
    values = np.asarray(confidences, np.float64)
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        raise DataError(
            f"Confidences must lie between 0 and 1; row {wrong[0]} holds {values[wrong[0]]}. Pass probabilities."
        )
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], values, side="left").astype(np.int64)


def select_confidences(
    labels: Labels, probabilities: Probabilities, *, positive: int = 1
) -> tuple[FloatArray, BoolArray]:
    """Return the confidence judged for each item and whether it came true, both of shape (items,).

    Two classes: the probability of the positive class, and whether the item is positive. More classes: the probability
    of the most likely class, and whether that class is the true one.
    """
    truth, given = np.asarray(labels), np.asarray(probabilities, np.float64)
    check_lengths(labels=truth, probabilities=given)
    if given.shape[1] == 2:
        return given[:, positive], truth == positive
    return given.max(axis=1), given.argmax(axis=1) == truth


def reliability(
    confidences: ArrayLike, came_true: ArrayLike, weights: ArrayLike | None = None, n_bins: int = N_BINS
) -> Reliability:
    """Return the reliability curve over equal-width bins, empty bins dropped.

    All arrays have shape (items,). DeGroot and Fienberg, The Statistician 32:12 (1983).
    """
    confidence, true = np.asarray(confidences, np.float64), np.asarray(came_true, np.float64)
    weight = np.ones(len(confidence)) if weights is None else np.asarray(weights, np.float64)
    check_lengths(confidences=confidence, came_true=true, weights=weight)
    place = assign_bins(confidence, n_bins)
    count = np.bincount(place, weights=weight, minlength=n_bins).astype(np.float64)
    predicted = divide(np.bincount(place, weights=weight * confidence, minlength=n_bins), count)
    observed = divide(np.bincount(place, weights=weight * true, minlength=n_bins), count)
    kept = count > 0
    return Reliability(predicted[kept], observed[kept], count[kept])


def ece(
    labels: Labels,
    probabilities: Probabilities,
    weights: ArrayLike | None = None,
    *,
    positive: int = 1,
    n_bins: int = N_BINS,
) -> float:
    """Return the expected calibration error: the mean over items of |confidence − frequency| of the item's bin.

    Two classes: on the probability of the positive class (Naeini et al., AAAI 2015). More classes: on the confidence of
    the most likely class (Guo et al., ICML 2017). nan without items.
    """
    curve = reliability(*select_confidences(labels, probabilities, positive=positive), weights, n_bins)
    return float(divide((np.abs(curve.confidence - curve.frequency) * curve.count).sum(), curve.count.sum()))


def correct_prior(probabilities: Probabilities, trained_prior: ArrayLike, true_prior: ArrayLike) -> Probabilities:
    """Return probabilities as they would be at another prevalence, float64 of shape (items, classes).

    p'_k ∝ p_k · true_k ÷ trained_k, with each row scaled to sum to one: Saerens, Latinne and Decaestecker, Neural
    Computation 14:21 (2002), equation 2.4. It holds when the classes look the same at both places and only their
    frequency differs. Priors have shape (classes,), as fractions or counts. Raises OptionError unless all are positive.
    """
    given = np.asarray(probabilities, np.float64)
    priors = {"trained_prior": np.asarray(trained_prior, float), "true_prior": np.asarray(true_prior, float)}
    for name, prior in priors.items():
        if prior.shape != (given.shape[1],) or not (np.isfinite(prior) & (prior > 0)).all():
            raise OptionError(
                f"{name} must hold one number above 0 for each of the {given.shape[1]} classes; found {prior.tolist()}."
            )
    fractions = {name: prior / prior.sum() for name, prior in priors.items()}
    scaled = given * (fractions["true_prior"] / fractions["trained_prior"])
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def fit_scales(labels: Labels, *logits: FloatArray, prior: bool = False) -> tuple[float, ...]:
    """Return the scales s that make the log-loss of softmax(s1 logits1 + s2 logits2 + ...) smallest, one for each source.

    With one source 1 / s is the temperature of Guo et al. (ICML 2017); with several this is a stacked classifier (Wolpert,
    Neural Networks 5:241, 1992) whose weights are not negative. Each ``logits`` has shape (items, classes). Scales lie
    between 0 and 20, which bounds them where all items are ranked rightly, and sum to at least 1/20. With ``prior`` they
    are the most probable ones where each of k is expected to be 1/k, give or take as much (a normal prior), which keeps a
    blend of few items from leaning on chance. Raises DataError without items.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    truth, given = np.asarray(labels), np.stack([np.asarray(each, np.float64) for each in logits])
    check_lengths(labels=truth, logits=given[0])
    if not len(truth):
        raise DataError("Scales of logits are fitted on at least one item; found none.")
    rows = np.arange(len(truth))
    wanted = given[:, rows, truth].mean(axis=1)

    def loss(scales: FloatArray) -> tuple[float, FloatArray]:
        logs = log_softmax(np.tensordot(scales, given, 1), axis=1)
        slopes = (given * np.exp(logs)).sum(axis=2).mean(axis=1) - wanted
        apart = (scales - start) / start * weight
        return float(-logs[rows, truth].mean() + (scales - start) @ apart / start[0] / 2), slopes + apart / start

    start = np.full(len(given), 1 / len(given))
    weight = 1 / len(truth) if prior else 0.0
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, MAX_SCALE)] * len(given), options=PRECISE
    ).x
    short = 1 / MAX_SCALE - found.sum()
    return tuple((found + max(short, 0.0) / len(given)).tolist())


def fit_blend(labels: Labels, *logits: FloatArray) -> Scales:
    """Return the scales of a blend: of one source as it is best, of several with a prior; see `fit_scales`.

    Of several labels an item, (items, labels), each has its own, from the items where it is known: its logit is that of two
    classes. As few items may have it, which a scale parts by chance, there is always a prior; a label that has a single
    value keeps the scales of a plain mean.
    """
    if labels.ndim == 1:
        return fit_scales(labels, *logits, prior=len(logits) > 1)
    columns = []
    for k, truth in enumerate(labels.T):
        known = truth != MISSING
        pairs = [np.stack([np.zeros(int(known.sum())), np.asarray(each)[known, k]], axis=1) for each in logits]
        told = len(np.unique(truth[known])) > 1
        plain = (1 / len(logits),) * len(logits)
        columns.append(fit_scales(truth[known], *pairs, prior=True) if told else plain)
    return tuple(zip(*columns, strict=True))


def blend(scales: Scales | Sequence[Sequence[float]], *logits: FloatArray) -> Probabilities:
    """Return softmax(s1 logits1 + s2 logits2 + ...), (items, classes); with scales of each label the sigmoid of its sum."""
    from scipy.special import expit, softmax

    if np.ndim(scales) == 2:
        return np.asarray(expit((np.asarray(scales)[:, np.newaxis] * np.stack(logits)).sum(axis=0)))
    found: Probabilities = softmax(np.tensordot(scales, np.stack(logits), 1), axis=1)
    return found
