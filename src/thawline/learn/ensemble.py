"""What a thawed rung delivers: the networks of its folds as one, each at its own temperature; or one network refitted."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from thawline.errors import DataError
from thawline.judge.calibration import fit_temperature
from thawline.learn.thawing import Thaw, fit_start, to_probabilities
from thawline.learn.training import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thawline.learn.development import Development
    from thawline.types import Features, Probabilities


@dataclasses.dataclass(frozen=True)
class EnsembleHead:
    """The mean of members' probabilities: a softmax of each one's logits over its temperature."""

    temperatures: tuple[float, ...]
    n_classes: int
    name: ClassVar[str] = "ensemble"

    def predict_proba(self, features: Features) -> Probabilities:
        """Return probabilities, float64 (items, classes), for members' logits in one row, (items, members x classes).

        Raises DataError for rows of another width.
        """
        width = len(self.temperatures) * self.n_classes
        if features.ndim != 2 or features.shape[1] != width:
            raise DataError(f"{width} logits an item are expected, {self.n_classes} a member; found {features.shape}.")
        logits = np.asarray(features, np.float64).reshape(len(features), len(self.temperatures), self.n_classes)
        scaled = logits / np.array(self.temperatures)[:, None]
        members = to_probabilities(scaled.reshape(-1, self.n_classes)).reshape(logits.shape)
        return np.asarray(members.mean(axis=1))


def calibrate_members(folds: Mapping[int, Mapping[str, Any]], development: Development) -> EnsembleHead:
    """Give each member the temperature of its own held-out fold; ``folds`` holds the ``logits`` of each."""
    temperatures = [
        fit_temperature(development.labels[development.folds == fold], np.asarray(value["logits"]))
        for fold, value in folds.items()
    ]
    return EnsembleHead(tuple(temperatures), development.n_classes)


def refit(thaw: Thaw, folds: Mapping[int, Mapping[str, Any]], rung: str) -> tuple[Any, EnsembleHead]:
    """Train one network on all development items for the median number of steps of the folds; return it with its head.

    The learning rate is the folds' geometric median, the temperature is that of their out-of-fold logits together.
    """
    development, values = thaw.development, list(folds.values())
    everything = np.arange(len(development.labels))
    classifier = fit_start(thaw, everything)
    per_epoch = -(-len(everything) // thaw.recipe.batch_items)
    stop = round(statistics.median(value["n_steps"] for value in values) / per_epoch)
    if stop:
        rate = float(np.exp(statistics.median(np.log(value["learning_rate"]) for value in values)))
        recipe = dataclasses.replace(thaw.recipe, learning_rate=rate, stop=stop)
        classifier, _ = train(
            classifier, thaw.activations, development.labels, everything, recipe, rung, blocks=thaw.blocks
        )
    labels = np.concatenate([development.labels[development.folds == fold] for fold in folds])
    logits = np.concatenate([np.asarray(value["logits"]) for value in values])
    return classifier, EnsembleHead((fit_temperature(labels, logits),), development.n_classes)


def name_members(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tensors of all members under the names they have in a model folder."""
    from thawline.learn.cuts import MEMBERS

    return {f"{MEMBERS}{number}.{name}": array for number, each in enumerate(members) for name, array in each.items()}
