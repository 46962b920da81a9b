"""What is delivered: how many networks of all items the budget has time for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thawline.delivery import FINAL_FOLDS, count_refits
from thawline.journal import Journal
from thawline.learn.ladder import Rung, TriedRung

RUNG = Rung(7, "fine_tuning", line="blocks.5", thawed_fraction=0.8)


def make_job(folder: Path, spent_s: float, budget: str = "20m") -> Any:
    """A run whose one fitted fold took 100 seconds for two learning rates of ten epochs."""
    journal = Journal(folder)
    if RUNG.fold_unit(0) not in journal:
        journal.record(RUNG.fold_unit(0), {}, 100.0)
    plan = {"budget": budget, "recipe": {"epochs": 10}}
    return SimpleNamespace(journal=journal, plan=plan, spent_s=lambda: spent_s)


def make_tried(n_epochs: int) -> TriedRung:
    return TriedRung(RUNG, np.empty((0, 2)), ({"n_epochs": n_epochs, "trials": [{}, {}]},), 100.0)


@pytest.mark.parametrize(
    ("left_s", "n_networks"),
    [(-50, 1), (0, 1), (1.9, 1), (2.1, 2), (2.9, 2), (3.1, 3), (30, 3)],
)
def test_as_many_networks_are_trained_as_the_budget_has_time_for(
    tmp_path: Path, left_s: float, n_networks: int
) -> None:
    """Half of the schedule of one rate on all items: 100 s / 2 rates x 1.6 x 5 / 10 epochs."""
    refit_s = 100 / 2 * FINAL_FOLDS * 5 / 10
    assert count_refits(make_job(tmp_path, 1200 - left_s * refit_s), make_tried(5)) == n_networks


def test_without_a_budget_there_are_as_many_as_are_worth_it(tmp_path: Path) -> None:
    assert count_refits(make_job(tmp_path, 1e6, "none"), make_tried(5)) == 3


def test_where_nothing_was_trained_one_is_all(tmp_path: Path) -> None:
    assert count_refits(make_job(tmp_path, 0.0), make_tried(0)) == 1


def test_a_resumed_run_has_as_many_as_it_had(tmp_path: Path) -> None:
    assert count_refits(make_job(tmp_path, 0.0), make_tried(5)) == 3
    assert count_refits(make_job(tmp_path, 1200.0), make_tried(5)) == 3
