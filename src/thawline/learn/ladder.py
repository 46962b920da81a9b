"""The ladder: rungs are tried in a fixed order on the same folds, compared pairwise, and the cheapest good one is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.cost import count_cores
from thawline.errors import DataError
from thawline.journal import Journal
from thawline.judge.metrics import item_log_loss
from thawline.judge.statistics import Selection, choose_within_one_se
from thawline.learn.heads import fit_fold
from thawline.options import HEADS
from thawline.types import Listener

if TYPE_CHECKING:
    from thawline.types import Features, FloatArray, Groups, IntArray, Labels, Probabilities


@dataclasses.dataclass(frozen=True, slots=True)
class Development:
    """What every rung is tried on: aligned arrays of the development items; fold -1 is trained on, never scored."""

    labels: Labels
    groups: Groups
    folds: IntArray
    n_classes: int

    def scored(self) -> IntArray:
        """Positions of the items that are scored out of fold."""
        return np.flatnonzero(self.folds >= 0)

    def losses(self, probabilities: Probabilities) -> FloatArray:
        """Log-loss of each scored item, shape (scored items,)."""
        scored = self.scored()
        return item_log_loss(self.labels[scored], probabilities[scored])


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One step: ``probabilities`` are out of fold, nan for items that are never scored."""

    number: int
    strategy: str
    head: str
    probabilities: Probabilities
    strengths: tuple[float, ...]
    seconds: float


def climb(
    heads: Sequence[str],
    features: Features,
    development: Development,
    journal: Journal,
    listener: Listener,
    *,
    seed: int,
    class_weight: str,
    may_go_on: Callable[[], bool],
) -> list[Rung]:
    """Try each head on all folds; a fold that the journal holds is not fitted again.

    ``may_go_on`` is asked before each rung after the first; a stop is journaled, so that a resumed run stops there too.
    """
    listener.begin("heads", len(heads) * len(_list_folds(development)))
    rungs: list[Rung] = []
    for number, head in enumerate(heads):
        stop = f"stop before {head}"
        if number and (stop in journal or not may_go_on()):
            if stop not in journal:
                journal.record(stop, {"reason": "budget spent", "tried": [rung.head for rung in rungs]}, 0.0)
            break
        rungs.append(_try_head(number, head, features, development, journal, listener, seed, class_weight))
    listener.end(f"{len(rungs)} of {len(heads)} rungs")
    return rungs


def choose_rung(rungs: Sequence[Rung], development: Development) -> Selection:
    """Choose the first rung whose paired log-loss against the best is within one standard error."""
    losses = np.stack([development.losses(rung.probabilities) for rung in rungs])
    return choose_within_one_se(losses, development.groups[development.scored()])


def cross_fit(
    unit: str,
    head: str,
    features: Features,
    development: Development,
    journal: Journal,
    listener: Listener,
    *,
    seed: int,
    class_weight: str = "none",
) -> tuple[Probabilities, tuple[float, ...]]:
    """Fit one head on every fold and score what it has not seen; one journal unit a fold, named after ``unit``."""
    probabilities = np.full((len(development.labels), development.n_classes), np.nan)
    strengths = []
    for fold in _list_folds(development):

        def fit(fold: int = fold) -> dict[str, Any]:
            result = fit_fold(
                head,
                features,
                development.labels,
                development.groups,
                development.folds,
                fold,
                development.n_classes,
                seed=seed,
                class_weight="balanced" if class_weight == "balanced" else None,
                n_jobs=count_cores(),
            )
            return {"probabilities": result.probabilities, "strength": result.strength}

        value = journal.unit(f"{unit} fold {fold}", fit)
        probabilities[development.folds == fold] = value["probabilities"]
        strengths.append(float(value["strength"]))
        listener.advance()
    if not np.isfinite(probabilities[development.scored()]).all():
        raise DataError(f"head {head} gave probabilities that are not finite; the features of some items are unusable")
    return probabilities, tuple(strengths)


def _try_head(
    number: int,
    head: str,
    features: Features,
    development: Development,
    journal: Journal,
    listener: Listener,
    seed: int,
    class_weight: str,
) -> Rung:
    unit = f"rung {number} {head}"
    probabilities, strengths = cross_fit(
        unit, head, features, development, journal, listener, seed=seed, class_weight=class_weight
    )
    strategy = next(name for name, members in HEADS.items() if head in members)
    return Rung(number, strategy, head, probabilities, strengths, journal.seconds(f"{unit} fold"))


def _list_folds(development: Development) -> list[int]:
    return sorted({int(fold) for fold in development.folds if fold >= 0})
