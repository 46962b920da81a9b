"""The development part: which items are scored, on which folds, and what they lose."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from thawline.learn.development import Development

N_ITEMS = 60


def make_development() -> Development:
    """Two items a patient; the patients of the last six items are trained on and never scored."""
    groups = np.arange(N_ITEMS) // 2
    folds = groups // 2 % 3 * 2  # numbers with gaps, as a user's own folds may have
    folds[-6:] = -1
    return Development(groups % 2, groups, folds, 2)


def test_losses_are_those_of_the_scored_items() -> None:
    development = make_development()
    positive = np.random.default_rng(1).uniform(0.05, 0.95, N_ITEMS)
    probabilities = np.stack([1 - positive, positive], axis=1)
    probabilities[-6:] = np.nan
    losses = development.losses(probabilities)
    assert development.scored().tolist() == list(range(N_ITEMS - 6))
    assert losses.shape == (N_ITEMS - 6,)
    assert losses.mean() == pytest.approx(log_loss(development.labels[:-6], positive[:-6]))


def test_folds_are_listed_in_order_without_the_one_that_is_never_scored() -> None:
    assert make_development().list_folds() == [0, 2, 4]
    nothing = np.zeros(0, np.int64)
    assert Development(nothing, nothing, nothing, 2).list_folds() == []


@pytest.mark.parametrize(("n_folds", "kept"), [(1, [0]), (2, [0, 2]), (3, [0, 2, 4]), (9, [0, 2, 4])])
def test_the_items_of_other_folds_stay_but_are_not_scored(n_folds: int, kept: list[int]) -> None:
    whole = make_development()
    part = whole.keep_folds(n_folds)
    assert part.list_folds() == kept
    assert part.labels is whole.labels
    assert part.scored().tolist() == np.flatnonzero(np.isin(whole.folds, kept)).tolist()
    assert set(part.folds[~np.isin(whole.folds, kept)]) == {-1}
