"""What a thawed rung delivers: the networks of its folds as one, each blended with its frozen head; or one refitted."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import statistics
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from thawline.errors import DataError
from thawline.judge.calibration import blend, fit_blend
from thawline.learn.cuts import MEMBERS, make_classifier
from thawline.learn.linear import LinearHead
from thawline.learn.thawing import Thaw, fit_heads
from thawline.learn.training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from thawline.judge.calibration import Scales
    from thawline.learn.development import Development
    from thawline.types import Features, Probabilities


@dataclasses.dataclass(frozen=True)
class EnsembleHead:
    """The mean of members' probabilities, each a softmax of its scaled logits; of several labels a sigmoid of each.

    ``scales`` has a row for each member: the scale of its network's logits, and where its frozen head is part of it, that
    of the head's, see `blend`. All rows are as long.
    """

    scales: tuple[Scales, ...]
    n_classes: int
    name: ClassVar[str] = "ensemble"

    def predict_proba(self, features: Features) -> Probabilities:
        """Return probabilities, float64 (items, classes), for logits in one row, (items, sources x members x classes).

        The logits of all networks come first, those of all frozen heads behind them. Raises DataError for rows of another
        width.
        """
        shape = (len(self.scales[0]), len(self.scales), self.n_classes)
        if features.shape[1:] != ((width := math.prod(shape)),):
            raise DataError(f"{width} logits an item are expected, {self.n_classes} a member; found {features.shape}.")
        logits = np.asarray(features, np.float64).reshape(len(features), *shape).transpose(2, 1, 0, 3)
        return np.asarray(np.mean([blend(scales, *each) for scales, each in zip(self.scales, logits, strict=True)], 0))

    def hold_frozen(self, features: Features, clean: Features) -> Features:
        """Return the logits of a view with those of the frozen heads as they are of the ``clean`` one.

        Those heads were fitted on clean features, so that other views only mislead them; networks have learned from views.
        """
        n_trained = len(self.scales) * self.n_classes
        return np.concatenate([features[:, :n_trained], clean[:, n_trained:]], axis=1)


def calibrate_members(folds: Mapping[int, Mapping[str, Any]], development: Development) -> EnsembleHead:
    """Blend each member by its own held-out fold; ``folds`` holds the ``logits`` of each, (sources, items, classes)."""
    scales = [
        fit_blend(development.labels[development.folds == fold], *value["logits"]) for fold, value in folds.items()
    ]
    return EnsembleHead(tuple(scales), development.n_classes)


def take_weights(classifier: nn.Module) -> dict[str, Any]:
    """Return all tensors of a classifier as arrays by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in classifier.state_dict().items()}


def refit(
    thaw: Thaw,
    folds: Mapping[int, Mapping[str, Any]],
    rung: str,
    n_networks: int = 1,
    keep: Callable[[int, Callable[[], dict[str, Any]]], dict[str, Any]] = lambda _, make: make(),
) -> tuple[list[dict[str, Any]], list[LinearHead], EnsembleHead]:
    """Train networks on all development items, for the median number of epochs of the folds, each with a seed of its own.

    Returns their weights with the frozen head of all items for each, which blends in (none from a random start), and the
    head of all. The learning rate is the folds' geometric median, the scales are those of their out-of-fold logits together.
    Where most folds stayed frozen there is nothing to train, and one network is what it was. ``keep`` is called with the
    number of each network and what trains it, and may know its weights already.
    """
    development, values = thaw.development, list(folds.values())
    everything = np.arange(len(development.labels))
    start, frozen = fit_heads(thaw, everything)
    if stop := find_stop(values):
        rate = float(np.exp(statistics.median(np.log(value["learning_rate"]) for value in values)))
        recipe = dataclasses.replace(thaw.recipe, learning_rate=rate, stop=stop)
        about = (thaw.activations, development.labels, everything)

        def make(number: int) -> dict[str, Any]:
            own = dataclasses.replace(recipe, seed=recipe.seed + number)
            return take_weights(train(thaw.start(start), *about, own, rung, blocks=thaw.blocks)[0])

        networks = [keep(number, functools.partial(make, number)) for number in range(n_networks)]
    else:
        networks = [take_weights(thaw.start(frozen))]
    labels = np.concatenate([development.labels[development.folds == fold] for fold in folds])
    logits = np.concatenate([np.asarray(value["logits"]) for value in values], axis=1)
    scales = fit_blend(labels, *logits)
    heads = [] if thaw.features is None else [frozen] * len(networks)
    return networks, heads, EnsembleHead((scales,) * len(networks), development.n_classes)


def find_stop(folds: Sequence[Mapping[str, Any]]) -> int:
    """Return for how many epochs a network of all items is trained: the median of its ``folds``."""
    return round(statistics.median(int(value["n_epochs"]) for value in folds))


def make_frozen_member(suffix: nn.Module, heads: Sequence[LinearHead]) -> nn.Module:
    """Return the suffix as it was with the heads of all members as one: their logits in one row."""
    affine = [head.to_affine() for head in heads]
    slopes, offsets = (np.concatenate(parts) for parts in zip(*affine, strict=True))
    n_features = slopes.shape[1]
    return make_classifier(
        copy.deepcopy(suffix), LinearHead(np.zeros(n_features), np.ones(n_features), slopes, offsets)
    )


def name_members(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tensors of all members under the names they have in a model folder."""
    return {f"{MEMBERS}{number}.{name}": array for number, each in enumerate(members) for name, array in each.items()}
