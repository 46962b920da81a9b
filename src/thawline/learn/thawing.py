"""One fold of one rung above a thaw line: a training that is watched on a part held back, and one scoring.

LP-FT (Kumar et al., ICLR 2022): the classifier starts as the suffix with the linear head of the items it is to learn, as
strongly regularised as the recipe says: one that already parts those items leaves the suffix little to learn from. A
grouped part of the training fold is held back and chooses the learning rate, how long to train, and how the logits are
blended with those of the frozen rung's head: an ensemble in output space, which is better than either where both have
learned something of their own (Wortsman et al., Robust fine-tuning, CVPR 2022). Where no epoch is better than the frozen
head alone, the fold stays the frozen rung's.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, cast

import numpy as np

from thawline.errors import TrainingError
from thawline.judge.calibration import blend, fit_blend
from thawline.judge.comparisons import paired_difference
from thawline.judge.metrics import item_log_loss
from thawline.learn.activations import Activations
from thawline.learn.cuts import freeze_above, make_classifier
from thawline.learn.development import Development
from thawline.learn.heads import HEADS, Head, LabelHeads, Training, fit_labels, fit_part, make_folds, merge_linear
from thawline.learn.linear import LinearHead
from thawline.learn.stages import Stages
from thawline.learn.training import predict_logits, train
from thawline.types import MISSING, Recipe

if TYPE_CHECKING:
    from torch import nn

    from thawline.judge.calibration import Scales
    from thawline.types import Features, FloatArray, IntArray, Labels, Probabilities

INNER_FOLDS = 5  # one of them chooses, the others train
FROZEN = (0.0, 1.0)  # scales of a fold that stays as it was: a fit on few items held back is worse than none
SLOWER = 4.0  # the next learning rate tried is this much smaller
ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Thaw:
    """What all folds of a rung share: the line, what crosses it for every item, their clean features, and the recipe.

    ``upper`` is the highest block that is trained, the top where None; what lies above it stays as it is. ``head_layers``
    are the fully connected layers of the head, ``class_weight`` is that of the frozen rung. Without ``features`` there is no
    head to start from: it starts at zero and everything is trained, the control of a random start.
    """

    stages: Stages
    line: str
    activations: Activations
    features: Features | None
    development: Development
    recipe: Recipe
    upper: str | None = None
    head_layers: int = 1
    class_weight: str | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks above the line, from the top down."""
        names = self.stages.names
        return names[: names.index(self.line) + 1]

    def start(self, head: LinearHead) -> nn.Module:
        """Return the suffix as it was with a head of frozen features: a classifier of the same logits."""
        suffix = copy.deepcopy(self.stages.suffix(self.line))
        if self.upper is not None:
            freeze_above(suffix, self.blocks, self.upper)
        return make_classifier(suffix, head, layers=self.head_layers, seed=self.recipe.seed).to(self.recipe.device)

    def predict(self, classifier: nn.Module, items: IntArray, view: int = 0) -> FloatArray:
        """Return the logits of items, see `training.predict_logits`."""
        return predict_logits(classifier, self.activations, items, view, self.stages.depth)


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One learning rate on the inner part: losses of the frozen head (epoch 0), then of the best blend after each epoch.

    A blend of two is charged for its second scale. ``scales`` are those at the best epoch, see `blend`, at epoch 0 those of
    the frozen head as it is; ``gain`` is what it gained on epoch 0, ``gain_error`` its standard error by patient. From a
    random start epoch 0 is the network's own.
    """

    learning_rate: float
    losses: tuple[float, ...]
    scales: Scales
    gain: float
    gain_error: float

    @property
    def n_epochs(self) -> int:
        """Epochs to the smallest loss; 0 where none was better than the frozen head, which is to stay."""
        return int(np.argmin(self.losses))


@dataclasses.dataclass(frozen=True)
class ThawedFold:
    """One trained fold: the search, the network that it kept, and the frozen head beside it.

    ``logits`` are those of the scored items in their order, (sources, items, classes): of the network, then of the frozen
    ``head`` of the whole training part. From a random start there is no frozen head.
    """

    fold: int
    logits: FloatArray
    trials: tuple[Trial, ...]
    learning_rate: float
    n_epochs: int
    scales: Scales
    classifier: nn.Module
    head: LinearHead | None

    @property
    def probabilities(self) -> Probabilities:
        """Probabilities of the scored items, blended as the inner part chose."""
        return blend(self.scales, *self.logits)


def thaw_fold(thaw: Thaw, fold: int, rung: str) -> ThawedFold:
    """Train inside the training part of ``fold``, and score the fold once.

    Raises TrainingError, naming the ``rung``, where the loss is not finite.
    """
    development = thaw.development
    training, scored = np.flatnonzero(development.folds != fold), np.flatnonzero(development.folds == fold)
    learned, held = part_inner(thaw, training)
    trials, classifier = search(thaw, learned, held, rung)
    best = min(trials, key=lambda trial: min(trial.losses))
    logits = [thaw.predict(classifier, scored)]
    head = None
    if thaw.features is not None:
        head = fit_head(thaw, training)
        logits.append(head.predict_logits(thaw.features[scored]))
    return ThawedFold(
        fold,
        np.stack(logits),
        trials,
        best.learning_rate,
        best.n_epochs,
        best.scales,
        classifier,
        head,
    )


def part_inner(thaw: Thaw, training: IntArray) -> tuple[IntArray, IntArray]:
    """Part the training items into those that are learned and those held back to choose by, by patient.

    None are held back where patients are too few to be parted.
    """
    development = thaw.development
    inner = make_folds(development.labels[training], development.groups[training], INNER_FOLDS, thaw.recipe.seed)
    return (training, training[:0]) if inner is None else (training[inner != 0], training[inner == 0])


def search(thaw: Thaw, learned: IntArray, held: IntArray, rung: str) -> tuple[tuple[Trial, ...], nn.Module]:
    """Try learning rates on the ``learned`` items until one gains more than its error on those ``held`` back.

    The first is the recipe's, the next `SLOWER`, and tried only where the one before gained at all; `ATTEMPTS` at most.
    Returns the trials and the network of the best, at its best epoch. Without items to choose by the network stays as it
    is.
    """
    rate, heads = thaw.recipe.learning_rate, fit_heads(thaw, learned)
    if not len(held):
        scales = _spread(FROZEN if thaw.features is not None else (1.0,), thaw.development.labels)
        return (Trial(rate, (0.0,), scales, 0.0, 0.0),), thaw.start(heads[1])
    found: list[tuple[Trial, nn.Module]] = []
    for attempt in range(ATTEMPTS):
        found.append(_try_rate(thaw, heads, (learned, held), rung, rate / SLOWER**attempt))
        trial = found[-1][0]
        if trial.gain > trial.gain_error or trial.gain <= 0:
            break
    _, network = min(found, key=lambda each: min(each[0].losses))
    return tuple(trial for trial, _ in found), network


def _try_rate(
    thaw: Thaw, heads: tuple[LinearHead, LinearHead], inner: tuple[IntArray, IntArray], rung: str, rate: float
) -> tuple[Trial, nn.Module]:
    """Train on the learned part of ``inner`` at one rate, following the loss of the part held back; return the best network.

    It starts with the first of the ``heads``; the other is the frozen rung's.
    """
    development, (learned, held), (head, frozen_head) = thaw.development, inner, heads
    labels, start = development.labels[held], thaw.start(head)
    logits = thaw.predict(start, held)
    if not np.isfinite(logits).all():
        raise TrainingError(
            f"{rung}: the network gives no finite numbers before it is trained; check the value range of the images"
        )
    frozen = [] if thaw.features is None else [frozen_head.predict_logits(thaw.features[held])]
    found = [_score_blend(labels, *(frozen or [logits]))]

    def validate(classifier: nn.Module) -> float:
        logits = thaw.predict(classifier, held)
        if not np.isfinite(logits).all():
            return float("nan")
        found.append(_score_blend(labels, logits, *frozen))
        return float(found[-1][1].mean())

    recipe = dataclasses.replace(thaw.recipe, learning_rate=rate)
    about = (thaw.activations, development.labels, learned, recipe, rung)
    classifier, _ = train(start, *about, blocks=thaw.blocks, validate=validate)
    # of one more scale: Akaike, IEEE Transactions on Automatic Control 19:716 (1974)
    price = len(frozen) / _count_told(labels)
    losses = [float(each.mean()) + (price if epoch else 0.0) for epoch, (_, each) in enumerate(found)]
    best = int(np.argmin(losses))
    scales = found[best][0]
    if best == 0:
        classifier = thaw.start(frozen_head)
        scales = _spread(FROZEN, labels) if frozen else scales
    _, error = paired_difference(found[0][1], found[best][1], development.groups[held])
    return Trial(rate, tuple(losses), scales, losses[0] - losses[best], float(np.nan_to_num(error))), classifier


def _spread(scales: tuple[float, ...], labels: Labels) -> Scales:
    """Return the scales of sources as `blend` takes them for these labels: of several an item each has its own."""
    return scales if labels.ndim == 1 else tuple((scale,) * labels.shape[1] for scale in scales)


def _count_told(labels: Labels) -> float:
    """Return how many items tell of a scale: all, or those of which a label is known, in the mean."""
    return len(labels) if labels.ndim == 1 else float((labels != MISSING).sum() / labels.shape[1])


def _score_blend(labels: Labels, *logits: FloatArray) -> tuple[Scales, FloatArray]:
    """Return the best scales of a blend, and the loss of each item with them."""
    scales = fit_blend(labels, *logits)
    return scales, item_log_loss(labels, blend(scales, *logits))


def fit_head(thaw: Thaw, training: IntArray) -> LinearHead:
    """Return the linear head of the training items, as the frozen rung fits it; zeros for a random start."""
    from threadpoolctl import threadpool_limits

    if thaw.features is None:
        return zero_head(thaw.stages, thaw.line, thaw.activations, thaw.development.n_classes)
    part = _take_part(thaw, thaw.features, training)
    with threadpool_limits(1):
        return _as_linear(fit_part(HEADS["linear"], part)[0], part)


def fit_heads(thaw: Thaw, training: IntArray) -> tuple[LinearHead, LinearHead]:
    """Return the linear heads of the training items that a training starts with, and that the frozen rung has.

    They are the same where the frozen rung's is as strongly regularised as the recipe asks, and from a random start.
    """
    from threadpoolctl import threadpool_limits

    row, calm = HEADS["linear"], thaw.recipe.start_strength
    if thaw.features is None or not calm:
        head = fit_head(thaw, training)
        return head, head
    part = _take_part(thaw, thaw.features, training)
    with threadpool_limits(1):
        frozen, strength = fit_part(row, part)
        if isinstance(frozen, LabelHeads):
            start: Head = _calm_labels(frozen, part, calm)
        else:
            start = row.fit(part, [calm])[0] if calm < strength else frozen
    return _as_linear(start, part), _as_linear(frozen, part)


def _calm_labels(frozen: LabelHeads, part: Training, calm: float) -> LabelHeads:
    """Return the linear heads of several labels, each as strongly regularised as ``calm`` or, if it is more, as it was."""
    row = HEADS["linear"]
    calmer = fit_labels(row, part, lambda own, _: (row.fit(own, [calm])[0], calm))
    pairs = zip(frozen.heads, calmer.heads, frozen.strengths, strict=True)
    return LabelHeads(
        row.name, tuple(new if calm < strength else old for old, new, strength in pairs), calmer.strengths
    )


def _as_linear(head: Head, part: Training) -> LinearHead:
    """Return a linear head as one, of several labels with a row of logits for each."""
    return merge_linear(head, part.features) if isinstance(head, LabelHeads) else cast(LinearHead, head)


def _take_part(thaw: Thaw, features: Features, training: IntArray) -> Training:
    """Return the training items as heads are fitted on them."""
    development = thaw.development
    return Training(
        np.asarray(features[training], np.float32),
        development.labels[training],
        development.groups[training],
        development.n_classes,
        thaw.recipe.seed,
        thaw.class_weight,
    )


def zero_head(stages: Stages, line: str, activations: Activations, n_classes: int) -> LinearHead:
    """Return a linear head of zeros, as wide as the features that the suffix gives."""
    import torch

    with torch.inference_mode():
        row = activations.take(np.zeros(1, np.int64), np.zeros(1, np.int64))
        n_features = int(stages.suffix(line).eval()(row).shape[1])
    zeros = np.zeros((n_classes, n_features))
    return LinearHead(np.zeros(n_features), np.ones(n_features), zeros, zeros[:, 0])
