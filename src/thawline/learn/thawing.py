"""One fold of one rung above a thaw line: a search inside the training part, one training on all of it, one scoring.

LP-FT (Kumar et al., ICLR 2022): the classifier starts as the suffix with the linear head of its own training part, which
reproduces the frozen rung. A grouped inner part of the training fold chooses the learning rate and how long to train;
where no epoch is better than the start, nothing is thawed and the fold stays the frozen rung's.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.judge.metrics import item_log_loss
from thawline.learn.activations import Activations
from thawline.learn.cuts import make_classifier
from thawline.learn.heads import Training, fit_fold, make_folds
from thawline.learn.stages import Stages
from thawline.learn.training import Epoch, Recipe, predict_logits, train

if TYPE_CHECKING:
    from torch import nn

    from thawline.learn.linear import LinearHead
    from thawline.types import BoolArray, Features, FloatArray, Groups, IntArray, Labels, Probabilities

RATES = (1e-4, 4e-4, 1.6e-3)
INNER_FOLDS = 4  # one of them chooses, the others train


@dataclasses.dataclass(frozen=True)
class Thaw:
    """What all folds of a rung share: the line, what crosses it for every item, their clean features, and the recipe."""

    stages: Stages
    line: str
    activations: Activations
    features: Features
    labels: Labels
    groups: Groups
    folds: IntArray
    n_classes: int
    recipe: Recipe
    rates: tuple[float, ...] = RATES

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks above the line, from the top down."""
        names = self.stages.names
        return names[: names.index(self.line) + 1]

    def start(self, head: LinearHead) -> nn.Module:
        """Return the classifier before its first step: the suffix with a head of frozen features."""
        return make_classifier(copy.deepcopy(self.stages.suffix(self.line)), head)


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One learning rate on the inner part: the losses of its epochs, the start first."""

    learning_rate: float
    start_loss: float
    epochs: tuple[Epoch, ...]

    def best(self) -> tuple[float, int]:
        """Return the smallest validation loss and the number of epochs it took; 0 is the start."""
        validated = [epoch.validation_loss for epoch in self.epochs]
        losses = [self.start_loss, *(loss for loss in validated if loss is not None)]
        stop = int(np.argmin(losses))
        return losses[stop], stop


@dataclasses.dataclass(frozen=True)
class ThawedFold:
    """One trained fold: logits of its scored items, (items, classes) in their order, the search, and the classifier."""

    fold: int
    logits: FloatArray
    trials: tuple[Trial, ...]
    learning_rate: float
    n_epochs: int
    classifier: nn.Module
    seconds: float


def thaw_fold(thaw: Thaw, fold: int, rung: str) -> ThawedFold:
    """Search inside the training part of ``fold``, train on all of it, and score the fold once.

    Raises TrainingError, naming the ``rung``, where the loss is not finite.
    """
    began = time.perf_counter()
    training, scored = np.flatnonzero(thaw.folds != fold), np.flatnonzero(thaw.folds == fold)
    trials = search(thaw, thaw.folds != fold, rung)
    best = min(trials, key=Trial.best)
    _, n_epochs = best.best()
    everything = Training(thaw.features, thaw.labels, thaw.groups, thaw.n_classes, thaw.recipe.seed)
    classifier = thaw.start(_fit_head(everything, thaw.folds, fold))
    recipe = dataclasses.replace(thaw.recipe, learning_rate=best.learning_rate, stop=n_epochs)
    if n_epochs:
        classifier, _ = train(classifier, thaw.activations, thaw.labels, training, recipe, rung, blocks=thaw.blocks)
    logits = predict_logits(classifier, thaw.activations, scored)
    seconds = time.perf_counter() - began
    return ThawedFold(fold, logits, trials, best.learning_rate, n_epochs, classifier, seconds)


def search(thaw: Thaw, is_training: BoolArray, rung: str) -> tuple[Trial, ...]:
    """Try each learning rate on a grouped inner part of the training items; none where patients are too few to part them."""
    part = Training(thaw.features, thaw.labels, thaw.groups, thaw.n_classes, thaw.recipe.seed).take(is_training)
    inner = make_folds(part.labels, part.groups, INNER_FOLDS, thaw.recipe.seed)
    if inner is None:
        return (Trial(thaw.rates[0], 0.0, ()),)
    training = np.flatnonzero(is_training)
    learned, held = training[inner != 0], training[inner == 0]
    head = _fit_head(part, inner, 0)

    def validate(classifier: nn.Module) -> float:
        logits = predict_logits(classifier, thaw.activations, held)
        return float(item_log_loss(thaw.labels[held], to_probabilities(logits)).mean())

    start_loss = validate(thaw.start(head))
    trials = []
    for rate in thaw.rates:
        recipe = dataclasses.replace(thaw.recipe, learning_rate=rate)
        start, about = thaw.start(head), (thaw.activations, thaw.labels, learned, recipe, rung)
        _, epochs = train(start, *about, blocks=thaw.blocks, validate=validate)
        trials.append(Trial(rate, start_loss, tuple(epochs)))
    return tuple(trials)


def _fit_head(part: Training, folds: IntArray, fold: int) -> LinearHead:
    """Return the linear head of the items outside ``fold``, as the frozen rung fits it."""
    about = (part.features, part.labels, part.groups, folds, fold, part.n_classes)
    head: Any = fit_fold("linear", *about, seed=part.seed).head
    return head  # type: ignore[no-any-return]


def to_probabilities(logits: FloatArray) -> Probabilities:
    """Return the softmax of logits (items, classes)."""
    from scipy.special import softmax

    found: Probabilities = softmax(logits, axis=1)
    return found
