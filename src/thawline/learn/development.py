"""The development part: what every rung is tried on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thawline.judge.metrics import item_log_loss

if TYPE_CHECKING:
    from thawline.types import FloatArray, Groups, IntArray, Labels, Probabilities


@dataclasses.dataclass(frozen=True, slots=True)
class Development:
    """Aligned arrays of the development items; fold -1 is trained on, never scored."""

    labels: Labels
    groups: Groups
    folds: IntArray
    n_classes: int

    def list_folds(self) -> list[int]:
        """Numbers of the folds that are scored."""
        return sorted({int(fold) for fold in self.folds if fold >= 0})

    def keep_folds(self, n_folds: int) -> Development:
        """Return the same items, of which only the first folds are scored."""
        kept = np.isin(self.folds, self.list_folds()[:n_folds])
        return dataclasses.replace(self, folds=np.where(kept, self.folds, -1))

    def scored(self) -> IntArray:
        """Positions of the items that are scored out of fold."""
        return np.flatnonzero(self.folds >= 0)

    def losses(self, probabilities: Probabilities) -> FloatArray:
        """Log-loss of each scored item, shape (scored items,)."""
        scored = self.scored()
        return item_log_loss(self.labels[scored], probabilities[scored])
