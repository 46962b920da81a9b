"""One fold of one rung above a thaw line: a search inside the training part, one training on all of it, one scoring.

LP-FT (Kumar et al., ICLR 2022): the classifier starts as the suffix with the linear head of its own training part, which
reproduces the frozen rung. A grouped inner part of the training fold chooses the learning rate, how long to train, and the
temperature of the probabilities (Guo et al., ICML 2017). Where no epoch gains more than the standard error of its gain,
nothing is thawed and the fold stays the frozen rung's.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.judge.calibration import fit_temperature
from thawline.judge.metrics import item_log_loss
from thawline.judge.statistics import paired_difference
from thawline.learn.activations import Activations
from thawline.learn.cuts import freeze_above, make_classifier
from thawline.learn.development import Development
from thawline.learn.heads import HEADS, Training, fit_part, make_folds
from thawline.learn.linear import LinearHead
from thawline.learn.stages import Stages
from thawline.learn.training import Recipe, predict_logits, train

if TYPE_CHECKING:
    from torch import nn

    from thawline.types import Features, FloatArray, IntArray, Probabilities

INNER_FOLDS = 4  # one of them chooses, the others train
SLOWER = 4.0  # the next learning rate tried is this much smaller
ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Thaw:
    """What all folds of a rung share: the line, what crosses it for every item, their clean features, and the recipe.

    ``upper`` is the highest block that is trained, the top where None; what lies above it stays as it is. ``head_layers``
    are the fully connected layers of the head. Without ``features`` there is no head to start from: it starts at zero and
    everything is trained, the control of a random start.
    """

    stages: Stages
    line: str
    activations: Activations
    features: Features | None
    development: Development
    recipe: Recipe
    upper: str | None = None
    head_layers: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks above the line, from the top down."""
        names = self.stages.names
        return names[: names.index(self.line) + 1]

    def start(self, head: LinearHead) -> nn.Module:
        """Return the classifier before its first step: the suffix with a head of frozen features."""
        suffix = copy.deepcopy(self.stages.suffix(self.line))
        if self.upper is not None:
            freeze_above(suffix, self.blocks, self.upper)
        return make_classifier(suffix, head, layers=self.head_layers, seed=self.recipe.seed)


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One learning rate on the inner part, from the start (epoch 0) to the last epoch: calibrated losses.

    ``gain`` is what the best epoch gained on the start, ``gain_error`` its standard error by patient.
    """

    learning_rate: float
    losses: tuple[float, ...]
    temperature: float
    gain: float
    gain_error: float

    @property
    def n_epochs(self) -> int:
        """Epochs to the smallest loss; 0 where the gain is within its error, which is to stay frozen."""
        return int(np.argmin(self.losses)) if self.gain > self.gain_error else 0


@dataclasses.dataclass(frozen=True)
class ThawedFold:
    """One trained fold: logits of its scored items, (items, classes) in their order, the search, and the classifier."""

    fold: int
    logits: FloatArray
    trials: tuple[Trial, ...]
    learning_rate: float
    n_epochs: int
    n_steps: int
    temperature: float
    classifier: nn.Module
    seconds: float

    @property
    def probabilities(self) -> Probabilities:
        """Probabilities of the scored items, at the temperature that the inner part chose."""
        return to_probabilities(self.logits / self.temperature)


def thaw_fold(thaw: Thaw, fold: int, rung: str, rate: float | None = None) -> ThawedFold:
    """Search inside the training part of ``fold``, train on all of it, and score the fold once.

    The search begins with learning rate ``rate``, by default the recipe's. Raises TrainingError, naming the ``rung``,
    where the loss is not finite.
    """
    began = time.perf_counter()
    development = thaw.development
    training, scored = np.flatnonzero(development.folds != fold), np.flatnonzero(development.folds == fold)
    trials = search(thaw, training, rung, rate or thaw.recipe.learning_rate)
    best = min(trials, key=lambda trial: (not trial.n_epochs, min(trial.losses)))  # one that trains, where there is
    classifier = fit_start(thaw, training)
    recipe = dataclasses.replace(thaw.recipe, learning_rate=best.learning_rate, stop=best.n_epochs)
    if best.n_epochs:
        about = (thaw.activations, development.labels, training, recipe, rung)
        classifier, _ = train(classifier, *about, blocks=thaw.blocks)
    return ThawedFold(
        fold,
        predict_logits(classifier, thaw.activations, scored),
        trials,
        best.learning_rate,
        best.n_epochs,
        best.n_epochs * -(-len(training) // recipe.batch_items),
        best.temperature if best.n_epochs else 1.0,
        classifier,
        time.perf_counter() - began,
    )


def search(thaw: Thaw, training: IntArray, rung: str, rate: float) -> tuple[Trial, ...]:
    """Try learning rates on a grouped inner part of the training items, until one gains more than its error.

    The next is `SLOWER`, and tried only where the one before gained at all; `ATTEMPTS` at most. Where patients are too few
    to be parted, one trial says to stay frozen.
    """
    development = thaw.development
    labels, groups = development.labels[training], development.groups[training]
    inner = make_folds(labels, groups, INNER_FOLDS, thaw.recipe.seed)
    if inner is None:
        return (Trial(rate, (0.0,), 1.0, 0.0, 0.0),)
    learned, held = training[inner != 0], training[inner == 0]
    head = _fit_head(thaw, learned)
    trials: list[Trial] = []
    for attempt in range(ATTEMPTS):
        trials.append(_try_rate(thaw, head, learned, held, rung, rate / SLOWER**attempt))
        if trials[-1].n_epochs or trials[-1].gain <= 0:
            break
    return tuple(trials)


def _try_rate(thaw: Thaw, head: LinearHead, learned: IntArray, held: IntArray, rung: str, rate: float) -> Trial:
    """Train on the ``learned`` items at one rate, and follow the calibrated loss of the ``held`` ones."""
    development = thaw.development
    labels = development.labels[held]
    found: list[tuple[float, FloatArray]] = []

    def validate(classifier: nn.Module) -> float:
        logits = predict_logits(classifier, thaw.activations, held)
        if not np.isfinite(logits).all():
            return float("nan")
        temperature = fit_temperature(labels, logits)
        found.append((temperature, item_log_loss(labels, to_probabilities(logits / temperature))))
        return float(found[-1][1].mean())

    start = thaw.start(head)
    validate(start)
    recipe = dataclasses.replace(thaw.recipe, learning_rate=rate)
    train(
        start,
        thaw.activations,
        development.labels,
        learned,
        recipe,
        rung,
        blocks=thaw.blocks,
        validate=validate,
    )
    losses = [float(losses.mean()) for _, losses in found]
    best = int(np.argmin(losses))
    gain, error = paired_difference(found[0][1], found[best][1], development.groups[held])
    return Trial(rate, tuple(losses), found[best][0], gain, float(np.nan_to_num(error)))


def fit_start(thaw: Thaw, training: IntArray) -> nn.Module:
    """Return the classifier before its first step on the training items (positions)."""
    return thaw.start(_fit_head(thaw, training))


def _fit_head(thaw: Thaw, training: IntArray) -> LinearHead:
    """Return the linear head of the training items, as the frozen rung fits it; zeros for a random start."""
    from threadpoolctl import threadpool_limits

    development = thaw.development
    if thaw.features is None:
        return zero_head(thaw.stages, thaw.line, thaw.activations, development.n_classes)
    balanced = "balanced" if thaw.recipe.balance != "none" else None
    part = Training(
        np.asarray(thaw.features[training], np.float32),
        development.labels[training],
        development.groups[training],
        development.n_classes,
        thaw.recipe.seed,
        balanced,
    )
    with threadpool_limits(1):
        head: Any = fit_part(HEADS["linear"], part)[0]
    return head  # type: ignore[no-any-return]


def zero_head(stages: Stages, line: str, activations: Activations, n_classes: int) -> LinearHead:
    """Return a linear head of zeros, as wide as the features that the suffix gives."""
    import torch

    with torch.inference_mode():
        row = activations.take(np.zeros(1, np.int64), np.zeros(1, np.int64))
        n_features = int(stages.suffix(line).eval()(row).shape[1])
    zeros = np.zeros((n_classes, n_features))
    return LinearHead(np.zeros(n_features), np.ones(n_features), zeros, zeros[:, 0])


def to_probabilities(logits: FloatArray) -> Probabilities:
    """Return the softmax of logits (items, classes)."""
    from scipy.special import softmax

    found: Probabilities = softmax(logits, axis=1)
    return found
